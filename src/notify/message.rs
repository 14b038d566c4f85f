//! From a notification to subject, text and HTML. Pure: the same notification and link always give the same mail.
//!
//! All wording is here, in [`Reason`] and in the templates. The reader is an admin with a phone who has never heard of
//! Consentry, or an operator who has.

use std::collections::BTreeSet;

use askama::Template as _;
use aws_lc_rs::digest;

use crate::clock::moment;
use crate::domain::{
    Access, Audience, BrakeNotice, Cloud, Incident, LinkTarget, MailKind, NO_SCIM_BY_CONSENT, Notification,
    Obstacle, PROVISIONING_STAYS, Reason, Remedy, Timestamp, Undeliverable, advice, consequence, foreign,
    invitation, one_line,
};

/// What every mail of this installation has in common.
#[derive(Debug, Clone, Default)]
pub struct MailBranding {
    /// Domain of the sender, for `Message-ID`.
    pub domain: String,
    /// The contact for questions.
    pub support_contact: Option<String>,
    /// The status page, which lists everything that a mail only counts.
    pub status_page: Option<String>,
    /// The cloud whose pages the mail names.
    pub cloud: Cloud,
}

/// A mail, ready for its headers to be encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Without control characters, and at most 150 characters long.
    pub subject: String,
    /// `Message-ID` with angle brackets: the same for every attempt.
    pub message_id: String,
    /// The kind of the mail: the most urgent kind of its notices.
    pub event: MailKind,
    /// Names of the integrations that it is about.
    pub integrations: Vec<String>,
    /// `Message-ID`s of the mails in which its alerts first went out to this recipient, unless that is this mail.
    pub threads: Vec<String>,
    /// Where the recipient ends reminders (`List-Unsubscribe`, RFC 2369), in a mail about one integration.
    pub unsubscribe: Option<String>,
    /// The text part.
    pub text: String,
    /// The HTML part.
    pub html: String,
}

#[derive(askama::Template)]
#[template(path = "mail.html")]
struct HtmlMail<'a>(&'a Body);

#[derive(askama::Template)]
#[template(path = "mail.txt", escape = "none")]
struct TextMail<'a>(&'a Body);

/// The content of both parts.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) subject: String,
    pub(super) heading: String,
    pub(super) color: &'static str,
    pub(super) lead: Vec<String>,
    /// The notices of a mail with several.
    pub(super) entries: Vec<Entry>,
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) button: Option<(&'static str, String)>,
    pub(super) steps: Vec<String>,
    pub(super) notes: Vec<String>,
    pub(super) contact: String,
    /// The URL that snoozes reminders.
    pub(super) snooze: Option<String>,
}

/// One notice of a mail with several.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) title: String,
    pub(super) color: &'static str,
    pub(super) lines: Vec<String>,
    pub(super) button: Option<(&'static str, String)>,
    pub(super) snooze: Option<String>,
}

/// Renders a mail with one notice that begins a thread.
pub fn render_one(notification: &Notification, link: Option<&str>, branding: &MailBranding) -> Rendered {
    let Notification { alert, sequence, recipient, kind, incident, .. } = notification;
    let id = message_id(alert, *sequence, recipient, &branding.domain);
    let integrations = vec![incident.integration.clone()];
    rendered(&body(notification, link, branding), id, *kind, integrations, Vec::new())
}

pub(super) fn rendered(
    body: &Body,
    message_id: String,
    event: MailKind,
    integrations: Vec<String>,
    threads: Vec<String>,
) -> Rendered {
    Rendered {
        subject: body.subject.clone(),
        message_id,
        event,
        integrations,
        threads,
        unsubscribe: None,
        // Rendering into a string fails only if a filter defined by the program fails; there are none.
        text: TextMail(body).render().unwrap_or_default(),
        html: HtmlMail(body).render().unwrap_or_default(),
    }
}

/// The same for every attempt of one notice to one recipient. It does not show the address.
pub(super) fn message_id(alert: &str, sequence: u32, recipient: &str, domain: &str) -> String {
    format!("<{alert}.{sequence}.{}@{domain}>", fingerprint(recipient))
}

