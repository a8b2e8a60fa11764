//! What the jobs of a pod's life cost, and that it does not depend on how many other pods stand or stood.
//!
//! Counted in steps of SQLite's virtual machine and in pages that a COMMIT writes, which are the same on every
//! machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use super::fault_tests::{begin, facts, ordinary, settings};
use super::*;
use crate::engine::PodFacts;
use crate::settings::VSwitch;

const FEW: usize = 16;
const MANY: usize = 1024;

/// A ledger whose statements are counted, with room for all the pods.
struct Counted {
    ledger: Ledger,
    steps: Arc<AtomicU64>,
}

impl Counted {
    fn new(cidrs: &[&str]) -> Self {
        let mut settings = settings();
        let first = settings.vswitches.remove(0);
        let vswitches = cidrs.iter().enumerate().map(|(number, cidr)| VSwitch {
            id: format!("vsw-{number}").into(),
            cidr: cidr.parse().unwrap(),
            ..first.clone()
        });
        settings.vswitches.extend(vswitches);
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

/// An ordinary pod with a UID as random as the API server's.
fn with_random_uid(index: usize) -> PodFacts {
    let mut facts = ordinary(index);
    facts.uid = Uuid::new_v5(&Uuid::NAMESPACE_OID, facts.uid.as_str().as_bytes())
        .to_string()
        .into();
    facts
}

/// The jobs of a pod that takes time to stop, and of one that takes none.
fn life(facts: PodFacts, takes_time: bool) -> Vec<Job> {
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

/// Steps of each job of three more pods when so many others stand and as many are gone and retained.
fn beside(pods: usize, cidrs: &[&str]) -> Vec<u64> {
    let mut counted = Counted::new(cidrs);
    for index in 0..pods {
        counted.steps(Job::Acquire(facts(index)));
        for job in life(facts(pods + index), true) {
            counted.steps(job);
        }
    }
    let lives = [
        life(facts(2 * pods), true),
        life(facts(2 * pods + 1), false),
        life(ordinary(2 * pods + 2), false),
    ]
    .concat();
    lives.into_iter().map(|job| counted.steps(job)).collect()
}

#[test]
fn the_jobs_of_a_pod_cost_the_same_however_many_others_stand_or_are_retained() {
    for (small, large) in [
        (&["10.0.0.0/26"] as &[_], &["10.0.0.0/20"] as &[_]),
        (
            &["10.0.0.0/26", "10.1.0.0/26"],
            &["10.0.0.0/20", "10.1.0.0/20"],
        ),
    ] {
        let (few, many) = (beside(FEW, small), beside(MANY, large));
        println!("{small:?}: {few:?} steps beside {FEW} pods, {many:?} beside {MANY}");
        for (few, many) in few.into_iter().zip(many) {
            assert!(many <= few + few / 4, "{few} steps have become {many}");
        }
    }
}

/// Steps of each portion of a pass over the past of so many pods, all of it too old.
fn portions(pods: usize) -> Vec<u64> {
    let mut counted = Counted::new(&["10.0.0.0/26"]);
    for index in 0..pods {
        for job in life(ordinary(index), false) {
            counted.steps(job);
        }
    }
    let mut portions = Vec::new();
    let mut next = Some(Box::new(Portion::FIRST));
    while let Some(portion) = next {
        let before = counted.steps.load(Ordering::Relaxed);
        let later = begin() + SignedDuration::from_hours(31 * 24);
        let batch = counted.ledger.commit(later, &[Job::Prune(*portion)]);
        let results = batch.unwrap().results.into_iter();
        next = results
            .map(Result::unwrap)
            .find_map(|outcome| outcome.pruning);
        portions.push(counted.steps.load(Ordering::Relaxed) - before);
        assert_eq!(counted.ledger.check().unwrap(), []);
    }
    for (table, kept) in [("pod_log", 0), ("eni_end", 0), ("address_span", 60)] {
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(counted.ledger.number(&sql), kept, "{table}");
    }
    portions
}

#[test]
fn history_is_pruned_in_portions_that_cost_the_same_however_much_there_is() {
    let (few, many) = (portions(1500), portions(6000));
    let most = |portions: &[u64]| portions.iter().copied().max().unwrap();
    println!("{few:?} steps of 1500 lives, {many:?} of 6000");
    assert!(many.len() > 2 * few.len(), "{few:?} {many:?}");
    assert!(
        most(&many) <= most(&few) + most(&few) / 4,
        "{few:?} {many:?}"
    );
}

/// Each table and each index that a step writes to has a page of its own in the COMMIT.
#[test]
fn eight_ordinary_pods_that_share_commits_write_few_pages() {
    const TOGETHER: usize = 8;
    const TIMES: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.vswitches[0].cidr = "10.0.0.0/20".parse().unwrap();
    let mut ledger = Ledger::open(&dir.path().join("holdfast.db"), settings, begin()).unwrap();
    let mut now = begin();
    let log = |ledger: &Ledger| -> i64 {
        let sql = "PRAGMA wal_checkpoint(NOOP)";
        ledger.conn.query_row(sql, [], |row| row.get(1)).unwrap()
    };
    let mut pages = [0; 3];
    for time in 0..TIMES {
        let pods = time * TOGETHER..(time + 1) * TOGETHER;
        let lives: Vec<_> = pods
            .map(|index| life(with_random_uid(index), false))
            .collect();
        for (step, pages) in pages.iter_mut().enumerate() {
            let jobs: Vec<_> = lives.iter().map(|jobs| jobs[step].clone()).collect();
            let before = log(&ledger);
            now += SignedDuration::from_millis(10);
            let batch = ledger.commit(now, &jobs).unwrap();
            assert!(batch.results.iter().all(Result::is_ok), "{batch:?}");
            *pages += log(&ledger) - before;
        }
    }
    let times = i64::try_from(TIMES).unwrap();
    let pages = pages.map(|pages| pages / times);
    println!("{pages:?} pages for each step of {TOGETHER} pods");
    assert!(pages.iter().sum::<i64>() < 56, "{pages:?}");
}
