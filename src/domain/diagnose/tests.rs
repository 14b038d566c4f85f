//! The table of cases. A row is a sentence, the evidence, and the outcomes of the three checks.

use super::super::evidence::{Groups, RequiredGroup, ResourceGrants, RoleEvidence, ScopeGrant};
use super::super::integration::{Access, GroupPolicy, GroupRef, RequiredPermissions};
use super::*;

const GRAPH: &str = "microsoft_graph";

fn requirements(access: Access) -> Requirements {
    let permissions = vec!["User.Read".to_owned(), "Group.Read.All".to_owned()];
    let (delegated, application) = match access {
        Access::Delegated => (permissions, vec![]),
        Access::Application => (vec![], vec!["Group.Read.All".to_owned()]),
    };
    Requirements {
        access,
        checks: vec![Check::EnterpriseApp, Check::Consent, Check::GroupAccess],
        required: vec![RequiredPermissions { resource: GRAPH.to_owned(), delegated, application }].into(),
        unexpected_fails: false,
        groups: GroupPolicy { minimum: 1, required: vec![GroupRef::Name("HQ".to_owned())] },
        credential_warning: std::time::Duration::ZERO,
    }
}

fn fault(reason: Reason) -> Fault {
    Fault::new(reason, "")
}

fn seen(visible: u32, hq: bool) -> Groups {
    Groups {
        visible,
        required: vec![RequiredGroup {
            name: "HQ".to_owned(),
            ids: hq.then(|| "g1".to_owned()).into_iter().collect(),
        }],
    }
}

fn token(scopes: &[&str]) -> OwnToken {
    let scopes = scopes.iter().map(|s| (*s).to_owned()).collect();
    OwnToken::Granted { scopes: vec![(GRAPH.to_owned(), Ok(scopes))], principal: Some("ada".to_owned()) }
}

fn roles(values: &[&str]) -> Option<Result<Vec<RoleEvidence>, Fault>> {
    Some(Ok(vec![RoleEvidence {
        resource: GRAPH.to_owned(),
        roles: Ok(Some(values.iter().map(|v| (*v).to_owned()).collect())),
    }]))
}

fn grants(principal: Option<&str>, scopes: &[&str], application: &[&str]) -> Vec<ResourceGrants> {
    let own = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let delegated = if scopes.is_empty() {
        vec![]
    } else {
        vec![ScopeGrant { principal: principal.map(str::to_owned), scopes: own(scopes) }]
    };
    vec![ResourceGrants { resource: GRAPH.to_owned(), delegated, application: own(application) }]
}

fn directory(presence: Presence, granted: Vec<ResourceGrants>) -> Option<Directory> {
    Some(Directory {
        presence: Ok(presence),
        object_id: None,
        delegated: Ok(granted.clone()),
        application: Ok(granted),
    })
}

fn present() -> Presence {
    Presence::Present { enabled: true, blocked: None }
}

fn healthy() -> Evidence {
    Evidence {
        directory: None,
        app_only: roles(&[]),
        own_token: token(&["User.Read", "Group.Read.All"]),
        groups: Some(Ok(seen(3, true))),
        jobs: None,
        credentials: None,
        at: super::super::time::Timestamp(0),
    }
}

fn rejected(reason: Reason) -> Evidence {
    Evidence { own_token: OwnToken::Rejected(fault(reason)), groups: None, ..healthy() }
}

fn both_rejected(reason: Reason) -> Evidence {
    Evidence { app_only: Some(Err(fault(reason))), ..rejected(reason) }
}

fn with_reader(evidence: Evidence, presence: Presence, granted: Vec<ResourceGrants>) -> Evidence {
    Evidence { directory: directory(presence, granted), app_only: None, ..evidence }
}

fn reader_denied(evidence: Evidence) -> Evidence {
    let denied = || fault(Reason::ReaderPermissionMissing);
    Evidence {
        directory: Some(Directory {
            presence: Err(denied()),
            object_id: None,
            delegated: Err(denied()),
            application: Err(denied()),
        }),
        ..evidence
    }
}

fn assert_rows(access: Access, rows: Vec<(&str, Evidence, [Outcome; 3])>) {
    for (sentence, evidence, expected) in rows {
        let diagnosis = diagnose(&requirements(access), &evidence);
        let outcomes: Vec<Outcome> = diagnosis.checks.iter().map(|c| c.outcome).collect();
        assert_eq!(outcomes, expected, "{sentence}");
        for result in &diagnosis.checks {
            if let Some(reason) = result.outcome.reason() {
                assert!(
                    reason.possible_in(result.check),
                    "{sentence}: {reason:?} has no series for {:?}",
                    result.check
                );
            }
        }
    }
}

