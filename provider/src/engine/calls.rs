//! Cloud calls: at most one under way per ENI, looked at again until it is through.
//!
//! After a call that failed or was not answered nobody knows what it did, so the next call is
//! always a look at the ENI; the ledger then says what is next. Only a call that was throttled has
//! certainly done nothing: the same call is made again, and as long as the cloud throttles all
//! calls go out at one [`Pace`].

use jiff::{SignedDuration, Timestamp};

use crate::cloud::sim::{self, Transition};
use crate::cloud::{self, Request, Response};
use crate::engine::pace::Pace;
use crate::engine::{Context, Effect, Engine, Reason, Timer};
use crate::id::{ClientToken, PodUid};
use crate::ledger::{EniRow, Job, Task};
use crate::policy::eni::Step;

/// The first and the longest pause before something that failed is tried again.
const BACK_OFF: SignedDuration = SignedDuration::from_millis(250);
const BACK_OFF_MAX: SignedDuration = SignedDuration::from_secs(30);
/// The first and the longest pause between two looks at a call that takes longer than expected.
const POLL: SignedDuration = SignedDuration::from_millis(100);
const POLL_MAX: SignedDuration = SignedDuration::from_secs(5);

/// A call that is planned, under way, or being recorded.
pub(super) struct Flight {
    task: Task,
    progress: Progress,
    /// When what is under way is through, if it takes no longer than expected.
    through_at: Timestamp,
    /// Looks in a row at the same thing under way.
    looks: u32,
    /// Calls in a row that failed.
    failures: u32,
    /// Calls in a row that were throttled.
    throttled: u32,
    /// Its place among the calls that wait for the pace. An ENI keeps it while it makes headway, so
    /// that those who came first are through first.
    ticket: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Planned(Timestamp),
    /// Waits for the pace.
    InLine,
    Calling,
    Recording,
}

/// A call under way: what was asked, and about which ENI under which token.
pub(super) struct Asked {
    eni: EniRow,
    token: ClientToken,
    step: Step,
    action: &'static str,
}

impl Flight {
    /// Whether both are a look at the same thing under way.
    fn looks_at_the_same(&self, task: &Task) -> bool {
        let mine = &self.task;
        mine.token == task.token
            && mine.step == Step::Describe
            && task.step == Step::Describe
            && task.under_way.is_some()
            && mine.under_way == task.under_way
    }
}

/// Doubles from [`BACK_OFF`] on, up to [`BACK_OFF_MAX`].
pub(super) fn back_off(failures: u32) -> SignedDuration {
    doubled(BACK_OFF, failures.saturating_sub(1), BACK_OFF_MAX)
}

fn doubled(first: SignedDuration, times: u32, max: SignedDuration) -> SignedDuration {
    let factor = 1_i32 << times.min(16);
    first.checked_mul(factor).unwrap_or(max).min(max)
}

/// When what is under way is through, if it has begun now and takes as long as expected.
fn through_at(cloud: &sim::Config, now: Timestamp, task: &Task) -> Timestamp {
    let takes = task.under_way.map(|step| expected(cloud, step));
    now + takes.unwrap_or_default()
}

fn expected(cloud: &sim::Config, step: Step) -> SignedDuration {
    match step {
        Step::Attach => cloud.latency(Transition::Attach),
        Step::Detach => cloud.latency(Transition::Detach),
        Step::Delete => cloud.latency(Transition::Delete),
        Step::Create | Step::Describe => SignedDuration::ZERO,
    }
}

