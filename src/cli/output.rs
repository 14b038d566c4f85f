//! Output that several commands share.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::config::{Config, Integration, Loaded, Problem, load};

/// Prints to standard output. A closed pipe (`| head`) is not an error.
pub(super) fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Reads a configuration, or prints its problems.
pub(super) fn loaded(file: &Path) -> anyhow::Result<Loaded> {
    valid(load(file))
}

/// A valid configuration; otherwise prints its problems to standard error.
pub(super) fn valid<T>(read: Result<T, Vec<Problem>>) -> anyhow::Result<T> {
    read.map_err(|problems| {
        print_problems(&problems);
        anyhow::anyhow!("the configuration is invalid: {}", count(problems.len(), "problem"))
    })
}

pub(super) fn print_problems(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}

pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

pub(super) fn integration<'c>(config: &'c Config, name: &str) -> anyhow::Result<&'c Integration> {
    config.integrations.iter().find(|i| i.name == name).with_context(|| {
        let names = config.integrations.iter().map(|i| i.name.as_str());
        let nearest = names.min_by_key(|n| strsim::damerau_levenshtein(n, name));
        nearest.map_or_else(
            || "no integration is configured".to_owned(),
            |n| format!("no integration is called {name}; the nearest is {n}"),
        )
    })
}
