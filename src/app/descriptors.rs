//! The limit of open file descriptors of this process (`getrlimit(2)`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit in effect; `None` for unlimited.
pub(super) fn descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// The number of probes at once that leaves file descriptors for the rest. Each may have a connection to the login host and one to Graph.
pub(super) fn probes(configured: usize, descriptors: Option<u64>) -> usize {
    let fit = |limit: u64| usize::try_from(limit.saturating_sub(48) / 4).unwrap_or(usize::MAX).max(1);
    descriptors.map_or(configured, |limit| configured.min(fit(limit)))
}

/// Raises the limit as far as an unprivileged process may. Shells and service managers set it low for programs that use `select(2)`, which
/// Consentry does not.
pub(super) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_leave_file_descriptors() {
        for (limit, expected) in [(None, 64), (Some(64), 4), (Some(160), 28), (Some(1024), 64), (Some(10), 1)]
        {
            assert_eq!(probes(64, limit), expected, "{limit:?}");
        }
    }
}
