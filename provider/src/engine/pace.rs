//! The pace at which calls go out while the cloud refuses some of them for being too many.
//!
//! Owns the line in which calls wait, and how many a second it lets out: as many as have passed in
//! the last second, and a few more, so that a limit which nobody has told is found and followed.
//! Knows no ENI but by its row, makes no call and reads no clock. While nothing is throttled there
//! is no pace at all.
//!
//! Retries with pauses of their own leave a budget unused while they sleep, and waste it when they
//! wake together. So all calls share one pace, as in the adaptive retry mode of the AWS SDKs, which
//! measures what passes too. Theirs backs off by a third at each refusal and then gives part of the
//! budget away for seconds; a refusal costs less than that here, so this pace stays a little above
//! the limit, where one call in thirty is refused.
//!
//! ```text
//!              first refusal             refused, and some passed
//!   (no pace) ──────────────▶ Probing ◀──────────────────────────▶ Paced
//!                             1, 2, 4, … at once     nothing passes    so many a second
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::cloud;
use crate::ledger::EniRow;

/// Budgets are counted in seconds (ECS, "API call throttling": so many calls in so many seconds): what has passed
/// in one tells the next, and after one there is a new budget.
const SECOND: SignedDuration = SignedDuration::from_secs(1);
/// The longest pause while nothing passes.
const PAUSE_MAX: SignedDuration = SignedDuration::from_secs(30);
/// From call to call at one a second: the pace is 3 % above what passes, or it would never learn of more.
const GAP: SignedDuration = SignedDuration::from_micros(970_874);
const GAP_MIN: SignedDuration = SignedDuration::from_micros(50);
/// Calls of so long a time may go out late and at once: timers are coarse, and answers are busy.
const LATE_MAX: SignedDuration = SignedDuration::from_millis(100);
/// Calls that must have passed before the pace grows: of fewer one in thirty may be none.
const SAMPLE: u32 = 20;
/// By how much it grows first, in per cent; twice as much each further time, at most to the double.
const GROWTH: i32 = 5;
const GROWTH_MAX: i32 = 100;
/// Without a refusal for so long, and with nobody in the line, there is no limit any more.
const FORGET: SignedDuration = SignedDuration::from_secs(60);
/// Refusals in a row of one action, and calls of others that pass meanwhile, from which on it is refused for a reason
/// of its own.
const OWN: u32 = 3;

/// The name of an ECS action.
type Action = &'static str;

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    /// By action and ticket: who came first goes first.
    lines: BTreeMap<Action, BTreeMap<u64, EniRow>>,
    mode: Mode,
    /// Nothing goes out before.
    hold_until: Timestamp,
    /// Refusals in a row, of which each was of a call made after the one before was known; when
    /// they began, and which actions were refused.
    streak: u32,
    streak_began: Timestamp,
    refused: BTreeSet<Action>,
    rows: BTreeMap<Action, Row>,
    /// The number of the last call that was made before the last such refusal was known.
    known_to: u64,
    /// After a refusal one call goes out alone, to see whether calls pass again. It has gone out.
    is_trying: bool,
    /// The number of the last call that was made before there was a pace.
    since: u64,
    /// Calls that were let out and are not answered yet.
    under_way: u32,
    /// When calls passed, in the last second.
    passed: VecDeque<Timestamp>,
    passed_at: Timestamp,
    refused_at: Timestamp,
    sample: Sample,
    /// By how much the pace grows next, in per cent.
    growth: i32,
    /// What pods say that wait.
    note: String,
}

#[derive(Debug)]
enum Mode {
    /// So many calls at a time; each one that passes makes it one more.
    Probing(u32),
    /// From one call to the next, and when the next is due.
    Paced(SignedDuration, Timestamp),
}

/// Refusals of an action since it last passed.
#[derive(Debug, Default)]
struct Row {
    refused: u32,
    others_passed: u32,
}

impl Row {
    fn has_own_reason(&self) -> bool {
        self.refused > OWN && self.others_passed >= OWN
    }
}

/// What came of the calls since the pace was last changed, or confirmed.
#[derive(Debug)]
struct Sample {
    since: Timestamp,
    passed: u32,
    refused: u32,
    /// Calls had to wait for the pace.
    held: bool,
    /// The limit was met: two refusals in a row are no chance.
    met: bool,
}

impl Sample {
    fn new(since: Timestamp) -> Self {
        Self {
            since,
            passed: 0,
            refused: 0,
            held: false,
            met: false,
        }
    }

    fn is_complete(&self, now: Timestamp) -> bool {
        self.passed >= SAMPLE && now.duration_since(self.since) >= SECOND
    }

    /// More refusals than the pace asks for by itself.
    fn is_too_much(&self) -> bool {
        self.refused * 12 > self.passed
    }

    /// Hardly anything passes any more, and not only since this row of refusals began.
    fn is_far_too_much(&self, streak_began: Timestamp) -> bool {
        self.since < streak_began && self.refused > self.passed + 3
    }

