//! The leases of nodes, as the node controller sees them: when each renewal arrives.
//!
//! Times are taken where the watch event arrives and not from `renewTime`, since the node controller does not trust
//! another machine's clock either.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_testbed::ControlPlane;
use prost::Message;
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::feed::{Change, Feed, Metadata, View};

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

#[derive(Clone, PartialEq, Message)]
struct LeaseView {
    #[prost(message, required, tag = "1")]
    metadata: Metadata,
    #[prost(message, required, tag = "2")]
    spec: Spec,
}

#[derive(Clone, PartialEq, Message)]
struct Spec {
    #[prost(int32, tag = "2")]
    lease_duration_seconds: i32,
    #[prost(message, optional, tag = "4")]
    renew_time: Option<MicroTime>,
}

/// Of k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct MicroTime {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl View for LeaseView {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// A lease that is kept.
#[derive(Clone, Debug)]
struct Kept {
    duration: Duration,
    renew_time: Option<MicroTime>,
    renewed: Instant,
}

/// What became of all leases since [`Leases::begin`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Renewals {
    pub(crate) leases: usize,
    pub(crate) writes_per_s: f64,
    /// Times that a lease was not renewed for longer than its own `leaseDurationSeconds`.
    pub(crate) missed: usize,
    /// The longest time between two renewals of one lease, one that is still open included.
    pub(crate) longest_gap_s: f64,
}

#[derive(Debug)]
struct Book {
    /// Nodes whose names do not begin with this are others'.
    prefix: String,
    leases: HashMap<String, Kept>,
    began: Instant,
    writes: usize,
    missed: usize,
    longest: Duration,
}

impl Book {
    fn new(prefix: &str, now: Instant) -> Self {
        Self {
            prefix: prefix.to_owned(),
            leases: HashMap::new(),
            began: now,
            writes: 0,
            missed: 0,
            longest: Duration::ZERO,
        }
    }

    fn note(&mut self, change: Change<LeaseView>, now: Instant) {
        match change {
            Change::Is(lease) if lease.metadata.name.starts_with(&self.prefix) => {
                let seconds = lease.spec.lease_duration_seconds;
                let duration = Duration::from_secs(seconds.try_into().unwrap_or_default());
                let kept = Kept {
                    duration,
                    renew_time: lease.spec.renew_time,
                    renewed: now,
                };
                if let Some(last) = self.leases.get(&lease.metadata.name) {
                    // Somebody else's write, such as an owner that is added, is no heartbeat.
                    if last.renew_time == kept.renew_time {
                        return;
                    }
                    let gap = now - last.renewed;
                    self.longest = self.longest.max(gap);
                    self.missed += usize::from(gap > last.duration);
                }
                self.writes += 1;
                self.leases.insert(lease.metadata.name, kept);
            }
            Change::Is(_) => {}
            Change::Gone(lease) => {
                self.leases.remove(&lease.metadata.name);
            }
        }
    }

    fn renewals(&self, now: Instant) -> Renewals {
        let open = |kept: &Kept| now.saturating_duration_since(kept.renewed);
        let overdue = self.leases.values().filter(|it| open(it) > it.duration);
        let longest = self.leases.values().map(open).max().unwrap_or_default();
        Renewals {
            leases: self.leases.len(),
            writes_per_s: self.writes as f64 / (now - self.began).as_secs_f64(),
            missed: self.missed + overdue.count(),
            longest_gap_s: self.longest.max(longest).as_secs_f64(),
        }
    }
}

/// See the module. Ends its watch when dropped.
pub(crate) struct Leases {
    book: Arc<Mutex<Book>>,
    watch: JoinHandle<Result<()>>,
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Leases {
    /// Watches the leases of the nodes whose names begin with `prefix`.
    ///
    /// # Errors
    /// The watch cannot be made.
    pub(crate) async fn start(plane: &ControlPlane, prefix: &str) -> Result<Self> {
        let mut feed = Feed::<LeaseView>::open(plane.client().await?, PATH).await?;
        let book = Arc::new(Mutex::new(Book::new(prefix, Instant::now())));
        let kept = Arc::clone(&book);
        let watch = tokio::spawn(async move {
            loop {
                let change = feed.next().await.context("the lease watch ended")?;
                lock(&kept).note(change, Instant::now());
            }
        });
        Ok(Self { book, watch })
    }

    /// How many leases there are now.
    pub(crate) fn count(&self) -> usize {
        lock(&self.book).leases.len()
    }

    /// Counts from now on. A gap that is open counts whole when it ends.
    pub(crate) fn begin(&self) {
        let mut book = lock(&self.book);
        book.began = Instant::now();
        (book.writes, book.missed, book.longest) = (0, 0, Duration::ZERO);
    }

    /// What has been counted until now.
    ///
    /// # Errors
    /// The watch has ended, so that the counts would be wrong.
    pub(crate) fn renewals(&self) -> Result<Renewals> {
        ensure!(!self.watch.is_finished(), "the lease watch has ended");
        Ok(lock(&self.book).renewals(Instant::now()))
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewal(name: &str, seconds: i64) -> Change<LeaseView> {
        Change::Is(LeaseView {
            metadata: Metadata {
                name: name.to_owned(),
                resource_version: "1".to_owned(),
            },
            spec: Spec {
                lease_duration_seconds: 40,
                renew_time: Some(MicroTime { seconds, nanos: 0 }),
            },
        })
    }

    #[test]
    fn a_lease_is_missed_when_it_is_renewed_after_its_duration_or_not_at_all() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut book = Book::new("n-", began);
        for name in ["n-1", "n-2", "n-3", "other"] {
            book.note(renewal(name, 0), began);
        }
        book.note(renewal("n-1", 1), at(40));
        book.note(renewal("n-2", 1), at(41));
        book.note(renewal("n-1", 1), at(45));
        let renewals = book.renewals(at(50));
        assert_eq!(renewals.leases, 3);
        assert_eq!(renewals.missed, 2, "n-2 came late and n-3 not at all");
        assert!((renewals.longest_gap_s - 50.0).abs() < 1e-9, "n-3's");
        assert!((renewals.writes_per_s - 0.1).abs() < 1e-9, "{renewals:?}");
    }
}
