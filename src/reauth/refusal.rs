//! Why a sign-in was refused: a title, a sentence and a result for each cause.

use super::callback::RedirectError;
use crate::domain::{Fault, Reason};
use crate::entra::{ReasonOverrides, meaning_of};
use crate::store::Stage;

/// The result of a re-authentication, as counted in the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignInResult {
    /// Everything is verified and stored.
    Success,
    /// The person, the organization or a policy refused.
    Denied,
    /// An account of another tenant.
    WrongTenant,
    /// Fewer permissions or groups than required.
    Incomplete,
    /// Too late, or used already.
    Expired,
    /// A fault of Entra or Consentry.
    Error,
}

impl SignInResult {
    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Denied => "denied",
            Self::WrongTenant => "wrong_tenant",
            Self::Incomplete => "incomplete",
            Self::Expired => "expired",
            Self::Error => "error",
        }
    }

    /// The stage that is stored.
    pub const fn stage(self) -> Stage {
        match self {
            Self::Success => Stage::Success,
            Self::Denied => Stage::Denied,
            Self::WrongTenant => Stage::WrongTenant,
            Self::Incomplete => Stage::Incomplete,
            Self::Expired => Stage::Expired,
            Self::Error => Stage::Error,
        }
    }
}

/// Why a sign-in was refused. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Cancel was pressed, or the person may not accept and went back.
    Cancelled,
    /// The permissions were not accepted.
    ConsentRefused,
    /// Only an administrator may accept.
    AdminApproval,
    /// The application requires assignment, and this account is not assigned.
    NotAssigned,
    /// The account is disabled, deleted, or may no longer sign in.
    AccountUnusable,
    /// A policy of the organization forbids the sign-in.
    Blocked,
    /// The enterprise application is switched off in the organization.
    AppDisabled,
    /// Entra requires a further step from the person.
    MoreNeeded,
    /// The account is a guest in the tenant.
    Guest,
    /// Only administrators may re-authenticate this application, and the account has no administrator role.
    NotAdministrator,
    /// Signed in to another tenant.
    WrongTenant,
    /// Signed in with a personal Microsoft account.
    PersonalAccount,
    /// These permissions are missing.
    FewerPermissions(Vec<String>),
    /// The token sees less than the stored one did; one sentence for each difference.
    SeesLess(Vec<String>),
    /// The ten minutes are over.
    Expired,
    /// The same callback has been processed before.
    Replayed,
    /// The same callback has come before, and its result is not known (yet).
    Interrupted,
    /// The sign-in was begun in another browser.
    OtherBrowser,
    /// Another sign-in succeeded first, or the link was revoked.
    LinkDied,
    /// The registration of the application is wrong; only its operators can fix it.
    Misconfigured,
    /// Entra cannot complete the sign-in now.
    Upstream,
    /// The callback or the tokens are not valid for this sign-in.
    Invalid,
    /// Consentry could not save the result.
    Storage,
}

impl Refusal {
    /// How it is counted.
    pub const fn ending(&self) -> SignInResult {
        match self {
            Self::Cancelled
            | Self::ConsentRefused
            | Self::AdminApproval
            | Self::NotAssigned
            | Self::AccountUnusable
            | Self::Blocked
            | Self::AppDisabled
            | Self::MoreNeeded
            | Self::Guest
            | Self::NotAdministrator => SignInResult::Denied,
            Self::WrongTenant | Self::PersonalAccount => SignInResult::WrongTenant,
            Self::FewerPermissions(_) | Self::SeesLess(_) => SignInResult::Incomplete,
            Self::Expired | Self::Replayed | Self::Interrupted | Self::LinkDied => SignInResult::Expired,
            Self::OtherBrowser | Self::Misconfigured | Self::Upstream | Self::Invalid | Self::Storage => {
                SignInResult::Error
            }
        }
    }

