//! Evidence that contradicts itself: the directory against a token that was issued a moment ago. Neither counts where it would make a check
//! fail; the result says that they disagree.
//!
//! A positive response is not a contradiction: a service principal among the deleted items is deleted, although Entra issues tokens for it for some
//! more minutes, and one that is shown as disabled is disabled. Only "not there" and "nothing granted" are doubted, because a replica that is behind,
//! a cache or a filtering proxy returns the same.

use super::evidence::{Evidence, Fault, OwnToken, Presence};
use super::integration::{OPENID_SCOPES, RequiredPermissions, same_permission};
use super::reason::Reason;

const ABSENT_BUT_SERVED: &str = "the directory does not show the application, but Entra has just issued a token for it: one of them is not up to date";
const NO_TENANT_BUT_SERVED: &str = "the directory does not know its own tenant, but Entra has just issued a token for it: one of them is not up to date";
const NOTHING_BUT_GRANTED: &str = "the directory lists no permission, but a token that was just issued has some: the result is based on the token";

/// Whether Entra has just issued a token for the application in the tenant, which it does only where both exist (Microsoft,
/// `v2-oauth2-client-creds-grant-flow.md`).
pub(super) fn token_issued(evidence: &Evidence) -> bool {
    matches!(evidence.app_only, Some(Ok(_))) || matches!(evidence.own_token, OwnToken::Granted { .. })
}

/// Why the application's presence is unknown, if directory and token contradict each other.
pub(super) fn about_presence(evidence: &Evidence) -> Option<Fault> {
    if !token_issued(evidence) {
        return None;
    }
    match &evidence.directory.as_ref()?.presence {
        Ok(Presence::Unclear(fault)) => Some(fault.clone()),
        Ok(Presence::Absent) => Some(Fault::new(Reason::InvalidResponse, ABSENT_BUT_SERVED)),
        Err(fault) if fault.reason == Reason::TenantMissing => Some(Fault {
            reason: Reason::InvalidResponse,
            detail: NO_TENANT_BUT_SERVED.to_owned(),
            ..fault.clone()
        }),
        _ => None,
    }
}

/// Why the groups are unknown, if Graph does not know the tenant for which Entra has just issued a token.
pub(super) fn about_groups(evidence: &Evidence) -> Option<Fault> {
    match &evidence.groups {
        Some(Err(fault)) if fault.reason == Reason::TenantMissing && token_issued(evidence) => Some(Fault {
            reason: Reason::InvalidResponse,
            detail: NO_TENANT_BUT_SERVED.to_owned(),
            ..fault.clone()
        }),
        _ => None,
    }
}

/// Whether the directory lists no delegated permission on any required resource, while the integration's own token has some.
pub(super) fn scopes_outweigh(required: &[RequiredPermissions], evidence: &Evidence) -> bool {
    let Some(Ok(listed)) = evidence.directory.as_ref().map(|d| &d.delegated) else { return false };
    let OwnToken::Granted { scopes, .. } = &evidence.own_token else { return false };
    let mut relevant = listed.iter().filter(|g| required.iter().any(|r| r.resource == g.resource));
    let nothing = relevant.all(|g| g.delegated.iter().all(|grant| grant.scopes.is_empty()));
    let openid = |value: &String| OPENID_SCOPES.iter().any(|o| same_permission(o, value));
    nothing && scopes.iter().filter_map(|(_, s)| s.as_ref().ok()).flatten().any(|value| !openid(value))
}

/// The same for application permissions and the roles of an app-only token.
pub(super) fn roles_outweigh(required: &[RequiredPermissions], evidence: &Evidence) -> bool {
    let Some(Ok(listed)) = evidence.directory.as_ref().map(|d| &d.application) else { return false };
    let Some(Ok(held)) = &evidence.app_only else { return false };
    let mut relevant = listed.iter().filter(|g| required.iter().any(|r| r.resource == g.resource));
    relevant.all(|g| g.application.is_empty())
        && held.iter().any(|r| matches!(&r.roles, Ok(Some(roles)) if !roles.is_empty()))
}