    fn is_too_little(&self) -> bool {
        self.held && !self.met && self.refused * 32 <= self.passed
    }
}

impl Pace {
    /// A pace from the first refusal on. `last` is the number of the last call that was made.
    pub(super) fn new(now: Timestamp, last: u64) -> Self {
        Self {
            lines: BTreeMap::new(),
            mode: Mode::Probing(1),
            hold_until: now,
            streak: 0,
            streak_began: now,
            refused: BTreeSet::new(),
            rows: BTreeMap::new(),
            known_to: 0,
            is_trying: false,
            since: last,
            under_way: 0,
            passed: VecDeque::new(),
            passed_at: now,
            refused_at: now,
            sample: Sample::new(now),
            growth: GROWTH,
            note: String::new(),
        }
    }

    /// Why calls wait, in one sentence. The same for all of them, so that nobody tells it twice.
    pub(super) fn note(&self) -> &str {
        &self.note
    }

    /// Puts a call into the line. Tickets are unique, and smaller ones go first.
    pub(super) fn enter(&mut self, ticket: u64, action: Action, eni: EniRow) {
        self.lines.entry(action).or_default().insert(ticket, eni);
    }

    pub(super) fn leave(&mut self, ticket: u64) {
        for line in self.lines.values_mut() {
            line.remove(&ticket);
        }
    }

    fn first(&self, which: impl Fn(Action) -> bool) -> Option<Action> {
        let lines = self.lines.iter().filter(|(action, _)| which(action));
        let firsts = lines.filter_map(|(action, line)| Some((line.keys().next()?, *action)));
        firsts.min().map(|(_, action)| action)
    }

    /// What may be tried at any time while nothing passes: ECS counts each action for itself ("API
    /// call throttling"), and one that is refused without end must not hold up another.
    fn untried(&self) -> Option<Action> {
        if !matches!(self.mode, Mode::Probing(_)) || self.streak < 2 || self.is_trying {
            return None;
        }
        self.first(|action| !self.refused.contains(action))
    }

