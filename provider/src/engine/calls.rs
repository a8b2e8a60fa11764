//! Cloud calls: at most one under way per ENI, looked at again until it is through.
//!
//! After a call that failed or was not answered nobody knows what it did, so the next call is
//! always a look at the ENI; the ledger then says what is next.

use jiff::{SignedDuration, Timestamp};

use crate::cloud::sim::Transition;
use crate::cloud::{self, Request, Response};
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
    /// Looks in a row at the same thing under way.
    looks: u32,
    /// Calls in a row that failed.
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Planned(Timestamp),
    Calling,
    Recording,
}

/// A call under way: what was asked, and about which ENI under which token.
pub(super) struct Asked {
    eni: EniRow,
    token: ClientToken,
    step: Step,
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

impl Engine {
    /// Plans the call that the ledger asks for. What is under way already is let finish: its
    /// result makes the ledger say again what is next.
    pub(super) fn start_call(&mut self, now: Timestamp, task: Task) {
        let eni = task.eni;
        let known = self.flights.get(&eni);
        if let Some(Progress::Planned(old)) = known.map(|flight| flight.progress) {
            let is_same = known.is_some_and(|flight| flight.looks_at_the_same(&task));
            if is_same {
                return;
            }
            self.timers.remove(&(old, Timer::Flight(eni)));
        }
        let known = known.filter(|flight| flight.task.token == task.token);
        if known.is_some_and(|flight| flight.progress == Progress::Calling) {
            return;
        }
        let again = known.filter(|flight| flight.looks_at_the_same(&task));
        let looks = again.map_or(0, |flight| flight.looks + 1);
        let failures = known.map_or(0, |flight| flight.failures);
        let at = match (task.step, task.under_way) {
            (Step::Describe, Some(step)) if looks == 0 => now + self.expected(step),
            (Step::Describe, Some(_)) => now + doubled(POLL, looks - 1, POLL_MAX),
            _ => now,
        };
        let flight = Flight {
            task,
            progress: Progress::Planned(at),
            looks,
            failures,
        };
        self.flights.insert(eni, flight);
        self.timers.insert((at, Timer::Flight(eni)));
    }

    fn expected(&self, step: Step) -> SignedDuration {
        match step {
            Step::Attach => self.cloud.latency(Transition::Attach),
            Step::Detach => self.cloud.latency(Transition::Detach),
            Step::Delete => self.cloud.latency(Transition::Delete),
            Step::Create | Step::Describe => SignedDuration::ZERO,
        }
    }

    pub(super) fn flight_due(&mut self, eni: EniRow) {
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
        let asked = Asked { eni, token, step };
        self.calls.insert(self.next_number, asked);
        self.effects.push(Effect::Call(self.next_number, request));
    }

    pub(super) fn called(
        &mut self,
        now: Timestamp,
        number: u64,
        result: Result<Response, cloud::Error>,
    ) {
        let Some(Asked { eni, token, step }) = self.calls.remove(&number) else {
            return;
        };
        let flight = self.flights.get_mut(&eni);
        let Some(flight) = flight.filter(|flight| flight.task.token == token) else {
            return;
        };
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
                let action = flight.task.request.action();
                let pod = flight.task.pod.clone();
                self.look_again(now, eni);
                if let Some(uid) = pod {
                    self.say_call_failed(&uid, action, failures, &error);
                }
            }
        }
    }

    fn say_call_failed(&mut self, uid: &PodUid, action: &str, tries: u32, error: &cloud::Error) {
        tracing::warn!(%uid, action, tries, code = %error.code, "a cloud call failed");
        let note = format!("{action} failed and is tried again until it succeeds: {error}");
        // `Throttling`, `Throttling.User` and `Throttling.Api` mean the same.
        let reason = if error.code.starts_with("Throttling") {
            Reason::CloudCallThrottled
        } else {
            Reason::CloudCallFailed
        };
        self.say_failing(uid, reason, note);
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
        flight.progress = Progress::Planned(at);
        self.timers.insert((at, Timer::Flight(eni)));
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
