//! Node leases: a heartbeat of its own every ten seconds, behind nothing else.
//!
//! A late lease costs more than anything here: after 40 seconds the node controller calls the
//! node unreachable and turns every pod on it unready. So this lane has its own connections, a
//! deadline on every renewal and few requests at a time, and it waits for no other part. It
//! renews only what [`NodeTable`] shows as registered.

use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use holdfast_provider::id::NodeName;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::schedule::{Outage, Schedule};
use super::table::NodeTable;
use crate::pause::{Backoff, jitter};

/// Namespace of all node leases.
pub(super) const NAMESPACE: &str = "kube-node-lease";
/// As a kubelet has them: `nodeLeaseDurationSeconds` 40, renewed after a quarter of it.
const DURATION_S: i32 = 40;
const RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// Leaves time for several tries before a lease runs out.
const RENEW_TIMEOUT: Duration = Duration::from_secs(5);
/// An unregistered node has no lease; this is how soon a registered one gets its first.
const UNREGISTERED_INTERVAL: Duration = Duration::from_secs(1);
/// Sockets of the lane, as many as are needed. At 100 ms a renewal, by an API server that others keep busy, this carries
/// 6,400 nodes.
const RENEWALS_MAX: usize = 64;
/// Others write to a lease when they delete or label it, not in a loop.
const CONFLICTS_MAX: usize = 5;

/// One node of the lane.
struct Beat {
    node: NodeName,
    /// As the API server last answered; renewing it takes one request.
    lease: Option<Lease>,
    backoff: Backoff,
}

/// The lease of a node was not renewed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the API server refused or could not be reached")]
    Request(#[source] kube::Error),
    #[error("somebody else changed the lease {CONFLICTS_MAX} times meanwhile")]
    Contended,
    #[error("no answer within {} s", RENEW_TIMEOUT.as_secs())]
    TimedOut,
}

/// Renews the leases of all registered nodes of `table` until `shutdown`.
pub(super) async fn run(client: Client, table: NodeTable, shutdown: CancellationToken) {
    let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let mut beats: Vec<Beat> = table
        .all()
        .iter()
        .map(|node| Beat {
            node: node.spec.name.clone(),
            lease: None,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(7)),
        })
        .collect();
    let mut schedule = Schedule::new(beats.len());
    let start = Instant::now();
    for index in 0..beats.len() {
        schedule.no_later_than(index, start);
    }
    let mut outage = Outage::new("renew node leases");
    let mut renewals = FuturesUnordered::new();

    loop {
        let wake = schedule.first().filter(|_| renewals.len() < RENEWALS_MAX);
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some((index, renewed)) = renewals.next() => {
                let beat: &mut Beat = &mut beats[index];
                let next = match renewed {
                    Ok(lease) => {
                        outage.worked(index);
                        beat.backoff.worked();
                        // A first lease comes right after registration, together with many.
                        let share = if beat.lease.is_none() { 90 } else { 10 };
                        beat.lease = Some(lease);
                        jitter(RENEW_INTERVAL, share)
                    }
                    Err(error) => {
                        outage.failed(index, beat.node.as_str(), &error);
                        beat.lease = None;
                        jitter(beat.backoff.failed(), 20)
                    }
                };
                schedule.no_later_than(index, Instant::now() + next);
            }
            () = sleep_until(wake.unwrap_or(start)), if wake.is_some() => {
                let now = Instant::now();
                let Some(index) = schedule.pop(now) else { continue };
                let beat = &beats[index];
                let uid = table.get(&beat.node).and_then(|node| node.uid.clone());
                let Some(uid) = uid else {
                    schedule.no_later_than(index, now + UNREGISTERED_INTERVAL);
                    continue;
                };
                let renewal = renew(leases.clone(), beat.node.clone(), uid, beat.lease.clone());
                renewals.push(renewal.map(move |renewed| (index, renewed)).boxed());
            }
        }
    }
}

/// Renews the lease within its deadline. `lease` is what it was when last seen.
async fn renew(
    leases: Api<Lease>,
    node: NodeName,
    uid: impl AsRef<str>,
    lease: Option<Lease>,
) -> Result<Lease, Error> {
    let attempts = write(&leases, node.as_str(), uid.as_ref(), lease);
    tokio::time::timeout(RENEW_TIMEOUT, attempts)
        .await
        .map_err(|_| Error::TimedOut)?
}

