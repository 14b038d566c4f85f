//! Is every credential far enough from its end?

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::credential::{
    CredentialKind, CredentialSource, CredentialState, ListedCredential, OwnCredential, ReaderCredentials,
    Registration, Standing, Warning,
};
use super::super::diagnosis::{Details, ListedCredentials, Outcome};
use super::super::evidence::{CredentialEvidence, Fault};
use super::super::reason::Reason;
use super::super::time::Timestamp;
use super::{Judged, without_evidence};

/// When credentials are judged.
#[derive(Clone, Copy)]
pub(super) struct When {
    pub(super) now: Timestamp,
    /// How long before the end operators are warned.
    pub(super) warning: Duration,
}

/// The result, and every credential with its standing.
pub(super) fn judge_credentials(
    evidence: Option<&CredentialEvidence>,
    presence: &Judged,
    when: When,
) -> (Judged, Option<ListedCredentials>) {
    let Some(evidence) = evidence else {
        return (without_evidence(&Fault::new(Reason::Unclassified, "the credentials were not read")), None);
    };
    let registered = match &evidence.registration {
        Ok(Registration::Listed(listed)) => &listed[..],
        Ok(Registration::Elsewhere) | Err(_) => &[],
    };
    let mut all = standings(registered, &evidence.own, None, when);
    if let Ok(signing) = &evidence.signing {
        all.extend(standings(signing, &OwnCredential::None, None, when));
    }
    let mut unread = Vec::new();
    unread.extend(evidence.registration.is_err().then_some(CredentialSource::Registration));
    unread.extend(evidence.signing.is_err().then_some(CredentialSource::Signing));
    if let Some(ReaderCredentials { reader, listed, own }) = &evidence.reader {
        unread.extend(listed.is_none().then_some(CredentialSource::Reader));
        let of_reader = standings(listed.as_deref().unwrap_or_default(), own, Some(reader), when);
        // A reader that has expired is a fault of its own: Entra rejects it.
        let harmless = |c: CredentialState| CredentialState {
            standing: if c.standing == Standing::Expired { Standing::Leftover } else { c.standing },
            ..c
        };
        all.extend(of_reader.into_iter().map(harmless));
    }
    all.sort_by_key(|c| (rank(c.standing), c.ends.unwrap_or(Timestamp(i64::MAX))));
    let judged = outcome(evidence, presence, &all, when.now);
    (judged, Some(ListedCredentials { listed: all, unread }))
}

/// What matters most comes first.
const fn rank(standing: Standing) -> u8 {
    match standing {
        Standing::Expired => 0,
        Standing::Expiring(Warning::Day) => 1,
        Standing::Expiring(Warning::Week) => 2,
        Standing::Expiring(Warning::Begun) => 3,
        Standing::Fine => 4,
        Standing::Leftover => 5,
    }
}

fn outcome(
    evidence: &CredentialEvidence,
    presence: &Judged,
    all: &[CredentialState],
    now: Timestamp,
) -> Judged {
    let details = || Details::items(all.iter().map(|c| c.line(now)).collect());
    if all.iter().any(|c| c.standing == Standing::Expired) {
        return (Outcome::Fail(Reason::CredentialExpired), details());
    }
    let faults = evidence.faults();
    // Without a reader, the application itself is asked; it gets no token once it is gone or switched off.
    let gone = |f: &&&Fault| f.reason.is_presence() && f.reason != Reason::TenantMissing;
    if faults.iter().find(gone).is_some() {
        return match presence.0 {
            Outcome::Fail(reason) if reason.is_presence() => presence.clone(),
            _ => (Outcome::Unknown(Reason::Unclassified), details()),
        };
    }
    // A fault of ours breaks what a warning does not.
    if let Some(fault) = faults.iter().find(|f| f.reason.is_our_side()) {
        return without_evidence(fault);
    }
    if all.iter().any(|c| matches!(c.standing, Standing::Expiring(_))) {
        return (Outcome::Fail(Reason::CredentialExpiring), details());
    }
    if let Some(fault) = faults.first() {
        let (outcome, of_fault) = without_evidence(fault);
        return (outcome, Details { items: details().items, ..of_fault });
    }
    let unseen = evidence.registration == Ok(Registration::Elsewhere)
        && matches!(evidence.own, OwnCredential::Secret { .. } | OwnCredential::Unreadable);
    if unseen {
        let note = "the application is not registered in this tenant, so that the end of its client secret is not known: set home_tenant_id of the app";
        return (
            Outcome::Unknown(Reason::Unclassified),
            Details { note: Some(note.to_owned()), ..details() },
        );
    }
    (Outcome::Pass, details())
}