use Outcome::{Fail, Pass, Unknown};

#[test]
fn delegated_without_a_reader() {
    use Reason::*;
    let public = |e: Evidence| Evidence { app_only: None, ..e };
    assert_rows(
        Access::Delegated,
        vec![
            ("all is well", healthy(), [Pass, Pass, Pass]),
            ("a public client in good health", public(healthy()), [Pass, Pass, Pass]),
            (
                "a permission was removed, groups are still listed",
                Evidence { own_token: token(&["Group.Read.All"]), ..healthy() },
                [Pass, Fail(PermissionMissing), Pass],
            ),
            (
                "the group permission was removed and Graph denies access",
                Evidence {
                    own_token: token(&["User.Read"]),
                    groups: Some(Err(fault(GroupAccessDenied))),
                    ..healthy()
                },
                [Pass, Fail(PermissionMissing), Fail(PermissionMissing)],
            ),
            (
                "scopes compare without case",
                Evidence { own_token: token(&["user.read", "GROUP.READ.ALL"]), ..healthy() },
                [Pass, Pass, Pass],
            ),
            (
                "consent is gone altogether",
                rejected(ConsentMissing),
                [Pass, Fail(ConsentMissing), Fail(ConsentMissing)],
            ),
            (
                "an app-only token shows that the app is present",
                rejected(TokenRevoked),
                [Pass, Unknown(TokenRevoked), Fail(TokenRevoked)],
            ),
            (
                "a public client with a revoked token shows nothing",
                public(rejected(TokenRevoked)),
                [Unknown(TokenRevoked), Unknown(TokenRevoked), Fail(TokenRevoked)],
            ),
            ("a corrupted token", rejected(TokenInvalid), [Pass, Unknown(TokenInvalid), Fail(TokenInvalid)]),
            (
                "MFA is required",
                rejected(InteractionRequired),
                [Pass, Unknown(InteractionRequired), Fail(InteractionRequired)],
            ),
            (
                "a policy blocks the user",
                rejected(AccessBlocked),
                [Pass, Unknown(AccessBlocked), Fail(AccessBlocked)],
            ),
            (
                "a policy blocks the workload only",
                Evidence { app_only: Some(Err(fault(AccessBlocked))), ..healthy() },
                [Pass, Pass, Pass],
            ),
            (
                "the account is disabled",
                rejected(AccountDisabled),
                [Pass, Unknown(AccountDisabled), Fail(AccountDisabled)],
            ),
            (
                "nobody has signed in yet",
                Evidence { own_token: OwnToken::Missing, groups: None, ..healthy() },
                [Pass, Unknown(TokenMissing), Fail(TokenMissing)],
            ),
            ("a deleted app: all three say so", both_rejected(AppMissing), [Fail(AppMissing); 3]),
            (
                "an app that only the app-only token reports as missing",
                Evidence { app_only: Some(Err(fault(AppMissing))), ..rejected(TokenRevoked) },
                [Fail(AppMissing); 3],
            ),
            ("a disabled app", both_rejected(AppDisabled), [Fail(AppDisabled); 3]),
            ("the tenant is gone", both_rejected(TenantMissing), [Fail(TenantMissing); 3]),
            (
                "our secret has expired",
                both_rejected(ClientCredentialExpired),
                [Fail(ClientCredentialExpired); 3],
            ),
            ("the request is wrong", both_rejected(ConfigurationInvalid), [Fail(ConfigurationInvalid); 3]),
            ("throttled everywhere", both_rejected(Throttled), [Unknown(Throttled); 3]),
            ("an unknown code", both_rejected(Unclassified), [Unknown(Unclassified); 3]),
            (
                "Graph alone is throttled",
                Evidence { groups: Some(Err(fault(Throttled))), ..healthy() },
                [Pass, Pass, Unknown(Throttled)],
            ),
            (
                "the network fails at the refresh only",
                rejected(NetworkError),
                [Pass, Unknown(NetworkError), Unknown(NetworkError)],
            ),
            (
                "too few groups",
                Evidence { groups: Some(Ok(seen(0, false))), ..healthy() },
                [Pass, Pass, Fail(GroupsNotVisible)],
            ),
            (
                "a required group is gone",
                Evidence { groups: Some(Ok(seen(3, false))), ..healthy() },
                [Pass, Pass, Fail(GroupMissing)],
            ),
            (
                "Graph denies access although consent is granted",
                Evidence { groups: Some(Err(fault(GroupAccessDenied))), ..healthy() },
                [Pass, Pass, Fail(GroupAccessDenied)],
            ),
        ],
    );
}

