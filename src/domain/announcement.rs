//! The mails about a sign-in that has renewed consent or token.

use std::collections::BTreeSet;
use std::time::Duration;

use super::alert::{Notify, OpenAlert};
use super::notification::{Incident, MailKind, Notification};
use super::record::IntegrationRecord;
use super::verification::UNTIL_VERIFIED;

/// A mail that may turn out not to be needed: it is sent after a pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayedMail {
    /// The mail.
    pub notification: Notification,
    /// How long it waits before it is due.
    pub pause: Duration,
}

/// The integration of a sign-in, and who is to be notified.
#[derive(Debug, Clone, Copy)]
pub struct Announced<'a> {
    /// The integration.
    pub record: &'a IntegrationRecord,
    /// Whoever runs Consentry.
    pub operators: &'a [String],
    /// The alert that is open.
    pub alert: Option<&'a OpenAlert>,
    /// The end of an alert is a mail, too.
    pub send_resolved: bool,
}

/// One mail for each administrator, as far as administrators are notified at all, and for each operator. Recipients who know of the open
/// alert wait until the sign-in is verified: if the alert ends (`send_resolved`), the mail about its end replaces this one.
pub fn announcements(id: &str, incident: &Incident, about: Announced<'_>) -> Vec<DelayedMail> {
    let Announced { record, operators, alert, send_resolved } = about;
    let admins = if record.notify == Notify::Admins { &record.admins[..] } else { &[] };
    let people: BTreeSet<&String> = admins.iter().chain(operators).collect();
    let waits = |person: &String| send_resolved && alert.is_some_and(|open| open.notified.contains(person));
    let mail = |person: &String| DelayedMail {
        pause: if waits(person) { UNTIL_VERIFIED } else { Duration::ZERO },
        notification: Notification {
            alert: format!("reauthenticated-{id}"),
            sequence: 0,
            kind: MailKind::Reauthenticated,
            recipient: person.clone(),
            for_admin: admins.contains(person),
            incident: incident.clone(),
        },
    };
    people.into_iter().map(mail).collect()
}

#[cfg(test)]
mod tests {
    use super::super::alert::AlertProgress;
    use super::super::reason::Reason;
    use super::super::time::Timestamp;
    use super::*;

    #[test]
    fn who_learns_of_a_sign_in_and_when() {
        let now = Timestamp::from_seconds(100);
        let person = |name: &str| name.to_owned();
        let open = OpenAlert {
            id: person("a"),
            reason: Reason::TokenRevoked,
            exact: false,
            since: now,
            notices: 1,
            notified: BTreeSet::from([person("it")]),
            progress: AlertProgress { notify: Notify::Admins, noticed: now, reminders: 0 },
        };
        for (sentence, notify, alert, send_resolved, expected) in [
            ("each person once", Notify::Admins, None, true, "boss 0, it 0, sre 0"),
            ("whoever knows of the alert waits", Notify::Admins, Some(&open), true, "boss 0, it 180, sre 0"),
            ("not if its end is not mailed", Notify::Admins, Some(&open), false, "boss 0, it 0, sre 0"),
            ("a trial run mails no admin", Notify::Operators, None, true, "boss 0, sre 0"),
            ("nor does a silent integration", Notify::Nobody, Some(&open), true, "boss 0, sre 0"),
        ] {
            let admins = vec![person("it"), person("boss"), person("it")];
            let record = IntegrationRecord { admins, notify, ..IntegrationRecord::example("acme") };
            let incident = record.named(Reason::TokenMissing, now);
            let operators = [person("sre"), person("boss")];
            let mails = announcements(
                "x",
                &incident,
                Announced { record: &record, operators: &operators, alert, send_resolved },
            );
            let texts: Vec<String> =
                mails.iter().map(|m| format!("{} {}", m.notification.recipient, m.pause.as_secs())).collect();
            assert_eq!(texts.join(", "), expected, "{sentence}");
        }
    }
}
