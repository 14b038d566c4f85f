//! The purposes of permissions, in words for somebody who has never heard of scopes.

use super::integration::same_permission;

/// Application id of Microsoft Graph, the same in every tenant (Microsoft, `verify-first-party-apps-sign-in.md`).
pub const GRAPH_APP_ID: &str = "00000003-0000-0000-c000-000000000000";

/// Purposes of the permissions that integrations of this kind ask for (names: Microsoft Graph, `permissions-reference.md`).
const PURPOSES: &[(&str, &str)] = &[
    ("openid", "Signs you in."),
    ("profile", "Knows who signed in."),
    ("email", "Knows the mail address of who signed in."),
    ("offline_access", "Stays connected without asking you to sign in again every hour."),
    ("User.Read", "Reads the profile of the person who signs in."),
    ("User.Read.All", "Reads the people of your organization, so that the right ones get access."),
    ("User.ReadBasic.All", "Reads names and addresses of your people, so that the right ones get access."),
    ("Group.Read.All", "Reads your groups and who belongs to them, so that the right people get access."),
    ("Group.ReadBasic.All", "Reads the names of your groups."),
    ("GroupMember.Read.All", "Reads who belongs to which group, so that the right people get access."),
    ("Directory.Read.All", "Reads your directory: people, groups and applications. Changes nothing."),
    (
        "Application.Read.All",
        "Reads which applications are set up and when their credentials expire. Changes nothing.",
    ),
    ("Synchronization.Read.All", "Reads whether provisioning is running. Changes nothing."),
    ("Organization.Read.All", "Reads the name of your organization."),
    ("AuditLog.Read.All", "Reads the sign-in and audit logs. Changes nothing."),
];

/// The purpose of a permission. For an unknown one, its name shows whether it reads or writes.
pub fn permission_purpose(value: &str) -> &'static str {
    let known = PURPOSES.iter().find(|(name, _)| same_permission(name, value)).map(|(_, purpose)| *purpose);
    known.unwrap_or_else(|| {
        if value.contains("Write") {
            "Needed by the application. It may read and change what the name says."
        } else {
            "Needed by the application."
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_permission_has_a_purpose() {
        for (value, part) in
            [("group.read.all", "your groups"), ("Mail.ReadWrite", "change"), ("door.open", "Needed")]
        {
            assert!(permission_purpose(value).contains(part), "{value}");
        }
    }
}