/// Distinguishes addresses without showing them.
pub(super) fn fingerprint(recipient: &str) -> String {
    let hash = digest::digest(&digest::SHA256, recipient.as_bytes());
    hash.as_ref()[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(super) fn body(notification: &Notification, link: Option<&str>, branding: &MailBranding) -> Body {
    let incident = Phrases::of(&notification.incident);
    let mut body = match (notification.kind, &notification.incident.undeliverable) {
        _ if notification.incident.brake.is_some() => braked(&notification.incident, link),
        (_, Some(undelivered)) => undeliverable(&incident, undelivered),
        (MailKind::Reauthenticated, None) => reauthenticated(&incident),
        (MailKind::Operator, None) if notification.incident.by.is_some() => refused_sign_in(&incident),
        (MailKind::Operator, None) => operator(&incident, link, &branding.cloud),
        (MailKind::Resolved, None) if notification.incident.reason.audience() == Audience::Operators => {
            cause_over(&incident)
        }
        (MailKind::Resolved, None) => resolved(&incident),
        (MailKind::Alert | MailKind::Reminder | MailKind::Changed | MailKind::Test, None) => {
            admin(&incident, notification.kind, link, &branding.cloud)
        }
    };
    if let Some(line) = stand_in_line(&notification.incident.instead_of) {
        body.lead.insert(0, line);
    }
    finished(body, branding)
}

/// With the contact, and a subject of a reasonable length.
pub(super) fn finished(mut body: Body, branding: &MailBranding) -> Body {
    body.subject = one_line(&body.subject, 150);
    body.contact = match &branding.support_contact {
        Some(contact) => format!("Questions? Ask {}.", one_line(contact, 300)),
        None => "Questions? Reply to this mail.".to_owned(),
    };
    body
}

/// The line on top of a mail that operators get in place of administrators.
pub(super) fn stand_in_line<'a>(instead_of: impl IntoIterator<Item = &'a String>) -> Option<String> {
    let people: BTreeSet<String> = instead_of.into_iter().map(|address| one_line(address, 120)).collect();
    let people: Vec<String> = people.into_iter().collect();
    (!people.is_empty())
        .then(|| format!("You get this mail in place of {} (notify: operators).", people.join(", ")))
}

/// The texts of an incident, made safe to show: they come from configuration and directories, and may be hostile.
pub(super) struct Phrases<'a> {
    pub(super) incident: &'a Incident,
    pub(super) name: String,
    pub(super) app: String,
    pub(super) tenant: String,
}

impl<'a> Phrases<'a> {
    pub(super) fn of(incident: &'a Incident) -> Self {
        Self {
            incident,
            name: one_line(&incident.display_name, 80),
            app: one_line(&incident.app, 80),
            tenant: one_line(&incident.tenant, 120),
        }
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let incident = self.incident;
        let mut facts = vec![
            ("Integration", format!("{} ({})", self.name, incident.integration)),
            ("Application", format!("{}, {}", self.app, incident.client_id)),
            ("Microsoft Entra tenant", self.tenant.clone()),
        ];
        // A warning is about the future.
        facts.extend((!incident.reason.is_warning()).then(|| ("Since", moment(incident.since))));
        facts.extend(self.items(usize::MAX));
        if let Some(affected) = incident.affected {
            facts.push(("Integrations that suffer from it", affected.to_string()));
        }
        if let Some(until) = incident.restorable_until {
            facts.push(("Can be restored until", moment(until)));
        }
        facts
    }

    /// What the incident is about, at most so many items.
    pub(super) fn items(&self, most: usize) -> Option<(&'static str, String)> {
        let (what, ours) = items_title(self.incident.reason);
        let shown = |item: &String| if ours { one_line(item, 400) } else { foreign(item, 80) };
        let items: Vec<String> = self.incident.items.iter().take(most).map(shown).collect();
        (!items.is_empty()).then(|| (what, items.join(if ours { "; " } else { ", " })))
    }

