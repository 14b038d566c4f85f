//! Entra's error numbers and their reasons. Generated once from Microsoft's reference, and maintained by hand since.
//!
//! Source: Microsoft, `reference-error-codes.md` of the identity platform documentation, the articles of its support knowledge base, and,
//! for the last part, public reports. Microsoft says that the numbers are not stable: a number that is not listed here falls back to
//! `error` and `suberror` (see [`super::classify`]), and `reason_overrides` can correct the table without a release.

#[allow(clippy::wildcard_imports, clippy::enum_glob_use)]
// The table is easier to read without a prefix on each row.
use crate::domain::Reason::{self, *};

/// Number and reason, sorted by theme; numbers that Microsoft does not list are at the end. A linear search is enough, because errors are
/// rare.
#[rustfmt::skip]
pub const AADSTS: &[(u32, Reason)] = &[
    // Refresh token or code: expired, revoked, corrupted.
    (50173, TokenRevoked), // FreshTokenNeeded
    (700_082, TokenExpired), // ExpiredOrRevokedGrantInactiveToken
    (70008, TokenExpired), // ExpiredOrRevokedGrant
    (700_084, TokenExpired),
    (70043, TokenExpired), // BadTokenDueToSignInFrequency
    (70044, TokenExpired),
    (70000, TokenInvalid), // InvalidGrant
    (9_002_313, TokenInvalid), // InvalidRequest
    (90023, ConfigurationInvalid), // InvalidRequest
    (50132, TokenExpired), // SsoArtifactInvalidOrExpired
    (50133, TokenRevoked), // SsoArtifactRevoked
    (50013, TokenInvalid), // InvalidAssertion
    (500_133, ConfigurationInvalid),
    (50027, TokenInvalid), // InvalidJwtToken
    (54005, InteractionRequired),
    (70019, InteractionRequired), // CodeExpired
    (50089, InteractionRequired),
    (700_005, TokenInvalid), // InvalidGrantRedeemAgainstWrongTenant
    (900_384, ClientCredentialInvalid),
    (700_229, ConfigurationInvalid), // ForbiddenTokenType
    (7_000_110, TokenInvalid),
    // The user must act: MFA, password, device, consent page.
    (50055, InteractionRequired), // InvalidPasswordExpiredPassword
    (50058, InteractionRequired), // UserInformationNotProvided
    (50072, InteractionRequired), // UserStrongAuthEnrollmentRequiredInterrupt
    (50074, InteractionRequired), // UserStrongAuthClientAuthNRequiredInterrupt
    (50076, InteractionRequired), // UserStrongAuthClientAuthNRequired
    (50078, InteractionRequired), // UserStrongAuthExpired
    (50079, InteractionRequired), // UserStrongAuthEnrollmentRequired
    (50125, InteractionRequired), // PasswordResetRegistrationRequiredInterrupt
    (50127, InteractionRequired), // BrokerAppNotInstalled
    (50140, InteractionRequired), // KmsiInterrupt
    (50142, InteractionRequired),
    (50143, InteractionRequired), // Session mismatch
    (50144, InteractionRequired), // InvalidPasswordExpiredOnPremPassword
    (50158, InteractionRequired), // ExternalSecurityChallenge
    (50199, InteractionRequired), // CmsiInterrupt
    (50137, InteractionRequired),
    (50085, InteractionRequired),
    (50139, InteractionRequired), // SessionMissingMsaOAuth2RefreshToken
    (40009, InteractionRequired), // OAuth2IdPRefreshTokenRedemptionUserError
    (40015, InteractionRequired), // OAuth2IdPAuthCodeRedemptionUserError
    (50097, InteractionRequired), // DeviceAuthenticationRequired
    (50129, InteractionRequired), // DeviceIsNotWorkplaceJoined
    (50155, InteractionRequired), // DeviceAuthenticationFailed
    (50005, InteractionRequired), // DevicePolicyError
    (16000, InteractionRequired), // InteractionRequired
    (700_020, InteractionRequired), // InteractionRequired
    (90072, InteractionRequired), // PassThroughUserMfaError
    (50135, InteractionRequired), // PasswordChangeCompromisedPassword
    (53010, InteractionRequired), // ProofUpBlockedDueToSecurityInfoAcr
    (53011, AccessBlocked),
    // A policy forbids it.
    (50131, AccessBlocked), // ConditionalAccessFailed
    (53000, AccessBlocked), // DeviceNotCompliant
    (53001, AccessBlocked), // DeviceNotDomainJoined
    (53002, AccessBlocked), // ApplicationUsedIsNotAnApprovedApp
    (53003, AccessBlocked), // BlockedByConditionalAccess
    (53004, AccessBlocked), // ProofUpBlockedDueToRisk
    (53009, AccessBlocked),
    (530_003, AccessBlocked),
    (530_004, AccessBlocked), // AcceptCompliantDevice
    (530_032, AccessBlocked), // BlockedByConditionalAccessOnSecurityPolicy
    (1_000_104, AccessBlocked), // XCB2BResourceCloudNotAllowedOnIdentityTenant
    (90123, AccessBlocked), // IdentityProviderAccessDenied
    (54000, AccessBlocked), // MinorUserBlockedLegalAgeGroupRule
    (530_034, AccessBlocked), // DelegatedAdminBlockedDueToSuspiciousActivity
    (530_035, AccessBlocked), // BlockedBySecurityDefaults
    (500_021, AccessBlocked),
    (500_022, AccessBlocked),
    (500_212, AccessBlocked), // NotAllowedByOutboundPolicyTenant
    (500_213, AccessBlocked), // NotAllowedByInboundPolicyTenant
    (50105, GroupAccessDenied), // EntitlementGrantsNotFound
    (501_051, GroupAccessDenied),
    (90099, ConsentMissing),
    // Consent missing.
    (65001, ConsentMissing), // DelegationDoesNotExist
    (65004, ConsentMissing), // UserDeclinedConsent
    (90008, PermissionMissing), // TokenForItselfRequiresGraphPermission
    (90093, PermissionMissing), // GraphUserUnauthorized
    (90094, ConsentMissing), // AdminConsentRequired
    (90095, ConsentMissing), // AdminConsentRequiredRequestAccess
    (900_941, ConsentMissing), // AdminConsentRequiredDueToRiskyApp
    (900_981, ConsentMissing), // AdminConsentRequestRiskyAppWarning
    (65006, PermissionMissing),
    (50150, ConsentMissing),
    (9_002_341, InteractionRequired),
    // Account of the consenting user.
    (50034, AccountDisabled), // UserAccountNotFound
    (500_341, AccountDisabled),
    (50057, AccountDisabled), // UserDisabled
    (500_571, AccountDisabled),
    (51004, AccountDisabled), // UserAccountNotInDirectory
    (50020, AccountDisabled), // UserUnauthorized
    (50014, AccountDisabled), // GuestUserInPendingState
    (50053, InteractionRequired), // IdsLocked
    (50126, InteractionRequired), // InvalidUserNameOrPassword
    (50056, InteractionRequired), // Invalid or null password
    (50064, InteractionRequired), // CredentialAuthenticationError
    (50128, TenantMissing), // Invalid domain name
    // Enterprise app missing.
    (700_016, AppMissing), // UnauthorizedClient_DoesNotMatchRequest
    (7_000_229, AppMissing),
    (700_011, AppMissing), // UnauthorizedClientAppNotFoundInOrgIdTenant
    (70001, AppMissing), // UnauthorizedClient
    (500_011, ConfigurationInvalid), // InvalidResourceServicePrincipalNotFound
    (650_052, ConfigurationInvalid),
    (650_051, ConfigurationInvalid),
    (50001, ConfigurationInvalid), // InvalidResource
    (1_000_031, AppDisabled),
    // Enterprise app disabled.
    (7_000_112, AppDisabled), // UnauthorizedClientApplicationDisabled
    (500_014, ConfigurationInvalid),
    (7_000_113, ConfigurationInvalid),
    (7_000_114, ConfigurationInvalid),
    (65002, ConfigurationInvalid),
    // Credential of our own client.
    (7_000_215, ClientCredentialInvalid),
    (7_000_222, ClientCredentialExpired), // InvalidClientSecretExpiredKeysProvided
    (7_000_216, ConfigurationInvalid),
    (7_000_218, ConfigurationInvalid),
    (7_000_214, ClientCredentialInvalid),
    (70002, ClientCredentialInvalid), // InvalidClient
    (700_027, ClientCredentialInvalid),
    (700_030, ClientCredentialInvalid),
    (700_024, ClientCredentialInvalid), // SignedAssertionInvalidTimeRange
    (700_021, ConfigurationInvalid),
    (700_023, ConfigurationInvalid), // InvalidResourcelessScope
    (700_025, ConfigurationInvalid), // InvalidClientPublicClientWithCredential
    (50012, ClientCredentialInvalid), // AuthenticationFailed
    (220_501, ClientCredentialInvalid), // InvalidCrlDownload
    (50017, ClientCredentialInvalid), // CertificateValidationFailed
    (1_000_502, ClientCredentialExpired),
    (7_000_274, ClientCredentialInvalid),
    (7_000_277, ClientCredentialInvalid),
    (70021, ClientCredentialInvalid),
    (700_211, ClientCredentialInvalid),
    (700_212, ClientCredentialInvalid),
    (700_213, ClientCredentialInvalid),
    (70025, ClientCredentialInvalid),
    (700_003, InteractionRequired),
    // Tenant missing, blocked or in another cloud.
    (90002, TenantMissing), // InvalidTenantName
    (50002, AccessBlocked), // NotAllowedTenant
    (50059, ConfigurationInvalid), // MissingTenantRealmAndNoUserInformationProvided
    (90019, ConfigurationInvalid), // MissingTenantRealm
    (90038, ConfigurationInvalid), // NationalCloudTenantRedirection
    (5_000_224, TenantMissing),
    (5_000_225, TenantMissing),
    (900_382, ConfigurationInvalid),
    (900_432, ConfigurationInvalid),
    (900_439, ConfigurationInvalid), // USGClientNotSupportedOnPublicEndpoint
    (650_059, ConfigurationInvalid),
    (50194, ConfigurationInvalid),
    (50107, ConfigurationInvalid), // InvalidRealmUri
    // Wrong request or registration.
    (50011, ConfigurationInvalid), // InvalidReplyTo
    (500_112, ConfigurationInvalid),
    (500_113, ConfigurationInvalid),
    (900_971, ConfigurationInvalid),
    (70004, ConfigurationInvalid), // InvalidRedirectUri
    (50147, ConfigurationInvalid), // MissingCodeChallenge
    (50148, ConfigurationInvalid),
    (501_481, ConfigurationInvalid),
    (65005, ConfigurationInvalid), // MisconfiguredApplication
    (650_053, ConfigurationInvalid),
    (650_054, ConfigurationInvalid),
    (650_056, ConfigurationInvalid),
    (650_057, ConfigurationInvalid),
    (70003, ConfigurationInvalid), // UnsupportedGrantType
    (70005, ConfigurationInvalid), // UnsupportedResponseType
    (700_051, ConfigurationInvalid),
    (700_054, ConfigurationInvalid),
    (70007, ConfigurationInvalid), // UnsupportedResponseMode
    (28002, ConfigurationInvalid),
    (28003, ConfigurationInvalid),
    (901_002, ConfigurationInvalid),
    (90056, ConfigurationInvalid), // BadResourceRequest
    (900_561, ConfigurationInvalid), // BadResourceRequestInvalidRequest
    (70011, ConfigurationInvalid), // InvalidScope
    (700_022, ConfigurationInvalid), // InvalidMultipleResourcesScope
    (9_002_326, ConfigurationInvalid),
    (9_002_327, ConfigurationInvalid),
    (90009, ConfigurationInvalid), // TokenForItselfMissingIdenticalAppIdentifier
    (90010, ConfigurationInvalid), // NotSupported
    (90016, ConfigurationInvalid), // MissingRequiredClaim
    (90013, ConfigurationInvalid), // InvalidUserInput
    (90014, ConfigurationInvalid), // MissingRequiredField
    (900_144, ConfigurationInvalid),
    (90015, ConfigurationInvalid), // QueryStringTooLong
    (90100, ConfigurationInvalid), // InvalidRequestParameter
    (90112, ConfigurationInvalid),
    (9_001_023, ConfigurationInvalid),
    (75011, ConfigurationInvalid), // NoMatchedAuthnContextInOutputClaims
    (75005, ConfigurationInvalid), // Saml2MessageInvalid
    (76021, ConfigurationInvalid), // ApplicationRequiresSignedRequests
    (76026, ConfigurationInvalid), // RequestIssueTimeExpired
    (50003, ConfigurationInvalid), // MissingSigningKey
    (50008, ConfigurationInvalid), // InvalidSamlToken
    (50146, ConfigurationInvalid), // MissingCustomSigningKey
    (50196, Throttled), // LoopDetected
    // Transient or throttled.
    (50000, UpstreamUnavailable), // TokenIssuanceError
    (50033, UpstreamUnavailable), // RetryableError
    (50087, UpstreamUnavailable), // SasRetryableError
    (50166, UpstreamUnavailable), // ExternalClaimsProviderThrottled
    (50088, Throttled),
    (50086, Unclassified), // SasNonRetryableError
    (40010, UpstreamUnavailable), // OAuth2IdPRetryableServerError
    (40008, Unclassified), // OAuth2IdPUnretryableServerError
    (70012, UpstreamUnavailable), // MsaServerError
    (70018, InteractionRequired), // BadVerificationCode
    (70016, Unclassified), // AuthorizationPending
    (80001, UpstreamUnavailable), // OnPremiseStoreIsNotAvailable
    (80002, UpstreamUnavailable), // OnPremisePasswordValidatorRequestTimedout
    (80005, UpstreamUnavailable), // OnPremisePasswordValidatorUnpredictableWebException
    (80007, UpstreamUnavailable), // OnPremisePasswordValidatorErrorOccurredOnPrem
    (80012, InteractionRequired), // OnPremisePasswordValidationAccountLogonInvalidHours
    (80013, UpstreamUnavailable), // OnPremisePasswordValidationTimeSkew
    (90004, ConfigurationInvalid), // InvalidRequestFormat
    (90006, UpstreamUnavailable), // ExternalServerRetryableError
    (90012, Timeout), // RequestTimeout
    (90085, UpstreamUnavailable), // OrgIdWsFederationSltRedemptionFailed
    (90024, Throttled), // RequestBudgetExceededError
    (90033, UpstreamUnavailable), // MsodsServiceUnavailable
    (90036, UpstreamUnavailable), // MsodsServiceUnretryableFailure
    (90055, Throttled), // TenantThrottlingError
    (90090, UpstreamUnavailable), // GraphRetryableError
    (90091, UpstreamUnavailable), // GraphServiceUnreachable
    (90051, ConfigurationInvalid), // InvalidNationalCloudId
    (90092, Unclassified), // GraphNonRetryableError
    // Not on Microsoft's page: from public reports and collections of sign-in log results (2025).
    // The refresh token is older than its maximum age, or than the sign-in frequency of a policy.
    (700_081, TokenExpired),
    (70045, TokenExpired),
    (700_083, TokenExpired),
    // The grant belongs to another client or tenant, or is malformed.
    (700_007, TokenInvalid),
    (7_000_012, TokenInvalid),
    (7_000_015, TokenInvalid),
    (7_000_026, TokenInvalid),
    // The user must act: device, location, method, browser, notice, age.
    (50187, InteractionRequired),
    (50201, InteractionRequired),
    (50202, InteractionRequired),
    (50204, InteractionRequired),
    (53006, InteractionRequired),
    (53007, InteractionRequired),
    (53008, InteractionRequired),
    (54008, InteractionRequired),
    (54009, InteractionRequired),
    (50015, InteractionRequired),
    (50077, InteractionRequired),
    (50081, InteractionRequired),
    (135_011, InteractionRequired),
    (130_007, InteractionRequired),
    (501_312, InteractionRequired),
    (501_313, InteractionRequired),
    // A policy blocks the access, and will block it again.
    (530_002, AccessBlocked),
    (530_031, AccessBlocked),
    (530_033, AccessBlocked),
    (53005, AccessBlocked),
    (130_501, AccessBlocked),
    (90084, AccessBlocked),
    (500_024, AccessBlocked),
    // The account is not in the tenant (any more), or was a personal one.
    (16003, AccountDisabled),
    (50177, AccountDisabled),
    (50178, AccountDisabled),
    (50197, AccountDisabled),
    (500_200, AccountDisabled),
    (500_201, AccountDisabled),
    (500_202, AccountDisabled),
    (500_204, AccountDisabled),
    // Consent was not given.
    (650_011, ConsentMissing),
    (900_942, ConsentMissing),
    // The application is disabled in this tenant.
    (7_000_116, AppDisabled),
    // Its service principal is not in this tenant.
    (7_000_217, AppMissing),
    // The client's certificate, assertion or federated credential is not accepted.
    (500_183, ClientCredentialInvalid),
    (700_028, ClientCredentialInvalid),
    (700_029, ClientCredentialInvalid),
    (7_000_213, ClientCredentialInvalid),
    (9_002_323, ClientCredentialInvalid),
    (7_000_219, ClientCredentialInvalid),
    (50048, ClientCredentialInvalid),
    (7_000_221, ClientCredentialInvalid),
    (7_000_225, ClientCredentialInvalid),
    (7_000_226, ClientCredentialInvalid),
    (7_000_227, ClientCredentialInvalid),
    (7_000_211, ClientCredentialInvalid),
    (7_000_212, ClientCredentialInvalid),
    // A transient fault at Microsoft.
    (50004, UpstreamUnavailable),
    (90030, UpstreamUnavailable),
    (90031, UpstreamUnavailable),
    (90032, UpstreamUnavailable),
    (90035, UpstreamUnavailable),
    (90039, UpstreamUnavailable),
    (90045, UpstreamUnavailable),
    (90202, UpstreamUnavailable),
    (40014, UpstreamUnavailable),
    (1_002_022, UpstreamUnavailable),
    (1_003_030, UpstreamUnavailable),
    // The request or the registration is wrong.
    (9_002_319, ConfigurationInvalid),
    (9_002_331, ConfigurationInvalid),
    (9_002_332, ConfigurationInvalid),
    (90027, ConfigurationInvalid),
    (1_002_026, ConfigurationInvalid),
];