/// The note for a consent result that is not based on the directory.
pub(super) fn about_consent(required: &[RequiredPermissions], evidence: &Evidence) -> Option<String> {
    if scopes_outweigh(required, evidence) || roles_outweigh(required, evidence) {
        return Some(NOTHING_BUT_GRANTED.to_owned());
    }
    if !token_issued(evidence) {
        return None;
    }
    let directory = evidence.directory.as_ref()?;
    let faults = [
        directory.delegated.as_ref().err().filter(|_| required.iter().any(|r| !r.delegated.is_empty())),
        directory.application.as_ref().err().filter(|_| required.iter().any(|r| !r.application.is_empty())),
    ];
    let contradiction =
        faults.into_iter().flatten().find(|f| f.reason == Reason::InvalidResponse && !f.detail.is_empty())?;
    Some(format!(
        "the directory contradicts itself ({}): the result is based on the integration's own token",
        contradiction.detail
    ))
}

#[cfg(test)]
mod tests {
    use super::super::evidence::{Directory, Groups, ResourceGrants, RoleEvidence, ScopeGrant};
    use super::super::integration::{Access, GroupPolicy, Requirements};
    use super::super::reason::Check;
    use super::super::{Diagnosis, Outcome, diagnose};
    use super::*;

    const GRAPH: &str = "microsoft_graph";

    fn words(values: &[&str]) -> Vec<String> {
        values.iter().map(|v| (*v).to_owned()).collect()
    }

    fn requirements(access: Access) -> Requirements {
        let (delegated, application) = match access {
            Access::Delegated => (words(&["User.Read", "Group.Read.All"]), Vec::new()),
            Access::Application => (Vec::new(), words(&["Group.Read.All"])),
        };
        Requirements {
            access,
            checks: vec![Check::EnterpriseApp, Check::Consent, Check::GroupAccess],
            required: vec![RequiredPermissions { resource: GRAPH.to_owned(), delegated, application }].into(),
            unexpected_fails: false,
            groups: GroupPolicy { minimum: 1, required: Vec::new() },
            credential_warning: std::time::Duration::ZERO,
        }
    }

    fn fault(reason: Reason) -> Fault {
        Fault::new(reason, "said so")
    }

    fn granted(scopes: &[&str]) -> OwnToken {
        OwnToken::Granted {
            scopes: vec![(GRAPH.to_owned(), Ok(words(scopes)))],
            principal: Some("ada".to_owned()),
        }
    }

    const ALL: [&str; 2] = ["User.Read", "Group.Read.All"];

    fn listed(
        resource: &str,
        principal: Option<&str>,
        scopes: &[&str],
    ) -> Result<Vec<ResourceGrants>, Fault> {
        let grant = ScopeGrant { principal: principal.map(str::to_owned), scopes: words(scopes) };
        Ok(vec![ResourceGrants {
            resource: resource.to_owned(),
            delegated: vec![grant],
            application: Vec::new(),
        }])
    }

    fn delegated(
        presence: Result<Presence, Fault>,
        grants: Result<Vec<ResourceGrants>, Fault>,
        own: OwnToken,
    ) -> Diagnosis {
        let groups =
            matches!(own, OwnToken::Granted { .. }).then(|| Ok(Groups { visible: 3, required: Vec::new() }));
        let directory =
            Some(Directory { presence, object_id: None, delegated: grants, application: Ok(Vec::new()) });
        diagnose(
            &requirements(Access::Delegated),
            &Evidence { directory, own_token: own, groups, ..Evidence::none() },
        )
    }

    fn outcomes(diagnosis: &Diagnosis) -> Vec<Outcome> {
        diagnosis.checks.iter().map(|c| c.outcome).collect()
    }

    use Outcome::{Fail, Pass, Unknown};