    /// The facts, and where an administrator goes who has to do something in the Entra admin center.
    fn facts_with_admin_center(&self, cloud: &Cloud) -> Vec<(&'static str, String)> {
        let mut facts = self.facts();
        let there = matches!(
            self.incident.reason.remedy(),
            Remedy::EnableApp | Remedy::ReviewPermissions | Remedy::ChangePolicy | Remedy::ReviewProvisioning
        );
        facts.extend(
            cloud
                .admin_center(&self.tenant)
                .filter(|_| there)
                .map(|url| ("Microsoft Entra admin center", url)),
        );
        facts
    }

    /// The person who signed in. The tenant chooses the names of its accounts, so they are made safe. A plain address is shown unchanged, because the
    /// reader knows the person by it.
    pub(super) fn person(&self) -> Option<String> {
        let by = one_line(self.incident.by.as_deref()?, 120);
        Some(if is_plain_address(&by) { by } else { foreign(&by, 120) })
    }

    /// The address from which the person signed in; `None` if unknown.
    fn origin(&self) -> Option<String> {
        self.incident.origin.as_deref().map(|origin| one_line(origin, 80)).filter(|origin| !origin.is_empty())
    }

    /// The facts about a sign-in: those of the integration without the time of the failure, then when, who and from where.
    fn sign_in(&self) -> Vec<(&'static str, String)> {
        let mut facts: Vec<_> = self.facts().into_iter().filter(|(label, _)| *label != "Since").collect();
        facts.push(("When", moment(self.incident.at)));
        facts.extend(self.person().map(|by| ("Who", by)));
        facts.extend(self.origin().map(|origin| ("From the address", origin)));
        facts
    }

    /// Error code and request id, for Microsoft's support.
    pub(super) fn reference(&self, cloud: &Cloud) -> Option<String> {
        let code = self.incident.code.as_deref()?;
        let request =
            self.incident.request_id.as_deref().map(|id| format!(", request {id}")).unwrap_or_default();
        let page =
            code.strip_prefix("AADSTS").map(|n| format!(" ({})", cloud.error_page(n))).unwrap_or_default();
        Some(format!("For support: {code}{page}{request}."))
    }
}

/// What the items of an incident are, and whether they are lines of ours, not names that a tenant has chosen.
const fn items_title(reason: Reason) -> (&'static str, bool) {
    match reason {
        Reason::CredentialUnreadable => ("What cannot be read", true),
        Reason::CredentialExpired | Reason::CredentialExpiring => ("Credential", true),
        Reason::ProvisioningQuarantined | Reason::ProvisioningDisabled => ("Synchronization jobs", true),
        Reason::GroupsNotVisible => ("What is missing", false),
        Reason::GroupMissing => ("Groups that cannot be found", false),
        Reason::PermissionUnexpected => ("Permissions that are not needed", false),
        Reason::ConsentMissing | Reason::PermissionMissing => ("Missing permissions", false),
        _ => ("About", false),
    }
}

/// What to do about a failure.
pub(super) fn what_to_do(incident: &Incident) -> Vec<String> {
    let mut lines = vec![advice(incident.reason, incident.code.as_deref()).to_owned()];
    if incident.reason.remedy() == Remedy::ReviewProvisioning {
        lines.push(NO_SCIM_BY_CONSENT.to_owned());
    }
    lines
}

/// What does not work meanwhile.
fn meanwhile(reason: Reason, app: &str) -> String {
    if reason.remedy() == Remedy::ReviewProvisioning {
        return format!(
            "Until this works again, Entra changes no accounts in {app}: new people get none, and people who have left keep theirs."
        );
    }
    consequence(app)
}

