use fastrand::Rng;

use super::*;

const CREATE: Action = "CreateNetworkInterface";
const ATTACH: Action = "AttachNetworkInterface";
const DELETE: Action = "DeleteNetworkInterface";
const MILLI: SignedDuration = SignedDuration::from_millis(1);

fn too_many() -> cloud::Error {
    cloud::Error {
        code: "Throttling.User".into(),
        message: "Request was denied due to user flow control.".to_owned(),
    }
}

/// How a cloud counts.
#[derive(Clone, Copy, Debug)]
enum Limit {
    /// Whole seconds, from the first call on.
    Windows(u32),
    /// A bucket that takes in so many calls a second, and holds no more than that.
    Bucket(u32),
}

impl Limit {
    fn per_s(self) -> u32 {
        match self {
            Self::Windows(calls) | Self::Bucket(calls) => calls,
        }
    }
}

/// A cloud with a limit, and a line that never ends.
struct Play {
    now: Timestamp,
    limit: Limit,
    /// Of the window, or in the bucket.
    left: f64,
    window: i64,
    filled_at: Timestamp,
    pace: Pace,
    number: u64,
    /// When the answer comes, and whether it is a good one.
    answers: VecDeque<(Timestamp, u64, bool)>,
    latency: SignedDuration,
    rng: Rng,
    passed: u32,
    refused: u32,
}

impl Play {
    /// So many calls were made at once when the first was refused.
    fn new(limit: Limit, latency: SignedDuration) -> Self {
        let now = Timestamp::UNIX_EPOCH;
        let mut play = Self {
            now,
            limit,
            left: f64::from(limit.per_s()),
            window: 0,
            filled_at: now,
            pace: Pace::new(now, 0),
            number: 0,
            answers: VecDeque::new(),
            latency,
            rng: Rng::with_seed(1),
            passed: 0,
            refused: 0,
        };
        for _ in 0..limit.per_s() + 200 {
            play.call();
        }
        play.pace = Pace::new(now, play.number);
        play
    }

    fn call(&mut self) {
        self.number += 1;
        let elapsed = self.now.duration_since(Timestamp::UNIX_EPOCH);
        match self.limit {
            Limit::Windows(calls) if elapsed.as_secs() != self.window => {
                self.window = elapsed.as_secs();
                self.left = f64::from(calls);
            }
            Limit::Windows(_) => {}
            Limit::Bucket(calls) => {
                let more = self.now.duration_since(self.filled_at).as_secs_f64();
                self.filled_at = self.now;
                let calls = f64::from(calls);
                self.left = (self.left + more * calls).min(calls);
            }
        }
        let passes = self.left >= 1.0;
        if passes {
            self.left -= 1.0;
        }
        self.answers
            .push_back((self.now + self.latency, self.number, passes));
    }

    /// Plays for a while, with timers that are late by up to `late`.
    fn pass(&mut self, time: SignedDuration, late: SignedDuration) {
        let end = self.now + time;
        loop {
            while self.answers.front().is_some_and(|(at, ..)| *at <= self.now) {
                let (_, number, passes) = self.answers.pop_front().unwrap();
                if passes {
                    self.passed += 1;
                    self.pace.passed(self.now, number, CREATE);
                } else {
                    self.refused += 1;
                    self.pace
                        .refused(self.now, number, self.number, CREATE, &too_many());
                }
            }
            self.pace.enter(self.number + 1_000_000, CREATE, EniRow(1));
            while self.pace.next(self.now).is_some() {
                self.call();
                self.pace.enter(self.number + 1_000_000, CREATE, EniRow(1));
            }
            let answer = self.answers.front().map(|(at, ..)| *at);
            let next = answer.into_iter().chain(self.pace.due()).min().unwrap();
            if next > end {
                self.now = end;
                return;
            }
            let late = late.as_micros().try_into().unwrap();
            let late = SignedDuration::from_micros(self.rng.i64(0..=late));
            self.now = next.max(self.now) + late;
        }
    }

    /// What passed and what was refused in so many seconds.
    fn count(&mut self, seconds: i32, late: SignedDuration) -> (u32, u32) {
        let before = (self.passed, self.refused);
        self.pass(SECOND * seconds, late);
        (self.passed - before.0, self.refused - before.1)
    }
}

