//! What happens to pods.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::DURATION_BUCKETS;
use crate::pod::core::Topic;

/// See the module. Clones are the same counters.
#[derive(Clone, Debug)]
pub struct PodMetrics {
    starts: Histogram,
    events: Family<Event, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Event {
    reason: &'static str,
    r#type: &'static str,
}

impl PodMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self {
            starts: Histogram::new(DURATION_BUCKETS),
            events: Family::default(),
        };
        registry.register(
            "holdfast_pod_start_duration_seconds",
            "From when a pod was first seen bound to a node until the API server showed it Running",
            this.starts.clone(),
        );
        registry.register(
            "holdfast_pod_events",
            "Events about pods that there was reason for, by reason; repetitions are not sent",
            this.events.clone(),
        );
        this
    }

    /// A pod runs, so long after it was first seen.
    pub fn started(&self, after: Duration) {
        self.starts.observe(after.as_secs_f64());
    }

    /// There is something to say about a pod.
    pub fn said(&self, topic: Topic) {
        let labels = Event {
            reason: topic.reason,
            r#type: if topic.is_warning {
                "Warning"
            } else {
                "Normal"
            },
        };
        self.events.get_or_create(&labels).inc();
    }
}