#[test]
fn delegated_with_a_reader() {
    use Reason::*;
    let all = || grants(None, &["User.Read", "Group.Read.All"], &[]);
    let mine = |who| grants(Some(who), &["User.Read", "Group.Read.All"], &[]);
    let disabled = || Presence::Present { enabled: false, blocked: None };
    let blocked = || Presence::Present {
        enabled: true,
        blocked: Some("DisabledDueToViolationOfServicesAgreement".to_owned()),
    };
    let deleted = || Presence::Deleted { restorable_until: None };
    let transient = |e: Evidence| {
        let f = || fault(UpstreamUnavailable);
        Evidence { directory: Some(Directory::failed(f())), ..e }
    };
    assert_rows(
        Access::Delegated,
        vec![
            ("all is well", with_reader(healthy(), present(), all()), [Pass, Pass, Pass]),
            (
                "the grant of the token's user counts",
                with_reader(healthy(), present(), mine("ada")),
                [Pass, Pass, Pass],
            ),
            (
                "another user's grant does not",
                with_reader(healthy(), present(), mine("bob")),
                [Pass, Fail(ConsentMissing), Pass],
            ),
            (
                "with a rejected token every user's grant counts",
                with_reader(rejected(TokenRevoked), present(), mine("bob")),
                [Pass, Pass, Fail(TokenRevoked)],
            ),
            (
                "a rejected token hides nothing from the reader",
                with_reader(rejected(TokenRevoked), present(), all()),
                [Pass, Pass, Fail(TokenRevoked)],
            ),
            (
                "the directory wins on consent",
                with_reader(healthy(), present(), grants(None, &["User.Read"], &[])),
                [Pass, Fail(PermissionMissing), Pass],
            ),
            (
                "no grant at all",
                with_reader(rejected(ConsentMissing), present(), grants(None, &[], &[])),
                [Pass, Fail(ConsentMissing), Fail(ConsentMissing)],
            ),
            (
                "65001 while a grant exists is a missing permission",
                with_reader(rejected(ConsentMissing), present(), grants(None, &["User.Read"], &[])),
                [Pass, Fail(PermissionMissing), Fail(PermissionMissing)],
            ),
            (
                "deleted, token says revoked",
                with_reader(rejected(TokenRevoked), deleted(), vec![]),
                [Fail(AppDeleted); 3],
            ),
            (
                "deleted, token says 65001",
                with_reader(rejected(ConsentMissing), deleted(), vec![]),
                [Fail(AppDeleted); 3],
            ),
            (
                "deleted permanently",
                with_reader(rejected(AppMissing), Presence::Absent, vec![]),
                [Fail(AppMissing); 3],
            ),
            (
                "disabled: the consent is still granted",
                with_reader(rejected(AppDisabled), disabled(), all()),
                [Fail(AppDisabled), Pass, Fail(AppDisabled)],
            ),
            (
                "blocked by Microsoft",
                with_reader(rejected(AppDisabled), blocked(), all()),
                [Fail(AppBlocked), Pass, Fail(AppBlocked)],
            ),
            ("the reader may not read, the own token can", reader_denied(healthy()), [Pass, Pass, Pass]),
            (
                "the reader may not read, the token is rejected",
                reader_denied(rejected(TokenRevoked)),
                [Pass, Unknown(ReaderPermissionMissing), Fail(TokenRevoked)],
            ),
            ("the directory has a fault, the own token can", transient(healthy()), [Pass, Pass, Pass]),
            (
                "the directory has a fault, the token is rejected",
                transient(rejected(TokenRevoked)),
                [Pass, Unknown(UpstreamUnavailable), Fail(TokenRevoked)],
            ),
        ],
    );
}

