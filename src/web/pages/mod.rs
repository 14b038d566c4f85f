//! The HTML pages.

pub(super) mod badge;
pub(super) mod brake;
pub(super) mod events;
pub(super) mod integration;
pub(super) mod layout;
pub(super) mod links;
pub(super) mod not_found;
pub(super) mod reauth;
mod reauth_result;
pub(super) mod snooze;
pub(super) mod status;
