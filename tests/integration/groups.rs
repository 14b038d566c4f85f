//! Lists of groups with many pages, and look-ups that fail: a group is missing only if Graph says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use consentry::credential::ClientCredential;
use consentry::demo::APPLICATION_APP;
use consentry::domain::{Cloud, GroupPolicy, GroupRef, Groups, Reason};
use consentry::entra::{Client, ClientOptions, Endpoint as Upstream, Entra, HttpClient};
use consentry::secret::{Secret, SecretSource};
use entra_sim::{Action, Endpoint, Fault, FaultKind};
use uuid::Uuid;

use crate::evidence::error;
use crate::world::World;

/// The demo's tenant of an application with application access, requested directly.
struct Asked {
    world: World,
    entra: Entra,
    token: Secret,
}

const TENANT: &str = "adatum.example";

impl Asked {
    async fn new() -> Self {
        let world = World::live().await;
        let url = world.simulator.url();
        let observer = Arc::new(|_: Upstream, _: &str, _: Duration| {});
        let door = HttpClient::new(&ClientOptions::default(), observer).expect("clients");
        let entra = Entra::new(door, Cloud { login_url: url.clone(), graph_url: url }, Arc::default());
        let credential = ClientCredential::Secret(SecretSource::Inline(Secret::new("demo-secret")));
        let client_id = APPLICATION_APP.to_string();
        let client = Client {
            tenant: TENANT,
            client_id: &client_id,
            credential: &credential,
            now_seconds: 0,
            deadline: deadline(),
        };
        let granted = entra.client_credentials(client, &entra.graph_scope()).await.expect("a token");
        Self { world, entra, token: granted.access_token }
    }

    fn group(&self, id: u128, name: &str) -> String {
        let id = Uuid::from_u128(id);
        self.world
            .simulator
            .apply(Action::AddGroup { tenant: TENANT.to_owned(), name: name.to_owned(), id: Some(id) })
            .expect("a group");
        id.to_string()
    }

    fn pages_of(&self, size: usize) {
        self.world.act([Action::LimitPages { tenant: TENANT.to_owned(), size: Some(size) }]);
    }

    fn graph_fault(&self, contains: &str, fault: FaultKind) {
        self.world.simulator.fault(Fault {
            endpoint: Endpoint::Graph,
            tenant: None,
            contains: Some(contains.to_owned()),
            times: None,
            fault,
        });
    }

