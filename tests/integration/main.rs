//! Whole-program tests: the real parts, or the real program, against the simulator over real sockets.

// A table of cases is as long as the rule that it shows has cases.
#![allow(clippy::too_many_lines)]

mod access;
mod addresses;
mod alerting;
mod api;
mod brake;
mod browser;
mod catalogue;
mod certificates;
mod config;
mod configuration;
mod crash;
mod credentials;
mod daemon;
mod documents;
mod evidence;
mod expiry;
mod fleet;
mod grouping;
mod groups;
mod history;
mod hostile;
mod identities;
mod inputs;
mod layers;
mod listener;
mod load;
mod mail;
mod mail_account;
mod mail_sessions;
mod metrics;
mod packaging;
mod pages;
mod probing;
mod program;
mod prometheus;
mod provisioning;
mod reauth;
mod reauth_links;
mod reauth_safety;
mod reload;
mod reminders;
mod requests;
mod secrets;
mod smtp;
mod storage;
mod systemd;
mod tools;
mod truth;
mod visitor;
mod web_config;
mod webhook;
mod world;
