//! From the notices that go out together to one mail: with several, it says which integrations need somebody, which work again, and what to do about
//! each. Pure, as [`super::message`].

use std::collections::HashSet;

use super::message::{
    Body, Entry, MailBranding, Phrases, Rendered, admin_steps, body, finished, message_id, rendered,
    stand_in_line, what_to_do,
};
use crate::clock::moment;
use crate::domain::{
    Cloud, LinkTarget, MailKind, Notification, PROVISIONING_STAYS, Reason, Remedy, consequence,
};
use crate::store::{Group, Shown, Thread};

const RED: &str = "#b42318";
const GREEN: &str = "#067647";
const BLUE: &str = "#1f4fd8";

/// How many notices of a mail are of which sort.
struct Counts {
    /// The failures are new.
    new: usize,
    changed: usize,
    reminders: usize,
    renewed: usize,
    over: usize,
}

impl Counts {
    fn of(kinds: &[(MailKind, usize)]) -> Self {
        let count = |wanted: &[MailKind]| {
            kinds.iter().filter(|(kind, _)| wanted.contains(kind)).map(|(_, count)| count).sum()
        };
        Self {
            new: count(&[MailKind::Alert, MailKind::Operator, MailKind::Test]),
            changed: count(&[MailKind::Changed]),
            reminders: count(&[MailKind::Reminder]),
            renewed: count(&[MailKind::Reauthenticated]),
            over: count(&[MailKind::Resolved]),
        }
    }

    const fn broken(&self) -> usize {
        self.new + self.changed + self.reminders
    }
}

/// The links of a notice.
#[derive(Debug, Clone, Default)]
pub(super) struct NoticeLinks {
    /// The URL of its button.
    pub(super) button: Option<String>,
    /// The URL that snoozes its reminders.
    pub(super) snooze: Option<String>,
}

/// Renders a mail. There are links for each notice that is shown.
pub(super) fn render(group: &Group, links: &[NoticeLinks], branding: &MailBranding) -> Rendered {
    let id = |alert: &str, sequence| {
        message_id(alert, sequence, &group.first.notification.recipient, &branding.domain)
    };
    let first = &group.first.notification;
    let message_id = group.first.message_id.clone().unwrap_or_else(|| id(&first.alert, first.sequence));
    let thread = |shown: &Shown| {
        let Thread { message_id, sequence } = shown.thread.as_ref()?;
        Some(message_id.clone().unwrap_or_else(|| id(&shown.notification.alert, *sequence)))
    };
    let mut threads: Vec<String> = group.shown.iter().filter_map(thread).collect();
    threads.retain(|thread| *thread != message_id);
    let mut known = HashSet::new();
    threads.retain(|thread| known.insert(thread.clone()));
    let mut unsubscribe = None;
    let body = match (&group.shown[..], links) {
        ([only], [link]) if group.ids.len() == 1 => {
            unsubscribe.clone_from(&link.snooze);
            let mut body = body(&only.notification, link.button.as_deref(), branding);
            body.snooze.clone_from(&link.snooze);
            body
        }
        _ => finished(grouped(group, links, branding), branding),
    };
    let event = MailKind::of_group(group.kinds.iter().map(|(kind, _)| *kind)).unwrap_or(first.kind);
    let mail = rendered(&body, message_id, event, group.integrations.clone(), threads);
    Rendered { unsubscribe, ..mail }
}

/// The content of a mail with several notices.
fn grouped(group: &Group, links: &[NoticeLinks], branding: &MailBranding) -> Body {
    let counts = Counts::of(&group.kinds);
    let notifications = || group.shown.iter().map(|shown| &shown.notification);
    let first = Phrases::of(&group.first.notification.incident);
    let (subject, heading) = title(&first.app, &counts, group.first.notification.is_admins());
    let mut lead: Vec<String> =
        stand_in_line(notifications().flat_map(|n| &n.incident.instead_of)).into_iter().collect();
    if counts.broken() > 0 {
        lead.push(consequence(&first.app));
    } else if counts.over > 0 && counts.renewed == 0 {
        lead.push("What was wrong is over. You need not do anything.".to_owned());
    }
    let entries: Vec<Entry> = notifications()
        .zip(links)
        .map(|(notification, link)| entry(notification, link, &branding.cloud))
        .collect();
    let builtin = |n: &&Notification| n.incident.link == LinkTarget::Builtin;
    let asked = notifications().find(|n| builtin(n) && is_broken(n.kind));
    let steps = match asked {
        Some(notification) if entries.iter().any(|entry| entry.button.is_some()) => {
            let mut tenant = Phrases::of(&notification.incident);
            "the organization that the entry names".clone_into(&mut tenant.tenant);
            admin_steps(&tenant)
        }
        _ => Vec::new(),
    };
    let mut notes = Vec::new();
    if let Some(line) = rest(group.ids.len() - group.shown.len(), branding) {
        notes.push(line);
    }
    let stays = |n: &Notification| is_broken(n.kind) && n.incident.reason.leaves_provisioning();
    if notifications().any(stays) {
        notes.push(PROVISIONING_STAYS.to_owned());
    }
    let color = if counts.broken() > 0 { RED } else { GREEN };
    Body { subject, heading, color, lead, entries, steps, notes, ..Body::default() }
}

