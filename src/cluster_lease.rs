//! One ledger per cluster: the Lease `kube-system/holdfast`, held by the ledger's own id.
//!
//! Owns taking, renewing, losing and giving back that Lease. A restart on the same ledger takes
//! over at once; a second ledger is refused while the first one lives. Two processes on one
//! ledger file are the file lock's business; should a copy of the file be in use elsewhere, the
//! later process wins and the earlier one stops.
//!
//! Whether another holder lives is judged as client-go does: by whether its `renewTime` still
//! changes, timed by the local monotonic clock. Wall clocks of two machines are never compared,
//! so a skewed one can neither steal the Lease nor keep it for ever. The price: taking the Lease
//! of a ledger that died takes its whole duration, and refusing a live one a renewal interval.
//!
//! While the API server is away nobody can take the Lease, so holding goes on; the first renewal
//! after that tells. A process that was stopped for a while, or was cut off alone, may have lost it
//! without knowing: its [`Tenure`] is uncertain until a renewal succeeds, and it writes no pod.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "holdfast";
/// Tells two processes on copies of one ledger apart.
const INSTANCE: &str = "holdfast.dev/instance";
const DURATION_S: i32 = 15;
const DURATION: Duration = Duration::from_secs(DURATION_S.unsigned_abs() as u64);
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at somebody else's Lease, and after a failed renewal.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// For one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The Lease was not taken, or not kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another ledger serves the cluster.
    #[error(
        "ledger {holder} serves this cluster: it holds the Lease kube-system/holdfast until \
         {until} and keeps renewing it; stop that holdfast, or take its place with `holdfast run --take-over`"
    )]
    Held {
        /// The other ledger's id.
        holder: String,
        /// When its Lease runs out by its own clock.
        until: Timestamp,
    },
    /// Somebody else took the Lease while this process held it.
    #[error("lost the Lease kube-system/holdfast to {holder}, which serves this cluster now")]
    Lost {
        /// Who has it now.
        holder: String,
    },
    /// The API server refused or could not be reached.
    #[error("cannot read or write the Lease kube-system/holdfast")]
    Request(#[source] kube::Error),
    /// The API server did not answer.
    #[error("no answer within {} s for the Lease kube-system/holdfast", REQUEST_TIMEOUT.as_secs())]
    TimedOut,
}

/// What to do about the Lease as it was found.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    /// There is none: create it.
    Create,
    /// It is free, ours, or ran out: write it.
    Take,
    /// Somebody else holds it, and it is not known yet whether they live: look again.
    Watch,
    /// Somebody else holds it and renewed it since we began to look.
    Held { holder: String, until: Timestamp },
}

/// Somebody else's Lease as first seen.
#[derive(Clone, Debug, PartialEq)]
struct Sighting {
    holder: String,
    renewed: Option<Timestamp>,
    at: Instant,
}

/// Decides about `lease`. `sighting` is kept between calls and belongs to one attempt.
fn evaluate(
    lease: Option<&Lease>,
    me: &str,
    sighting: &mut Option<Sighting>,
    now: Instant,
) -> Verdict {
    let Some(lease) = lease else {
        return Verdict::Create;
    };
    let holder = holder(lease);
    if holder.is_empty() || holder == me {
        return Verdict::Take;
    }
    let spec = lease.spec.as_ref();
    let renewed = spec
        .and_then(|spec| spec.renew_time.as_ref())
        .map(|time| time.0);
    let duration_s = spec
        .and_then(|spec| spec.lease_duration_seconds)
        .unwrap_or(DURATION_S);
    let Some(first) = sighting.as_ref().filter(|first| first.holder == holder) else {
        *sighting = Some(Sighting {
            holder: holder.to_owned(),
            renewed,
            at: now,
        });
        return Verdict::Watch;
    };
    if first.renewed != renewed {
        let duration = SignedDuration::from_secs(duration_s.into());
        let until = renewed
            .and_then(|at| at.checked_add(duration).ok())
            .unwrap_or_default();
        return Verdict::Held {
            holder: holder.to_owned(),
            until,
        };
    }
    let duration = Duration::from_secs(duration_s.max(0).unsigned_abs().into());
    if now.duration_since(first.at) > duration {
        Verdict::Take
    } else {
        Verdict::Watch
    }
}