/// Subject and heading of a mail to administrators.
fn admin_title(words: &Phrases<'_>, kind: MailKind) -> (String, String) {
    let (name, app) = (&words.name, &words.app);
    // The application still has access; it is Entra that sends it nothing.
    let is_provisioning = words.incident.reason.remedy() == Remedy::ReviewProvisioning;
    match kind {
        MailKind::Alert if is_provisioning => (
            format!("Action needed: provisioning to {app} has stopped for {name}"),
            format!("Provisioning to {app} has stopped for {name}"),
        ),
        MailKind::Changed => (
            format!("{app} for {name} is still broken, for another reason"),
            format!("{app} for {name}: the reason has changed"),
        ),
        MailKind::Reminder => (
            format!("Reminder: {app} still needs your help for {name}"),
            format!("{app} still needs your help for {name}"),
        ),
        MailKind::Test => (
            format!("[Test] Action needed: {app} has lost access for {name}"),
            format!("This is a test. {app} has lost access for {name}"),
        ),
        _ if words.incident.reason == Reason::TokenMissing => {
            (format!("Please connect {app} for {name}"), format!("{app} for {name} waits for your sign-in"))
        }
        _ => (
            format!("Action needed: {app} has lost access for {name}"),
            format!("{app} has lost access for {name}"),
        ),
    }
}

/// What an administrator does after pressing the button.
pub(super) fn admin_steps(words: &Phrases<'_>) -> Vec<String> {
    let incident = words.incident;
    if matches!(incident.link, LinkTarget::Url(_)) {
        return vec!["Press the button.".to_owned(), "Follow the page that opens.".to_owned()];
    }
    let account = match incident.access {
        Access::Delegated => format!(
            "Sign in with an administrator account of {}. A service account is best: the connection lives as long as the account does.",
            words.tenant
        ),
        Access::Application => format!("Sign in with an administrator account of {}.", words.tenant),
    };
    vec!["Press the button.".to_owned(), account, "Press Accept. That is all.".to_owned()]
}

fn admin(words: &Phrases<'_>, kind: MailKind, link: Option<&str>, cloud: &Cloud) -> Body {
    let (incident, app) = (words.incident, &words.app);
    let is_invitation = incident.reason == Reason::TokenMissing;
    let (subject, heading) = admin_title(words, kind);
    let mut lead = vec![incident.reason.sentence().to_owned()];
    lead.push(if is_invitation { invitation(app) } else { meanwhile(incident.reason, app) });
    lead.extend(incident.reason.before_accepting().map(str::to_owned));
    let link = link.filter(|_| incident.reason.remedy() == Remedy::Reauthenticate);
    let button = link.map(|url| (if is_invitation { "Connect" } else { "Re-authenticate" }, url.to_owned()));
    let steps = if button.is_some() { admin_steps(words) } else { Vec::new() };
    let mut notes = what_to_do(incident);
    if button.is_some() && !incident.permissions.is_empty() {
        notes.push(format!("You will be asked for: {}.", incident.permissions.join(", ")));
    }
    if incident.reason.leaves_provisioning() {
        notes.push(PROVISIONING_STAYS.to_owned());
    }
    notes.extend(words.reference(cloud));
    Body {
        subject,
        heading,
        color: "#b42318",
        lead,
        facts: words.facts_with_admin_center(cloud),
        button,
        steps,
        notes,
        ..Body::default()
    }
}

/// Whether a name is one `@` between letters, digits and the special characters of user principal names (Microsoft, `userprincipalname` of the
/// resource `user`): mail programs make at most a mail link of it.
fn is_plain_address(text: &str) -> bool {
    let plain = |part: &str, marks: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
    };
    text.split_once('@')
        .is_some_and(|(local, domain)| plain(local, "._-+'#") && plain(domain, ".-") && domain.contains('.'))
}

/// Somebody renewed consent or token. The mail also explains what to do if this was not expected.
fn reauthenticated(words: &Phrases<'_>) -> Body {
    let (name, app) = (&words.name, &words.app);
    let who = words.person().unwrap_or_else(|| "An administrator".to_owned());
    let how = match words.incident.access {
        Access::Delegated => {
            format!("{who} has signed in and accepted the permissions. From now on {app} uses that sign-in.")
        }
        Access::Application => format!("The permissions of {app} were accepted for the whole organization."),
    };
    Body {
        subject: format!("Re-authenticated: {app} for {name}"),
        heading: format!("{app} was re-authenticated for {name}"),
        color: "#1f4fd8",
        lead: vec![
            how,
            "If that was you, or somebody you know of, you need not do anything. If nobody should have done it, tell the contact below, and look at the account in the Entra admin center: revoke its sessions, or take the permissions back.".to_owned(),
        ],
        facts: words.sign_in(),
        ..Body::default()
    }
}