    /// The value of `refusal` in logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::ConsentRefused => "consent_refused",
            Self::AdminApproval => "admin_approval_required",
            Self::NotAssigned => "not_assigned",
            Self::AccountUnusable => "account_unusable",
            Self::Blocked => "blocked",
            Self::AppDisabled => "app_disabled",
            Self::MoreNeeded => "more_needed",
            Self::Guest => "guest",
            Self::NotAdministrator => "not_administrator",
            Self::WrongTenant => "wrong_tenant",
            Self::PersonalAccount => "personal_account",
            Self::FewerPermissions(_) => "fewer_permissions",
            Self::SeesLess(_) => "sees_less",
            Self::Expired => "expired",
            Self::Replayed => "replayed",
            Self::Interrupted => "interrupted",
            Self::OtherBrowser => "other_browser",
            Self::LinkDied => "link_died",
            Self::Misconfigured => "misconfigured",
            Self::Upstream => "upstream",
            Self::Invalid => "invalid",
            Self::Storage => "storage",
        }
    }

    /// The heading of the page.
    pub const fn title(&self) -> &'static str {
        match self {
            Self::Cancelled => "The sign-in was cancelled",
            Self::ConsentRefused => "The permissions were not accepted",
            Self::AdminApproval => "An administrator has to accept this",
            Self::NotAssigned => "This account may not use the application",
            Self::AccountUnusable => "This account cannot sign in",
            Self::Blocked => "A policy of your organization blocks this sign-in",
            Self::AppDisabled => "The application is switched off in your organization",
            Self::MoreNeeded => "Microsoft asks for a further step",
            Self::Guest => "A guest account cannot do this",
            Self::NotAdministrator => "This has to be done by an administrator",
            Self::WrongTenant => "That was another organization",
            Self::PersonalAccount => "That was a personal Microsoft account",
            Self::FewerPermissions(_) => "Some permissions are still missing",
            Self::SeesLess(_) => "This account sees less than the one before",
            Self::Expired => "That took too long",
            Self::Replayed => "This sign-in has already been used",
            Self::Interrupted => "This sign-in was not completed",
            Self::OtherBrowser => "This sign-in was started in another browser",
            Self::LinkDied => "This link has been used meanwhile",
            Self::Misconfigured => "The application is not set up correctly",
            Self::Upstream => "Microsoft could not complete the sign-in",
            Self::Invalid => "The response of the sign-in is not valid",
            Self::Storage => "The new sign-in could not be saved",
        }
    }

    /// What it means and what to do.
    #[expect(clippy::too_many_lines, reason = "a table of sentences")]
    pub const fn sentence(&self) -> &'static str {
        match self {
            Self::Cancelled => {
                "Nothing has been changed. If Microsoft's page said that you need admin approval, pass the link on to an administrator of your organization; otherwise simply try again."
            }
            Self::ConsentRefused => {
                "Nothing has been changed. The integration needs exactly the permissions that were shown; it works again once somebody accepts them."
            }
            Self::AdminApproval => {
                "Your organization lets only administrators accept these permissions. Pass the link from the mail on to a Global Administrator or Cloud Application Administrator; nothing has been changed."
            }
            Self::NotAssigned => {
                "Your organization lets only assigned people use this application. Sign in with an account that is assigned to it, or assign yours under Enterprise applications > Users and groups; nothing has been changed."
            }
            Self::AccountUnusable => {
                "Microsoft says that the account is disabled, or no longer in the organization. Nothing has been changed. Try again with another account of the organization, best a service account."
            }
            Self::Blocked => {
                "Conditional Access does not let the application have a token for this account. Sign in with another account, or let an administrator look at the policy; nothing has been changed."
            }
            Self::AppDisabled => {
                "Nobody can sign in to it while it is. An administrator can switch it on under Enterprise applications > Properties > Enabled for users to sign in. If it is on there, the people who run the application have to investigate; nothing has been changed."
            }
            Self::MoreNeeded => {
                "It requires something that did not happen, such as a second factor. Nothing has been changed; try again and follow Microsoft's pages to their end."
            }
            Self::Guest => {
                "The connection must not depend on an account that another organization manages. Nothing has been changed. Try again with an account of your own organization."
            }
            Self::NotAdministrator => {
                "The people who run this application accept the sign-in of an administrator only: a Global, Privileged Role, Application or Cloud Application Administrator. Nothing has been changed. Pass the link on to one, or activate your role first and try again. If you are one, the registration of the application may not say so; ask the people who run it."
            }
            Self::WrongTenant => {
                "You signed in with an account of another organization than the one this integration belongs to. Nothing has been changed. Try again and choose an account of the organization named on the first page."
            }
            Self::PersonalAccount => {
                "A personal Microsoft account cannot speak for an organization. Nothing has been changed. Try again with your work account."
            }
            Self::FewerPermissions(_) => {
                "You are signed in, but Microsoft granted fewer permissions than the integration needs, so nothing has been changed. Try again in a minute and accept all of them (a new consent takes a while to reach all of Microsoft's systems), or ask an administrator to."
            }
            Self::SeesLess(_) => {
                "You are signed in, but with this account the integration would see less than it does now, so nothing has been changed. Try again in a minute: a new consent takes a while to reach all of Microsoft's systems. If it stays like this, sign in with the account that was used before, or with an administrator's. The people who run the application have been notified."
            }
            Self::Expired => {
                "A sign-in must be completed within ten minutes. Nothing has been changed; simply begin again."
            }
            Self::Replayed => {
                "The same response came a second time and was not used again. If you pressed Reload, nothing is lost."
            }
            Self::Interrupted => {
                "It may still be under way: wait a few seconds, then reload this page. If it stays like this, open the link from the mail and begin again; nothing is lost by that."
            }
            Self::OtherBrowser => {
                "For safety, a sign-in must end in the browser in which it began. Some mail programs open links in a browser of their own: open the link from the mail in your usual browser and begin again there."
            }
            Self::LinkDied => {
                "Somebody has re-authenticated this integration while you were signing in, or the people who run it have ended the link. Nothing has been changed by this sign-in."
            }
            Self::Misconfigured => {
                "Microsoft refuses the request because of how the application is registered. You cannot fix that here; the people who run it have to, and nothing has been changed."
            }
            Self::Upstream => {
                "Nothing has been changed. Such faults pass, mostly within minutes: try again a little later."
            }
            Self::Invalid => {
                "The response does not belong to the sign-in that was started, so it was not used. Begin again from the link in the mail."
            }
            Self::Storage => {
                "You did everything right; the fault is on this side. Nothing has been changed. Try again a little later."
            }
        }
    }

    /// Whether trying again with the same link can help.
    pub const fn worth_another_try(&self) -> bool {
        !matches!(self, Self::Replayed | Self::Interrupted | Self::LinkDied | Self::Misconfigured)
    }

    /// The meaning of an error in the redirect; `overrides` are the configured `reason_overrides`.
    pub fn of_redirect(refused: &RedirectError, overrides: &ReasonOverrides) -> Self {
        if let Some(overridden) = refused
            .codes
            .iter()
            .find_map(|code| overrides.get(code))
            .and_then(|reason| Self::of_reason(*reason))
        {
            return overridden;
        }
        if let Some(known) = refused.codes.iter().find_map(|code| Self::of_code(*code)) {
            return known;
        }
        // `access_denied` alone does not name the cause; an AADSTS number does.
        if let Some(known) = meaning_of(&refused.codes).and_then(Self::of_reason) {
            return known;
        }
        match refused.error.as_str() {
            "access_denied" if refused.cancelled => Self::Cancelled,
            // The cause is an unknown number. Only numbers about consent mean that the permissions were not
            // accepted.
            "access_denied"
                if refused.codes.iter().any(|code| !matches!(code, 65_000..=65_999 | 650_000..=659_999)) =>
            {
                Self::MoreNeeded
            }
            "access_denied" | "consent_required" | "permission_denied" => Self::ConsentRefused,
            "interaction_required" | "login_required" => Self::MoreNeeded,
            "invalid_request"
            | "unauthorized_client"
            | "unsupported_response_type"
            | "invalid_resource"
            | "invalid_scope"
            | "invalid_client" => Self::Misconfigured,
            _ => Self::Upstream,
        }
    }

    /// The meaning of an error of the token endpoint.
    pub fn of_fault(fault: &Fault) -> Self {
        let code = fault.code.as_deref().and_then(|c| c.strip_prefix("AADSTS")).and_then(|c| c.parse().ok());
        if let Some(known) = code.and_then(Self::of_code) {
            return known;
        }
        Self::of_reason(fault.reason).unwrap_or(Self::Upstream)
    }

    fn of_reason(reason: Reason) -> Option<Self> {
        Some(match reason {
            Reason::ConsentMissing | Reason::PermissionMissing => Self::FewerPermissions(Vec::new()),
            Reason::ClientCredentialInvalid
            | Reason::ClientCredentialExpired
            | Reason::ConfigurationInvalid
            | Reason::AppMissing
            | Reason::TenantMissing => Self::Misconfigured,
            Reason::AccessBlocked => Self::Blocked,
            Reason::AppDisabled | Reason::AppBlocked => Self::AppDisabled,
            Reason::AccountDisabled => Self::AccountUnusable,
            Reason::GroupAccessDenied => Self::NotAssigned,
            Reason::TokenInvalid => Self::Invalid,
            // The session ended between two pages; signing in again starts a new one.
            Reason::InteractionRequired | Reason::TokenExpired | Reason::TokenRevoked => Self::MoreNeeded,
            // No request was sent: a file of Consentry cannot be read.
            Reason::CredentialUnreadable => Self::Storage,
            _ => return None,
        })
    }

    /// AADSTS numbers with one clear meaning (Microsoft, `reference-error-codes.md` and
    /// `application-sign-in-unexpected-user-consent-error.md`).
    const fn of_code(code: u32) -> Option<Self> {
        Some(match code {
            65004 => Self::ConsentRefused,
            90093 | 90094 | 90095 | 900_941 | 900_981 => Self::AdminApproval,
            50105 | 501_051 => Self::NotAssigned,
            16000 | 16003 | 50020 | 50034 | 50143 | 50177 | 50178 | 50197 | 51004 | 90072 | 700_005 => {
                Self::WrongTenant
            }
            50002 | 53003 | 500_021 | 500_022 | 500_212 | 500_213 => Self::Blocked,
            7_000_112 => Self::AppDisabled,
            500_200 | 500_201 | 500_202 | 500_204 => Self::PersonalAccount,
            50089 | 70008 => Self::Expired,
            54005 | 70000 | 9_002_313 => Self::Invalid,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_own_texts() {
        let all = [
            Refusal::Cancelled,
            Refusal::ConsentRefused,
            Refusal::AdminApproval,
            Refusal::NotAssigned,
            Refusal::AccountUnusable,
            Refusal::Blocked,
            Refusal::AppDisabled,
            Refusal::MoreNeeded,
            Refusal::Guest,
            Refusal::NotAdministrator,
            Refusal::SeesLess(Vec::new()),
            Refusal::Interrupted,
            Refusal::WrongTenant,
            Refusal::PersonalAccount,
            Refusal::FewerPermissions(Vec::new()),
            Refusal::Expired,
            Refusal::Replayed,
            Refusal::OtherBrowser,
            Refusal::LinkDied,
            Refusal::Misconfigured,
            Refusal::Upstream,
            Refusal::Invalid,
            Refusal::Storage,
        ];
        for text in [Refusal::label, Refusal::title, Refusal::sentence] {
            let distinct: std::collections::BTreeSet<&str> = all.iter().map(text).collect();
            assert_eq!(distinct.len(), all.len());
        }
    }

    #[test]
    fn errors_of_redirect_and_token_endpoint_are_classified() {
        let redirect = |error: &str, cancelled, codes: &[u32]| {
            Refusal::of_redirect(
                &RedirectError { error: error.to_owned(), cancelled, codes: codes.to_vec() },
                &ReasonOverrides::default(),
            )
        };
        for (sentence, refusal, expected) in [
            ("Cancel", redirect("access_denied", true, &[]), Refusal::Cancelled),
            ("declined", redirect("access_denied", true, &[65004]), Refusal::ConsentRefused),
            (
                "declined for the organization",
                redirect("consent_required", false, &[65004]),
                Refusal::ConsentRefused,
            ),
            ("admin approval", redirect("access_denied", false, &[90094]), Refusal::AdminApproval),
            ("risky app", redirect("access_denied", true, &[900_941]), Refusal::AdminApproval),
            ("not assigned", redirect("access_denied", false, &[50105]), Refusal::NotAssigned),
            (
                "an account outside the tenant",
                redirect("access_denied", false, &[50020]),
                Refusal::WrongTenant,
            ),
            ("switched off", redirect("access_denied", false, &[7_000_112]), Refusal::AppDisabled),
            ("an unknown number", redirect("server_error", false, &[99999]), Refusal::Upstream),
            ("Conditional Access", redirect("access_denied", false, &[530_032]), Refusal::Blocked),
            ("a policy about devices", redirect("access_denied", false, &[530_002]), Refusal::Blocked),
            (
                "a policy, and Cancel was pressed on its page",
                redirect("access_denied", true, &[530_002]),
                Refusal::Blocked,
            ),
            (
                "switched off, by its other number",
                redirect("unauthorized_client", false, &[7_000_116]),
                Refusal::AppDisabled,
            ),
            (
                "an account of another directory",
                redirect("access_denied", false, &[50_177]),
                Refusal::WrongTenant,
            ),
            (
                "an account that is not in the tenant",
                redirect("access_denied", false, &[16_003]),
                Refusal::WrongTenant,
            ),
            ("a personal account", redirect("invalid_request", false, &[500_202]), Refusal::PersonalAccount),
            ("a disabled account", redirect("access_denied", false, &[50_057]), Refusal::AccountUnusable),
            ("a device", redirect("interaction_required", false, &[53_006]), Refusal::MoreNeeded),
            (
                "an unknown number does not mean refused permissions",
                redirect("access_denied", false, &[53_999]),
                Refusal::MoreNeeded,
            ),
            (
                "an unknown number about consent",
                redirect("access_denied", false, &[65_999]),
                Refusal::ConsentRefused,
            ),
            ("an unknown number, and Cancel", redirect("access_denied", true, &[53_999]), Refusal::Cancelled),
            (
                "a general number and a specific one",
                redirect("access_denied", false, &[70_002, 530_033]),
                Refusal::Blocked,
            ),
            ("a temporary fault", redirect("server_error", false, &[90_031]), Refusal::Upstream),
            ("declined without a number", redirect("access_denied", false, &[]), Refusal::ConsentRefused),
            ("a second factor", redirect("interaction_required", false, &[50076]), Refusal::MoreNeeded),
            ("the request is wrong", redirect("invalid_scope", false, &[]), Refusal::Misconfigured),
            ("a new word", redirect("something_new", false, &[]), Refusal::Upstream),
        ] {
            assert_eq!(refusal, expected, "{sentence}");
        }
        let fault =
            |reason, code: Option<&str>| Fault { code: code.map(str::to_owned), ..Fault::new(reason, "") };
        for (reason, code, expected) in [
            (Reason::UpstreamUnavailable, None, Refusal::Upstream),
            (Reason::ConsentMissing, Some("AADSTS65001"), Refusal::FewerPermissions(Vec::new())),
            (Reason::ConsentMissing, Some("AADSTS90094"), Refusal::AdminApproval),
            (Reason::ClientCredentialExpired, Some("AADSTS7000222"), Refusal::Misconfigured),
            (Reason::TokenExpired, Some("AADSTS70008"), Refusal::Expired),
            (Reason::TokenInvalid, Some("AADSTS54005"), Refusal::Invalid),
            (Reason::AppDisabled, Some("AADSTS7000116"), Refusal::AppDisabled),
            (Reason::AccessBlocked, Some("AADSTS530002"), Refusal::Blocked),
            (Reason::AccountDisabled, Some("AADSTS500341"), Refusal::AccountUnusable),
            (Reason::TokenInvalid, Some("AADSTS7000012"), Refusal::Invalid),
            (Reason::CredentialUnreadable, None, Refusal::Storage),
            (Reason::InvalidResponse, None, Refusal::Upstream),
        ] {
            assert_eq!(Refusal::of_fault(&fault(reason, code)), expected, "{reason:?} {code:?}");
        }
    }

    #[test]
    fn reason_overrides_apply_to_redirects() {
        let refused =
            RedirectError { error: "access_denied".to_owned(), cancelled: false, codes: vec![999_999] };
        assert_eq!(Refusal::of_redirect(&refused, &ReasonOverrides::default()), Refusal::MoreNeeded);
        let overrides = ReasonOverrides::new(std::iter::once((999_999, Reason::AccessBlocked)).collect());
        assert_eq!(Refusal::of_redirect(&refused, &overrides), Refusal::Blocked);
    }
}
