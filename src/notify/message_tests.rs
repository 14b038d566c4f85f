//! The texts of mails.

use super::*;

fn notification(kind: MailKind, reason: Reason) -> Notification {
    let at = Timestamp::from_seconds(1_790_000_000);
    let incident = Incident { reason, ..sample_incident(at) };
    Notification {
        alert: "a1".to_owned(),
        sequence: 0,
        kind,
        recipient: "ada@example.com".to_owned(),
        for_admin: true,
        incident,
    }
}

fn branding() -> MailBranding {
    MailBranding {
        cloud: crate::domain::Cloud::default(),
        domain: "example.com".to_owned(),
        support_contact: Some("Help Desk, +1 555 0100".to_owned()),
        status_page: None,
    }
}

const LINK: &str = "https://consentry.example.com/reauth/sample?token=t.t";

#[test]
fn an_alert_in_full() {
    let mail = render_one(&notification(MailKind::Alert, Reason::TokenRevoked), Some(LINK), &branding());
    assert_eq!(mail.subject, "Action needed: Sample App has lost access for Sample Corp");
    assert_eq!(mail.text, "\
Sample App has lost access for Sample Corp

The integration's sign-in was revoked: a password was reset by an administrator, or sessions were revoked.

Until this works again, Sample App does not learn of changes: new people get no access, and people who have left keep theirs.

Re-authenticate:
https://consentry.example.com/reauth/sample?token=t.t

What you will see:
1. Press the button.
2. Sign in with an administrator account of contoso.onmicrosoft.com. A service account is best: the connection lives as long as the account does.
3. Press Accept. That is all.

Integration: Sample Corp (sample)
Application: Sample App, 00000000-0000-0000-0000-000000000000
Microsoft Entra tenant: contoso.onmicrosoft.com
Since: 21 September 2026, 14:13 UTC

Re-authenticate, best with a service account.
You will be asked for: User.Read, Group.Read.All.
The provisioning set-up and the SCIM token in Entra stay as they are. You need not touch them.
For support: AADSTS50173 (https://login.microsoftonline.com/error?code=50173).

Questions? Ask Help Desk, +1 555 0100.
-- 
Sent by Consentry, which watches this integration with Microsoft Entra ID.");
    assert_eq!(mail.html.matches(LINK).count(), 3, "button, and the bare link with its text");
}

#[test]
fn kinds_differ_in_their_subject() {
    let subject = |kind, reason| render_one(&notification(kind, reason), Some(LINK), &branding()).subject;
    for (kind, reason, expected) in [
        (MailKind::Alert, Reason::TokenMissing, "Please connect Sample App for Sample Corp"),
        (
            MailKind::Changed,
            Reason::AppDeleted,
            "Sample App for Sample Corp is still broken, for another reason",
        ),
        (MailKind::Resolved, Reason::TokenRevoked, "Working again: Sample App for Sample Corp"),
        (
            MailKind::Operator,
            Reason::ClientCredentialExpired,
            "[Consentry] The application's client credential has expired (Sample App, first seen at Sample Corp)",
        ),
        (
            MailKind::Test,
            Reason::TokenRevoked,
            "[Test] Action needed: Sample App has lost access for Sample Corp",
        ),
    ] {
        assert_eq!(subject(kind, reason), expected);
    }
}

#[test]
fn only_reauthentication_gets_a_button() {
    for reason in Reason::ALL {
        let notification = notification(MailKind::Alert, *reason);
        let mail = render_one(&notification, Some(LINK), &branding());
        assert_eq!(mail.html.contains(LINK), reason.remedy() == Remedy::Reauthenticate, "{reason:?}");
        let advice = advice(*reason, notification.incident.code.as_deref());
        assert!(mail.text.contains(reason.sentence()) && mail.text.contains(advice), "{reason:?}");
    }
}

/// The provisioning job was deleted with its application. A mail that says it stays would make the reader miss the days in which it can be restored.
#[test]
fn a_mail_does_not_say_that_deleted_provisioning_stays() {
    for reason in Reason::ALL.iter().filter(|r| r.audience() == Audience::Admins) {
        let gone = matches!(reason, Reason::AppDeleted | Reason::AppMissing);
        let text = render_one(&notification(MailKind::Alert, *reason), Some(LINK), &branding()).text;
        let broken = reason.remedy() == Remedy::ReviewProvisioning;
        assert_eq!(text.contains("stay as they are"), !gone && !broken, "{reason:?}");
        assert_eq!(text.contains("restore that one instead"), gone, "{reason:?}");
        assert!(broken || text.contains("SCIM token") && text.contains("need not"), "{reason:?}");
        let (warning, button) = (text.find("restore that one instead"), text.find(LINK));
        assert!(!gone || warning < button, "{reason:?}: the warning comes before the button");
        let operators = render_one(&notification(MailKind::Operator, *reason), Some(LINK), &branding()).text;
        assert_eq!(
            operators.contains("restore that one instead"),
            gone,
            "{reason:?}: operators get the mail if there are no admins"
        );
    }
}

#[test]
fn a_mail_lists_the_permissions_to_accept() {
    for access in [Access::Delegated, Access::Application] {
        let mut asking = notification(MailKind::Alert, Reason::ConsentMissing);
        asking.incident.access = access;
        let mail = render_one(&asking, Some(LINK), &branding());
        assert!(
            mail.text.contains("You will be asked for: User.Read, Group.Read.All."),
            "{access:?}: {}",
            mail.text
        );
    }
}

#[test]
fn hostile_names_stay_text() {
    let long = "x".repeat(10_000);
    for (name, gone) in [
        ("Evil\r\nBcc: all@example.com", "\r"),
        ("<script>alert(1)</script>", "<script>"),
        ("a\u{202e}b\"c", "\u{202e}"),
        (
            &long,
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        ),
    ] {
        let mut n = notification(MailKind::Alert, Reason::PermissionMissing);
        (n.incident.display_name, n.incident.app, n.incident.items) =
            (name.to_owned(), name.to_owned(), vec![name.to_owned()]);
        let mail = render_one(&n, Some(LINK), &branding());
        assert!(
            !mail.subject.contains(['\r', '\n']) && mail.subject.chars().count() <= 151,
            "{}",
            mail.subject
        );
        assert!(!mail.html.contains(gone), "{gone}");
    }
}

/// The mail to the operators names the obstacle, because each one needs another fix.
#[test]
fn the_mail_about_an_undelivered_mail_names_the_obstacle() {
    for (obstacle, word) in [
        (Obstacle::Recipient, "Correct the address"),
        (Obstacle::Content, "rejected it permanently"),
        (Obstacle::Silence, "It may have arrived"),
    ] {
        let mut n = notification(MailKind::Operator, Reason::TokenRevoked);
        n.incident.undeliverable = Some(Undeliverable { address: "gone@example.com".to_owned(), obstacle });
        let mail = render_one(&n, None, &branding());
        assert!(
            mail.text.contains(word) && mail.text.contains("gone@example.com"),
            "{obstacle:?}: {}",
            mail.text
        );
    }
}

#[test]
fn the_mail_about_a_reauthentication_names_person_time_and_origin() {
    let mut success = notification(MailKind::Reauthenticated, Reason::TokenMissing);
    (success.incident.by, success.incident.origin) =
        (Some("ada@contoso.com".to_owned()), Some("through 192.0.2.7".to_owned()));
    let mail = render_one(&success, Some(LINK), &branding());
    assert_eq!(mail.subject, "Re-authenticated: Sample App for Sample Corp");
    for words in [
        "ada@contoso.com has signed in",
        "When: 21 September 2026, 14:13 UTC",
        "From the address: through 192.0.2.7",
    ] {
        assert!(mail.text.contains(words), "{words}: {}", mail.text);
    }
    assert!(
        !mail.text.contains("Since:") && !mail.text.contains("lost access"),
        "nothing is wrong: {}",
        mail.text
    );
    assert!(!mail.text.contains(LINK), "there is no button");

    let mut resolved = notification(MailKind::Resolved, Reason::TokenRevoked);
    assert!(!render_one(&resolved, None, &branding()).text.contains("re-authenticated by"), "nobody did");
    (resolved.incident.by, resolved.incident.origin) =
        (Some("ada@contoso.com".to_owned()), Some("192.0.2.7".to_owned()));
    let text = render_one(&resolved, None, &branding()).text;
    assert!(
        text.contains(
            "It was re-authenticated by ada@contoso.com at 21 September 2026, 14:13 UTC from 192.0.2.7."
        ),
        "{text}"
    );

    let mut refused = notification(MailKind::Operator, Reason::GroupsNotVisible);
    (refused.incident.by, refused.incident.items) =
        (Some("uwe@contoso.com".to_owned()), vec!["Groups that can be seen: 1; before: 3.".to_owned()]);
    let mail = render_one(&refused, None, &branding());
    assert!(
        mail.subject.contains("was refused") && mail.text.contains("before: 3"),
        "{} {}",
        mail.subject,
        mail.text
    );
    assert!(
        mail.text.contains("Who: uwe@contoso.com") && mail.text.contains("--accept-fewer"),
        "{}",
        mail.text
    );
}

#[test]
fn the_name_of_the_person_is_never_a_link() {
    for (name, shown) in [
        ("ada.admin@contoso.com", "ada.admin@contoso.com"),
        ("ada_contoso.com#EXT#@fabrikam.onmicrosoft.com", "ada_contoso.com#EXT#@fabrikam.onmicrosoft.com"),
        ("https://evil.example/x", "https[:]//evil[.]example/x"),
        ("evil.example/x@contoso.com", "evil[.]example/x[at]contoso[.]com"),
        ("a\u{202e}da@contoso.com", "ada@contoso.com"),
    ] {
        let mut success = notification(MailKind::Reauthenticated, Reason::TokenMissing);
        success.incident.by = Some(name.to_owned());
        let text = render_one(&success, None, &branding()).text;
        assert!(text.contains(&format!("Who: {shown}\n")), "{name}: {text}");
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let what = "cannot read /etc/consentry/secret: Permission denied (os error 13)";
    let mut notification = notification(MailKind::Operator, Reason::CredentialUnreadable);
    notification.incident.items = vec![what.to_owned()];
    let mail = render_one(&notification, None, &branding());
    assert!(mail.text.contains(&format!("What cannot be read: {what}")), "{}", mail.text);
}