/// A sign-in was not accepted because its token sees less than the stored one did.
fn refused_sign_in(words: &Phrases<'_>) -> Body {
    Body {
        subject: format!("[Consentry] A re-authentication of {} was refused: its token sees less", words.name),
        heading: format!("A re-authentication of {} was refused", words.name),
        color: "#b54708",
        lead: vec![
            "Somebody signed in through a re-authentication link, and the new token would see less than the stored one saw at its last good probe. It was not stored; the old one stays, and the link is still good.".to_owned(),
            "A new consent takes a minute or two to spread: another try may succeed. If groups were deleted permanently, an administrator's sign-in is accepted, and so is one through a link of consentry reauth-link NAME --accept-fewer. If nobody should be doing this, consentry reauth-link NAME --revoke ends all links.".to_owned(),
        ],
        facts: words.sign_in(),
        notes: vec!["This mail comes once for each link.".to_owned()],
        ..Body::default()
    }
}

fn resolved(words: &Phrases<'_>) -> Body {
    let (name, app) = (&words.name, &words.app);
    let mut facts = words.facts();
    facts.push(("Working again since", moment(words.incident.at)));
    // The recipient gets no separate mail about the sign-in.
    let renewed = words.person().map(|by| {
        let from = match words.origin() {
            Some(through) if through.starts_with("through ") => format!(" {through}"),
            Some(address) => format!(" from {address}"),
            None => String::new(),
        };
        format!(
            "It was re-authenticated by {by} at {}{from}.",
            moment(words.incident.renewed.unwrap_or(words.incident.at))
        )
    });
    Body {
        subject: format!("Working again: {app} for {name}"),
        heading: format!("{app} works again for {name}"),
        color: "#067647",
        lead: std::iter::once("What was wrong is over. You need not do anything.".to_owned())
            .chain(renewed)
            .chain(std::iter::once(format!("What was wrong: {}", words.incident.reason.sentence())))
            .collect(),
        facts,
        ..Body::default()
    }
}

/// The end of a cause that many integrations shared. It says nothing about their other causes.
fn cause_over(words: &Phrases<'_>) -> Body {
    let sentence = words.incident.reason.sentence();
    let mut facts = words.facts();
    facts.push(("Over since", moment(words.incident.at)));
    Body {
        subject: format!("[Consentry] Over: {} ({})", sentence.trim_end_matches('.'), words.app),
        heading: format!("Over: {sentence}"),
        color: "#067647",
        lead: vec!["No integration is affected by this cause any more.".to_owned()],
        facts,
        ..Body::default()
    }
}

fn operator(words: &Phrases<'_>, link: Option<&str>, cloud: &Cloud) -> Body {
    let reason = words.incident.reason;
    let mut notes = vec![format!("Reason: {}, remedy: {}.", reason.label(), reason.remedy().label())];
    notes.extend(words.reference(cloud));
    let button =
        link.filter(|_| reason.remedy() == Remedy::Reauthenticate).map(|l| ("Re-authenticate", l.to_owned()));
    notes.push(
        match reason.audience() {
            _ if reason.is_warning() => {
                "Nothing is broken yet. This is one mail for all integrations with this credential. It comes when the warning begins, 7 days and 1 day before the end, unless the credential is replaced."
            }
            Audience::Admins => "This integration has no admins in the configuration, so this mail comes to you.",
            Audience::Operators => {
                "This is one mail for all integrations with the same cause; consentry_check_reason shows which ones they are."
            }
        }
        .to_owned(),
    );
    Body {
        subject: format!(
            "[Consentry] {}{} ({}, first seen at {})",
            if words.incident.reminds { "Reminder: " } else { "" },
            reason.sentence().trim_end_matches('.'),
            words.app,
            words.name
        ),
        heading: reason.sentence().to_owned(),
        color: "#b54708",
        lead: what_to_do(words.incident)
            .into_iter()
            .chain(reason.before_accepting().map(str::to_owned))
            .collect(),
        facts: words.facts(),
        button,
        notes,
        ..Body::default()
    }
}