impl Engine {
    /// Plans the call that the ledger asks for. What is under way already is let finish: its
    /// result makes the ledger say again what is next, and this comes instead if it had no effect.
    pub(super) fn start_call(&mut self, now: Timestamp, task: Task) {
        let eni = task.eni;
        let known = self.flights.get_mut(&eni);
        let is_same = known
            .as_ref()
            .is_some_and(|flight| flight.looks_at_the_same(&task));
        match known.as_ref().map(|flight| flight.progress) {
            Some(Progress::Planned(_) | Progress::InLine) if is_same => return,
            Some(Progress::Planned(old)) => {
                self.timers.remove(&(old, Timer::Flight(eni)));
            }
            Some(Progress::InLine) => {
                let ticket = known.as_ref().and_then(|flight| flight.ticket);
                if let (Some(pace), Some(ticket)) = (&mut self.pace, ticket) {
                    pace.leave(ticket);
                }
            }
            Some(Progress::Calling | Progress::Recording) | None => {}
        }
        let known = known.filter(|flight| flight.task.token == task.token);
        let known = match known {
            Some(flight) if flight.progress == Progress::Calling => {
                flight.task = task;
                return;
            }
            Some(flight) => Some(&*flight),
            None => None,
        };
        let again = known.filter(|flight| flight.looks_at_the_same(&task));
        let looks = again.map_or(0, |flight| flight.looks + 1);
        let through_at = again.map_or_else(
            || through_at(&self.cloud, now, &task),
            |flight| flight.through_at,
        );
        let at = match (task.step, task.under_way) {
            (Step::Describe, Some(_)) if looks == 0 => through_at,
            (Step::Describe, Some(_)) => {
                let at = now + doubled(POLL, looks - 1, POLL_MAX);
                Some(through_at)
                    .filter(|it| *it > now)
                    .map_or(at, |it| it.min(at))
            }
            _ => now,
        };
        let flight = Flight {
            failures: known.map_or(0, |flight| flight.failures),
            throttled: known.map_or(0, |flight| flight.throttled),
            ticket: known
                .filter(|_| again.is_none())
                .and_then(|flight| flight.ticket),
            task,
            progress: Progress::Planned(at),
            through_at,
            looks,
        };
        self.flights.insert(eni, flight);
        self.timers.insert((at, Timer::Flight(eni)));
    }

    /// Plans a look at what another process left under way. How long it has been is not known, so the look is made at
    /// once, and what it finds unfinished is looked at as often as what is overdue.
    pub(super) fn resume(&mut self, now: Timestamp, task: Task) {
        let eni = task.eni;
        let flight = Flight {
            through_at: through_at(&self.cloud, now, &task),
            task,
            progress: Progress::Planned(now),
            looks: 0,
            failures: 0,
            throttled: 0,
            ticket: None,
        };
        self.flights.insert(eni, flight);
        self.timers.insert((now, Timer::Flight(eni)));
    }

    /// Makes a planned call, or puts it into the line if there is one.
    pub(super) fn flight_due(&mut self, now: Timestamp, eni: EniRow) {
        if self.pace.as_ref().is_some_and(|pace| pace.is_over(now)) {
            self.pace = None;
        }
        if self.pace.is_some() {
            self.line_up(now, eni);
        } else {
            self.call(eni);
        }
    }

    fn line_up(&mut self, now: Timestamp, eni: EniRow) {
        let (Some(pace), Some(flight)) = (&mut self.pace, self.flights.get_mut(&eni)) else {
            return;
        };
        self.next_number += 1;
        let ticket = *flight.ticket.get_or_insert(self.next_number);
        flight.progress = Progress::InLine;
        let waits = pace.is_long(now, ticket);
        pace.enter(ticket, flight.task.request.action(), eni);
        if let Some(uid) = flight.task.pod.clone().filter(|_| waits) {
            let note = pace.note().to_owned();
            self.say_failing(&uid, Reason::CloudCallThrottled, note);
        }
    }

    /// Lets out the calls whose turn it is.
    pub(super) fn run_line(&mut self, now: Timestamp) {
        while let Some(eni) = self.pace.as_mut().and_then(|pace| pace.next(now)) {
            self.call(eni);
        }
        let at = self.pace.as_ref().and_then(|pace| pace.due());
        if at == self.pace_at {
            return;
        }
        if let Some(old) = std::mem::replace(&mut self.pace_at, at) {
            self.timers.remove(&(old, Timer::Pace));
        }
        if let Some(at) = at {
            self.timers.insert((at, Timer::Pace));
        }
    }

