//! What `/metrics` tells, in Prometheus' text format.
//!
//! Owns the names and labels of all metrics, and the counters: those who do the work raise them
//! while they do it. What is merely there (addresses, claims, pods) is not counted along but looked
//! up when somebody asks, so that it cannot drift. No label has a value for each pod, address or
//! node: there may be tens of thousands. It does not know who may ask (the kubelet API does).

mod gauges;
mod ledger;
mod pods;
mod process;
mod requests;
#[cfg(test)]
mod tests;
mod watches;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::prometheus_text::{self, encode};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use gauges::Moment;
pub use ledger::LedgerMetrics;
pub use pods::PodMetrics;
pub use process::Process;
pub use requests::Requests;
pub use watches::WatchMetrics;

/// `Content-Type` of what [`Metrics::text`] gives.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Upper ends of the buckets of durations, in seconds: from a COMMIT without a sync to the
/// patience of a person.
const DURATION_BUCKETS: [f64; 14] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// All counters of the process. Clones are the same counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// What the ledger's writer does.
    pub ledger: LedgerMetrics,
    /// What happens to pods.
    pub pods: PodMetrics,
    /// What happens to watches.
    pub watches: WatchMetrics,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

impl Metrics {
    /// Counters that start at zero, beside those of the clients' `requests`.
    pub fn new(requests: &Requests) -> Self {
        let mut registry = Registry::default();
        let build = Build {
            version: env!("CARGO_PKG_VERSION"),
        };
        registry.register(
            "holdfast_build",
            "The version of holdfast that runs",
            Info::new(build),
        );
        requests.register(&mut registry);
        let ledger = LedgerMetrics::register(&mut registry);
        let pods = PodMetrics::register(&mut registry);
        let watches = WatchMetrics::register(&mut registry);
        Self {
            registry: Arc::new(registry),
            ledger,
            pods,
            watches,
        }
    }

    /// Everything, with what is there at this moment.
    ///
    /// # Errors
    /// Never: a `String` takes all text.
    pub fn text(&self, moment: &Moment) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &moment.registry())?;
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
