//! Judges a recorded history: what every address, claim and pod did at every past moment.
//!
//! Pure: [`History`] in, [`Violation`]s out. Addresses and the pool are judged here, claims in
//! [`claims`]. Judges from the time on from which everything is recorded.

mod claims;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::Ipv4Addr;

use jiff::Timestamp;

use crate::check::Violation;

/// Namespace and name in one cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) cluster: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What an address did for some time.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) vswitch: i64,
    pub(crate) addr: u32,
    pub(crate) state: String,
    pub(crate) claim: Option<i64>,
    pub(crate) pod: Option<String>,
    pub(crate) eni: Option<i64>,
    pub(crate) gen_: i64,
    pub(crate) from_ms: i64,
    /// `None`: it still does.
    pub(crate) to_ms: Option<i64>,
}

/// What the row of an address says.
#[derive(Clone, Debug)]
pub(crate) struct AddressNow {
    pub(crate) vswitch: i64,
    pub(crate) addr: u32,
    pub(crate) state: String,
    pub(crate) claim: Option<i64>,
    pub(crate) pod: Option<String>,
    pub(crate) eni: Option<i64>,
    pub(crate) gen_: i64,
}

/// From `at_ms` on a vSwitch has so many addresses.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    pub(crate) vswitch: i64,
    pub(crate) at_ms: i64,
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) addresses: usize,
}

/// What changes in the life of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimState {
    pub(crate) holder: Option<String>,
    pub(crate) retain_ms: i64,
    pub(crate) deleted_ms: Option<i64>,
    pub(crate) expires_ms: Option<i64>,
    pub(crate) closed_why: Option<String>,
}

/// A claim as its row is now.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) id: i64,
    pub(crate) key: Key,
    pub(crate) opened_ms: i64,
    pub(crate) closed_ms: Option<i64>,
    pub(crate) now: ClaimState,
}

/// A change of a claim.
#[derive(Clone, Debug)]
pub(crate) struct ClaimEvent {
    pub(crate) claim: i64,
    pub(crate) at_ms: i64,
    pub(crate) state: ClaimState,
}

/// A pod that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    pub(crate) key: Key,
    pub(crate) is_ecs: bool,
    pub(crate) zone: String,
    pub(crate) is_fixed: bool,
    /// As JSON.
    pub(crate) vswitches: String,
    pub(crate) created_ms: i64,
    pub(crate) accepted_ms: i64,
    pub(crate) let_go_ms: Option<i64>,
}

/// An entry of the journal.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) at_ms: i64,
    pub(crate) clock_ms: i64,
    pub(crate) what: String,
    pub(crate) detail: Option<String>,
    pub(crate) claim: Option<i64>,
    pub(crate) pod: Option<String>,
}

/// Everything that was recorded, each list in the order of its recording.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Everything is recorded from here on.
    pub(crate) from_ms: i64,
    /// The last commit.
    pub(crate) now_ms: i64,
    pub(crate) sizes: Vec<Size>,
    pub(crate) spans: Vec<Span>,
    pub(crate) claims: Vec<Claim>,
    pub(crate) events: Vec<ClaimEvent>,
    pub(crate) pods: Vec<Pod>,
    /// When each ENI was known to be gone.
    pub(crate) eni_ends: HashMap<i64, i64>,
    pub(crate) journal: Vec<Entry>,
    pub(crate) addresses: Vec<AddressNow>,
}

const ONE_HOLDER: &str = "an address has one holder at a time, and a pod or claim one address";
const STEPS: &str = "an address goes from one state to the next without a gap";
const FREED: &str = "an address is free after its ENI's deletion";
const ADDS_UP: &str = "states add up to the pool at every moment";
const REPLAY: &str = "rows equal the replayed history";
const TIME: &str = "recorded time does not run backwards";
const ANSWER: &str = "a claim is answered with its own address until its deadline";
const NOT_EARLY: &str = "a claim does not end early";
const NOT_LATE: &str = "a claim ends at most two seconds late";
const CLOCK: &str = "a claim's clock starts at the last deletion and only there";
const WHY: &str = "a claim ends before its deadline only by crossing, moving or release";
const ONE_CLAIM: &str = "a key has one open claim at a time";

