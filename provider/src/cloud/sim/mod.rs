//! The simulated cloud: ENIs that behave as those of ECS, without an account.
//!
//! Owns the states with their preconditions and error codes (ECS API reference), latencies, the
//! limits and the faults. Its ENIs live in a table of their own; the caller begins and commits
//! the transaction. Starts no timer: a transition is through when somebody looks after its time.
//! Does not know which vSwitches exist nor which of their addresses are usable (the ledger does).

mod fault;
mod faults;
mod name;
mod refusal;
mod session;
mod store;
mod tally;
#[cfg(test)]
mod tests;
mod throttle;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

pub use self::fault::{Action, Fault, Invalid, Transition};
use self::faults::Faults;
pub use self::name::region_code;
pub(crate) use self::name::resource_id;
use self::refusal::refused;
pub(crate) use self::session::{Adoption, Failure, Session};
pub use self::tally::Called;
use self::tally::Tally;
use self::throttle::Throttle;
use crate::cloud::Error;
use crate::id::{EniId, Mac};
use crate::sql::Tx;

/// Latencies, limits and faults. The default has none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// How long an ENI is `Attaching`.
    pub attach: SignedDuration,
    /// How long an ENI is `Detaching`.
    pub detach: SignedDuration,
    /// Calls let through in a second, all actions together; 0: no limit. (ECS has a budget for
    /// each action.)
    pub calls_per_s: u32,
    /// ENIs that may exist at a time, `MaxEniCountExceeded` beyond; 0: no limit.
    pub enis_max: u32,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

impl Config {
    /// Whether every correct call takes effect at once: no latency, no limit, no fault. Such
    /// calls may share the commit of the intent behind them.
    pub fn is_instant(&self) -> bool {
        self.attach <= SignedDuration::ZERO
            && self.detach <= SignedDuration::ZERO
            && self.calls_per_s == 0
            && self.enis_max == 0
            && self.faults.is_empty()
    }

    /// How long a transition takes that begins now, unless it is stuck: no use in describing it
    /// earlier. Never negative.
    pub fn latency(&self, transition: Transition) -> SignedDuration {
        let configured = match transition {
            Transition::Attach => self.attach,
            Transition::Detach => self.detach,
            Transition::Delete => SignedDuration::ZERO,
        };
        let slow = self.faults.iter().filter_map(|fault| match fault {
            Fault::Slow { action, latency } if *action == transition => Some(*latency),
            _ => None,
        });
        slow.fold(configured.max(SignedDuration::ZERO), SignedDuration::max)
    }

    /// Adds faults; one that has the name of a configured one replaces it.
    #[must_use]
    pub fn with_faults(mut self, more: Vec<Fault>) -> Self {
        self.faults
            .retain(|fault| more.iter().all(|other| other.name() != fault.name()));
        self.faults.extend(more);
        self
    }
}

/// The simulated cloud, but for its table.
#[derive(Debug)]
pub struct Simulator {
    config: Config,
    region_code: String,
    seed: u64,
    faults: Faults,
    throttle: Throttle,
    tally: Tally,
    /// The serial after the last one that [`Session::launch`] has used: it is tried without a look
    /// at the table, which refuses it if it is not free.
    next_serial: Option<i64>,
}

impl Simulator {
    /// A cloud of one region. On an empty table the same seed and the same calls give the same
    /// ENI ids and MACs.
    pub fn new(config: Config, region: &str, seed: u64) -> Self {
        Self {
            faults: Faults::new(&config.faults),
            config,
            region_code: region_code(region),
            seed,
            throttle: Throttle::default(),
            tally: Tally::default(),
            next_serial: None,
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Changes latencies, limits and faults for all later calls. What is under way keeps its
    /// time, except that a stuck transition ends when nothing holds it any more. Counts of
    /// faults start anew.
    pub fn set_config(&mut self, config: Config) {
        self.faults = Faults::new(&config.faults);
        self.config = config;
    }

    /// The calls that were answered since this was last asked, each kind with its number. A call
    /// counts whatever becomes of the transaction that it was made in.
    pub fn take_calls(&mut self) -> BTreeMap<Called, u64> {
        self.tally.take()
    }

    /// Joins the cloud with an open transaction, for one call or several.
    pub(crate) fn on<'a>(&'a mut self, tx: &'a Tx<'a>) -> Session<'a> {
        Session::new(self, tx)
    }

    /// The limits that count before a call is looked at.
    fn admit(&mut self, now: Timestamp) -> Result<(), Error> {
        let configured = Some(self.config.calls_per_s).filter(|limit| *limit > 0);
        let limits = [configured, self.faults.calls_per_s()];
        let Some(calls_per_s) = limits.into_iter().flatten().min() else {
            return Ok(());
        };
        if self.throttle.admit(now, calls_per_s) {
            return Ok(());
        }
        Err(refused(
            "Throttling.User",
            "Request was denied due to user flow control.",
        ))
    }

    fn eni_id(&self, serial: i64) -> EniId {
        name::eni_id(&self.region_code, self.seed, serial.cast_unsigned())
    }

    fn mac(&self, serial: i64) -> Mac {
        name::mac(self.seed, serial.cast_unsigned())
    }
}
