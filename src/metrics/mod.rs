//! The metrics for Prometheus: process-wide counters through the `prometheus` crate, and families with a series for each integration, which
//! are written when a probe ends and only concatenated for a scrape.

mod exposition;
mod families;
mod published;

pub use exposition::{Format, negotiate, write, write_one};
pub use families::{EmailFailure, Families};
pub use published::Published;