/// The Lease to write over `found` at `now`.
fn claimed(found: Option<Lease>, me: &str, instance: &str, now: Timestamp) -> Lease {
    let mut lease = found.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let changes_hands = holder(&lease) != me;
    let begins = self::instance(&lease) != Some(instance);
    lease.metadata.managed_fields = None;
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.insert(INSTANCE.to_owned(), instance.to_owned());
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if changes_hands {
        spec.lease_transitions = spec.lease_transitions.map(|count| count.saturating_add(1));
        spec.holder_identity = Some(me.to_owned());
    }
    if begins {
        spec.acquire_time = Some(MicroTime(now));
    }
    spec.lease_transitions.get_or_insert(0);
    spec.lease_duration_seconds = Some(DURATION_S);
    spec.renew_time = Some(MicroTime(now));
    lease
}

fn holder(lease: &Lease) -> &str {
    lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default()
}

fn instance(lease: &Lease) -> Option<&str> {
    lease
        .metadata
        .annotations
        .as_ref()?
        .get(INSTANCE)
        .map(String::as_str)
}

/// The time since the machine started, sleep included: others go on while it sleeps, and a
/// monotonic clock does not.
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// Whether the Lease is ours for certain.
#[derive(Clone, Debug)]
pub struct Tenure(Option<watch::Receiver<Duration>>);

impl Tenure {
    /// One that has run out.
    #[cfg(test)]
    pub(crate) fn lapsed() -> Self {
        let long_ago = since_boot().checked_sub(DURATION * 2);
        let (_, renewed) = watch::channel(long_ago.expect("the machine runs for longer"));
        Self(Some(renewed))
    }

    /// For a cluster that nobody else can serve.
    pub fn unshared() -> Self {
        Self(None)
    }

    /// Whether it is.
    pub fn is_certain(&self) -> bool {
        self.is_certain_at(since_boot())
    }

    /// Nobody takes a Lease within its duration of a renewal.
    fn is_certain_at(&self, now: Duration) -> bool {
        let renewed = self.0.as_ref().map(|renewed| *renewed.borrow());
        renewed.is_none_or(|at| now.saturating_sub(at) < DURATION)
    }
}

/// The Lease, held by this process.
#[derive(Debug)]
pub struct ClusterLease {
    leases: Api<Lease>,
    me: String,
    instance: String,
    lease: Lease,
    /// Whether it was taken from somebody who lives.
    displaced: bool,
    /// When the last renewal that succeeded was sent, since boot.
    renewed: watch::Sender<Duration>,
}

