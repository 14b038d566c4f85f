//! What Consentry knows and decides, without side effects: integrations, evidence, reasons, verdicts, alerts.
//!
//! Everything here is a plain value or a pure function of plain values. There is no I/O, no async, no serialisation format, no clock and no
//! randomness in this folder: `now` and jitter are arguments. This keeps the rules in one place and lets tests be tables.

mod alert;
mod announcement;
mod brake;
mod cause;
mod cause_key;
mod cloud;
mod contradiction;
mod credential;
mod day;
mod diagnose;
mod diagnosis;
mod evidence;
mod flapping;
mod fold;
mod integration;
mod mail_address;
mod notification;
mod permission;
mod provisioning;
mod reason;
mod record;
mod schedule;
mod text;
mod time;
mod verdict;
mod verification;

pub use alert::{
    AlertChange, AlertEvent, AlertPolicy, AlertProgress, Judgement, Mail, Notify, OpenAlert, Snooze,
    change_alert,
};
pub use announcement::{Announced, DelayedMail, announcements};
pub use brake::{Brake, BrakeAction, BrakeChange, BrakePolicy, HeldMails, HeldPeriod, Hold};
pub use cause::{Cause, CauseChange, CauseChanges, CausePolicy, Causes, Member, Progress};
pub use cause_key::{Affected, Belongs, Probed, affected_by, credential_of_cause, wanted_causes};
pub use cloud::Cloud;
pub use credential::{
    CredentialKind, CredentialSource, CredentialState, Hint, ListedCredential, OwnCredential,
    ReaderCredentials, Registration, Standing, Warning,
};
pub use day::{Cell, Day, HOURS};
pub use diagnose::diagnose;
pub use diagnosis::{CheckResult, Details, Diagnosis, ListedCredentials, Outcome, PermissionState};
pub use evidence::{
    CredentialEvidence, Directory, Evidence, Fault, Groups, OwnToken, Presence, RequiredGroup,
    ResourceGrants, RoleEvidence, ScopeGrant,
};
pub use flapping::Recent;
pub use fold::{ProbeEnd, fold, within_grace_period};
pub use integration::{
    Access, CredentialExpiry, Grant, GroupPolicy, GroupRef, OPENID_SCOPES, RequiredPermissions, Requirements,
    SIGN_IN_SCOPES, same_permission,
};
pub use mail_address::{parse_hello, parse_mail_address, parse_mailbox};
pub use notification::{BrakeNotice, Incident, LinkTarget, MailKind, Notification, Obstacle, Undeliverable};
pub use permission::{GRAPH_APP_ID, permission_purpose};
pub use provisioning::{JobCondition, JobState, NO_SCIM_BY_CONSENT, ProvisioningJob, Quarantine, advice};
pub use reason::{Audience, Check, PROVISIONING_STAYS, Reason, Remedy};
pub use record::{ExternalSignIn, IntegrationRecord};
pub use schedule::{Backoff, History, SchedulePolicy};
pub use text::{consequence, foreign, invitation, one_line};
pub use time::Timestamp;
pub use verdict::{
    Blind, CheckState, Dark, GoodView, Health, IntegrationState, KnownGroup, Named, Thresholds, Verdict,
};
pub use verification::{RESUMABLE, UNTIL_VERIFIED, VERIFICATION_PROBES, VERIFICATION_WINDOW, Verification};
