//! Mail accounts without a password: XOAUTH2, and Microsoft Graph's `sendMail`.

use entra_sim::{Endpoint, Fault, FaultKind, MailFaults};

use crate::world::{World, header, text};

const MAILBOX: &str = "alerts@contoso.example";

/// The account of the directory reader, which is no application that is probed.
fn account(more: &str) -> String {
    format!("{{tenant_id: fabrikam.example, client_id: {}, {more}}}", consentry::demo::READER)
}

/// A live world whose mails go out with an access token.
async fn with_token() -> World {
    let mut world = World::live().await;
    world
        .add("email.smtp.username", MAILBOX)
        .add("email.smtp.oauth2", &account("client_secret: demo-secret"));
    world
}

/// A live world whose mails go out through Graph.
async fn through_graph(mailbox: &str) -> World {
    let mut world = World::live().await;
    let graph = account(&format!("credential: {{client_secret: demo-secret}}, sender: {mailbox}"));
    world.remove("email.smtp").add("email.graph", &graph);
    world
}

/// A token that is refused is renewed once; the log shows none.
#[tokio::test]
async fn a_mail_server_takes_an_access_token() {
    let world = with_token().await;
    world.simulator.mailbox().set_faults(MailFaults { refuse_tokens: 1, ..MailFaults::default() });
    let daemon = world.daemon(&["--log.level=debug"]);
    world.breaks("contoso");
    world.mails(1).await;
    let mail = &world.simulator.mailbox().all()[0];
    assert_eq!(mail.user.as_deref(), Some(MAILBOX));
    assert!(!daemon.log().iter().any(|line| line.contains("eyJ")), "an access token begins like this");
    let tested = world.command(&["test-email", "ada@example.com"]).await;
    assert!(tested.status.success(), "{}", text(&tested.stderr));
    world.simulator.mailbox().set_faults(MailFaults { refuse_tokens: 2, ..MailFaults::default() });
    let tested = world.command(&["test-email", "ada@example.com"]).await;
    let said = text(&tested.stdout);
    assert!(!tested.status.success() && said.contains("AUTH XOAUTH2 (as alerts@contoso.example"), "{said}");
    assert!(said.contains("getting another token") && !said.contains("eyJ"), "{said}");
}

/// Headers and Message-ID are ours; a pause that Graph asks for is kept, and nobody gets a second mail.
#[tokio::test]
async fn graph_sends_the_same_mail() {
    let world = through_graph(MAILBOX).await;
    world.simulator.fault(Fault {
        endpoint: Endpoint::Graph,
        tenant: None,
        contains: Some("sendMail".to_owned()),
        times: Some(1),
        fault: FaultKind::Status { status: 429, retry_after: Some("1".to_owned()) },
    });
    let daemon = world.daemon(&[]);
    world.breaks("contoso");
    world.mails(1).await;
    let mail = world.simulator.mailbox().all()[0].clone();
    assert_eq!((mail.from.as_str(), &mail.to[..]), (MAILBOX, &["it@contoso.example".to_owned()][..]));
    let parsed = mail.parsed();
    assert_eq!(header(&parsed, "X-Consentry-Event").as_deref(), Some("alert"));
    assert!(parsed.message_id.ends_with("@demo.example"), "{}", parsed.message_id);
    let failed = "consentry_emails_failed_total{kind=\"alert\",reason=\"other\"}";
    assert_eq!(daemon.metric(failed).await.as_deref(), Some("1"));
    world
        .database_says("SELECT count(*) FROM notifications WHERE sent_at IS NOT NULL AND attempts = 2", 1)
        .await;
    world.fix("contoso");
    world.mails(2).await;
    let over = world.simulator.mailbox().all()[1].parsed();
    assert_eq!(header(&over, "References"), Some(format!("<{}>", parsed.message_id)));
}