/// The credentials of one owner. Of each kind one counts: the one in use where it is known, otherwise the one that lives longest.
fn standings(
    listed: &[ListedCredential],
    own: &OwnCredential,
    reader: Option<&str>,
    when: When,
) -> Vec<CredentialState> {
    let mut listed = listed.to_vec();
    add_own_certificate(&mut listed, own);
    let used = in_use(&listed, own);
    let mut by_kind: BTreeMap<CredentialKind, Vec<usize>> = BTreeMap::new();
    for (index, credential) in listed.iter().enumerate() {
        by_kind.entry(credential.kind).or_default().push(index);
    }
    let end = |index: &usize| listed[*index].ends.unwrap_or(Timestamp(i64::MAX));
    let mut counts = Vec::new();
    for indices in by_kind.values() {
        let active = indices.iter().copied().find(|i| listed[*i].active || used == Some(*i));
        counts.extend(active.or_else(|| indices.iter().copied().max_by_key(end)));
    }
    // Where it is known what the application signs in with, an expired credential of another kind is a leftover.
    let known = used.is_some() || *own == OwnCredential::Federated;
    let standing = |index: usize| {
        let credential = &listed[index];
        let Some(ends) = credential.ends else { return Standing::Fine };
        let expired = ends <= when.now;
        let is_client = matches!(credential.kind, CredentialKind::ClientSecret | CredentialKind::Certificate);
        match (expired, counts.contains(&index)) {
            (true, true) if is_client && known && used != Some(index) => Standing::Leftover,
            (true, true) => Standing::Expired,
            (true, false) => Standing::Leftover,
            (false, true) => {
                Warning::of(ends.since(when.now), when.warning).map_or(Standing::Fine, Standing::Expiring)
            }
            (false, false) => Standing::Fine,
        }
    };
    let state = |(index, credential): (usize, &ListedCredential)| CredentialState {
        reader: reader.map(str::to_owned),
        kind: credential.kind,
        key_id: credential.key_id.clone(),
        name: credential.name.clone(),
        thumbprint: credential.thumbprint.clone(),
        ends: credential.ends,
        in_use: credential.active || used == Some(index),
        standing: standing(index),
    };
    listed.iter().enumerate().map(state).collect()
}

/// A certificate of ours that no registration lists is a credential all the same: its file contains its end.
fn add_own_certificate(listed: &mut Vec<ListedCredential>, own: &OwnCredential) {
    let OwnCredential::Certificate { thumbprint, ends } = own else { return };
    if listed.iter().any(|c| c.thumbprint.as_ref() == Some(thumbprint)) {
        return;
    }
    listed.push(ListedCredential {
        kind: CredentialKind::Certificate,
        key_id: thumbprint.clone(),
        name: None,
        thumbprint: Some(thumbprint.clone()),
        hint: None,
        ends: Some(*ends),
        active: false,
    });
}

/// The credential that the daemon itself uses. Several secrets may begin with the same characters: the one that lives longest of them.
fn in_use(listed: &[ListedCredential], own: &OwnCredential) -> Option<usize> {
    let matches = |c: &ListedCredential| match own {
        OwnCredential::Secret { hint } => {
            c.kind == CredentialKind::ClientSecret && c.hint.as_ref() == Some(hint)
        }
        OwnCredential::Certificate { thumbprint, .. } => c.thumbprint.as_ref() == Some(thumbprint),
        OwnCredential::None | OwnCredential::Unreadable | OwnCredential::Federated => false,
    };
    let found = listed.iter().enumerate().filter(|(_, c)| matches(c));
    found.max_by_key(|(_, c)| c.ends.unwrap_or(Timestamp(i64::MAX))).map(|(index, _)| index)
}

#[cfg(test)]
#[path = "credential_tests.rs"]
mod tests;
