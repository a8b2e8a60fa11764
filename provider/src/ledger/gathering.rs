//! How long the writer waits between COMMITs, so that those who come meanwhile share one.
//!
//! A COMMIT has a cost of its own: a sync, and each page that it changes is written once however many
//! jobs changed it. Owns that trade of latency for work. Whoever comes alone, one after the other, waits
//! for nobody, save in the tenths of a second after a burst; what comes in numbers is gathered for as long
//! as more comes, within bounds. What nobody is in a hurry for is gathered for longer. Sleeps for nobody and
//! reads no clock.

use std::time::{Duration, Instant};

/// From one COMMIT to the next when several jobs came together: those of a burst trickle in. What comes
/// in numbers is waited for in steps of as much.
const TOGETHER: Duration = Duration::from_millis(4);
/// The most, from the beginning of a COMMIT to the next: after a rest nobody waits for the numbers of before.
const IN_NUMBERS: Duration = Duration::from_millis(30);
/// From the end of a COMMIT to the next: those whom it served come again, and should share one.
const RETURNING: Duration = Duration::from_micros(500);
/// So many jobs have each little of a COMMIT's cost to bear.
const ENOUGH: usize = 16;
/// [`IN_NUMBERS`] and [`ENOUGH`] of jobs whose results can wait: of so many, several share each page that is
/// written, which fewer do not.
const UNHURRIED: Duration = Duration::from_millis(120);
const ENOUGH_UNHURRIED: usize = 64;
/// Jobs come in numbers where a COMMIT for each would take more than this share of the time: a slow
/// machine is there long before a fast one.
const NUMBERS_SHARE: f64 = 0.2;
/// What takes longer has waited for the disk once, which says nothing of the next.
const COMMIT_MAX: Duration = Duration::from_millis(4);
/// Jobs in a COMMIT that tell several callers from one that comes again and again.
const TOGETHER_SHARE: f64 = 1.1;
/// What came longer ago than about this says nothing of now.
const MEMORY: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug)]
pub(super) struct Gathering {
    began: Instant,
    next_at: Instant,
    /// In a second of late.
    jobs_per_s: f64,
    commits_per_s: f64,
    /// The share of the time that a COMMIT for each job would take. Bounded, or the end of a large burst
    /// would be noticed later than that of a small one.
    wanted_share: f64,
}