impl ClusterLease {
    /// Takes the Lease for the ledger `me`, from a live holder only with `take_over`.
    ///
    /// Returns at once when it is free or was held by the same ledger; else it has to watch the
    /// other holder for up to 15 s.
    ///
    /// # Errors
    /// [`Error::Held`] when another ledger lives; the others when the API server does not.
    pub async fn acquire(client: Client, me: &str, take_over: bool) -> Result<Self, Error> {
        let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
        let instance = format!("{:016x}", RandomState::new().hash_one(()));
        let mut sighting = None;
        let mut waiting = false;
        let mut displaced = false;
        loop {
            let found = bounded(leases.get_opt(NAME)).await?;
            let mut verdict = evaluate(found.as_ref(), me, &mut sighting, Instant::now());
            if take_over && matches!(verdict, Verdict::Watch | Verdict::Held { .. }) {
                warn!(
                    holder = found.as_ref().map(holder),
                    "taking over from another ledger"
                );
                verdict = Verdict::Take;
                displaced = true;
            }
            let exists = match verdict {
                Verdict::Create => false,
                Verdict::Take => true,
                Verdict::Held { holder, until } => return Err(Error::Held { holder, until }),
                Verdict::Watch => {
                    if !std::mem::replace(&mut waiting, true) {
                        let holder = found.as_ref().map(holder);
                        info!(
                            holder,
                            "another ledger holds the Lease; watching whether it lives"
                        );
                    }
                    tokio::time::sleep(RETRY_INTERVAL).await;
                    continue;
                }
            };
            let wanted = claimed(found, me, &instance, Timestamp::now());
            let sent = since_boot();
            match bounded(write(&leases, &wanted, exists)).await {
                Ok(lease) => {
                    return Ok(Self {
                        leases,
                        me: me.to_owned(),
                        instance,
                        lease,
                        displaced,
                        renewed: watch::Sender::new(sent),
                    });
                }
                Err(Error::Request(kube::Error::Api(status)))
                    if status.code == 409 || status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// To be waited for before the cluster is served, while the Lease is held: whom it was taken from finds out when they
    /// next renew it, and serves until then.
    pub fn alone_after(&self) -> Duration {
        if self.displaced {
            RENEW_INTERVAL + RETRY_INTERVAL
        } else {
            Duration::ZERO
        }
    }

    /// To be asked before each write.
    pub fn tenure(&self) -> Tenure {
        Tenure(Some(self.renewed.subscribe()))
    }

    /// Renews the Lease every 5 s. Returns only when somebody else has it: then this process must
    /// stop. May be dropped at any await, to call [`Self::release`].
    pub async fn hold(&mut self) -> Error {
        let mut failing = false;
        let mut wait = RENEW_INTERVAL;
        loop {
            tokio::time::sleep(wait).await;
            wait = match self.renew().await {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        info!("renewing the cluster's Lease again");
                    }
                    RENEW_INTERVAL
                }
                Err(error @ Error::Lost { .. }) => return error,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let error = &error as &dyn std::error::Error;
                        warn!(
                            error,
                            "cannot renew the cluster's Lease; trying until it works, and writing \
                             no pod when it has run out"
                        );
                    }
                    RETRY_INTERVAL
                }
            };
        }
    }

    /// Gives the Lease back, unless somebody else has it already.
    pub async fn release(self) -> Result<(), Error> {
        // An answer that was lost leaves our own copy behind; the holder decides.
        let Some(found) = bounded(self.leases.get_opt(NAME)).await? else {
            return Ok(());
        };
        if !self.is_mine(&found) {
            return Ok(());
        }
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: found.metadata.uid,
            resource_version: found.metadata.resource_version,
        });
        match bounded(self.leases.delete(NAME, &params)).await {
            Ok(_) => Ok(()),
            Err(Error::Request(kube::Error::Api(status)))
                if status.is_not_found() || status.is_conflict() =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn renew(&mut self) -> Result<(), Error> {
        let mut exists = true;
        let mut base = Some(self.lease.clone());
        loop {
            let wanted = claimed(base.take(), &self.me, &self.instance, Timestamp::now());
            let sent = since_boot();
            match bounded(write(&self.leases, &wanted, exists)).await {
                Ok(lease) => {
                    self.lease = lease;
                    self.renewed.send_replace(sent);
                    return Ok(());
                }
                Err(Error::Request(kube::Error::Api(status)))
                    if status.code == 409 || status.is_not_found() => {}
                Err(error) => return Err(error),
            }
            // Changed or deleted since: by an operator, by ourselves when the answer was lost, or
            // by whoever took it.
            base = bounded(self.leases.get_opt(NAME)).await?;
            exists = base.is_some();
            if let Some(found) = base.as_ref().filter(|found| !self.is_mine(found)) {
                let holder = match holder(found) {
                    "" => "nobody".to_owned(),
                    holder if holder == self.me => format!("another process on ledger {holder}"),
                    holder => format!("ledger {holder}"),
                };
                return Err(Error::Lost { holder });
            }
        }
    }

    fn is_mine(&self, lease: &Lease) -> bool {
        holder(lease) == self.me && instance(lease) == Some(&self.instance)
    }
}

async fn write(leases: &Api<Lease>, wanted: &Lease, exists: bool) -> kube::Result<Lease> {
    let params = PostParams::default();
    if exists {
        leases.replace(NAME, &params, wanted).await
    } else {
        leases.create(&params, wanted).await
    }
}