    #[test]
    fn a_directory_without_results_does_not_outweigh_a_fresh_token() {
        use Reason::*;
        let present = || Ok(Presence::Present { enabled: true, blocked: None });
        let deleted = || Ok(Presence::Deleted { restorable_until: None });
        let unclear = || Ok(Presence::Unclear(fault(UpstreamUnavailable)));
        let silent = || Err(fault(UpstreamUnavailable));
        let rejected = |reason| OwnToken::Rejected(fault(reason));
        for (sentence, presence, grants, own, expected) in [
            (
                "not there, but served",
                Ok(Presence::Absent),
                Ok(vec![]),
                granted(&ALL),
                [Unknown(InvalidResponse), Pass, Pass],
            ),
            (
                "not there, but served with less than is required",
                Ok(Presence::Absent),
                Ok(vec![]),
                granted(&["User.Read"]),
                [Unknown(InvalidResponse), Fail(PermissionMissing), Pass],
            ),
            (
                "not there, and not served",
                Ok(Presence::Absent),
                Ok(vec![]),
                rejected(AppMissing),
                [Fail(AppMissing); 3],
            ),
            (
                "not there, the token is rejected for another reason",
                Ok(Presence::Absent),
                Ok(vec![]),
                rejected(TokenRevoked),
                [Fail(AppMissing); 3],
            ),
            (
                "among the deleted items, tokens are still issued for minutes",
                deleted(),
                Ok(vec![]),
                granted(&ALL),
                [Fail(AppDeleted), Fail(AppDeleted), Pass],
            ),
            (
                "gone, and the deleted items cannot be read",
                unclear(),
                silent(),
                granted(&ALL),
                [Unknown(UpstreamUnavailable), Pass, Pass],
            ),
            (
                "gone, deleted items unreadable, token revoked",
                unclear(),
                silent(),
                rejected(TokenRevoked),
                [Unknown(UpstreamUnavailable), Unknown(UpstreamUnavailable), Fail(TokenRevoked)],
            ),
            (
                "gone, deleted items unreadable, Entra says so, too",
                unclear(),
                silent(),
                rejected(AppMissing),
                [Fail(AppMissing); 3],
            ),
            (
                "no tenant, but served",
                Err(fault(TenantMissing)),
                silent(),
                granted(&ALL),
                [Unknown(InvalidResponse), Pass, Pass],
            ),
            (
                "no tenant, and not served",
                Err(fault(TenantMissing)),
                silent(),
                rejected(TenantMissing),
                [Fail(TenantMissing); 3],
            ),
            ("no grants, but served", present(), Ok(vec![]), granted(&ALL), [Pass, Pass, Pass]),
            (
                "a grant without scopes, but served",
                present(),
                listed(GRAPH, None, &[]),
                granted(&ALL),
                [Pass, Pass, Pass],
            ),
            (
                "grants of another resource only, but served",
                present(),
                listed("vault", None, &["x"]),
                granted(&ALL),
                [Pass, Pass, Pass],
            ),
            (
                "no grants, and a token that has some of them",
                present(),
                Ok(vec![]),
                granted(&["User.Read"]),
                [Pass, Fail(PermissionMissing), Pass],
            ),
            (
                "no grants, and a token with nothing but a sign-in",
                present(),
                Ok(vec![]),
                granted(&["openid", "profile"]),
                [Pass, Fail(ConsentMissing), Pass],
            ),
            (
                "no grants, and Entra says so, too",
                present(),
                Ok(vec![]),
                rejected(ConsentMissing),
                [Pass, Fail(ConsentMissing), Fail(ConsentMissing)],
            ),
            (
                "some grants count",
                present(),
                listed(GRAPH, None, &["User.Read"]),
                granted(&ALL),
                [Pass, Fail(PermissionMissing), Pass],
            ),
            (
                "another person's grant counts as a grant",
                present(),
                listed(GRAPH, Some("bob"), &ALL),
                granted(&ALL),
                [Pass, Fail(ConsentMissing), Pass],
            ),
            (
                "the lists contradict each other",
                present(),
                Err(fault(InvalidResponse)),
                granted(&ALL),
                [Pass, Pass, Pass],
            ),
            (
                "the lists contradict each other, and no token says more",
                present(),
                Err(fault(InvalidResponse)),
                rejected(TokenExpired),
                [Pass, Unknown(InvalidResponse), Fail(TokenExpired)],
            ),
        ] {
            assert_eq!(outcomes(&delegated(presence, grants, own)), expected, "{sentence}");
        }
    }