async fn write(
    leases: &Api<Lease>,
    node: &str,
    uid: &str,
    mut known: Option<Lease>,
) -> Result<Lease, Error> {
    let params = PostParams::default();
    for _ in 0..CONFLICTS_MAX {
        let found = match known.take() {
            Some(lease) => Some(lease),
            None => leases.get_opt(node).await.map_err(Error::Request)?,
        };
        let renewed = renewed(found.as_ref(), node, uid, Timestamp::now());
        let answer = match found {
            Some(_) => leases.replace(node, &params, &renewed).await,
            None => leases.create(&params, &renewed).await,
        };
        match answer {
            Ok(mut lease) => {
                // Left out of a PUT they stay as they are, and they are half of the object.
                lease.metadata.managed_fields = None;
                return Ok(lease);
            }
            Err(kube::Error::Api(status))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() => {}
            Err(error) => return Err(Error::Request(error)),
        }
    }
    Err(Error::Contended)
}

/// The lease of `node` as it must be at `now`: ours, owned by the Node with `uid`, and what
/// others put on it.
fn renewed(lease: Option<&Lease>, node: &str, uid: &str, now: Timestamp) -> Lease {
    let mut lease = lease.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let owners = lease.metadata.owner_references.get_or_insert_default();
    if !owners.iter().any(|owner| owner.uid == uid) {
        // An owner that is gone would have the garbage collector delete the lease.
        owners.retain(|owner| owner.kind != "Node");
        owners.push(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        });
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(node.to_owned());
    spec.lease_duration_seconds = Some(DURATION_S);
    // The node controller takes only a later time for a sign of life (`tryUpdateNodeHealth` in
    // pkg/controller/nodelifecycle), so a clock that was set back must not show.
    let last = spec.renew_time.as_ref().map(|last| last.0);
    let next = last.and_then(|last| last.checked_add(SignedDuration::from_micros(1)).ok());
    spec.renew_time = Some(MicroTime(next.map_or(now, |next| next.max(now))));
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_first_lease_belongs_to_its_node() {
        let now = at("2026-11-24T10:00:00Z");
        let lease = renewed(None, "n", "uid-1", now);

        assert_eq!(lease.metadata.owner_references.unwrap()[0].uid, "uid-1");
        let spec = lease.spec.unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some("n"));
        assert_eq!(spec.lease_duration_seconds, Some(40));
        assert_eq!(spec.renew_time.unwrap().0, now);
    }

    #[test]
    fn a_renewal_keeps_what_others_put_on_the_lease() {
        let mut lease = renewed(None, "n", "uid-1", at("2026-11-24T10:00:00Z"));
        lease.metadata.resource_version = Some("7".to_owned());
        lease.metadata.labels = Some([("team".to_owned(), "a".to_owned())].into());
        let again = renewed(Some(&lease), "n", "uid-1", at("2026-11-24T10:00:10Z"));

        assert_eq!(again.metadata, lease.metadata);
        assert_ne!(again.spec, lease.spec);
    }

    #[test]
    fn a_renewal_under_a_clock_that_was_set_back_is_later_than_the_last() {
        let last = at("2026-11-24T10:00:00Z");
        let lease = renewed(None, "n", "uid-1", last);
        let again = renewed(Some(&lease), "n", "uid-1", at("2026-11-24T09:00:00Z"));

        let renewed = again.spec.unwrap().renew_time.unwrap().0;
        assert_eq!(renewed.duration_since(last), SignedDuration::from_micros(1));
    }

    #[test]
    fn a_node_that_was_made_again_takes_its_lease_over() {
        let lease = renewed(None, "n", "uid-1", at("2026-11-24T10:00:00Z"));
        let again = renewed(Some(&lease), "n", "uid-2", at("2026-11-24T10:00:10Z"));

        let owners: Vec<_> = again
            .metadata
            .owner_references
            .unwrap()
            .into_iter()
            .map(|owner| owner.uid)
            .collect();
        assert_eq!(owners, ["uid-2"]);
    }
}