impl Gathering {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            next_at: now,
            jobs_per_s: 0.0,
            commits_per_s: 0.0,
            wanted_share: 0.0,
        }
    }

    /// How long to wait from `now` on before what has come is taken.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        self.next_at.saturating_duration_since(now)
    }

    /// How much longer, now that there are `jobs`, of which `came` since the wait before. `hurried` says that
    /// somebody can use the result of one.
    pub(super) fn more(
        &self,
        jobs: usize,
        came: usize,
        hurried: bool,
        now: Instant,
    ) -> Option<Duration> {
        let is_one_caller = self.jobs_per_s < self.commits_per_s * TOGETHER_SHARE;
        let in_numbers = self.wanted_share >= NUMBERS_SHARE && !is_one_caller;
        let (is_worth_it, most) = if hurried {
            (came > 0 && jobs < ENOUGH, IN_NUMBERS)
        } else {
            (jobs < ENOUGH_UNHURRIED, UNHURRIED)
        };
        (in_numbers && is_worth_it && now + TOGETHER <= self.began + most).then_some(TOGETHER)
    }

    /// So many `jobs` were taken at `began`, and are through at `ended`. `left` says that there were more.
    pub(super) fn served(&mut self, jobs: usize, left: bool, began: Instant, ended: Instant) {
        let since = began.saturating_duration_since(self.began);
        let took = ended.saturating_duration_since(began).min(COMMIT_MAX);
        let kept = (-since.div_duration_f64(MEMORY)).exp();
        let one_per_s = MEMORY.as_secs_f64().recip();
        let these_per_s = f64::from(u32::try_from(jobs).unwrap_or(u32::MAX)) * one_per_s;
        self.jobs_per_s = self.jobs_per_s * kept + these_per_s;
        self.commits_per_s = self.commits_per_s * kept + one_per_s;
        let wanted_share = self.wanted_share * kept + these_per_s * took.as_secs_f64();
        self.wanted_share = wanted_share.min(NUMBERS_SHARE * 2.0);
        self.began = began;
        if jobs > 1 && !left {
            self.next_at = (began + TOGETHER).max(ended + RETURNING);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A COMMIT of a fast machine, and what each job adds to it.
    const COMMIT: Duration = Duration::from_micros(600);
    const JOB: Duration = Duration::from_micros(40);

    /// A writer without its ledger, in a time of its own.
    struct Writer {
        gathering: Gathering,
        start: Instant,
        now: Instant,
        slower: u32,
    }

    impl Writer {
        fn new() -> Self {
            Self::slower(1)
        }

        fn slower(slower: u32) -> Self {
            let start = Instant::now();
            Self {
                gathering: Gathering::new(start),
                start,
                now: start,
                slower,
            }
        }

        fn commit(&mut self, jobs: usize) {
            let jobs_take = JOB * u32::try_from(jobs).unwrap();
            let ended = self.now + (COMMIT + jobs_take) * self.slower;
            self.gathering.served(jobs, false, self.now, ended);
            self.now = ended;
        }

        fn pause(&self) -> Duration {
            self.gathering.pause(self.now)
        }

        fn more(&self, jobs: usize, came: usize) -> Option<Duration> {
            self.gathering.more(jobs, came, true, self.now)
        }

        /// What it does of which jobs come at these times: for each COMMIT when it began and how many jobs it
        /// had.
        fn commits(mut self, times: &[Duration]) -> Vec<(Duration, u32)> {
            let mut times = times.iter().peekable();
            let mut commits = Vec::new();
            while let Some(first) = times.next() {
                self.now = self.now.max(self.start + *first);
                let mut jobs = 0;
                let mut pause = Some(self.pause());
                while let Some(wait) = pause {
                    self.now += wait;
                    let passed = self.now - self.start;
                    let mut came = usize::from(jobs == 0);
                    while times.next_if(|at| **at <= passed).is_some() {
                        came += 1;
                    }
                    jobs += came;
                    pause = self.more(jobs, came);
                }
                commits.push((self.now - self.start, u32::try_from(jobs).unwrap()));
                self.commit(jobs);
            }
            commits
        }
    }

    /// So many independent jobs in a second, for so many seconds.
    fn random(seed: u64, per_s: f64, lasts_s: f64) -> Vec<Duration> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut at_s = 0.0;
        let next = || {
            at_s -= (1.0 - random.f64()).ln() / per_s;
            (at_s < lasts_s).then(|| Duration::from_secs_f64(at_s))
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn whoever_comes_alone_waits_for_the_disk_only() {
        let mut writer = Writer::new();
        for _ in 0..2000 {
            assert_eq!(writer.pause(), Duration::ZERO);
            assert_eq!(writer.more(1, 1), None);
            writer.commit(1);
        }
    }

    /// So many callers that each come again as soon as they are served.
    #[test]
    fn callers_who_come_again_at_once_wait_for_each_other_and_little_longer() {
        for (callers, most) in [(64, TOGETHER), (16, TOGETHER), (4, 2 * TOGETHER)] {
            let mut writer = Writer::new();
            for _ in 0..1000 {
                let began = writer.now;
                writer.commit(callers);
                writer.now += writer.pause();
                let mut came = callers;
                while let Some(wait) = writer.more(callers, came) {
                    writer.now += wait;
                    came = 0;
                }
                let waited = writer.now - began;
                assert!(waited <= most, "{callers} callers: {waited:?}");
            }
        }
    }

    #[test]
    fn what_comes_in_numbers_shares_commits_from_the_first_tenths_of_a_second_on() {
        for (seed, per_s, slower, least) in [
            (1, 400.0, 1, 7.0),
            (2, 700.0, 1, 7.0),
            (3, 2000.0, 1, 16.0),
            (4, 300.0, 3, 4.0),
        ] {
            let commits = Writer::slower(slower).commits(&random(seed, per_s, 10.0));
            let late = commits.iter().filter(|(at, _)| at.as_millis() > 300);
            let (commits, sum) = late.fold((0, 0), |(n, sum), (_, jobs)| (n + 1, sum + jobs));
            let share = f64::from(sum) / f64::from(commits);
            println!("seed {seed}: {per_s} jobs/s, {share:.1} in a COMMIT");
            assert!(share > least, "{share} at {per_s}/s");
        }
    }

    /// A pod that comes and goes has three jobs, and in a slow cloud seven.
    #[test]
    fn what_a_machine_has_time_for_waits_for_nobody_for_long() {
        for (per_s, slower) in [(200.0, 1), (240.0, 1), (60.0, 3)] {
            for seed in 0..20 {
                let times = random(seed, per_s, 10.0);
                let commits = Writer::slower(slower).commits(&times);
                let long = commits.iter().filter(|(_, jobs)| *jobs > 5).count();
                let all = commits.len();
                assert!(long * 100 < all, "seed {seed}, {per_s}/s: {long} of {all}");
            }
        }
    }

    #[test]
    fn a_disk_that_stands_still_for_once_makes_nobody_wait_after_it() {
        let mut writer = Writer::new();
        for _ in 0..10 {
            writer.now += Duration::from_millis(20);
            writer.commit(2);
        }
        let stalled_at = writer.now;
        writer.now += Duration::from_millis(90);
        writer.gathering.served(2, false, stalled_at, writer.now);
        // The stall itself has taken the time that could be waited.
        writer.now += writer.pause();
        writer.commit(2);
        assert_eq!(writer.more(9, 9), None);
    }

    #[test]
    fn what_nobody_is_in_a_hurry_for_is_gathered_until_it_is_many_or_late() {
        let more = |writer: &Writer, jobs| writer.gathering.more(jobs, 0, false, writer.now);
        let mut writer = Writer::new();
        writer.commit(1);
        assert_eq!(more(&writer, 1), None, "it does not come in numbers");
        for _ in 0..10 {
            writer.commit(30);
        }
        let began = writer.gathering.began;
        while let Some(wait) = more(&writer, 1) {
            assert_eq!(more(&writer, ENOUGH_UNHURRIED), None);
            assert_eq!(writer.more(1, 0), None, "but for what somebody waits for");
            writer.now += wait;
        }
        let waited = writer.now - began;
        assert!(
            waited <= UNHURRIED && UNHURRIED <= waited + TOGETHER,
            "{waited:?}"
        );
    }

    #[test]
    fn after_a_burst_whoever_comes_alone_soon_waits_for_nobody() {
        let mut writer = Writer::new();
        for _ in 0..100 {
            writer.commit(60);
            writer.now += writer.pause();
        }
        let burst_ended = writer.now;
        while writer.more(1, 1).is_some() || !writer.pause().is_zero() {
            writer.now += writer.pause();
            writer.now += writer.more(1, 1).unwrap_or_default();
            writer.commit(1);
            let waited = writer.now - burst_ended;
            assert!(waited < Duration::from_secs(1), "{waited:?}");
        }
    }
}
