//! What Prometheus scrapes: process-wide counters through the `prometheus` crate, and the families that have a series
//! for each integration, which are written when a probe ends and only concatenated when a scrape comes.

mod exposition;
mod families;
mod published;

pub use exposition::{Format, negotiate, write, write_one};
pub use families::{EmailFailure, Families};
pub use published::Published;
