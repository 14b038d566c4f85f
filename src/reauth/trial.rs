//! Tries a new token before it is stored. It must work for everything that a probe requests, and it must see no less than the stored token
//! saw in its last successful probe: otherwise anybody with a link could replace an administrator's token by that of a weaker account.
//!
//! Every refresh may return a new refresh token, and with single-use rotation invalidates the used one. So every returned token replaces the
//! one before, and the newest is stored.

use std::time::Duration;

use super::person::{is_administrator, is_guest};
use super::{Reauthentication, Refusal, Registered};
use crate::domain::{GoodView, Groups, KnownGroup, OPENID_SCOPES, foreign, same_permission};
use crate::entra::{Client, Granted, Person, ResourceKey, claims_about_person};
use crate::secret::Secret;

/// A new consent may not have propagated yet. Requests are repeated after these pauses before permissions or groups count as missing.
pub(super) const SPREADING: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// What a new token is compared with.
#[derive(Clone, Copy)]
pub(super) struct Trial<'a> {
    pub(super) client: Client<'a>,
    pub(super) registered: &'a Registered,
    /// What the stored token saw; `None` when the token must only satisfy the configuration.
    pub(super) view: Option<&'a GoodView>,
    /// The groups that are required by name, with their last seen ids.
    pub(super) known: &'a [KnownGroup],
    pub(super) person: &'a Person,
}

/// The refresh tokens of one sign-in: each refresh may return a new one.
struct TokenChain {
    newest: Secret,
    /// The granted scopes in the token response to the code.
    first_scopes: Option<Vec<String>>,
}

/// The result of refreshing the new token once for every resource.
struct Refreshed {
    missing: Vec<String>,
    access_token: Option<Secret>,
}

impl Reauthentication {
    /// Tries the token of a redeemed code. Returns the newest refresh token.
    pub(super) async fn try_out(&self, trial: Trial<'_>, granted: &Granted) -> Result<Secret, Refusal> {
        let first = granted
            .refresh_token
            .clone()
            .ok_or_else(|| Refusal::FewerPermissions(vec!["offline_access".to_owned()]))?;
        let mut chain = TokenChain { newest: first, first_scopes: granted.scopes.clone() };
        let mut pauses = SPREADING.iter();
        // Whether the account was verified with an access token for Graph.
        let mut known = false;
        loop {
            let refreshed = self.refresh_all(trial, &mut chain).await?;
            if !known && (refreshed.access_token.is_some() || refreshed.missing.is_empty()) {
                self.check_person(trial, refreshed.access_token.as_ref()).await?;
                known = refreshed.access_token.is_some();
            }
            let refusal = match refreshed.missing.is_empty() {
                true => self.sees_less(trial, refreshed.access_token.as_ref()).await,
                false => Some(Refusal::FewerPermissions(refreshed.missing)),
            };
            let Some(refusal) = refusal else { return Ok(chain.newest) };
            let Some(pause) = pauses.next() else { return Err(refusal) };
            tokio::time::sleep(*pause).await;
        }
    }