/// Limits of both kinds, near and far clouds, exact and coarse timers.
fn plays() -> impl Iterator<Item = (Limit, SignedDuration, SignedDuration)> {
    let limits = [1, 3, 10, 20, 50, 333, 1000];
    // A bucket that holds no more than a call or two loses what is not taken at once.
    let buckets = limits.into_iter().filter(|calls| *calls >= 10);
    let limits = limits
        .into_iter()
        .map(Limit::Windows)
        .chain(buckets.map(Limit::Bucket));
    limits.flat_map(|limit| {
        let times = [(0, 0), (0, 3), (5, 3), (50, 10)];
        times.map(|(latency, late)| (limit, MILLI * latency, MILLI * late))
    })
}

#[test]
fn a_limit_that_nobody_told_is_used_up_and_hardly_exceeded() {
    for (limit, latency, late) in plays() {
        let mut play = Play::new(limit, latency);
        let (passed, refused) = play.count(60, late);
        let budget = limit.per_s() * 60;
        let case = format!("{limit:?} {latency:#} {late:#}: {passed} passed, {refused} refused");
        assert!(passed * 100 >= budget * 95, "{case}");
        // Those of the beginning were made before anybody could know.
        assert!(refused <= 200 + passed / 8 + 10, "{case}");
    }
}

#[test]
fn a_limit_that_rises_unannounced_is_followed() {
    for (limit, latency, late) in plays() {
        let mut play = Play::new(limit, latency);
        play.pass(SECOND * 30, late);
        let more = limit.per_s() * 5;
        play.limit = match limit {
            Limit::Windows(_) => Limit::Windows(more),
            Limit::Bucket(_) => Limit::Bucket(more),
        };
        // Twenty calls at the old pace tell nothing yet.
        play.pass(SECOND * 90, late);
        let (passed, refused) = play.count(60, late);
        let case = format!("{limit:?} {latency:#} {late:#}: {passed} passed, {refused} refused");
        assert!(passed * 100 >= more * 60 * 95, "{case}");
        assert!(refused <= passed / 8 + 10, "{case}");
    }
}

#[test]
fn a_limit_that_falls_unannounced_makes_no_storm() {
    for (limit, latency, late) in plays() {
        let mut play = Play::new(Limit::Windows(1000), latency);
        play.pass(SECOND * 20, late);
        play.limit = limit;
        let (_, refused) = play.count(5, late);
        let case = format!("{limit:?} {latency:#} {late:#}: {refused} refused");
        // The old pace is met a few times more, each time by what is under way until the first is refused.
        let under_way = u32::try_from((latency + LATE_MAX).as_millis()).unwrap();
        assert!(
            refused <= 3 * under_way + 30 + limit.per_s() * 5 / 4,
            "{case}"
        );
        let (passed, refused) = play.count(60, late);
        let case = format!("{limit:?} {latency:#} {late:#}: {passed} passed, {refused} refused");
        assert!(passed * 100 >= limit.per_s() * 60 * 95, "{case}");
        assert!(refused <= passed / 8 + 10, "{case}");
    }
}

#[test]
fn a_cloud_that_takes_nothing_is_asked_twice_a_minute() {
    for (_, latency, late) in plays() {
        let mut play = Play::new(Limit::Windows(0), latency);
        play.pass(SECOND * 60, late);
        let (passed, refused) = play.count(600, late);
        assert_eq!(passed, 0);
        assert!(
            (15..=20).contains(&refused),
            "{latency:#} {late:#}: {refused}"
        );
        // And within half a minute the new limit is found.
        play.limit = Limit::Windows(10);
        play.pass(SECOND * 32, late);
        let (passed, _) = play.count(20, late);
        assert!(passed >= 190, "{latency:#} {late:#}: {passed}");
    }
}

