//! Probes the fleet: the scheduler selects the integrations that are due, the prober gathers evidence, the evaluator folds it into
//! verdicts.
//!
//! Every step is a plain method that takes the time from its [`crate::clock::Clock`], so that tests can simulate a week in seconds.

mod braking;
mod changes;
mod evaluator;
mod kept;
mod listings;
mod policy;
mod prober;
mod reconfigure;
mod runner;
mod scheduler;
mod snoozing;

pub use evaluator::{ConfigGuard, Evaluator, Outputs, ProbeMeta};
pub use policy::Policy;
pub use prober::{ProbeRequest, Probed, Prober, ReaderClient, Target};
pub use runner::{Change, ConfigDiff, Monitor, ProbeLimits, Setup, Targets, VerificationListener};
pub use scheduler::{Ended, Schedule};