    fn call(&mut self, eni: EniRow) {
        let Some(flight) = self.flights.get_mut(&eni) else {
            return;
        };
        flight.progress = Progress::Calling;
        let Task {
            token,
            step,
            request,
            ..
        } = flight.task.clone();
        self.next_number += 1;
        let asked = Asked {
            eni,
            token,
            step,
            action: request.action(),
        };
        self.calls.insert(self.next_number, asked);
        self.effects.push(Effect::Call(self.next_number, request));
    }

    pub(super) fn called(
        &mut self,
        now: Timestamp,
        number: u64,
        result: Result<Response, cloud::Error>,
    ) {
        let Some(asked) = self.calls.remove(&number) else {
            return;
        };
        if let Err(error) = &result
            && error.is_throttling()
        {
            self.throttled(now, number, &asked, error);
            return;
        }
        if let Some(pace) = &mut self.pace {
            pace.passed(now, number, asked.action);
        }
        let Asked {
            eni, token, step, ..
        } = asked;
        let flight = self.flights.get_mut(&eni);
        let Some(flight) = flight.filter(|flight| flight.task.token == token) else {
            return;
        };
        flight.throttled = 0;
        match result {
            Ok(response) => {
                if step != Step::Describe {
                    flight.failures = 0;
                }
                flight.progress = Progress::Recording;
                self.commit(
                    Context::Record(eni),
                    Job::Record {
                        eni,
                        token,
                        step,
                        response,
                    },
                );
            }
            Err(error) => {
                flight.failures += 1;
                let failures = flight.failures;
                let pod = flight.task.pod.clone();
                self.look_again(now, eni);
                if let Some(uid) = pod {
                    self.say_call_failed(&uid, asked.action, failures, &error);
                }
            }
        }
    }

    /// The cloud has done nothing, so the same call is made again, in its turn.
    fn throttled(&mut self, now: Timestamp, number: u64, asked: &Asked, error: &cloud::Error) {
        let Asked { eni, token, .. } = asked;
        let last = self.next_number;
        let pace = self.pace.get_or_insert_with(|| {
            tracing::warn!(%error, "the cloud throttles calls, and they go out at the pace that it takes");
            Box::new(Pace::new(now, last))
        });
        let has_own_reason = pace.refused(now, number, last, asked.action, error);
        let note = pace.note().to_owned();
        let flight = self.flights.get_mut(eni);
        let Some(flight) = flight.filter(|flight| flight.task.token == *token) else {
            return;
        };
        flight.throttled += 1;
        let throttled = flight.throttled;
        // Behind all others, or those that are refused would take the turns of those that are not.
        flight.ticket = None;
        let pod = flight.task.pod.clone();
        if has_own_reason {
            self.plan(*eni, now + back_off(throttled));
        } else {
            self.line_up(now, *eni);
        }
        if let Some(uid) = pod {
            self.say_failing(&uid, Reason::CloudCallThrottled, note);
        }
    }

    fn say_call_failed(&mut self, uid: &PodUid, action: &str, tries: u32, error: &cloud::Error) {
        tracing::warn!(%uid, action, tries, code = %error.code, "a cloud call failed");
        let note = format!("{action} failed and is tried again until it succeeds: {error}");
        self.say_failing(uid, Reason::CloudCallFailed, note);
    }

    fn plan(&mut self, eni: EniRow, at: Timestamp) {
        if let Some(flight) = self.flights.get_mut(&eni) {
            flight.progress = Progress::Planned(at);
            self.timers.insert((at, Timer::Flight(eni)));
        }
    }

    /// Plans a look at an ENI of which nobody knows what happened to it.
    pub(super) fn look_again(&mut self, now: Timestamp, eni: EniRow) {
        let Some(flight) = self.flights.get_mut(&eni) else {
            return;
        };
        let at = now + back_off(flight.failures.max(1));
        let token = flight.task.token.clone();
        flight.task.step = Step::Describe;
        flight.task.request = Request::Describe { token };
        flight.ticket = None;
        self.plan(eni, at);
    }

    /// An answer is committed; if it led to no further task, the ENI is where it should be.
    pub(super) fn recorded(&mut self, eni: EniRow) {
        if self
            .flights
            .get(&eni)
            .is_some_and(|flight| flight.progress == Progress::Recording)
        {
            self.flights.remove(&eni);
        }
    }
}
