//! The texts of mails with several notices.

use super::*;
use crate::domain::{Incident, Reason, Timestamp};
use crate::notify::message::sample_incident;
use crate::store::Queued;

fn notice(kind: MailKind, number: usize, reason: Reason) -> Notification {
    let at = Timestamp::from_seconds(1_790_000_000);
    let incident = Incident {
        integration: format!("acme-{number}"),
        display_name: format!("Acme {number}"),
        reason,
        ..sample_incident(at)
    };
    Notification {
        alert: format!("a{number}"),
        sequence: 0,
        kind,
        recipient: "ada@example.com".to_owned(),
        for_admin: true,
        incident,
    }
}

/// A group of these notices and of `more` that are not shown.
fn group(notices: Vec<Notification>, more: usize) -> Group {
    let first = Queued {
        id: 1,
        notification: notices[0].clone(),
        message_id: None,
        attempts: 0,
        rejections: 0,
        first_rejection: None,
        unanswered: 0,
    };
    let mut kinds: Vec<(MailKind, usize)> = Vec::new();
    for notification in &notices {
        match kinds.iter_mut().find(|(kind, _)| *kind == notification.kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((notification.kind, 1)),
        }
    }
    kinds[0].1 += more;
    let integrations = notices.iter().map(|n| n.incident.integration.clone()).collect();
    let ids = (1..).take(notices.len() + more).collect();
    let shown = notices.into_iter().map(|notification| Shown { notification, thread: None }).collect();
    Group { ids, first, shown, kinds, integrations }
}

fn branding() -> MailBranding {
    MailBranding {
        cloud: crate::domain::Cloud::default(),
        domain: "example.com".to_owned(),
        support_contact: None,
        status_page: Some("https://consentry.example.com".to_owned()),
    }
}

#[test]
fn the_subject_says_what_the_mail_is_about() {
    use MailKind::{Alert, Changed, Operator, Reauthenticated, Reminder, Resolved};
    for (kinds, event, expected) in [
        (vec![Alert, Alert], Alert, "Action needed: Sample App has lost access for 2 integrations"),
        (vec![Resolved, Resolved], Resolved, "Sample App works again for 2 integrations"),
        (
            vec![Alert, Resolved],
            Alert,
            "Action needed: Sample App has lost access for 1 integration; 1 working again",
        ),
        (vec![Reminder, Reminder], Reminder, "Reminder: Sample App still needs help for 2 integrations"),
        (
            vec![Changed, Changed],
            Changed,
            "Action needed: Sample App is still broken for 2 integrations, for another reason",
        ),
        (vec![Reminder, Changed], Changed, "Action needed: Sample App has lost access for 2 integrations"),
        (vec![Reauthenticated, Resolved], Reauthenticated, "Sample App: 1 re-authenticated, 1 working again"),
        (
            vec![Operator, Resolved],
            Operator,
            "[Consentry] Sample App has lost access for 1 integration; 1 working again",
        ),
    ] {
        let notices = kinds.iter().enumerate().map(|(i, kind)| Notification {
            for_admin: *kind != Operator,
            ..notice(*kind, i, Reason::TokenRevoked)
        });
        let mail = render(
            &group(notices.collect(), 0),
            &[NoticeLinks::default(), NoticeLinks::default()],
            &branding(),
        );
        assert_eq!((mail.subject.as_str(), mail.event), (expected, event), "{kinds:?}");
    }
}

