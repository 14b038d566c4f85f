//! Probing the fleet: the scheduler says who is due, the prober gathers evidence, the evaluator folds it into verdicts.
//!
//! Every step is a plain method that takes the time from the [`crate::clock::Clock`] it was given, so that a week passes in a
//! test in seconds.

mod changes;
mod evaluator;
mod policy;
mod prober;
mod reconfigure;
mod runner;
mod scheduler;

pub use evaluator::{ConfigGuard, Evaluator, Outputs, ProbeMeta};
pub use policy::Policy;
pub use prober::{Probed, Prober, ReaderClient, Target};
pub use runner::{
    Change, ConfigDiff, Monitor, ProbeLimits, Setup, Targets, Verification, VerificationListener,
};
pub use scheduler::{Ended, Schedule};
