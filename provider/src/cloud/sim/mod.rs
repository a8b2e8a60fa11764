//! stub

/// Latencies, quotas and faults.
#[derive(Clone, Debug, Default)]
pub struct Config {}
