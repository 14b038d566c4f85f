//! How many files and sockets this process may have open (`getrlimit(2)`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit in effect; `None` for none.
pub(super) fn descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises the limit as far as an unprivileged process may. Shells and service managers set it low for the sake of programs that use
/// `select(2)`, which we do not.
pub(super) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
