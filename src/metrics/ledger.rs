//! What the ledger's writer does, turn by turn.

use std::borrow::Cow;

use holdfast_provider::ledger::{Allocated, Turn};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::DURATION_BUCKETS;

/// See the module. Clones are the same counters.
#[derive(Clone, Debug)]
pub struct LedgerMetrics {
    jobs: Family<Job, Counter>,
    commits: Histogram,
    calls: Family<Call, Counter>,
    allocations: Family<Allocation, Counter>,
    closed: Family<Closed, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Job {
    job: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    action: &'static str,
    /// `ok`, or the ECS error code.
    outcome: Cow<'static, str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Allocation {
    vswitch: String,
    kind: &'static str,
    how: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Closed {
    reason: &'static str,
}

impl LedgerMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let this = Self {
            jobs: Family::default(),
            commits: Histogram::new(DURATION_BUCKETS),
            calls: Family::default(),
            allocations: Family::default(),
            closed: Family::default(),
        };
        registry.register(
            "holdfast_ledger_jobs",
            "Ledger operations by kind, and whether they were committed",
            this.jobs.clone(),
        );
        registry.register(
            "holdfast_ledger_commit_duration_seconds",
            "From BEGIN until the COMMIT of a group of ledger operations was durable",
            this.commits.clone(),
        );
        registry.register(
            "holdfast_cloud_calls",
            "Answered calls to the simulated cloud by ECS action; outcome is ok or the ECS error code",
            this.calls.clone(),
        );
        registry.register(
            "holdfast_allocations",
            "Addresses that pods got; kind is fixed or ordinary, how is allocated, reused or imported",
            this.allocations.clone(),
        );
        registry.register(
            "holdfast_claims_ended",
            "Claims on fixed addresses that ended, by reason",
            this.closed.clone(),
        );
        this
    }

    /// Counts a turn of the writer.
    pub fn count(&self, turn: &Turn) {
        for ((job, is_ok), count) in &turn.jobs {
            let outcome = if *is_ok { "ok" } else { "failed" };
            let labels = Job { job, outcome };
            self.jobs.get_or_create(&labels).inc_by(*count);
        }
        if let Some(took) = turn.commit {
            self.commits.observe(took.as_secs_f64());
        }
        for (called, count) in &turn.calls {
            let outcome = match &*called.code {
                "" => Cow::Borrowed("ok"),
                _ => called.code.clone(),
            };
            let labels = Call {
                action: called.action,
                outcome,
            };
            self.calls.get_or_create(&labels).inc_by(*count);
        }
        for (
            Allocated {
                vswitch,
                fixed,
                how,
            },
            count,
        ) in &turn.allocated
        {
            let labels = Allocation {
                vswitch: vswitch.to_string(),
                kind: if *fixed { "fixed" } else { "ordinary" },
                how,
            };
            self.allocations.get_or_create(&labels).inc_by(*count);
        }
        for (reason, count) in &turn.closed {
            self.closed.get_or_create(&Closed { reason }).inc_by(*count);
        }
    }
}
