//! The table of credentials. A row is a sentence, what is listed, and the outcome.

use super::super::super::credential::Hint;
use super::super::super::reason::Check;
use super::*;
use Outcome::{Fail, Pass, Unknown};

const NOW: Timestamp = Timestamp::from_seconds(1_772_323_200);
const DAY: Duration = Duration::from_secs(86_400);

/// Days from now to the end of a credential; `None` for one that never expires.
type Left = Option<i64>;

fn end(left: i64) -> Timestamp {
    Timestamp(NOW.0 + left * 86_400_000 - i64::from(left <= 0))
}

fn listed(kind: CredentialKind, id: &str, left: Left) -> ListedCredential {
    ListedCredential {
        kind,
        key_id: id.to_owned(),
        name: None,
        thumbprint: (kind != CredentialKind::ClientSecret).then(|| id.to_uppercase()),
        hint: (kind == CredentialKind::ClientSecret).then(|| Hint::of(id)),
        ends: left.map(end),
        active: false,
    }
}

fn secret(id: &str, left: i64) -> ListedCredential {
    listed(CredentialKind::ClientSecret, id, Some(left))
}

fn certificate(id: &str, left: i64) -> ListedCredential {
    listed(CredentialKind::Certificate, id, Some(left))
}

fn saml(id: &str, left: i64, active: bool) -> ListedCredential {
    ListedCredential { active, ..listed(CredentialKind::SamlCertificate, id, Some(left)) }
}

fn evidence(registered: Vec<ListedCredential>, own: OwnCredential) -> CredentialEvidence {
    CredentialEvidence {
        registration: Ok(Registration::Listed(registered)),
        signing: Ok(Vec::new()),
        own,
        reader: None,
        is_elsewhere: false,
    }
}

fn signing(certificates: Vec<ListedCredential>) -> CredentialEvidence {
    CredentialEvidence { signing: Ok(certificates), ..evidence(Vec::new(), OwnCredential::None) }
}

fn own_secret(hint: &str) -> OwnCredential {
    OwnCredential::Secret { hint: Hint::of(hint) }
}

fn own_certificate(thumbprint: &str, left: i64) -> OwnCredential {
    OwnCredential::Certificate { thumbprint: thumbprint.to_owned(), ends: end(left) }
}

fn judge(evidence: &CredentialEvidence, warning: Duration) -> (Judged, Vec<CredentialState>) {
    let present = (Outcome::Pass, Details::default());
    let (judged, all) = judge_credentials(Some(evidence), &present, When { now: NOW, warning });
    (judged, all.map(|all| all.listed).unwrap_or_default())
}

fn assert_rows(rows: Vec<(&str, CredentialEvidence, Outcome)>) {
    for (sentence, evidence, expected) in rows {
        let ((outcome, _), _) = judge(&evidence, 30 * DAY);
        assert_eq!(outcome, expected, "{sentence}");
        if let Some(reason) = outcome.reason() {
            assert!(reason.possible_in(Check::Credential), "{sentence}");
        }
    }
}

#[test]
fn the_longest_lived_of_each_kind_or_the_one_in_use() {
    const EXPIRED: Outcome = Fail(Reason::CredentialExpired);
    const EXPIRING: Outcome = Fail(Reason::CredentialExpiring);
    let anyone = || OwnCredential::None;
    assert_rows(vec![
        ("one secret with a year left", evidence(vec![secret("aaa", 365)], anyone()), Pass),
        ("one secret with 31 days left", evidence(vec![secret("aaa", 31)], anyone()), Pass),
        ("one secret with 30 days left", evidence(vec![secret("aaa", 30)], anyone()), EXPIRING),
        ("one secret that has expired", evidence(vec![secret("aaa", 0)], anyone()), EXPIRED),
        (
            "an expired secret beside a newer one",
            evidence(vec![secret("aaa", -9), secret("bbb", 365)], anyone()),
            Pass,
        ),
        (
            "an expiring secret beside a newer one",
            evidence(vec![secret("bbb", 365), secret("aaa", 5)], anyone()),
            Pass,
        ),
        (
            "the expiring one is in use",
            evidence(vec![secret("aaa", 5), secret("bbb", 365)], own_secret("aaa")),
            EXPIRING,
        ),
        (
            "the expired one is in use",
            evidence(vec![secret("aaa", 0), secret("bbb", 365)], own_secret("aaa")),
            EXPIRED,
        ),
        (
            "two begin alike: the longer-lived one counts",
            evidence(vec![secret("aaa1", 5), secret("aaa2", 365)], own_secret("aaa")),
            Pass,
        ),
        ("the secret in use is not listed", evidence(vec![secret("aaa", 5)], own_secret("zzz")), EXPIRING),
        (
            "an expired secret beside a valid certificate, and nothing is known to be in use",
            evidence(vec![secret("aaa", 0), certificate("c", 365)], anyone()),
            EXPIRED,
        ),
        (
            "an expired secret, while the certificate is in use",
            evidence(vec![secret("aaa", 0), certificate("c", 365)], own_certificate("C", 365)),
            Pass,
        ),
        (
            "an expiring secret, while the certificate is in use",
            evidence(vec![secret("aaa", 5), certificate("c", 365)], own_certificate("C", 365)),
            EXPIRING,
        ),
        (
            "a certificate of ours that is not listed expires",
            evidence(vec![certificate("c", 365)], own_certificate("D", 3)),
            EXPIRING,
        ),
        (
            "an expired secret, while a federated credential is in use",
            evidence(vec![secret("aaa", 0)], OwnCredential::Federated),
            Pass,
        ),
        (
            "federated credentials never expire",
            evidence(vec![listed(CredentialKind::Federated, "f", None)], OwnCredential::Federated),
            Pass,
        ),
        (
            "a secret without an end",
            evidence(vec![listed(CredentialKind::ClientSecret, "s", None)], anyone()),
            Pass,
        ),
        ("nothing at all", evidence(Vec::new(), anyone()), Pass),
        ("the only SAML certificate expires", signing(vec![saml("a", 20, false)]), EXPIRING),
        (
            "the active SAML certificate expires, a newer one waits",
            signing(vec![saml("a", 20, true), saml("b", 900, false)]),
            EXPIRING,
        ),
        (
            "the active SAML certificate is the newer one",
            signing(vec![saml("a", 0, false), saml("b", 900, true)]),
            Pass,
        ),
        ("the active SAML certificate has expired", signing(vec![saml("a", 0, true)]), EXPIRED),
    ]);
}