async fn bounded<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    tokio::time::timeout(REQUEST_TIMEOUT, request)
        .await
        .map_err(|_| Error::TimedOut)?
        .map_err(Error::Request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn held_by(ledger: &str, renewed: &str) -> Lease {
        claimed(None, ledger, "process-1", at(renewed))
    }

    /// The verdicts about each of `leases`, seen so many seconds after the start.
    fn verdicts(me: &str, leases: &[(u64, Option<&Lease>)]) -> Vec<Verdict> {
        let start = Instant::now();
        let mut sighting = None;
        leases
            .iter()
            .map(|(after, lease)| {
                evaluate(
                    *lease,
                    me,
                    &mut sighting,
                    start + Duration::from_secs(*after),
                )
            })
            .collect()
    }

    #[test]
    fn a_lease_is_certain_for_its_duration_from_the_last_renewal_on() {
        let mut at = since_boot();
        let renewed = watch::Sender::new(at);
        let tenure = Tenure(Some(renewed.subscribe()));
        for _ in 0..2 {
            assert!(tenure.is_certain_at(at + DURATION.saturating_sub(Duration::from_millis(1))));
            assert!(!tenure.is_certain_at(at + DURATION));
            at += DURATION * 2;
            renewed.send_replace(at);
        }
        assert!(Tenure::unshared().is_certain());
    }

    #[test]
    fn a_missing_lease_is_created_and_a_free_one_taken() {
        let free = held_by("", "2026-11-24T10:00:00Z");

        assert_eq!(verdicts("me", &[(0, None)]), [Verdict::Create]);
        assert_eq!(verdicts("me", &[(0, Some(&free))]), [Verdict::Take]);
    }

    #[test]
    fn a_restart_on_the_same_ledger_takes_over_at_once() {
        let mine = held_by("me", "2026-11-24T10:00:00Z");

        assert_eq!(verdicts("me", &[(0, Some(&mine))]), [Verdict::Take]);
    }

    #[test]
    fn a_holder_that_renews_is_refused_with_its_name_and_time() {
        let before = held_by("other", "2026-11-24T10:00:00Z");
        let after = held_by("other", "2026-11-24T10:00:05Z");

        let verdicts = verdicts(
            "me",
            &[(0, Some(&before)), (1, Some(&before)), (2, Some(&after))],
        );
        let until = at("2026-11-24T10:00:20Z");
        let held = Verdict::Held {
            holder: "other".to_owned(),
            until,
        };
        assert_eq!(verdicts, [Verdict::Watch, Verdict::Watch, held]);
    }

    #[test]
    fn a_holder_that_stopped_renewing_loses_the_lease_after_its_whole_duration() {
        // However wrong the other clock was: only our own waiting counts.
        for renewed in [
            "2026-11-24T10:00:00Z",
            "2001-01-01T00:00:00Z",
            "2099-01-01T00:00:00Z",
        ] {
            let dead = held_by("other", renewed);

            assert_eq!(
                verdicts(
                    "me",
                    &[(0, Some(&dead)), (15, Some(&dead)), (16, Some(&dead))]
                ),
                [Verdict::Watch, Verdict::Watch, Verdict::Take]
            );
        }
    }

    #[test]
    fn a_new_holder_gets_a_whole_duration_of_its_own() {
        let first = held_by("first", "2026-11-24T10:00:00Z");
        let second = held_by("second", "2026-11-24T10:00:10Z");

        assert_eq!(
            verdicts(
                "me",
                &[(0, Some(&first)), (14, Some(&second)), (16, Some(&second))]
            ),
            [Verdict::Watch, Verdict::Watch, Verdict::Watch]
        );
    }

    #[test]
    fn taking_counts_a_transition_and_renewing_does_not() {
        let taken = claimed(
            Some(held_by("other", "2026-11-24T10:00:00Z")),
            "me",
            "process-2",
            at("2026-11-24T10:01:00Z"),
        );
        let renewed = claimed(
            Some(taken.clone()),
            "me",
            "process-2",
            at("2026-11-24T10:01:05Z"),
        );

        let (taken, renewed) = (taken.spec.unwrap(), renewed.spec.unwrap());
        assert_eq!(taken.holder_identity.as_deref(), Some("me"));
        assert_eq!(
            (taken.lease_transitions, renewed.lease_transitions),
            (Some(1), Some(1))
        );
        assert_eq!(taken.acquire_time, renewed.acquire_time);
        assert_ne!(taken.renew_time, renewed.renew_time);
    }

    #[test]
    fn the_refusal_says_who_until_when_and_the_way_out() {
        let error = Error::Held {
            holder: "a1".to_owned(),
            until: at("2026-11-24T10:00:20Z"),
        };

        assert_eq!(
            error.to_string(),
            "ledger a1 serves this cluster: it holds the Lease kube-system/holdfast until \
             2026-11-24T10:00:20Z and keeps renewing it; stop that holdfast, or take its place \
             with `holdfast run --take-over`"
        );
    }
}
