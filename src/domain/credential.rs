//! Credentials of an application: what its registration, its service principal and our own files say of them, and when operators are warned.

use std::time::Duration;

use super::text::{foreign, one_line};
use super::time::{Timestamp, day_and_minute};

/// Kinds of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CredentialKind {
    /// A `passwordCredential` of the app registration.
    ClientSecret,
    /// A `keyCredential` of the app registration, or a certificate file of ours.
    Certificate,
    /// The certificate with which Entra signs SAML tokens for the enterprise application.
    SamlCertificate,
    /// A federated identity credential. It never expires.
    Federated,
}

impl CredentialKind {
    /// Every kind.
    pub const ALL: [Self; 4] =
        [Self::ClientSecret, Self::Certificate, Self::SamlCertificate, Self::Federated];

    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ClientSecret => "client_secret",
            Self::Certificate => "certificate",
            Self::SamlCertificate => "saml_certificate",
            Self::Federated => "federated",
        }
    }

    /// The kind with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }

    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::ClientSecret => "client secret",
            Self::Certificate => "certificate",
            Self::SamlCertificate => "SAML signing certificate",
            Self::Federated => "federated identity credential",
        }
    }
}

/// A credential as Entra lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedCredential {
    /// Its kind.
    pub kind: CredentialKind,
    /// `keyId`; the id of a federated identity credential.
    pub key_id: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// A certificate's SHA-1 thumbprint in capital hexadecimal digits.
    pub thumbprint: Option<String>,
    /// The first characters of a client secret.
    pub hint: Option<Hint>,
    /// When it expires; `None` if it never does.
    pub ends: Option<Timestamp>,
    /// Whether Entra itself uses it: the active SAML signing certificate.
    pub active: bool,
}

/// The first characters of a client secret, which its registration shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Hint(String);

impl Hint {
    /// From a secret, or from what the registration shows.
    pub fn of(text: &str) -> Self {
        Self(text.chars().take(3).collect())
    }
}

impl std::fmt::Debug for Hint {
    /// It is a part of a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<hint>")
    }
}

/// What the daemon itself authenticates with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnCredential {
    /// Nothing: a public client.
    None,
    /// A credential that cannot be read.
    Unreadable,
    /// A client secret that begins with these characters.
    Secret {
        /// The first three characters.
        hint: Hint,
    },
    /// A certificate.
    Certificate {
        /// Its SHA-1 thumbprint.
        thumbprint: String,
        /// When it expires.
        ends: Timestamp,
    },
    /// A federated identity credential.
    Federated,
}

/// What is known of an app registration's credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    /// The credentials that the registration lists.
    Listed(Vec<ListedCredential>),
    /// The application is not registered in the tenant that was asked.
    Elsewhere,
}

/// The credentials of a directory reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderCredentials {
    /// The reader's name in the configuration.
    pub reader: String,
    /// What its registration lists; nothing if it is registered in another tenant. `None` if it was not read.
    pub listed: Option<Vec<ListedCredential>>,
    /// What the daemon authenticates with.
    pub own: OwnCredential,
}

/// How close the end of a credential is, from the first warning to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Warning {
    /// The time of `credential_expiry_warning` has begun.
    Begun,
    /// At most seven days are left.
    Week,
    /// At most one day is left.
    Day,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Warning {
    /// Every warning.
    pub const ALL: [Self; 3] = [Self::Begun, Self::Week, Self::Day];

    /// The word under which it is saved.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Week => "week",
            Self::Day => "day",
        }
    }

    /// The warning for a credential that expires after `left`, if operators are warned `warning` before the end.
    pub fn of(left: Duration, warning: Duration) -> Option<Self> {
        match () {
            () if left > warning => None,
            () if left <= DAY => Some(Self::Day),
            () if left <= 7 * DAY => Some(Self::Week),
            () => Some(Self::Begun),
        }
    }
}

/// What a credential means for the integration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is valid, or another one is valid in its place.
    Fine,
    /// It has expired, and nothing depends on it.
    Leftover,
    /// It is the one that counts, and it expires soon.
    Expiring(Warning),
    /// It is the one that counts, and it has expired.
    Expired,
}

impl Standing {
    /// The word in the database.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Leftover => "leftover",
            Self::Expiring(Warning::Begun) => "expiring",
            Self::Expiring(Warning::Week) => "expiring_week",
            Self::Expiring(Warning::Day) => "expiring_day",
            Self::Expired => "expired",
        }
    }

    /// In one word, for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Leftover => "leftover",
            Self::Expiring(_) => "expiring",
            Self::Expired => "expired",
        }
    }

    /// The standing with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        let expiring = Warning::ALL.into_iter().map(Self::Expiring);
        [Self::Fine, Self::Leftover, Self::Expired].into_iter().chain(expiring).find(|s| s.label() == label)
    }
}

/// A credential and what it means: what is remembered between probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialState {
    /// Name of the directory reader that it belongs to; `None` for the application itself.
    pub reader: Option<String>,
    /// Its kind.
    pub kind: CredentialKind,
    /// `keyId`, or the thumbprint of a certificate that no registration lists.
    pub key_id: String,
    /// Its name.
    pub name: Option<String>,
    /// A certificate's SHA-1 thumbprint.
    pub thumbprint: Option<String>,
    /// When it expires; `None` if it never does.
    pub ends: Option<Timestamp>,
    /// Whether it is known to be the one that is used.
    pub in_use: bool,
    /// What it means.
    pub standing: Standing,
}

/// Where credentials are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialSource {
    /// The app registration.
    Registration,
    /// The enterprise application.
    Signing,
    /// The directory reader's registration.
    Reader,
}

impl CredentialState {
    /// Where it is listed.
    pub fn source(&self) -> CredentialSource {
        match (&self.reader, self.kind) {
            (Some(_), _) => CredentialSource::Reader,
            (None, CredentialKind::SamlCertificate) => CredentialSource::Signing,
            (None, _) => CredentialSource::Registration,
        }
    }

    /// What is the same wherever it is listed: a certificate's thumbprint, otherwise its id.
    pub fn identity(&self) -> &str {
        self.thumbprint.as_deref().unwrap_or(&self.key_id)
    }

    /// Whether both are one credential.
    pub fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.identity() == other.identity()
    }

    /// One line of evidence, as it is at `now`.
    pub fn line(&self, now: Timestamp) -> String {
        let owner = match (&self.reader, self.kind) {
            (Some(reader), _) => format!("directory reader {reader}: "),
            (None, CredentialKind::SamlCertificate) => "enterprise application: ".to_owned(),
            (None, _) => "app registration: ".to_owned(),
        };
        let name = self.name.as_deref().filter(|n| !n.trim().is_empty());
        let name = name.map(|n| format!(" {:?}", foreign(n, 80))).unwrap_or_default();
        let used = if self.in_use { ", in use" } else { "" };
        let end = match self.ends {
            None => "never expires".to_owned(),
            Some(at) if at <= now => format!("expired {}", day_and_minute(at)),
            Some(at) => format!("expires {}, in {}", day_and_minute(at), days(at.since(now))),
        };
        format!("{owner}{}{name} ({}{used}): {end}", self.kind.words(), one_line(&self.key_id, 80))
    }
}

fn days(left: Duration) -> String {
    let hours = left.as_secs() / 3600;
    match (hours, (hours + 12) / 24) {
        (0, _) => "less than an hour".to_owned(),
        (1, _) => "1 hour".to_owned(),
        (2..24, _) => format!("{hours} hours"),
        (_, 1) => "1 day".to_owned(),
        (_, days) => format!("{days} days"),
    }
}