#[test]
fn what_cannot_be_read_is_unknown() {
    let fault = |reason| Fault::new(reason, "");
    let unread =
        |reason, own| CredentialEvidence { registration: Err(fault(reason)), ..evidence(Vec::new(), own) };
    let elsewhere =
        |own| CredentialEvidence { registration: Ok(Registration::Elsewhere), ..evidence(Vec::new(), own) };
    assert_rows(vec![
        (
            "the registration may not be read",
            unread(Reason::ReaderPermissionMissing, own_secret("aaa")),
            Unknown(Reason::ReaderPermissionMissing),
        ),
        ("Graph does not answer", unread(Reason::Timeout, own_secret("aaa")), Unknown(Reason::Timeout)),
        (
            "Graph does not answer, and our own certificate expires",
            unread(Reason::Timeout, own_certificate("C", 3)),
            Fail(Reason::CredentialExpiring),
        ),
        (
            "Entra rejects our secret, so that nothing can be read",
            unread(Reason::ClientCredentialExpired, own_secret("aaa")),
            Fail(Reason::ClientCredentialExpired),
        ),
        (
            "the SAML certificates may not be read",
            CredentialEvidence {
                signing: Err(fault(Reason::ReaderPermissionMissing)),
                ..evidence(vec![secret("aaa", 365)], OwnCredential::None)
            },
            Unknown(Reason::ReaderPermissionMissing),
        ),
        (
            "registered elsewhere, and our secret's end is not known",
            elsewhere(own_secret("aaa")),
            Unknown(Reason::Unclassified),
        ),
        (
            "registered elsewhere, and our certificate's end is known",
            elsewhere(own_certificate("C", 365)),
            Pass,
        ),
        ("registered elsewhere, and nothing of ours expires", elsewhere(OwnCredential::Federated), Pass),
    ]);
}

#[test]
fn a_reader_warns_and_breaks_nothing() {
    let with = |left| CredentialEvidence {
        reader: Some(ReaderCredentials {
            reader: "r".to_owned(),
            listed: Some(vec![secret("rrr", left)]),
            own: own_secret("rrr"),
        }),
        ..evidence(vec![secret("aaa", 365)], own_secret("aaa"))
    };
    assert_rows(vec![
        ("the reader's secret is far from its end", with(365), Pass),
        ("the reader's secret expires", with(5), Fail(Reason::CredentialExpiring)),
        ("the reader's secret has expired, which Entra reports by itself", with(0), Pass),
    ]);
}

#[test]
fn warnings_begin_and_come_again() {
    for (left, warning, expected) in [
        (31, 30, None),
        (30, 30, Some(Warning::Begun)),
        (8, 30, Some(Warning::Begun)),
        (7, 30, Some(Warning::Week)),
        (2, 30, Some(Warning::Week)),
        (1, 30, Some(Warning::Day)),
        (4, 3, None),
        (3, 3, Some(Warning::Week)),
        (1, 0, None),
    ] {
        assert_eq!(
            Warning::of(left * DAY, warning * DAY),
            expected,
            "{left} days left, warned {warning} before"
        );
    }
}

#[test]
fn every_credential_is_evidence_and_what_expires_first_comes_first() {
    let all = vec![secret("old", -9), secret("new", 365), certificate("c", 5)];
    let ((_, details), states) = judge(&evidence(all, OwnCredential::None), 30 * DAY);
    assert_eq!(
        details.items,
        [
            "app registration: certificate (c): expires 2026-03-06 00:00 UTC, in 5 days",
            "app registration: client secret (new): expires 2027-03-01 00:00 UTC, in 365 days",
            "app registration: client secret (old): expired 2026-02-19 23:59 UTC",
        ]
    );
    let standings: Vec<Standing> = states.iter().map(|c| c.standing).collect();
    assert_eq!(standings, [Standing::Expiring(Warning::Week), Standing::Fine, Standing::Leftover]);
    for standing in standings {
        assert_eq!(Standing::from_label(standing.label()), Some(standing));
    }
}

#[test]
fn an_application_that_is_gone_says_so_itself() {
    let fault = || Fault::new(Reason::AppDisabled, "");
    let evidence =
        CredentialEvidence { registration: Err(fault()), ..evidence(Vec::new(), own_secret("aaa")) };
    let when = When { now: NOW, warning: DAY };
    for (presence, expected) in
        [(Fail(Reason::AppDisabled), Fail(Reason::AppDisabled)), (Pass, Unknown(Reason::Unclassified))]
    {
        let ((outcome, _), all) = judge_credentials(Some(&evidence), &(presence, Details::default()), when);
        assert_eq!(outcome, expected);
        assert_eq!(all.expect("a list").unread, [CredentialSource::Registration]);
    }
}
