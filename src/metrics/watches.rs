//! What happens to the watches by which pods and nodes are seen.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// See the module. Clones are the same counters.
#[derive(Clone, Debug)]
pub struct WatchMetrics {
    restarts: Family<Watched, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Watched {
    resource: &'static str,
}

impl WatchMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let restarts = Family::<Watched, Counter>::default();
        for resource in ["pods", "nodes"] {
            drop(restarts.get_or_create(&Watched { resource }));
        }
        registry.register(
            "holdfast_watch_restarts",
            "Watches of the API server that broke off with an error and were started again",
            restarts.clone(),
        );
        Self { restarts }
    }

    /// The watch of this resource broke off.
    pub fn broke(&self, resource: &'static str) {
        self.restarts.get_or_create(&Watched { resource }).inc();
    }
}
