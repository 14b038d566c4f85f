//! Whole-program tests: the real parts, or the real program, against the simulator over real sockets.

mod alerting;
mod api;
mod browser;
mod catalogue;
mod certificates;
mod config;
mod crash;
mod documents;
mod handover;
mod harness;
mod hostile;
mod layers;
mod listener;
mod metrics;
mod packaging;
mod pages;
mod probing;
mod program;
mod prometheus;
mod reauth;
mod reload;
mod secrets;
mod systemd;
mod tools;
mod visitor;
mod web_config;