    async fn groups(&self, minimum: u32, required: Vec<GroupRef>) -> Result<Groups, Reason> {
        let policy = GroupPolicy { minimum, required };
        self.entra.groups(self.token.expose(), &policy, deadline()).await.map_err(|fault| fault.reason)
    }
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn ids(groups: &Groups) -> Vec<Vec<String>> {
    let sorted = |ids: &Vec<String>| {
        let mut ids = ids.clone();
        ids.sort();
        ids
    };
    groups.required.iter().map(|g| sorted(&g.ids)).collect()
}

/// The same groups are found with every page size: by id, by name, two with one name, and more of them than
/// fit into a batch.
#[tokio::test]
async fn groups_are_found_on_every_page() {
    let asked = Asked::new().await;
    let first = asked.group(1, "Door access - Lab");
    let named_like_an_id = asked.group(2, "00000000-0000-0000-0000-000000000001");
    let many: Vec<String> = (100..125).map(|n| asked.group(n, &format!("Team {n}"))).collect();
    let second = asked.group(3, "door ACCESS - lab");
    let mut required = vec![
        GroupRef::Name("Door access - Lab".to_owned()),
        GroupRef::Id(first.to_uppercase()),
        GroupRef::Id(second.clone()),
        GroupRef::Id(Uuid::from_u128(999).to_string()),
        GroupRef::Name("Nobody".to_owned()),
        GroupRef::Name("00000000-0000-0000-0000-000000000001".to_owned()),
    ];
    let mut expected = vec![
        vec![first.clone(), second.clone()],
        vec![first],
        vec![second],
        vec![],
        vec![],
        vec![named_like_an_id],
    ];
    for (index, id) in many.into_iter().enumerate() {
        required.push(GroupRef::Name(format!("Team {}", 100 + index)));
        expected.push(vec![id]);
    }
    for size in [999, 31, 30, 10, 4, 2] {
        asked.pages_of(size);
        let groups = asked.groups(1, required.clone()).await.expect("groups");
        assert_eq!(ids(&groups), expected, "pages of {size}");
        assert_eq!(groups.visible, 31, "pages of {size}");
    }
}

/// A list that cannot be followed to its end is not a fault if everything required was seen.
#[tokio::test]
async fn unending_lists_return_the_groups_that_were_seen() {
    let asked = Asked::new().await;
    let hq = || vec![GroupRef::Name("Door access - HQ".to_owned())];
    (100..140).for_each(|n| drop(asked.group(n, &format!("Team {n}"))));
    asked.pages_of(1);
    let groups = asked.groups(1, hq()).await.expect("groups");
    assert!(groups.required[0].visible() && groups.visible >= 20, "many small pages: {groups:?}");
    assert_eq!(asked.groups(43, hq()).await, Err(Reason::InvalidResponse), "too few of them were seen");
    let next = format!("{}/v1.0/groups?$skiptoken=SIM1", asked.world.simulator.url());
    let page = |groups: &str| FaultKind::Body {
        text: format!("{{\"value\":[{groups}],\"@odata.nextLink\":\"{next}\"}}"),
    };
    asked.graph_fault(
        "/groups?",
        page("{\"id\":\"a\",\"displayName\":\"x\"},{\"id\":\"b\",\"displayName\":\"y\"}"),
    );
    let groups = asked.groups(2, hq()).await.expect("groups");
    assert_eq!(
        (groups.visible >= 2, groups.required[0].visible()),
        (true, true),
        "a page that leads to itself"
    );
    assert_eq!(
        asked.groups(1000, hq()).await,
        Err(Reason::InvalidResponse),
        "and does not show what is required"
    );
    assert!(
        asked
            .groups(2, vec![GroupRef::Name("Nobody".to_owned())])
            .await
            .is_ok_and(|g| !g.required[0].visible()),
        "a look-up settles it"
    );
    asked.world.simulator.clear_faults();
    asked.graph_fault("skiptoken", FaultKind::Status { status: 503, retry_after: None });
    assert_eq!(
        asked.groups(3, Vec::new()).await,
        Err(Reason::UpstreamUnavailable),
        "a page that fails is not the end of the list"
    );
}

/// A required group whose look-up fails is not reported as missing.
#[tokio::test]
async fn a_failed_look_up_does_not_mean_a_missing_group() {
    let asked = Asked::new().await;
    let lab = asked.group(7, "Door access - Lab");
    asked.pages_of(2);
    let by_id = || vec![GroupRef::Id(lab.clone())];
    for (sentence, kind, expected) in [
        (
            "Graph's own 404, while a later page shows the group",
            error(404, "Request_ResourceNotFound"),
            Ok(true),
        ),
        ("another 404", error(404, "UnknownError"), Err(Reason::Unclassified)),
        ("a page with 404", FaultKind::Html { status: 404 }, Err(Reason::InvalidResponse)),
        ("a page with 403", FaultKind::Html { status: 403 }, Err(Reason::InvalidResponse)),
        (
            "throttled",
            FaultKind::Status { status: 429, retry_after: Some("7".to_owned()) },
            Err(Reason::Throttled),
        ),
        ("the dependency was throttled", error(424, "TooManyRequests"), Err(Reason::Throttled)),
        (
            "another group",
            FaultKind::Body { text: "{\"id\":\"x\",\"displayName\":\"y\"}".to_owned() },
            Err(Reason::InvalidResponse),
        ),
    ] {
        let contains = Some(format!("/groups/{lab}"));
        asked.world.simulator.fault(Fault {
            endpoint: Endpoint::BatchItem,
            tenant: None,
            contains,
            times: None,
            fault: kind,
        });
        let seen = asked.groups(1, by_id()).await.map(|groups| groups.required[0].visible());
        assert_eq!(seen, expected, "{sentence}");
        asked.world.simulator.clear_faults();
    }
    assert_eq!(asked.groups(1, by_id()).await.map(|groups| ids(&groups)), Ok(vec![vec![lab.clone()]]));
}
