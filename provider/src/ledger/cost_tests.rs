//! What the jobs of a pod's life cost does not depend on how many other pods stand or stood.
//!
//! Counted in steps of SQLite's virtual machine, which are the same on every machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fault_tests::{begin, facts, settings};
use super::*;

const FEW: usize = 16;
const MANY: usize = 1024;

/// A ledger whose statements are counted, with room for all the pods.
struct Counted {
    ledger: Ledger,
    steps: Arc<AtomicU64>,
}

impl Counted {
    fn new() -> Self {
        let mut settings = settings();
        settings.vswitches[0].cidr = "10.0.0.0/20".parse().unwrap();
        let mut ledger = Ledger::in_memory(settings, begin()).unwrap();
        let steps = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&steps);
        let count = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            false
        };
        ledger.conn.progress_handler(1, Some(count)).unwrap();
        Self { ledger, steps }
    }

    fn steps(&mut self, job: Job) -> u64 {
        let before = self.steps.load(Ordering::Relaxed);
        let batch = self.ledger.commit(begin(), &[job]).unwrap();
        assert!(batch.results.iter().all(Result::is_ok), "{batch:?}");
        self.steps.load(Ordering::Relaxed) - before
    }
}

/// The jobs of a pod that takes time to stop, and of one that takes none.
fn life(index: usize, takes_time: bool) -> Vec<Job> {
    let facts = facts(index);
    let uid = facts.uid.clone();
    let leaves = if takes_time {
        vec![
            Job::Deleted(uid.clone(), begin()),
            Job::Stopped(uid.clone()),
        ]
    } else {
        vec![Job::DeletedAndStopped(uid.clone(), begin())]
    };
    let mut jobs = vec![Job::Acquire(facts)];
    jobs.extend(leaves);
    jobs.push(Job::Gone(uid));
    jobs
}

/// Steps of each job of two more pods when so many others stand and as many are gone and retained.
fn beside(pods: usize) -> Vec<u64> {
    let mut counted = Counted::new();
    for index in 0..pods {
        counted.steps(Job::Acquire(facts(index)));
        for job in life(pods + index, true) {
            counted.steps(job);
        }
    }
    let lives = [life(2 * pods, true), life(2 * pods + 1, false)].concat();
    lives.into_iter().map(|job| counted.steps(job)).collect()
}

#[test]
fn the_jobs_of_a_pod_cost_the_same_however_many_others_stand_or_are_retained() {
    let (few, many) = (beside(FEW), beside(MANY));
    println!("{few:?} steps beside {FEW} pods, {many:?} beside {MANY}");
    for (few, many) in few.into_iter().zip(many) {
        assert!(many <= few + few / 4, "{few} steps have become {many}");
    }
}