#[test]
fn application_access() {
    use Reason::*;
    let app = |held: &[&str]| Evidence { app_only: roles(held), own_token: OwnToken::NotUsed, ..healthy() };
    let failed = |reason| Evidence { app_only: Some(Err(fault(reason))), groups: None, ..app(&[]) };
    let opaque = Some(Ok(vec![RoleEvidence { resource: GRAPH.to_owned(), roles: Ok(None) }]));
    assert_rows(
        Access::Application,
        vec![
            ("all is well", app(&["Group.Read.All"]), [Pass, Pass, Pass]),
            (
                "no role at all",
                Evidence { groups: Some(Err(fault(GroupAccessDenied))), ..app(&[]) },
                [Pass, Fail(ConsentMissing), Fail(ConsentMissing)],
            ),
            (
                "another role only",
                Evidence { groups: Some(Err(fault(GroupAccessDenied))), ..app(&["User.Read.All"]) },
                [Pass, Fail(PermissionMissing), Fail(PermissionMissing)],
            ),
            (
                "a token that cannot be read still shows access",
                Evidence { app_only: opaque, ..app(&[]) },
                [Pass, Unknown(InvalidResponse), Pass],
            ),
            ("the app is gone", failed(AppMissing), [Fail(AppMissing); 3]),
            ("the app is disabled", failed(AppDisabled), [Fail(AppDisabled); 3]),
            (
                "a policy for workloads",
                failed(AccessBlocked),
                [Unknown(AccessBlocked), Unknown(AccessBlocked), Fail(AccessBlocked)],
            ),
            ("a wrong secret", failed(ClientCredentialInvalid), [Fail(ClientCredentialInvalid); 3]),
            ("time-out", failed(Timeout), [Unknown(Timeout); 3]),
            (
                "the directory answers",
                with_reader(
                    Evidence { app_only: roles(&[]), ..app(&[]) },
                    present(),
                    grants(None, &[], &["Group.Read.All"]),
                ),
                [Pass, Pass, Pass],
            ),
            (
                "deleted, according to the directory",
                Evidence {
                    directory: directory(Presence::Deleted { restorable_until: None }, vec![]),
                    ..failed(AppMissing)
                },
                [Fail(AppDeleted); 3],
            ),
        ],
    );
}

#[test]
fn unexpected_permissions_fail_only_when_asked_to() {
    let evidence =
        Evidence { own_token: token(&["User.Read", "Group.Read.All", "openid", "Mail.Read"]), ..healthy() };
    assert_eq!(diagnose(&requirements(Access::Delegated), &evidence).primary(), None);
    let strict = Requirements { unexpected_fails: true, ..requirements(Access::Delegated) };
    let diagnosis = diagnose(&strict, &evidence);
    assert_eq!(diagnosis.primary(), Some(Reason::PermissionUnexpected));
    assert_eq!(diagnosis.checks[1].details.items, ["Mail.Read"]);
    assert_eq!(diagnose(&strict, &healthy()).primary(), None);
}

#[test]
fn disabled_checks_have_no_result_and_permissions_are_listed() {
    let only_consent = Requirements { checks: vec![Check::Consent], ..requirements(Access::Delegated) };
    let diagnosis = diagnose(&only_consent, &Evidence { own_token: token(&["User.Read"]), ..healthy() });
    assert_eq!(diagnosis.checks.len(), 1);
    let states: Vec<(&str, Option<bool>)> =
        diagnosis.permissions.iter().map(|p| (p.permission.as_str(), p.granted)).collect();
    assert_eq!(states, [("User.Read", Some(true)), ("Group.Read.All", Some(false))]);
}

#[test]
fn the_reader_is_reported_without_breaking_anything() {
    let diagnosis = diagnose(&requirements(Access::Delegated), &reader_denied(healthy()));
    assert_eq!(diagnosis.primary(), None);
    assert_eq!(diagnosis.reader_fault.map(|f| f.reason), Some(Reason::ReaderPermissionMissing));
}

/// A transient reason in all the evidence never makes a check fail.
#[test]
fn transient_evidence_never_fails() {
    for reason in Reason::ALL.iter().copied().filter(|r| r.is_inconclusive()) {
        let f = || fault(reason);
        for access in [Access::Delegated, Access::Application] {
            let evidence = Evidence {
                directory: Some(Directory::failed(f())),
                app_only: Some(Err(f())),
                own_token: if access == Access::Delegated {
                    OwnToken::Rejected(f())
                } else {
                    OwnToken::NotUsed
                },
                ..Evidence::none()
            };
            assert_eq!(diagnose(&requirements(access), &evidence).overall(), Outcome::Unknown(reason));
        }
    }
}