#[test]
fn a_cloud_that_has_no_limit_any_more_takes_all_at_once_when_it_is_probed() {
    let mut play = Play::new(Limit::Windows(1), MILLI);
    play.pass(SECOND * 30, MILLI);
    play.limit = Limit::Bucket(u32::MAX);
    play.pace.probe();
    let before = (play.passed, play.refused);
    play.pass(MILLI * 12, SignedDuration::ZERO);
    assert!(play.passed - before.0 > 1000, "{}", play.passed - before.0);
    assert_eq!(play.refused, before.1);
}

#[test]
fn an_action_with_a_reason_of_its_own_does_not_slow_down_the_others() {
    let mut play = Play::new(Limit::Windows(50), SignedDuration::ZERO);
    play.pass(SECOND * 10, SignedDuration::ZERO);
    let mut own = 0;
    for _ in 0..30 {
        let last = play.number;
        let has_own_reason = play.pace.refused(play.now, last, last, ATTACH, &too_many());
        own += u32::from(has_own_reason);
        play.pass(SECOND, SignedDuration::ZERO);
    }
    assert_eq!(own, 30 - OWN);
    let (passed, refused) = play.count(10, SignedDuration::ZERO);
    assert!(
        passed >= 475 && refused <= 50,
        "{passed} passed, {refused} refused"
    );
}

#[test]
fn who_came_first_goes_first() {
    let mut pace = Pace::new(Timestamp::UNIX_EPOCH, 0);
    for ticket in [3, 1, 2] {
        pace.enter(
            ticket,
            [CREATE, DELETE][usize::try_from(ticket % 2).unwrap()],
            EniRow(i64::try_from(ticket).unwrap()),
        );
    }
    pace.leave(2);
    let mut order = Vec::new();
    while let Some(eni) = pace.next(Timestamp::UNIX_EPOCH) {
        order.push(eni);
        pace.passed(Timestamp::UNIX_EPOCH, 1, CREATE);
    }
    assert_eq!(order, [EniRow(1), EniRow(3)]);
}

#[test]
fn it_is_over_when_nobody_was_refused_for_a_minute_and_nobody_waits() {
    let begin = Timestamp::UNIX_EPOCH;
    let mut pace = Pace::new(begin, 1);
    pace.refused(begin, 1, 1, CREATE, &too_many());
    assert!(!pace.is_over(begin + SECOND * 59));
    assert!(pace.is_over(begin + SECOND * 60));
    pace.enter(2, CREATE, EniRow(1));
    assert!(!pace.is_over(begin + SECOND * 60));
}

#[test]
fn an_action_that_is_never_taken_keeps_none_of_another_waiting() {
    let begin = Timestamp::UNIX_EPOCH;
    let mut pace = Pace::new(begin, 0);
    let mut now = begin;
    for number in 1..10 {
        pace.enter(number, CREATE, EniRow(1));
        now = pace.due().unwrap();
        assert_eq!(pace.next(now), Some(EniRow(1)));
        pace.refused(now, number, number, CREATE, &too_many());
    }
    pace.enter(10, CREATE, EniRow(1));
    assert_eq!(pace.next(now), None);
    pace.enter(11, DELETE, EniRow(2));
    assert_eq!(pace.next(now), Some(EniRow(2)));
    pace.enter(12, DELETE, EniRow(3));
    assert_eq!(pace.next(now), None, "one at a time");
    pace.refused(now, 11, 11, DELETE, &too_many());
    assert_eq!(pace.next(now), None, "and each action once");
    pace.enter(13, ATTACH, EniRow(4));
    assert_eq!(pace.next(now), Some(EniRow(4)));
    pace.passed(now, 13, ATTACH);
    assert_eq!(pace.next(now), Some(EniRow(1)), "now something passes");
}

#[test]
fn a_call_waits_long_when_more_than_a_second_of_them_go_before_it() {
    let mut play = Play::new(Limit::Windows(10), SignedDuration::ZERO);
    play.pass(SECOND * 20, SignedDuration::ZERO);
    let first = play.number + 2_000_000;
    for ticket in first..first + 20 {
        play.pace.enter(ticket, CREATE, EniRow(1));
    }
    assert!(!play.pace.is_long(play.now, first + 5));
    assert!(play.pace.is_long(play.now, first + 15));
    assert!(
        !play.pace.is_long(play.now, 1),
        "whoever came first does not"
    );
}