#[test]
fn each_notice_has_its_reason_and_link_and_the_rest_is_counted() {
    let reasons = [Reason::TokenRevoked, Reason::AppDeleted, Reason::AppDisabled];
    let notices = reasons.iter().enumerate().map(|(i, reason)| notice(MailKind::Alert, i, *reason)).collect();
    let link = |i: usize| NoticeLinks {
        button: Some(format!("https://consentry.example.com/reauth/acme-{i}?token=t")),
        snooze: Some(format!("https://consentry.example.com/snooze/acme-{i}?token=s")),
    };
    let links = [link(0), link(1), link(2)];
    let mail = render(&group(notices, 25), &links, &branding());
    for (number, reason) in reasons.iter().enumerate() {
        for part in [&mail.text, &mail.html] {
            assert!(part.contains(&format!("Acme {number} (acme-{number}) has lost access")), "{part}");
        }
        assert!(
            mail.text.contains(reason.sentence()) && mail.text.contains(reason.advice()),
            "{}",
            mail.text
        );
        let has_link = mail.text.contains(&format!("/reauth/acme-{number}?token=t"));
        assert_eq!(has_link, reason.remedy() == Remedy::Reauthenticate, "{reason:?}");
        assert!(mail.text.contains(&format!("/snooze/acme-{number}?token=s")), "{}", mail.text);
    }
    let rest = "And 25 more. All of them are listed at https://consentry.example.com";
    assert!(mail.text.contains(rest) && mail.html.contains(rest), "{}", mail.text);
    assert_eq!(mail.subject, "Action needed: Sample App has lost access for 28 integrations");
    assert_eq!(mail.integrations, ["acme-0", "acme-1", "acme-2"]);
    assert_eq!(mail.unsubscribe, None, "it would end the reminders about one of them only");
}

#[test]
fn a_mail_in_place_of_administrators_names_all_of_them_once() {
    let stands_in = |number: usize, people: &[&str]| {
        let mut notice = notice(MailKind::Alert, number, Reason::TokenRevoked);
        notice.incident.instead_of = people.iter().map(|p| (*p).to_owned()).collect();
        Notification { for_admin: false, ..notice }
    };
    let notices = vec![stands_in(0, &["ada@a.example", "bo@b.example"]), stands_in(1, &["ada@a.example"])];
    let mail = render(&group(notices, 0), &[NoticeLinks::default(), NoticeLinks::default()], &branding());
    let line = "You get this mail in place of ada@a.example, bo@b.example (notify: operators).";
    assert!(mail.text.contains(line), "{}", mail.text);
    assert!(!mail.subject.starts_with("[Consentry]"), "it is the administrators' mail as it is");
}

#[test]
fn hostile_names_stay_text() {
    let mut hostile = notice(MailKind::Alert, 0, Reason::PermissionMissing);
    (hostile.incident.display_name, hostile.incident.items) =
        ("<b>\r\nBcc: all@example.com".to_owned(), vec!["<i>\r\nX: y".to_owned()]);
    let mail = render(
        &group(vec![hostile.clone(), hostile], 0),
        &[NoticeLinks::default(), NoticeLinks::default()],
        &branding(),
    );
    assert!(!mail.html.contains("<b>") && !mail.html.contains("<i>"), "{}", mail.html);
    assert!(!mail.text.contains("\nBcc:") && !mail.text.contains("\nX:"), "{}", mail.text);
}

#[test]
fn message_ids_are_stable_and_thread() {
    let id = |sequence, thread: Option<Thread>, recipient: &str| {
        let n = Notification {
            sequence,
            recipient: recipient.to_owned(),
            ..notice(MailKind::Alert, 1, Reason::TokenRevoked)
        };
        let mut group = group(vec![n], 0);
        group.shown[0].thread = thread;
        let mail = render(&group, &[NoticeLinks::default()], &branding());
        (mail.message_id, mail.threads)
    };
    let (first, none) = id(0, None, "ada@example.com");
    assert_eq!((id(0, None, "ada@example.com").0, none), (first.clone(), Vec::new()));
    let before = Thread { message_id: None, sequence: 0 };
    assert_eq!(
        id(2, Some(before), "ada@example.com").1,
        std::slice::from_ref(&first),
        "a mail of an older version"
    );
    let other = Thread { message_id: Some("<server@outlook.example>".to_owned()), sequence: 0 };
    assert_eq!(id(2, Some(other), "ada@example.com").1, ["<server@outlook.example>"]);
    assert_ne!(id(0, None, "bob@example.com").0, first);
    assert!(
        first.starts_with("<a1.0.") && first.ends_with("@example.com>") && !first.contains("ada"),
        "{first}"
    );
}