const fn is_broken(kind: MailKind) -> bool {
    matches!(kind, MailKind::Alert | MailKind::Changed | MailKind::Reminder | MailKind::Operator)
}

/// The line that counts what the mail does not show.
fn rest(more: usize, branding: &MailBranding) -> Option<String> {
    let place = match &branding.status_page {
        Some(url) => format!("All of them are listed at {url}"),
        None => "Ask the contact below for the whole list.".to_owned(),
    };
    (more > 0).then(|| format!("And {more} more. {place}"))
}

/// Subject and heading.
fn title(app: &str, counts: &Counts, for_admins: bool) -> (String, String) {
    let integrations =
        |count: usize| if count == 1 { "1 integration".to_owned() } else { format!("{count} integrations") };
    let heading = match counts {
        Counts { new: 0, changed: 0, reminders: 0, renewed: 0, over } => {
            format!("{app} works again for {}", integrations(*over))
        }
        Counts { new: 0, changed: 0, reminders: 0, renewed, over: 0 } => {
            format!("{app} was re-authenticated for {}", integrations(*renewed))
        }
        Counts { new: 0, changed: 0, reminders: 0, renewed, over } => {
            format!("{app}: {renewed} re-authenticated, {over} working again")
        }
        Counts { new: 0, changed: 0, reminders, .. } => {
            format!("{app} still needs help for {}", integrations(*reminders))
        }
        Counts { new: 0, changed, reminders: 0, .. } => {
            format!("{app} is still broken for {}, for another reason", integrations(*changed))
        }
        _ => format!("{app} has lost access for {}", integrations(counts.broken())),
    };
    let heading = match (counts.broken(), counts.over) {
        (1.., over @ 1..) => format!("{heading}; {over} working again"),
        _ => heading,
    };
    let prefix = match () {
        () if !for_admins => "[Consentry] ",
        () if counts.new + counts.changed > 0 => "Action needed: ",
        () if counts.reminders > 0 => "Reminder: ",
        () => "",
    };
    (format!("{prefix}{heading}"), heading)
}

/// One notice.
fn entry(notification: &Notification, links: &NoticeLinks, cloud: &Cloud) -> Entry {
    let words = Phrases::of(&notification.incident);
    let incident = &notification.incident;
    let reason = incident.reason;
    let state = match notification.kind {
        MailKind::Alert | MailKind::Test | MailKind::Operator if incident.reason == Reason::TokenMissing => {
            "waits for a sign-in"
        }
        MailKind::Alert if reason.remedy() == Remedy::ReviewProvisioning => "gets no accounts from Entra",
        MailKind::Alert | MailKind::Test => "has lost access",
        MailKind::Operator => "needs you",
        MailKind::Changed => "is still broken, for another reason",
        MailKind::Reminder => "is still broken",
        MailKind::Reauthenticated => "was re-authenticated",
        MailKind::Resolved => "works again",
    };
    let title = format!("{} ({}) {state}", words.name, incident.integration);
    let tenant = format!("Microsoft Entra tenant: {}", words.tenant);
    if !is_broken(notification.kind) {
        let color = if notification.kind == MailKind::Resolved { GREEN } else { BLUE };
        let what = if notification.kind == MailKind::Resolved {
            format!("Since {}. It was: {}", moment(incident.at), incident.reason.sentence())
        } else {
            let who = words.person().unwrap_or_else(|| "an administrator".to_owned());
            format!("By {who} at {}.", moment(incident.at))
        };
        return Entry { title, color, lines: vec![what, tenant], button: None, snooze: None };
    }
    let since =
        if reason.is_warning() { String::new() } else { format!(" Since {}.", moment(incident.since)) };
    let mut lines = vec![format!("{}{since}", reason.sentence())];
    lines.extend(what_to_do(incident));
    lines.extend(reason.before_accepting().map(str::to_owned));
    if reason != Reason::CredentialUnreadable {
        lines.extend(words.items(10).map(|(what, items)| format!("{what}: {items}.")));
    }
    lines.push(tenant);
    lines.extend(words.reference(cloud));
    let label = if reason == Reason::TokenMissing { "Connect" } else { "Re-authenticate" };
    let button =
        links.button.clone().filter(|_| reason.remedy() == Remedy::Reauthenticate).map(|url| (label, url));
    Entry { title, color: RED, lines, button, snooze: links.snooze.clone() }
}

#[cfg(test)]
#[path = "grouped_tests.rs"]
mod tests;