/// `test-email` says which of the ways to fail it was, `check-config --online` tries the account.
#[tokio::test]
async fn graphs_refusals_are_told_apart() {
    for (mailbox, status, expected) in [
        ("nobody@contoso.example", None, "there is no such mailbox; correct email.graph.sender"),
        (MAILBOX, Some(403), "grant it Application Mail.Send for the mailbox in Exchange"),
        (MAILBOX, Some(429), "< 429"),
    ] {
        let world = through_graph(mailbox).await;
        if let Some(status) = status {
            world.simulator.fault(Fault {
                endpoint: Endpoint::Graph,
                tenant: None,
                contains: Some("sendMail".to_owned()),
                times: None,
                fault: FaultKind::Status { status, retry_after: None },
            });
        }
        let tested = world.command(&["test-email", "ada@example.com"]).await;
        let said = text(&tested.stdout);
        assert!(!tested.status.success() && said.contains(expected), "{said}");
        assert!(!said.contains("eyJ"), "{said}");
        let online = world.command(&["check-config", "--online"]).await;
        let said = text(&online.stdout);
        assert!(said.contains("its account gets a token"), "{said}");
    }
    let mut world = through_graph(MAILBOX).await;
    world.set("email.graph.credential", "{client_secret: wrong}");
    let online = world.command(&["check-config", "--online"]).await;
    let said = text(&online.stdout);
    assert!(
        said.contains("no access token for the mail account") && said.contains("AADSTS7000215"),
        "{said}"
    );
}

/// Bad input is named with its line and with what to write instead.
#[tokio::test]
async fn wrong_accounts_are_explained() {
    let graph = |account: String| format!("graph: {account}");
    let smtp = |more: &str| format!("smtp: {{host: smtp.example.com, {more}}}");
    let id = "00000000-0000-0000-0000-0000000000bb";
    let secret = "credential: {client_secret: x}";
    for (transport, expected) in [
        (
            format!(
                "{}, {}",
                smtp("port: 25"),
                graph(format!("{{tenant_id: a.example, client_id: {id}, {secret}, sender: a@b.example}}"))
            ),
            "email.graph: is given as well as smtp; keep one of the two",
        ),
        (
            smtp(&format!("username: a@b.example, oauth2: {{client_id: {id}, client_secret: x}}")),
            "email.smtp.oauth2: tenant_id is missing",
        ),
        (
            smtp(&format!("oauth2: {{tenant_id: a.example, client_id: {id}, client_secret: x}}")),
            "oauth2 is given without username",
        ),
        (
            smtp(&format!(
                "username: a@b.example, password: y, oauth2: {{tenant_id: a.example, client_id: {id}, client_secret: x}}"
            )),
            "is given as well as a password; keep one of the two",
        ),
        (
            smtp(&format!("username: a@b.example, oauth2: {{tenant_id: a.example, client_id: {id}}}")),
            "client_secret_file is missing",
        ),
        (
            graph(format!("{{tenant_id: a.example, client_id: {id}, {secret}, sender: Consentry}}")),
            "email.graph.sender",
        ),
        (
            graph(format!(
                "{{tenant_id: a.example, client_id: {id}, credential: none, sender: a@b.example}}"
            )),
            "must not be none",
        ),
        (
            graph(format!(
                "{{tenant_id: a.example, client_id: 00000000-0000-0000-0000-0000000000aa, {secret}, sender: a@b.example}}"
            )),
            "is that of the application sequr, which is probed",
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("consentry.yml");
        let text = format!(
            "email: {{from: a@b.example, operators: [o@b.example], {transport}}}\n\
             reauthentication: {{public_url: \"https://c.example.com\"}}\n\
             apps: {{sequr: {{client_id: 00000000-0000-0000-0000-0000000000aa}}}}\n"
        );
        std::fs::write(&file, &text).expect("written");
        let problems = consentry::config::load(&file).expect_err("invalid");
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|line| line.contains(expected)), "{expected}: {told:?}");
    }
}

/// The instructions name the configured account, and come before there is any, too.
#[tokio::test]
async fn the_registration_is_explained() {
    let world = through_graph(MAILBOX).await;
    let said = text(&world.command(&["setup", "--mail"]).await.stdout);
    for words in [
        "PrimarySmtpAddress -eq 'alerts@contoso.example'",
        "-Role \"Application Mail.Send\"",
        "Do not grant Mail.Send in Entra",
        "SMTP.SendAsApp",
        &consentry::demo::READER.to_string(),
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let plain = World::live().await;
    let said = text(&plain.command(&["setup", "--mail"]).await.stdout);
    assert!(said.find("XOAUTH2") < said.find("RBAC for Applications"), "the configured way first: {said}");
    assert_eq!(plain.command(&["setup"]).await.status.code(), Some(2));
}
