//! The closed list of checks, reasons and remedies: metric labels, who is asked to act, and the sentences people read.
//!
//! Message, metric, retry and audience of a reason are all defined here, so that they cannot disagree.

/// A question that a probe answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// Is the service principal in the tenant, and enabled?
    EnterpriseApp,
    /// Are the required permissions granted?
    Consent,
    /// Can the integration's own token list the groups it needs?
    GroupAccess,
    /// Is the synchronisation job running?
    Provisioning,
    /// Is every credential far enough from expiry?
    Credential,
}

impl Check {
    /// All checks, in the order in which the failure of one explains the failure of the next.
    pub const ALL: [Self; 5] =
        [Self::EnterpriseApp, Self::Consent, Self::GroupAccess, Self::Provisioning, Self::Credential];

    /// The label value and configuration word.
    pub const fn label(self) -> &'static str {
        match self {
            Self::EnterpriseApp => "enterprise_app",
            Self::Consent => "consent",
            Self::GroupAccess => "group_access",
            Self::Provisioning => "provisioning",
            Self::Credential => "credential",
        }
    }

    /// The question in words.
    pub const fn title(self) -> &'static str {
        match self {
            Self::EnterpriseApp => "Enterprise application",
            Self::Consent => "Permissions",
            Self::GroupAccess => "Access to groups",
            Self::Provisioning => "Provisioning",
            Self::Credential => "Credentials",
        }
    }

    /// Whether it needs a token of the integration, so that what prevents a token prevents this check.
    const fn needs_token(self) -> bool {
        match self {
            Self::EnterpriseApp | Self::Consent | Self::GroupAccess => true,
            Self::Provisioning | Self::Credential => false,
        }
    }

    /// The check with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.label() == label)
    }
}

/// What somebody has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // The labels explain the names.
pub enum Remedy {
    Reauthenticate,
    EnableApp,
    ContactSupport,
    ReviewPermissions,
    ChangePolicy,
    ReviewGroups,
    ReviewProvisioning,
    RotateCredential,
    GrantReaderPermission,
    FixConfiguration,
    Wait,
}

impl Remedy {
    /// The label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reauthenticate => "reauthenticate",
            Self::EnableApp => "enable_app",
            Self::ContactSupport => "contact_support",
            Self::ReviewPermissions => "review_permissions",
            Self::ChangePolicy => "change_policy",
            Self::ReviewGroups => "review_groups",
            Self::ReviewProvisioning => "review_provisioning",
            Self::RotateCredential => "rotate_credential",
            Self::GrantReaderPermission => "grant_reader_permission",
            Self::FixConfiguration => "fix_configuration",
            Self::Wait => "wait",
        }
    }
}

/// Who can fix it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Audience {
    /// The administrators of the customer's tenant.
    Admins,
    /// Whoever runs Consentry and owns the app registrations.
    Operators,
}

macro_rules! reasons {
    ($( $variant:ident $label:literal $remedy:ident $audience:ident $class:ident $title:literal $advice:literal; )*) => {
        /// Why a check fails or is unknown.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)] // `sentence` explains each.
        pub enum Reason { $( $variant, )* }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// The metric label and API word.
            pub const fn label(self) -> &'static str {
                match self { $( Self::$variant => $label, )* }
            }

            /// What somebody has to do about it.
            pub const fn remedy(self) -> Remedy {
                match self { $( Self::$variant => Remedy::$remedy, )* }
            }

            /// Who can do it.
            pub const fn audience(self) -> Audience {
                match self { $( Self::$variant => Audience::$audience, )* }
            }

            /// What is wrong, in plain words, for somebody who has never heard of Consentry.
            pub const fn sentence(self) -> &'static str {
                match self { $( Self::$variant => $title, )* }
            }

            /// What to do about it, one sentence.
            pub const fn advice(self) -> &'static str {
                match self { $( Self::$variant => $advice, )* }
            }

            const fn class(self) -> Class {
                match self { $( Self::$variant => Class::$class, )* }
            }
        }
    };
}

/// What a reason is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// The enterprise application or its tenant: the earliest possible cause.
    Presence,
    /// What was consented to.
    Consent,
    /// The integration's own sign-in.
    Token,
    /// The groups that it sees.
    Groups,
    /// The provisioning job.
    Provisioning,
    /// How long credentials last.
    Credential,
    /// Our own client or request: it fails every check that depends on it.
    OurSide,
    /// The directory reader.
    Reader,
    /// A file of ours.
    Unreadable,
    /// The probe had no result, and waiting is the remedy.
    Transient,
    /// The error is not known.
    Unknown,
}

