//! Whose sign-in is accepted: never a guest's, and only an administrator's where the configuration requires that. The kind of account comes
//! from Graph, or from the claims of the tokens where Graph does not permit the request.

use crate::entra::PersonClaims;

/// Template ids of the directory roles that see all groups and may consent for the organization (Microsoft, `permissions-reference.md` of
/// Entra ID): Global Administrator, Privileged Role Administrator, Application Administrator, Cloud Application Administrator.
const ADMINISTRATORS: [&str; 4] = [
    "62e90394-69f5-4237-9190-012177145e10",
    "e8611ab8-c189-46e8-94e1-60213ab1f814",
    "9b895d92-2cd3-44c7-9d02-a6ac2d5ea5c3",
    "158c047a-c907-4556-b7ef-446551a6b5f7",
];

/// Whether one of these roles is an administrator role.
pub(super) fn is_administrator(roles: &[String]) -> bool {
    roles.iter().any(|role| ADMINISTRATORS.iter().any(|known| role.eq_ignore_ascii_case(known)))
}

/// Whether the account is a guest: by Graph's `userType`, otherwise by the claim `acct`, otherwise by the identity provider.
pub(super) fn is_guest(
    user_type: Option<&str>,
    id_token: &PersonClaims,
    access_token: &PersonClaims,
) -> bool {
    match user_type {
        Some(user_type) => user_type.eq_ignore_ascii_case("guest"),
        None => id_token.guest.or(access_token.guest).or(id_token.foreign_provider).unwrap_or(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_recognized_by_the_available_evidence() {
        let claims = |guest, foreign_provider| PersonClaims { guest, foreign_provider, roles: None };
        let nothing = claims(None, None);
        for (sentence, user_type, id_token, access_token, guest) in [
            ("no evidence", None, nothing.clone(), nothing.clone(), false),
            ("Graph says guest", Some("Guest"), claims(Some(false), None), nothing.clone(), true),
            (
                "Graph says member, although another provider signed in: an external member",
                Some("Member"),
                claims(None, Some(true)),
                nothing.clone(),
                false,
            ),
            ("the id_token says guest", None, claims(Some(true), Some(false)), nothing.clone(), true),
            ("the id_token says member", None, claims(Some(false), Some(true)), nothing.clone(), false),
            ("the access token says guest", None, nothing.clone(), claims(Some(true), None), true),
            ("another provider", None, claims(None, Some(true)), nothing.clone(), true),
            ("the tenant itself", None, claims(None, Some(false)), nothing.clone(), false),
        ] {
            assert_eq!(is_guest(user_type, &id_token, &access_token), guest, "{sentence}");
        }
    }

    #[test]
    fn administrator_roles_are_recognized() {
        let administers =
            |roles: &[&str]| is_administrator(&roles.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>());
        for (sentence, roles, expected) in [
            ("none", &[][..], false),
            ("Global Administrator, in capitals", &["62E90394-69F5-4237-9190-012177145E10"][..], true),
            ("Directory Readers", &["88d8e3e3-8f55-4a1e-953a-9b9898b8876b"][..], false),
            (
                "one among others",
                &["88d8e3e3-8f55-4a1e-953a-9b9898b8876b", "158c047a-c907-4556-b7ef-446551a6b5f7"][..],
                true,
            ),
        ] {
            assert_eq!(administers(roles), expected, "{sentence}");
        }
    }
}