    /// The next call that may go out now.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<EniRow> {
        let next = self.untried();
        let next = next.or_else(|| self.turn_of(now))?;
        self.under_way += 1;
        self.is_trying = self.streak > 0;
        let first = self.lines.get_mut(next)?.pop_first();
        first.map(|(_, eni)| eni)
    }

    /// The action whose turn it is, if it is anyone's.
    fn turn_of(&mut self, now: Timestamp) -> Option<Action> {
        let first = self.first(|_| true)?;
        let may_go = now >= self.hold_until
            && !self.is_trying
            && match &mut self.mode {
                Mode::Probing(at_once) => self.under_way < *at_once,
                Mode::Paced(gap, due) => {
                    *due = (*due).max(now - LATE_MAX);
                    let is_due = *due <= now;
                    if is_due {
                        *due += *gap;
                    }
                    is_due
                }
            };
        if may_go {
            return Some(first);
        }
        self.sample.held = true;
        None
    }

    /// When [`Self::next`] is worth asking again, unless a call is answered earlier.
    pub(super) fn due(&self) -> Option<Timestamp> {
        if self.is_empty() || self.is_trying {
            return None;
        }
        match self.mode {
            Mode::Probing(at_once) => (self.under_way < at_once).then_some(self.hold_until),
            Mode::Paced(_, due) => Some(due.max(self.hold_until)),
        }
    }

    /// Whether a call with this ticket has to wait for longer than a second, as it looks now.
    pub(super) fn is_long(&self, now: Timestamp, ticket: u64) -> bool {
        let in_a_second = match self.mode {
            Mode::Probing(_) => usize::MAX,
            Mode::Paced(gap, _) => {
                usize::try_from(SECOND.as_nanos() / gap.as_nanos()).unwrap_or(usize::MAX)
            }
        };
        let earlier = self.lines.values().flat_map(|line| line.range(..ticket));
        self.hold_until.duration_since(now) > SECOND
            || earlier.take(in_a_second).count() >= in_a_second
    }

    /// Whether calls need no pace any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.is_empty() && now.duration_since(self.refused_at) >= FORGET
    }

    fn is_empty(&self) -> bool {
        self.lines.values().all(BTreeMap::is_empty)
    }

    /// The limit may have changed: tries again what the cloud takes, at once.
    pub(super) fn probe(&mut self) {
        self.mode = Mode::Probing(1);
        self.end_streak();
    }

    fn end_streak(&mut self) {
        self.hold_until = Timestamp::MIN;
        self.streak = 0;
        self.refused.clear();
        self.is_trying = false;
    }

    /// A call was answered otherwise than with a refusal for being one too many.
    pub(super) fn passed(&mut self, now: Timestamp, number: u64, action: Action) {
        self.answered(number);
        self.rows.remove(action);
        for row in self.rows.values_mut() {
            row.others_passed += 1;
        }
        self.passed.push_back(now);
        self.passed_at = now;
        self.forget_passed(now);
        if number > self.known_to {
            match &mut self.mode {
                Mode::Probing(at_once) => *at_once = at_once.saturating_add(1),
                // What was not taken then is not made up for.
                Mode::Paced(_, due) if self.streak > 1 => *due = (*due).max(now),
                Mode::Paced(..) => {}
            }
            self.end_streak();
        }
        self.sample.passed += 1;
        if self.sample.is_complete(now) {
            self.grow(now);
        }
    }

    /// A call was refused for being one too many. `last` is the number of the last call that was
    /// made. Tells whether this is about the action and not about the pace: then the caller is to
    /// pause before it makes the call again.
    pub(super) fn refused(
        &mut self,
        now: Timestamp,
        number: u64,
        last: u64,
        action: Action,
        error: &cloud::Error,
    ) -> bool {
        self.note = format!(
            "the cloud takes no more calls for now, and those for this pod wait their turn: {error}"
        );
        self.answered(number);
        self.refused_at = now;
        self.forget_passed(now);
        let row = self.rows.entry(action).or_default();
        row.refused += 1;
        let has_own_reason = row.has_own_reason();
        if number > self.since && !has_own_reason {
            self.sample.refused += 1;
        }
        if number <= self.known_to {
            return has_own_reason;
        }
        self.is_trying = false;
        if has_own_reason {
            if let Mode::Paced(gap, due) = &mut self.mode {
                // It took nobody's turn.
                *due -= *gap;
            }
            return true;
        }
        self.known_to = last;
        if self.streak == 0 {
            self.streak_began = now;
        }
        self.streak += 1;
        self.refused.insert(action);
        self.sample.met |= self.streak > 1;
        self.slow_down(now);
        false
    }

    fn slow_down(&mut self, now: Timestamp) {
        let nothing_passes =
            self.passed.is_empty() && now.duration_since(self.passed_at) > SECOND * 2;
        match self.mode {
            Mode::Paced(gap, due) if !nothing_passes => {
                let slower = self.slower(gap);
                if let Some(slower) = slower {
                    self.set(now, slower, due);
                    self.growth = GROWTH;
                }
                self.hold(now, slower.unwrap_or(gap));
            }
            Mode::Probing(_) if !self.passed.is_empty() => {
                // They went out together, and count as if they had gone out at this pace.
                let gap = self.measured();
                let first = self.passed.front().copied().unwrap_or(now);
                let due = first + gap * i32::try_from(self.passed.len()).unwrap_or(i32::MAX);
                self.set(now, gap, due);
                self.hold(now, gap);
            }
            Mode::Paced(..) | Mode::Probing(_) => {
                self.mode = Mode::Probing(1);
                self.hold(now, SECOND);
            }
        }
    }

    /// The gap after a refusal, unless it stays. Once or twice in a row of them is enough, except
    /// when there is no end to it.
    fn slower(&self, gap: SignedDuration) -> Option<SignedDuration> {
        let is_far = self.sample.is_far_too_much(self.streak_began);
        match self.streak {
            // What passed in the last second is no measure when the limit has fallen since.
            1 | 2 if is_far => Some(gap * 2),
            1 if !self.sample.is_too_much() => None,
            1 | 2 | 8.. => Some(self.measured().clamp(gap * 9 / 10, gap * 2)),
            _ => None,
        }
    }

    fn answered(&mut self, number: u64) {
        if number > self.since {
            self.under_way = self.under_way.saturating_sub(1);
        }
    }

    fn forget_passed(&mut self, now: Timestamp) {
        let is_old = |at: &Timestamp| now.duration_since(*at) >= SECOND;
        while self.passed.front().is_some_and(is_old) {
            self.passed.pop_front();
        }
    }

    /// From call to call so that a few more go out than have passed in the last second.
    fn measured(&self) -> SignedDuration {
        let gap = GAP / i32::try_from(self.passed.len().max(1)).unwrap_or(i32::MAX);
        gap.max(GAP_MIN)
    }

    fn set(&mut self, now: Timestamp, gap: SignedDuration, due: Timestamp) {
        self.mode = Mode::Paced(gap, due);
        self.sample = Sample::new(now);
    }

    /// Nothing for a while, and twice as long at each refusal in a row.
    fn hold(&mut self, now: Timestamp, first: SignedDuration) {
        let pause = first.checked_mul(1 << (self.streak - 1).min(16));
        self.hold_until = now + pause.unwrap_or(PAUSE_MAX).min(PAUSE_MAX);
    }

    fn grow(&mut self, now: Timestamp) {
        let Mode::Paced(gap, due) = self.mode else {
            return;
        };
        if self.sample.is_too_little() {
            let faster = gap * 100 / (100 + self.growth);
            self.set(now, faster.max(GAP_MIN), due);
            self.growth = (self.growth * 2).min(GROWTH_MAX);
        } else {
            self.sample = Sample::new(now);
            self.growth = GROWTH;
        }
    }
}

#[cfg(test)]
mod tests;