/// In which checks a reason can appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// In this check and, as the earlier cause, in the later ones up to `group_access`.
    From(Check),
    /// In this check only.
    Only(Check),
    /// In every check: a fault that leaves a check without result is its reason, too.
    Anywhere,
}

reasons! {
    AppMissing "app_missing" Reauthenticate Admins Presence
        "The enterprise application is no longer in the tenant."
        "Re-authenticate: accepting the permissions puts the application back.";
    AppDeleted "app_deleted" Reauthenticate Admins Presence
        "The enterprise application was deleted."
        "Re-authenticate, or restore it with PowerShell or Graph, as Microsoft's page \"Restore an enterprise application\" says.";
    AppDisabled "app_disabled" EnableApp Admins Presence
        "The enterprise application is disabled for sign-in."
        "In the Entra admin center open Enterprise applications > Properties and set \"Enabled for users to sign-in\" to Yes.";
    AppBlocked "app_blocked" ContactSupport Operators Presence
        "The application was switched off by Microsoft or by its owner for all tenants."
        "Find out from Microsoft support or in the app registration why it was deactivated.";
    TenantMissing "tenant_missing" ContactSupport Operators Presence
        "Entra does not know the tenant: it was deleted, blocked, or lives in another cloud."
        "Check the tenant id and the cloud with the customer.";
    ConsentMissing "consent_missing" Reauthenticate Admins Consent
        "The application has no permissions in the tenant any more."
        "Re-authenticate and accept the permissions.";
    PermissionMissing "permission_missing" Reauthenticate Admins Consent
        "A permission that the integration needs was taken away."
        "Re-authenticate and accept the permissions.";
    PermissionUnexpected "permission_unexpected" ReviewPermissions Admins Consent
        "The application holds more permissions than it needs."
        "Review the permissions of the enterprise application and remove what is not needed.";
    TokenMissing "token_missing" Reauthenticate Admins Token
        "Nobody has signed in for this integration yet."
        "Follow the link, sign in and accept the permissions.";
    TokenInvalid "token_invalid" Reauthenticate Admins Token
        "The integration's sign-in is damaged and Entra rejects it."
        "Re-authenticate.";
    TokenExpired "token_expired" Reauthenticate Admins Token
        "The integration's sign-in has expired."
        "Re-authenticate. If it expires again soon, exclude the application from the sign-in frequency policy.";
    TokenRevoked "token_revoked" Reauthenticate Admins Token
        "The integration's sign-in was revoked: a password was reset by an administrator, or sessions were revoked."
        "Re-authenticate, best with a service account.";
    InteractionRequired "interaction_required" Reauthenticate Admins Token
        "Entra wants the person behind the integration to sign in again."
        "Re-authenticate and complete what Entra asks for, such as a second factor.";
    AccessBlocked "access_blocked" ChangePolicy Admins Token
        "A Conditional Access policy forbids the integration's access."
        "Exclude the application or the account from the policy; signing in again does not help.";
    AccountDisabled "account_disabled" Reauthenticate Admins Token
        "The account that gave consent is disabled or gone."
        "Re-authenticate with an account that stays, best a service account.";
    GroupAccessDenied "group_access_denied" Reauthenticate Admins Groups
        "The integration may no longer read the groups."
        "Re-authenticate with an account that may read all groups, and accept the permissions.";
    GroupsNotVisible "groups_not_visible" Reauthenticate Admins Groups
        "The integration sees fewer groups than it should."
        "Re-authenticate with an account that sees the groups.";
    GroupMissing "group_missing" ReviewGroups Admins Groups
        "A group that the integration matches on cannot be found."
        "Restore or rename the group, or change the group that the integration uses.";
    ProvisioningQuarantined "provisioning_quarantined" ReviewProvisioning Admins Provisioning
        "Entra has put the provisioning job into quarantine."
        "Open Enterprise applications > Provisioning and follow the error shown there.";
    ProvisioningDisabled "provisioning_disabled" ReviewProvisioning Admins Provisioning
        "Provisioning is switched off."
        "Start provisioning again under Enterprise applications > Provisioning.";
    ProvisioningMissing "provisioning_missing" ReviewProvisioning Admins Provisioning
        "The enterprise application has no provisioning job."
        "Set up provisioning again under Enterprise applications > Provisioning.";
    CredentialExpired "credential_expired" RotateCredential Operators Credential
        "A credential of the application has expired."
        "Create a new secret or certificate, configure it, and remove the old one.";
    CredentialExpiring "credential_expiring" RotateCredential Operators Credential
        "A credential of the application expires soon."
        "Create a new secret or certificate, and configure it before the end.";
    ClientCredentialInvalid "client_credential_invalid" RotateCredential Operators OurSide
        "Entra does not accept the application's client credential."
        "Configure the client secret's value (not its id) or the registered certificate; check this machine's clock.";
    ClientCredentialExpired "client_credential_expired" RotateCredential Operators OurSide
        "The application's client credential has expired."
        "Create a new client secret or certificate in the app registration and configure it.";
    ReaderPermissionMissing "reader_permission_missing" GrantReaderPermission Operators Reader
        "The directory reader may not read this tenant's directory."
        "Grant the reader's app registration the application permission Directory.Read.All in the tenant.";
    ConfigurationInvalid "configuration_invalid" FixConfiguration Operators OurSide
        "Entra says that the request itself is wrong."
        "Compare the app registration (redirect URI, permissions, audience) and the configuration.";
    CredentialUnreadable "credential_unreadable" FixConfiguration Operators Unreadable
        "A secret, certificate, key or token of ours cannot be read, so Entra was not asked."
        "Read the evidence: it names the file and the error. Restore the file or its permissions, or raise the limit of open files.";
    Throttled "throttled" Wait Operators Transient
        "Entra or Graph asks for fewer requests."
        "Wait; probes slow down by themselves.";
    UpstreamUnavailable "upstream_unavailable" Wait Operators Transient
        "Entra or Graph has a passing fault."
        "Wait; look at Microsoft's service health if it lasts.";
    Timeout "timeout" Wait Operators Transient
        "Entra or Graph did not answer in time."
        "Wait; check the network and the proxy if it lasts.";
    NetworkError "network_error" Wait Operators Transient
        "Entra or Graph cannot be reached from here."
        "Wait; check DNS, firewall, proxy and certificates if it lasts.";
    InvalidResponse "invalid_response" Wait Operators Transient
        "The answer was not what Entra or Graph send."
        "Wait; look for a proxy that answers in their place if it lasts.";
    Unclassified "unclassified" ContactSupport Operators Unknown
        "Nothing could be learnt: Entra answered with something that Consentry does not know, or what it may read does not suffice."
        "Read the evidence: where it has an error code, reason_overrides can teach Consentry its meaning.";
}