    /// Refreshes the token for Graph and for every other resource, as a probe does, and collects the required scopes that are not granted.
    async fn refresh_all(&self, trial: Trial<'_>, chain: &mut TokenChain) -> Result<Refreshed, Refusal> {
        let entra = &self.inner.entra;
        let graph = entra.graph_scope();
        let required = || trial.registered.required.iter().filter(|r| !r.delegated.is_empty());
        let scope_of = |resource: &str| ResourceKey::of(resource).scope(&entra.cloud().graph_url);
        let first = required().next().map(|r| scope_of(&r.resource));
        let mut refreshed = Refreshed { missing: Vec::new(), access_token: None };
        let others = required().map(|r| scope_of(&r.resource)).filter(|scope| *scope != graph);
        let scopes: Vec<String> = std::iter::once(graph.clone()).chain(others).collect();
        for scope in scopes {
            let wanted: Vec<String> = required()
                .filter(|r| scope_of(&r.resource) == scope)
                .flat_map(|r| r.delegated.iter().cloned())
                .collect();
            match entra.refresh(trial.client, &chain.newest, &scope).await {
                Ok(granted) => {
                    chain.newest = granted.refresh_token.unwrap_or_else(|| chain.newest.clone());
                    // A response without scopes grants the requested ones (RFC 6749 section 5.1); then the
                    // response to the code is used.
                    let implied = || {
                        (first.as_ref() == Some(&scope))
                            .then(|| chain.first_scopes.clone().unwrap_or_else(|| wanted.clone()))
                    };
                    refreshed
                        .missing
                        .extend(missing_of(&wanted, &granted.scopes.or_else(implied).unwrap_or_default()));
                    if scope == graph {
                        refreshed.access_token = Some(granted.access_token);
                    }
                }
                Err(fault) => match Refusal::of_fault(&fault) {
                    Refusal::FewerPermissions(_) => refreshed.missing.extend(missing_of(&wanted, &[])),
                    refusal => {
                        let (code, request_id) = (
                            fault.code.as_deref().unwrap_or_default(),
                            fault.request_id.as_deref().unwrap_or_default(),
                        );
                        let integration = &trial.registered.token.integration;
                        tracing::warn!(%integration, code, request_id, detail = fault.detail, "a new token cannot be refreshed");
                        return Err(refusal);
                    }
                },
            }
        }
        Ok(refreshed)
    }

    /// Rejects guests, and everybody who is not an administrator if only administrators may re-authenticate.
    async fn check_person(&self, trial: Trial<'_>, access_token: Option<&Secret>) -> Result<(), Refusal> {
        let mut user_type = None;
        if let Some(token) = access_token {
            // Up to two requests, so that a temporary fault does not leave only the weaker evidence of the
            // claims.
            for _ in 0..2 {
                match self.inner.entra.user_type(token.expose(), trial.client.deadline).await {
                    Ok(found) => user_type = found,
                    Err(fault) if fault.reason.is_inconclusive() => continue,
                    Err(_) => {}
                }
                break;
            }
        }
        let claims = access_token.map(claims_about_person).unwrap_or_default();
        if is_guest(user_type.as_deref(), &trial.person.claims, &claims) {
            return Err(Refusal::Guest);
        }
        if !trial.registered.admins_only {
            return Ok(());
        }
        match self.administers(trial, access_token).await {
            Some(true) => Ok(()),
            Some(false) => Err(Refusal::NotAdministrator),
            None => Err(Refusal::Upstream),
        }
    }

    /// Whether the account has one of the roles that see all groups, according to the tokens, otherwise to Graph. `None` when Graph cannot be
    /// asked now; without evidence the account has none.
    async fn administers(&self, trial: Trial<'_>, access_token: Option<&Secret>) -> Option<bool> {
        let claims = access_token.map(claims_about_person).unwrap_or_default();
        let roles = [&trial.person.claims.roles, &claims.roles];
        if roles.into_iter().flatten().any(|roles| is_administrator(roles)) {
            return Some(true);
        }
        let Some(token) = access_token else { return Some(false) };
        match self.inner.entra.directory_roles(token.expose(), trial.client.deadline).await {
            Ok(roles) => Some(is_administrator(&roles)),
            Err(fault) if fault.reason.is_inconclusive() => None,
            Err(_) => Some(false),
        }
    }

