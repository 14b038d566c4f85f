//! Tests that need a running server: routing, the request log, faults.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{Action, Endpoint, Fault, FaultKind, Options, Simulator};

const IMDS: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=x";
const WEBSITE: &str = "/msi/token?api-version=2019-08-01&resource=x";
const ARC: &str = "/arc/token?api-version=2020-06-01&resource=x";

/// The complete response as text.
async fn get(simulator: &Simulator, target: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(simulator.http).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    // A reset ends the response, too.
    let _ = stream.read_to_string(&mut response).await;
    response
}

async fn machine() -> Simulator {
    let simulator = Simulator::start(Options::default()).await.unwrap();
    for action in [
        Action::AddManagedIdentity { client_id: None, subject: "system".to_owned() },
        Action::SetIdentityHeader { value: "secret".to_owned() },
        Action::SetArcChallenge { file: "/tokens/1.key".to_owned(), content: "proof".to_owned() },
    ] {
        simulator.apply(action).unwrap();
    }
    simulator
}

#[tokio::test]
async fn the_three_endpoints_respond_and_are_recorded() {
    let simulator = machine().await;
    for (target, headers, status) in [
        (IMDS, "Metadata: true\r\n", 200),
        (IMDS, "", 400),
        (WEBSITE, "X-IDENTITY-HEADER: secret\r\n", 200),
        (WEBSITE, "", 401),
        (ARC, "Metadata: true\r\nAuthorization: Basic proof\r\n", 200),
        (ARC, "Metadata: true\r\n", 401),
    ] {
        let response = get(&simulator, target, headers).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{target} {headers}: {response}");
        let recorded = simulator.take_requests();
        let seen: Vec<_> = recorded.iter().map(|r| (r.host, &*r.target, r.status)).collect();
        assert_eq!(seen, [("identity", target, status)], "{target} {headers}");
        assert!(recorded[0].headers.iter().all(|(name, _)| name != "authorization"));
    }
}

#[tokio::test]
async fn faults_of_managed_identities_have_the_form_of_the_platform() {
    let simulator = machine().await;
    let transient = FaultKind::Status { status: 429, retry_after: Some("7".to_owned()) };
    let error = FaultKind::Error { status: 410, error: "gone".to_owned(), aadsts: None, suberror: None };
    let regular = ("/x/v2.0/.well-known/openid-configuration", "HTTP/1.1 400");
    for (endpoint, kind, target, expected) in [
        (
            Endpoint::ManagedIdentity,
            transient.clone(),
            IMDS,
            ["HTTP/1.1 429", "retry-after: 7", "\"error\":"],
        ),
        (
            Endpoint::ManagedIdentity,
            transient,
            WEBSITE,
            ["HTTP/1.1 429", "retry-after: 7", "\"statusCode\":429"],
        ),
        (Endpoint::ManagedIdentity, error, ARC, ["HTTP/1.1 410", "\"gone\"", "Simulated fault."]),
        (Endpoint::Any, FaultKind::BrokenJson, IMDS, ["HTTP/1.1 200", "[{\"id\":", ""]),
        (Endpoint::ManagedIdentity, FaultKind::BrokenJson, regular.0, [regular.1, "AADSTS90002", ""]),
        (Endpoint::Token, FaultKind::BrokenJson, IMDS, ["HTTP/1.1 200", "access_token", ""]),
    ] {
        let row = format!("{endpoint:?} {kind:?} at {target}");
        simulator.fault(Fault { endpoint, tenant: None, contains: None, times: None, fault: kind });
        let response = get(&simulator, target, "Metadata: true\r\n").await;
        assert!(expected.iter().all(|part| response.contains(part)), "{row}: {response}");
        simulator.clear_faults();
    }
    simulator.fault(Fault {
        endpoint: Endpoint::ManagedIdentity,
        tenant: None,
        contains: None,
        times: None,
        fault: FaultKind::Reset,
    });
    assert_eq!(get(&simulator, IMDS, "Metadata: true\r\n").await, "", "a reset sends no response");
}