fn undeliverable(words: &Phrases<'_>, undelivered: &Undeliverable) -> Body {
    let address = one_line(&undelivered.address, 120);
    let (heading, lead) = match undelivered.obstacle {
        Obstacle::Recipient => (
            format!("The mail server refuses {address}"),
            "A mail to this address was rejected permanently several times; after eight rejections it is given up. Correct the address in the \
             configuration.",
        ),
        Obstacle::Content => (
            format!("The mail server refuses a mail to {address}"),
            "The mail server read the whole mail and rejected it permanently; after eight rejections it is given up. The log of the mail \
             server says why: a filter for spam or links, or a policy about its size.",
        ),
        Obstacle::Silence => (
            format!("It is unknown whether a mail to {address} has arrived"),
            "The mail server received the whole mail three times and never responded, so it is not sent again. It may have \
             arrived; ask the recipient, and check the log of the mail server.",
        ),
    };
    Body {
        subject: format!("[Consentry] A mail about {} cannot be delivered", words.name),
        heading,
        color: "#b54708",
        lead: vec![lead.to_owned(), format!("It was about: {}", words.incident.reason.sentence())],
        facts: words.facts(),
        ..Body::default()
    }
}

/// The brake holds mails to administrators.
fn braked(incident: &Incident, link: Option<&str>) -> Body {
    let Some(BrakeNotice { hold, held }) = &incident.brake else { return Body::default() };
    let mut facts = vec![
        ("Broken when the brake began", format!("{} of {} integrations", hold.broken, hold.integrations)),
        (
            "Held now",
            format!(
                "{} mails to {} people about {} integrations",
                held.notices, held.people, held.integrations
            ),
        ),
    ];
    facts.extend(held.lists());
    facts.extend([("Since", moment(hold.since)), ("Held until", moment(hold.until))]);
    Body {
        subject: format!(
            "[Consentry] {} of {} integrations broke at once; mails to administrators are held",
            hold.broken, hold.integrations
        ),
        heading: "Mails to administrators are held".to_owned(),
        color: "#b54708",
        lead: vec![
            format!(
                "{} of {} integrations broke within one interval. When so much breaks at once, the fault is often not the tenants': look before their administrators are asked for help.",
                hold.broken, hold.integrations
            ),
            "The mails go out at the time below, unless somebody releases them earlier, holds them longer, or discards them. What recovers meanwhile is not mailed.".to_owned(),
        ],
        facts,
        button: link.map(|url| ("Decide about the held mails", url.to_owned())),
        notes: vec!["Mails to you are never held. This mail comes once each time the brake begins to hold.".to_owned()],
        ..Body::default()
    }
}

/// A sample incident for `test-email`, with the texts that an admin would read.
pub fn sample_incident(now: Timestamp) -> Incident {
    Incident {
        integration: "sample".to_owned(),
        display_name: "Sample Corp".to_owned(),
        app: "Sample App".to_owned(),
        app_name: "sample".to_owned(),
        client_id: "00000000-0000-0000-0000-000000000000".to_owned(),
        tenant: "contoso.onmicrosoft.com".to_owned(),
        access: Access::Delegated,
        reason: Reason::TokenRevoked,
        items: Vec::new(),
        code: Some("AADSTS50173".to_owned()),
        request_id: None,
        restorable_until: None,
        permissions: vec!["User.Read".to_owned(), "Group.Read.All".to_owned()],
        since: now,
        at: now,
        link: LinkTarget::Builtin,
        undeliverable: None,
        brake: None,
        by: None,
        origin: None,
        affected: None,
        reminds: false,
        instead_of: Vec::new(),
        renewed: None,
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