    #[test]
    fn a_contradiction_is_noted_and_marks_the_directory_silent() {
        let present = || Ok(Presence::Present { enabled: true, blocked: None });
        let note = |diagnosis: &Diagnosis, index: usize| {
            diagnosis.checks[index].details.note.clone().unwrap_or_default()
        };
        let absent = delegated(Ok(Presence::Absent), Ok(vec![]), granted(&ALL));
        assert!(absent.directory_silent && note(&absent, 0).contains("just issued a token"), "{absent:?}");
        let nothing = delegated(present(), Ok(vec![]), granted(&ALL));
        assert!(!nothing.directory_silent && note(&nothing, 1).contains("based on the token"), "{nothing:?}");
        let invalid = delegated(present(), Err(fault(Reason::InvalidResponse)), granted(&ALL));
        assert!(invalid.directory_silent && note(&invalid, 1).contains("said so"), "{invalid:?}");
        let agreed = delegated(present(), listed(GRAPH, None, &ALL), granted(&ALL));
        assert_eq!((agreed.directory_silent, agreed.checks[1].details.note.clone()), (false, None));
    }

    #[test]
    fn roles_of_a_fresh_token_count_if_the_directory_lists_none() {
        use Reason::*;
        let present = Presence::Present { enabled: true, blocked: None };
        let held =
            |roles: &[&str]| vec![RoleEvidence { resource: GRAPH.to_owned(), roles: Ok(Some(words(roles))) }];
        for (sentence, presence, roles, expected) in [
            ("none listed, but carried", present.clone(), held(&["Group.Read.All"]), [Pass, Pass, Pass]),
            ("none listed, none carried", present.clone(), held(&[]), [Pass, Fail(ConsentMissing), Pass]),
            ("another one carried", present, held(&["User.Read.All"]), [Pass, Fail(PermissionMissing), Pass]),
            (
                "not there, but served",
                Presence::Absent,
                held(&["Group.Read.All"]),
                [Unknown(InvalidResponse), Pass, Pass],
            ),
        ] {
            let directory = Some(Directory {
                object_id: None,
                presence: Ok(presence),
                delegated: Ok(Vec::new()),
                application: Ok(Vec::new()),
            });
            let groups = Some(Ok(Groups { visible: 3, required: Vec::new() }));
            let evidence = Evidence { directory, app_only: Some(Ok(roles)), groups, ..Evidence::none() };
            assert_eq!(
                outcomes(&diagnose(&requirements(Access::Application), &evidence)),
                expected,
                "{sentence}"
            );
        }
    }

    /// A directory that contradicts a token does not count for application permissions, either.
    #[test]
    fn nothing_is_concluded_from_a_directory_in_doubt() {
        let required = RequiredPermissions {
            resource: GRAPH.to_owned(),
            delegated: words(&ALL),
            application: words(&["Group.Read.All"]),
        };
        let requirements =
            Requirements { required: vec![required].into(), ..requirements(Access::Delegated) };
        let directory = Some(Directory {
            object_id: None,
            presence: Ok(Presence::Absent),
            delegated: Ok(Vec::new()),
            application: Ok(Vec::new()),
        });
        let groups = Some(Ok(Groups { visible: 3, required: Vec::new() }));
        let diagnosis = diagnose(
            &requirements,
            &Evidence { directory, own_token: granted(&ALL), groups, ..Evidence::none() },
        );
        assert_eq!(
            outcomes(&diagnosis),
            [Unknown(Reason::InvalidResponse), Unknown(Reason::InvalidResponse), Pass]
        );
    }
}