/// What is judged.
pub const RULES: [&str; 12] = [
    ONE_HOLDER, STEPS, FREED, ADDS_UP, REPLAY, TIME, ANSWER, NOT_EARLY, NOT_LATE, CLOCK, WHY,
    ONE_CLAIM,
];

/// Judges the whole history.
pub fn check(history: &History) -> Vec<Violation> {
    let mut checker = Checker {
        history,
        pods: history
            .pods
            .iter()
            .map(|pod| (pod.uid.as_str(), pod))
            .collect(),
        claims: history
            .claims
            .iter()
            .map(|claim| (claim.id, claim))
            .collect(),
        claims_of: BTreeMap::new(),
        found: Vec::new(),
    };
    for claim in &history.claims {
        checker.claims_of.entry(&claim.key).or_default().push(claim);
    }
    checker.time();
    checker.addresses();
    checker.one_address_each();
    checker.pool();
    checker.rows();
    checker.claims();
    checker.found
}

/// Rule by rule over one history.
pub(super) struct Checker<'h> {
    history: &'h History,
    pods: HashMap<&'h str, &'h Pod>,
    claims: HashMap<i64, &'h Claim>,
    claims_of: BTreeMap<&'h Key, Vec<&'h Claim>>,
    found: Vec<Violation>,
}

impl<'h> Checker<'h> {
    fn violated(&mut self, rule: &'static str, what: String) {
        self.found.push(Violation {
            rule: rule.into(),
            what,
        });
    }

    fn time(&mut self) {
        let history = self.history;
        let lists = [
            (
                "an address",
                back(history.spans.iter().map(|span| span.from_ms)),
            ),
            (
                "a claim",
                back(history.events.iter().map(|event| event.at_ms)),
            ),
            (
                "the pool",
                back(history.sizes.iter().map(|size| size.at_ms)),
            ),
            (
                "the program",
                back(history.journal.iter().map(|entry| entry.at_ms)),
            ),
        ];
        for (of, back) in lists {
            if let Some((earlier, later)) = back {
                self.violated(
                    TIME,
                    format!(
                        "a change of {of} at {} was recorded after one at {}",
                        at(later),
                        at(earlier)
                    ),
                );
            }
        }
    }

    /// The spans of every address, one after the other.
    fn addresses(&mut self) {
        let mut spans: Vec<&Span> = self.history.spans.iter().collect();
        spans.sort_by_key(|span| (span.vswitch, span.addr));
        for of_one in spans.chunk_by(|a, b| (a.vswitch, a.addr) == (b.vswitch, b.addr)) {
            for pair in of_one.windows(2) {
                self.step(pair[0], pair[1]);
            }
            if let [.., last] = of_one
                && let Some(to_ms) = last.to_ms
                && !is_idle(last)
                && to_ms >= self.history.from_ms
            {
                self.violated(
                    STEPS,
                    format!(
                        "{} left the pool at {} while it was {}",
                        ip(last),
                        at(to_ms),
                        self.holder(last)
                    ),
                );
            }
            for (index, span) in of_one.iter().enumerate() {
                let before = index.checked_sub(1).map(|index| of_one[index]);
                let is_taken =
                    span.pod.is_some() && before.is_none_or(|before| before.pod != span.pod);
                if is_taken && span.from_ms >= self.history.from_ms {
                    self.taken(span);
                }
            }
        }
    }

    fn step(&mut self, before: &Span, after: &Span) {
        let Some(to_ms) = before.to_ms else {
            self.overlap(before, after);
            return;
        };
        if after.from_ms < self.history.from_ms {
            return;
        }
        if to_ms > after.from_ms {
            self.overlap(before, after);
            return;
        }
        let is_new = after.gen_ == 0 && is_idle(after);
        if is_new && is_idle(before) {
            return;
        }
        if to_ms != after.from_ms || after.gen_ != before.gen_ + 1 {
            self.violated(
                STEPS,
                format!(
                    "what {} did between {} ({}) and {} ({}) is not recorded",
                    ip(after),
                    at(to_ms),
                    self.holder(before),
                    at(after.from_ms),
                    self.holder(after)
                ),
            );
            return;
        }
        self.transition(before, after);
    }