    /// Rejects a token that sees fewer groups than the stored one. If groups are not checked, or the stored token never saw any, there is nothing to
    /// compare.
    async fn sees_less(&self, trial: Trial<'_>, access_token: Option<&Secret>) -> Option<Refusal> {
        let policy = trial.registered.groups.as_ref()?;
        let view = trial.view?;
        if view.groups == 0 && view.required.is_empty() {
            return None;
        }
        let nothing =
            || Some(Refusal::SeesLess(vec!["No groups can be listed with this account.".to_owned()]));
        let Some(token) = access_token else { return nothing() };
        let less = match self.inner.entra.groups(token.expose(), policy, trial.client.deadline).await {
            Ok(groups) => less(view, trial.known, &groups),
            Err(fault) if fault.reason.is_inconclusive() => return Some(Refusal::Upstream),
            Err(_) => return nothing(),
        };
        // An administrator sees all groups, so the groups that are missing were deleted.
        if less.is_empty() || self.administers(trial, Some(token)).await == Some(true) {
            return None;
        }
        Some(Refusal::SeesLess(less))
    }
}

/// What a token sees less than the stored one did, one sentence each. Groups that were not required then, or are not required now, do not count.
fn less(view: &GoodView, known: &[KnownGroup], groups: &Groups) -> Vec<String> {
    let mut less = Vec::new();
    if groups.visible < view.groups {
        less.push(format!("Groups that can be seen: {}; before: {}.", groups.visible, view.groups));
    }
    // The product's rules may use the id of the group that the stored token saw, and any member can create
    // another group of that name.
    let seen = |name: &str| {
        known.iter().find(|k| k.name == name).map(|k| k.replaced_by.as_ref().map_or(&k.id, |(id, _)| id))
    };
    for group in groups.required.iter().filter(|g| view.required.contains(&g.name)) {
        let name = foreign(&group.name, 120);
        if !group.visible() {
            less.push(format!("Required group that cannot be seen: {name}"));
        } else if seen(&group.name).is_some_and(|id| !group.ids.iter().any(|i| i.eq_ignore_ascii_case(id))) {
            less.push(format!("Required group that cannot be seen: {name}; another group has its name"));
        }
    }
    less
}

/// The required values that are not among the granted ones, except the scopes of OpenID Connect.
fn missing_of(required: &[String], granted: &[String]) -> Vec<String> {
    let openid = |value: &str| OPENID_SCOPES.iter().any(|o| same_permission(o, value));
    required
        .iter()
        .filter(|r| !openid(r) && !granted.iter().any(|g| same_permission(g, r)))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RequiredGroup;

    #[test]
    fn a_token_that_sees_less_is_recognized() {
        let required = |name: &str, visible: bool| RequiredGroup {
            name: name.to_owned(),
            ids: if visible { vec!["1".to_owned()] } else { Vec::new() },
        };
        let known = [KnownGroup { name: "Roof".to_owned(), id: "7".to_owned(), replaced_by: None }];
        let view = |groups, required: &[&str]| GoodView {
            groups,
            required: required.iter().map(|r| (*r).to_owned()).collect(),
        };
        for (sentence, view, groups, expected) in [
            ("as much", view(3, &["HQ"]), Groups { visible: 3, required: vec![required("HQ", true)] }, 0),
            ("more", view(3, &["HQ"]), Groups { visible: 9, required: vec![required("HQ", true)] }, 0),
            (
                "one group fewer",
                view(3, &["HQ"]),
                Groups { visible: 2, required: vec![required("HQ", true)] },
                1,
            ),
            (
                "without a required group",
                view(3, &["HQ"]),
                Groups { visible: 3, required: vec![required("HQ", false)] },
                1,
            ),
            (
                "another group of the same name",
                view(3, &["Roof"]),
                Groups { visible: 3, required: vec![required("Roof", true)] },
                1,
            ),
            ("both", view(3, &["HQ"]), Groups { visible: 1, required: vec![required("HQ", false)] }, 2),
            (
                "a group that the stored token did not see either",
                view(3, &[]),
                Groups { visible: 3, required: vec![required("New", false)] },
                0,
            ),
            (
                "a group that is no longer required",
                view(3, &["Old"]),
                Groups { visible: 3, required: vec![] },
                0,
            ),
            ("as many as are counted", view(1000, &[]), Groups { visible: 1000, required: vec![] }, 0),
        ] {
            assert_eq!(less(&view, &known, &groups).len(), expected, "{sentence}");
        }
    }
}
