//! How many files and sockets this process may have open at a time.
//!
//! A connection that cannot be taken is a nuisance; a ledger or an API server that cannot be reached because callers
//! hold all descriptors is an outage. So the limit is raised as far as it may be, and callers get a part of it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, as programs in Go do at their start: the soft one is 1024 by default on most
/// systems, for the sake of programs that use `select`.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if current != maximum && setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!(?current, "the limit of open files cannot be raised");
    }
}

/// `wanted`, or a quarter of the limit if that is less.
pub fn share(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    wanted.min(limit / 4).max(1)
}