    fn transition(&mut self, before: &Span, after: &Span) {
        let same = before.claim == after.claim;
        let closed = before.claim.is_none_or(|claim| {
            self.claims.get(&claim).is_some_and(|claim| {
                claim
                    .closed_ms
                    .is_some_and(|closed| closed <= after.from_ms)
            })
        });
        let is_step = match (before.state.as_str(), after.state.as_str()) {
            // Its exclusion changed, or its claim was released and the pod kept it.
            (one, other) if one == other => {
                (same || (closed && after.claim.is_none()))
                    && (&before.pod, before.eni) == (&after.pod, after.eni)
            }
            ("free", "in_use" | "excluded")
            | ("excluded", "free")
            | ("detaching", "free" | "excluded") => true,
            ("in_use", "retained") | ("retained", "in_use") => same && before.eni == after.eni,
            ("in_use" | "retained", "detaching") => closed && before.eni == after.eni,
            // Its ENI was deleted at once: there was no time to wait for that.
            ("in_use" | "retained", "free" | "excluded") => {
                let ended = before.eni.and_then(|eni| self.history.eni_ends.get(&eni));
                closed && ended == Some(&after.from_ms)
            }
            _ => false,
        };
        if !is_step {
            self.violated(
                STEPS,
                format!(
                    "{} went at {} from {} to {}",
                    ip(after),
                    at(after.from_ms),
                    self.holder(before),
                    self.holder(after)
                ),
            );
        }
        let is_freed = matches!(after.state.as_str(), "free" | "excluded");
        if is_freed
            && let Some(eni) = before.eni
            && self
                .history
                .eni_ends
                .get(&eni)
                .is_none_or(|end_ms| *end_ms > after.from_ms)
        {
            self.violated(
                FREED,
                format!(
                    "{} was freed at {}, and the end of its ENI (row {eni}) is not recorded before",
                    ip(after),
                    at(after.from_ms)
                ),
            );
        }
    }

    fn overlap(&mut self, one: &Span, other: &Span) {
        self.violated(
            ONE_HOLDER,
            format!(
                "{} was {} from {} and {} from {}, both at once",
                ip(one),
                self.holder(one),
                at(one.from_ms),
                self.holder(other),
                at(other.from_ms)
            ),
        );
    }

    fn one_address_each(&mut self) {
        let mut of_pods = HashMap::new();
        let mut of_claims = HashMap::new();
        let mut found = Vec::new();
        for span in &self.history.spans {
            let place = (span.vswitch, span.addr);
            if let Some(pod) = &span.pod
                && *of_pods.entry(pod).or_insert(place) != place
            {
                found.push(format!("pod {pod} had {} and another address", ip(span)));
            }
            if let Some(claim) = span.claim
                && *of_claims.entry(claim).or_insert(place) != place
            {
                found.push(format!(
                    "{} had {} and another address",
                    self.claim(claim),
                    ip(span)
                ));
            }
        }
        for what in found {
            self.violated(ONE_HOLDER, what);
        }
    }