/// What re-authentication does not change, for reasons where [`Reason::leaves_provisioning`] is true.
pub const PROVISIONING_STAYS: &str =
    "The provisioning set-up and the SCIM token in Entra stay as they are. You need not touch them.";

impl Reason {
    /// What a person must know before accepting. The provisioning job belongs to the service principal: it is deleted with it, and comes
    /// back when the service principal is restored, within 30 days of its deletion.
    /// <https://learn.microsoft.com/en-us/entra/identity/enterprise-apps/restore-application>
    pub const fn before_accepting(self) -> Option<&'static str> {
        match self {
            Self::AppDeleted => Some(
                "A new consent makes a new enterprise application. If provisioning was set up on the deleted one, restore that one instead, which is possible for 30 days: its set-up and its SCIM token come back with it and need not be touched.",
            ),
            // It may have been deleted long ago, or recently where no directory reader can see it.
            Self::AppMissing => Some(
                "A new consent makes a new enterprise application. If the old one was deleted less than 30 days ago and provisioning was set up on it, restore that one instead: its set-up and its SCIM token come back with it and need not be touched. If it cannot be restored, provisioning has to be set up again.",
            ),
            _ => None,
        }
    }

    /// What to do besides pressing the button, whose text is "Re-authenticate".
    pub const fn advice_beside_the_button(self) -> Option<&'static str> {
        match self {
            Self::TokenInvalid => None,
            _ => Some(self.advice()),
        }
    }

    /// Whether [`PROVISIONING_STAYS`] is true: not if provisioning was deleted with the application, and not if it is itself what fails.
    pub fn leaves_provisioning(self) -> bool {
        self.before_accepting().is_none() && self.remedy() != Remedy::ReviewProvisioning
    }

    /// The reason with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.label() == label)
    }

    /// The probe had no result, and waiting is the remedy: never turns a check from pass to fail.
    pub const fn is_transient(self) -> bool {
        matches!(self.class(), Class::Transient)
    }

    /// Makes a check unknown wherever it appears.
    pub const fn is_inconclusive(self) -> bool {
        matches!(self.class(), Class::Transient | Class::Unreadable | Class::Unknown)
    }

    /// Means that the upstream as a whole has a fault, not one tenant.
    pub const fn is_upstream_trouble(self) -> bool {
        self.is_transient() && !matches!(self, Self::Throttled)
    }

    /// About the enterprise application or its tenant: the earliest possible cause.
    pub const fn is_presence(self) -> bool {
        matches!(self.class(), Class::Presence)
    }

    /// About what was consented to.
    pub const fn is_consent(self) -> bool {
        matches!(self.class(), Class::Consent)
    }

    /// About our own client or request: fails every check that depends on it.
    pub const fn is_our_side(self) -> bool {
        matches!(self.class(), Class::OurSide)
    }

    /// Fails its check and breaks nothing: something will fail unless somebody acts in time.
    pub const fn is_warning(self) -> bool {
        matches!(self, Self::CredentialExpiring)
    }

    /// The check that shows this reason by itself; others only repeat it. `None` if every check may show it.
    pub const fn home(self) -> Option<Check> {
        match self.class() {
            Class::Presence => Some(Check::EnterpriseApp),
            Class::Consent => Some(Check::Consent),
            Class::Token | Class::Groups => Some(Check::GroupAccess),
            Class::Provisioning => Some(Check::Provisioning),
            Class::Credential => Some(Check::Credential),
            Class::OurSide | Class::Reader | Class::Unreadable | Class::Transient | Class::Unknown => None,
        }
    }

    /// Leaves a check unknown until the operators change something: waiting does not help, and it says nothing about the integration.
    pub const fn is_standing(self) -> bool {
        matches!(self, Self::ReaderPermissionMissing | Self::Unclassified)
    }

    const fn scope(self) -> Scope {
        match (self, self.class()) {
            // Every check sends requests to the tenant.
            (Self::TenantMissing, _)
            | (
                _,
                Class::Token
                | Class::OurSide
                | Class::Reader
                | Class::Unreadable
                | Class::Transient
                | Class::Unknown,
            ) => Scope::Anywhere,
            (_, Class::Presence) => Scope::From(Check::EnterpriseApp),
            (_, Class::Consent) => Scope::From(Check::Consent),
            (_, Class::Groups) => Scope::From(Check::GroupAccess),
            (_, Class::Provisioning) => Scope::Only(Check::Provisioning),
            (_, Class::Credential) => Scope::Only(Check::Credential),
        }
    }

    /// Whether this reason can appear in `check`: decides which series `consentry_checks` has from the start.
    pub fn possible_in(self, check: Check) -> bool {
        // Without other evidence of the application, an error for missing consent leaves its presence open.
        if self == Self::ConsentMissing && check == Check::EnterpriseApp {
            return true;
        }
        // The jobs and the SAML certificates belong to the enterprise application.
        if self.is_presence() {
            return true;
        }
        match self.scope() {
            Scope::Anywhere => self.is_shared() || check.needs_token(),
            Scope::Only(only) => only == check,
            Scope::From(first) => first <= check && check.needs_token(),
        }
    }

    const fn is_shared(self) -> bool {
        self.is_inconclusive()
            || self.is_our_side()
            || matches!(self, Self::TenantMissing | Self::ReaderPermissionMissing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_found_again() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_label(reason.label()), Some(*reason));
        }
        for check in Check::ALL {
            assert_eq!(Check::from_label(check.label()), Some(check));
        }
    }

    #[test]
    fn advice_that_the_button_gives_is_not_repeated() {
        for reason in Reason::ALL {
            assert_eq!(
                reason.advice_beside_the_button().is_none(),
                reason.advice() == "Re-authenticate.",
                "{reason:?}"
            );
        }
    }

    #[test]
    fn only_reauthentication_and_reviews_reach_admins() {
        for reason in Reason::ALL {
            let operators_only = matches!(
                reason.remedy(),
                Remedy::ContactSupport
                    | Remedy::RotateCredential
                    | Remedy::GrantReaderPermission
                    | Remedy::FixConfiguration
                    | Remedy::Wait
            );
            assert_eq!(reason.audience() == Audience::Operators, operators_only, "{reason:?}");
            assert!(!reason.is_transient() || reason.remedy() == Remedy::Wait, "{reason:?}");
        }
    }

    #[test]
    fn reasons_appear_only_in_their_checks() {
        for (reason, check, possible) in [
            (Reason::AppDeleted, Check::EnterpriseApp, true),
            (Reason::AppDeleted, Check::GroupAccess, true),
            (Reason::AppDeleted, Check::Credential, true),
            (Reason::ConsentMissing, Check::Credential, false),
            (Reason::PermissionMissing, Check::EnterpriseApp, false),
            (Reason::ConsentMissing, Check::EnterpriseApp, true),
            (Reason::TokenRevoked, Check::EnterpriseApp, true),
            (Reason::TokenRevoked, Check::Provisioning, false),
            (Reason::AppDeleted, Check::Provisioning, true),
            (Reason::GroupMissing, Check::Consent, false),
            (Reason::Throttled, Check::Credential, true),
            (Reason::ProvisioningDisabled, Check::Provisioning, true),
        ] {
            assert_eq!(reason.possible_in(check), possible, "{reason:?} in {check:?}");
        }
    }
}
