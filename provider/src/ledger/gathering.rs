//! How long the writer waits between COMMITs, so that those who come meanwhile share one.
//!
//! A COMMIT has a cost of its own: a sync, and each page that it changes is written once however many
//! jobs changed it. Owns that trade of latency for work. Whoever comes alone, one after the other, waits
//! for nobody, save in the second after a burst; what comes in numbers is gathered for as long
//! as more comes, within bounds. Sleeps for nobody and reads no clock.

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
/// Pods that come or go in a second from which on they do in numbers. Of the other jobs a pod may have
/// many, one after the other, and each would wait.
const NUMBERS_PER_S: f64 = 240.0;
/// Jobs in a COMMIT that tell several callers from one that comes again and again.
const TOGETHER_SHARE: f64 = 1.1;
/// What came longer ago than about this says nothing of now.
const MEMORY: Duration = Duration::from_millis(250);

/// What shares a COMMIT.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) jobs: usize,
    /// With how many of them a pod comes or goes.
    pub(super) pods: usize,
    /// Whether there may be more that has waited.
    pub(super) is_full: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gathering {
    began: Instant,
    next_at: Instant,
    /// In a second of late.
    jobs_per_s: f64,
    pods_per_s: f64,
    commits_per_s: f64,
}

impl Gathering {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            next_at: now,
            jobs_per_s: 0.0,
            pods_per_s: 0.0,
            commits_per_s: 0.0,
        }
    }

    /// How long to wait from `now` on before what has come is taken.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        self.next_at.saturating_duration_since(now)
    }

    /// How much longer, now that there are `jobs`, of which `came` since the wait before.
    pub(super) fn more(&self, jobs: usize, came: usize, now: Instant) -> Option<Duration> {
        let is_one_caller = self.jobs_per_s < self.commits_per_s * TOGETHER_SHARE;
        let in_numbers = self.pods_per_s >= NUMBERS_PER_S && !is_one_caller;
        let is_worth_it = in_numbers && came > 0 && jobs < ENOUGH;
        (is_worth_it && now + TOGETHER <= self.began + IN_NUMBERS).then_some(TOGETHER)
    }

    /// This was taken at `began`, and is through at `ended`.
    pub(super) fn served(&mut self, batch: Batch, began: Instant, ended: Instant) {
        let since = began.saturating_duration_since(self.began);
        let kept = (-since.div_duration_f64(MEMORY)).exp();
        let one_per_s = MEMORY.as_secs_f64().recip();
        let count = |few: usize| f64::from(u32::try_from(few).unwrap_or(u32::MAX)) * one_per_s;
        self.jobs_per_s = self.jobs_per_s * kept + count(batch.jobs);
        self.pods_per_s = self.pods_per_s * kept + count(batch.pods);
        self.commits_per_s = self.commits_per_s * kept + one_per_s;
        self.began = began;
        if batch.jobs > 1 && !batch.is_full {
            self.next_at = (began + TOGETHER).max(ended + RETURNING);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Duration = Duration::from_micros(600);

    fn pods(jobs: usize) -> Batch {
        Batch {
            jobs,
            pods: jobs,
            is_full: false,
        }
    }

    /// What a writer does of which jobs come at these times: for each COMMIT when it began and how many
    /// jobs it had.
    fn commits(times: impl IntoIterator<Item = Duration>) -> Vec<(Duration, u32)> {
        let start = Instant::now();
        let mut gathering = Gathering::new(start);
        let mut times = times.into_iter().peekable();
        let (mut commits, mut now) = (Vec::new(), start);
        while let Some(first) = times.next() {
            now = now.max(start + first);
            let mut jobs = 0;
            let mut pause = Some(gathering.pause(now));
            while let Some(wait) = pause {
                now += wait;
                let mut came = usize::from(jobs == 0);
                while times.next_if(|at| start + *at <= now).is_some() {
                    came += 1;
                }
                jobs += came;
                pause = gathering.more(jobs, came, now);
            }
            commits.push((now - start, u32::try_from(jobs).unwrap()));
            gathering.served(pods(jobs), now, now + COMMIT);
            now += COMMIT;
        }
        commits
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
        let start = Instant::now();
        let mut gathering = Gathering::new(start);
        let mut now = start;
        for _ in 0..2000 {
            assert_eq!(gathering.pause(now), Duration::ZERO);
            assert_eq!(gathering.more(1, 1, now), None);
            gathering.served(pods(1), now, now + COMMIT);
            now += COMMIT;
        }
    }

    /// So many callers that each come again as soon as they are served.
    #[test]
    fn callers_who_come_again_at_once_wait_for_each_other_and_little_longer() {
        for (callers, most) in [(64, TOGETHER), (16, TOGETHER), (4, 2 * TOGETHER)] {
            let start = Instant::now();
            let mut gathering = Gathering::new(start);
            let mut now = start;
            for _ in 0..1000 {
                let began = now;
                gathering.served(pods(callers), now, now + COMMIT);
                now += COMMIT;
                now += gathering.pause(now);
                let mut came = callers;
                while let Some(wait) = gathering.more(callers, came, now) {
                    now += wait;
                    came = 0;
                }
                let waited = now - began;
                assert!(waited <= most, "{callers} callers: {waited:?}");
            }
        }
    }

    #[test]
    fn what_comes_in_numbers_shares_commits_from_the_first_tenths_of_a_second_on() {
        for (seed, per_s) in [(1, 400.0), (2, 700.0), (3, 2000.0)] {
            let commits = commits(random(seed, per_s, 10.0));
            let late = commits.iter().filter(|(at, _)| at.as_millis() > 300);
            let (commits, jobs) = late.fold((0, 0), |(n, sum), (_, jobs)| (n + 1, sum + jobs));
            let share = f64::from(jobs) / f64::from(commits);
            println!("seed {seed}: {per_s} jobs/s, {share:.1} in a COMMIT");
            assert!(share > 7.0, "{share} at {per_s}/s");
        }
    }

    #[test]
    fn at_200_in_a_second_nobody_waits_for_long() {
        for seed in 0..20 {
            let times = random(seed, 200.0, 10.0);
            let commits = commits(times);
            let long = commits.iter().filter(|(_, jobs)| *jobs > 5).count();
            assert!(
                long * 100 < commits.len(),
                "seed {seed}: {long} of {}",
                commits.len()
            );
        }
    }

    /// The jobs and calls of few pods are many in a slow cloud.
    #[test]
    fn many_jobs_of_few_pods_are_not_gathered_for_long() {
        let start = Instant::now();
        let mut gathering = Gathering::new(start);
        let mut now = start;
        for round in 0..1000 {
            let batch = Batch {
                jobs: 5,
                pods: usize::from(round % 4 == 0),
                is_full: false,
            };
            gathering.served(batch, now, now + COMMIT);
            now += COMMIT;
            now += gathering.pause(now);
            assert_eq!(gathering.more(5, 5, now), None);
        }
    }

    #[test]
    fn after_a_burst_whoever_comes_alone_soon_waits_for_nobody() {
        let start = Instant::now();
        let mut gathering = Gathering::new(start);
        let mut now = start;
        for _ in 0..100 {
            gathering.served(pods(60), now, now + COMMIT);
            now += COMMIT;
            now += gathering.pause(now);
        }
        let burst_ended = now;
        while gathering.more(1, 1, now).is_some() || !gathering.pause(now).is_zero() {
            now += gathering.pause(now);
            now += gathering.more(1, 1, now).unwrap_or_default();
            gathering.served(pods(1), now, now + COMMIT);
            now += COMMIT;
            let waited = now - burst_ended;
            assert!(waited < Duration::from_secs(2), "{waited:?}");
        }
    }
}