    /// At every moment a vSwitch has as many addresses, each in one state, as its CIDR gives.
    fn pool(&mut self) {
        /// What changes at one moment: addresses in and out, and the size from then on.
        #[derive(Default)]
        struct Change {
            addresses: i64,
            size: Option<usize>,
        }
        let mut changes: BTreeMap<i64, BTreeMap<i64, Change>> = BTreeMap::new();
        // What was before the first moment is summed up in it.
        let first_ms = self.history.from_ms;
        let mut at_moment = |vswitch: i64, at_ms: i64, change: &dyn Fn(&mut Change)| {
            let of_one = changes.entry(vswitch).or_default();
            change(of_one.entry(at_ms.max(first_ms)).or_default());
        };
        for span in &self.history.spans {
            at_moment(span.vswitch, span.from_ms, &|change| change.addresses += 1);
            if let Some(to_ms) = span.to_ms {
                at_moment(span.vswitch, to_ms, &|change| change.addresses -= 1);
            }
        }
        for size in &self.history.sizes {
            let addresses = Some(size.addresses);
            at_moment(size.vswitch, size.at_ms, &|change| change.size = addresses);
        }
        let mut found = Vec::new();
        for (vswitch, moments) in changes {
            let (mut addresses, mut size) = (0, 0);
            for (at_ms, change) in moments {
                addresses += change.addresses;
                size = change.size.unwrap_or(size);
                if usize::try_from(addresses) != Ok(size) {
                    found.push(format!(
                        "{} had {addresses} addresses at {}, and its CIDR {size}",
                        self.vswitch(vswitch, at_ms)
                            .map_or("a vSwitch without a name", |at| &at.name),
                        at(at_ms)
                    ));
                    break;
                }
            }
        }
        for what in found {
            self.violated(ADDS_UP, what);
        }
    }

    /// The last of every address is what its row says.
    fn rows(&mut self) {
        let open: HashMap<(i64, u32), &Span> = self
            .history
            .spans
            .iter()
            .filter(|span| span.to_ms.is_none())
            .map(|span| ((span.vswitch, span.addr), span))
            .collect();
        let same = |row: &AddressNow| {
            open.get(&(row.vswitch, row.addr)).is_some_and(|span| {
                (&span.state, span.claim, &span.pod, span.eni, span.gen_)
                    == (&row.state, row.claim, &row.pod, row.eni, row.gen_)
            })
        };
        let history = self.history;
        for row in history.addresses.iter().filter(|row| !same(row)) {
            self.violated(
                REPLAY,
                format!(
                    "{} is {} by its row, which its history does not end with",
                    Ipv4Addr::from(row.addr),
                    row.state
                ),
            );
        }
        if open.len() > history.addresses.len() {
            let missing = open.len() - history.addresses.len();
            self.violated(
                REPLAY,
                format!("{missing} addresses have a history and no row"),
            );
        }
    }

    /// The vSwitch as it was.
    fn vswitch(&self, vswitch: i64, at_ms: i64) -> Option<&'h Size> {
        let sizes = self.history.sizes.iter();
        let of_one: Vec<&Size> = sizes.filter(|size| size.vswitch == vswitch).collect();
        let before = of_one.iter().rev().find(|size| size.at_ms <= at_ms);
        before.or(of_one.first()).copied()
    }

    fn claim(&self, claim: i64) -> String {
        match self.claims.get(&claim) {
            Some(found) => format!("claim {claim} of {}", found.key),
            None => format!("claim {claim}"),
        }
    }

    /// What an address was, in words.
    fn holder(&self, span: &Span) -> String {
        match (&span.pod, span.claim) {
            (Some(pod), _) => match self.pods.get(pod.as_str()) {
                Some(known) => format!("with pod {pod} ({})", known.key),
                None => format!("with pod {pod}"),
            },
            (None, Some(claim)) => format!("{} for {}", span.state, self.claim(claim)),
            (None, None) => span.state.clone(),
        }
    }
}

fn is_idle(span: &Span) -> bool {
    matches!(span.state.as_str(), "free" | "excluded")
}

/// The first pair of times of which the later recorded one is earlier.
fn back(times: impl Iterator<Item = i64>) -> Option<(i64, i64)> {
    let times: Vec<i64> = times.collect();
    let pair = times.windows(2).find(|pair| pair[1] < pair[0])?;
    Some((pair[0], pair[1]))
}

fn ip(span: &Span) -> Ipv4Addr {
    Ipv4Addr::from(span.addr)
}

/// A recorded time for a sentence.
pub(super) fn at(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}
