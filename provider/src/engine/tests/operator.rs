//! What an operator changes in the file beside a running process.

use tempfile::TempDir;

use super::*;
use crate::ledger::Reader;
use crate::ledger::operator::{Error, Operator, Release, Released};

/// A world whose ledger is a file, and an operator with another connection to it.
pub(super) struct Desk {
    pub(super) world: World,
    operator: Operator,
    dir: TempDir,
}

impl Desk {
    pub(super) fn new(cloud: Config) -> Self {
        Self::with("192.168.1.0/24", cloud)
    }

    pub(super) fn with(cidr: &str, cloud: Config) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("holdfast.db");
        let settings = settings(cidr, cloud);
        let ledger = Ledger::open(&path, settings, World::begin()).unwrap();
        Self {
            world: World::on(ledger),
            operator: Operator::open(&path).unwrap(),
            dir,
        }
    }

    pub(super) fn release(&mut self, name: &str, force: bool) -> Result<Released, Error> {
        let release = Release {
            key: &PodKey::new("default", name),
            cluster: None,
            reason: Some("moved away"),
            force,
        };
        let released = self.operator.release(self.world.now, &release);
        self.look();
        released
    }

    pub(super) fn reader(&self) -> Reader {
        Reader::open(&self.dir.path().join("holdfast.db")).unwrap()
    }

    /// What the shell does every second.
    fn look(&mut self) {
        if self.world.ledger.changed().unwrap() {
            self.world.tell(Event::LedgerChanged);
        }
    }

    /// Ends the process and starts another one on the file.
    fn reopen(&mut self) {
        let path = self.dir.path().join("holdfast.db");
        let settings = self.world.ledger.settings().clone();
        self.world.ledger = Ledger::in_memory(settings.clone(), self.world.now).unwrap();
        self.world.ledger = Ledger::open(&path, settings, self.world.now).unwrap();
        self.world.restart();
    }
}

fn clouds() -> [Config; 2] {
    [Config::default(), slow_cloud()]
}

#[test]
fn a_released_address_is_free_once_the_running_process_has_deleted_its_eni() {
    for cloud in clouds() {
        let mut desk = Desk::new(cloud);
        let pod = desk.world.create(&fixed("web-0"));
        desk.world.pass(SECOND * 2);
        let had = desk.world.address(&pod);
        desk.world.delete(&pod);
        let released = desk.release("web-0", false).unwrap();
        assert_eq!((released.address, released.kept_by), (had, None));
        assert!(desk.world.claims().is_empty());
        desk.world.pass(SECOND * 5);
        assert_eq!(desk.world.count("vsw-b", "free"), 252);
        let why = "SELECT count(*) FROM journal j JOIN claim c ON c.id = j.claim \
                   WHERE c.closed_why = 'released by an operator' AND j.detail = 'moved away'";
        assert_eq!(desk.world.ledger.number(why), 1);
    }
}

#[test]
fn a_release_wakes_the_pod_that_waits_for_an_address() {
    let mut desk = Desk::with("192.168.1.0/29", slow_cloud());
    for name in ["job-0", "job-1", "job-2"] {
        desk.world.create(&ordinary(name));
    }
    let kept = desk.world.create(&fixed("web-0"));
    desk.world.pass(SECOND * 5);
    let address = desk.world.address(&kept);
    desk.world.delete(&kept);
    let waits = desk.world.create(&ordinary("job-3"));
    desk.world.is_waiting(&waits, Reason::IPPoolExhausted);
    desk.release("web-0", false).unwrap();
    desk.world.pass(SECOND * 5);
    assert_eq!(desk.world.address(&waits), address);
}

#[test]
fn an_address_in_use_is_released_by_force_only() {
    let mut desk = Desk::new(Config::default());
    let pod = desk.world.create(&fixed("web-0"));
    let refused = desk.release("web-0", false).unwrap_err();
    let Error::InUse { holder, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!(*holder, pod);
    assert_eq!(desk.world.claims().len(), 1);
    // Nor while it terminates.
    desk.world.begin_deletion(&pod);
    assert!(matches!(
        desk.release("web-0", false),
        Err(Error::InUse { .. })
    ));
}

#[test]
fn a_pod_whose_claim_is_released_by_force_keeps_its_address_until_it_goes() {
    for cloud in clouds() {
        let mut desk = Desk::new(cloud);
        let pod = desk.world.create(&fixed("web-0"));
        desk.world.pass(SECOND * 2);
        let had = desk.world.assigned(&pod);
        let released = desk.release("web-0", true).unwrap();
        assert_eq!(released.kept_by.as_ref(), Some(&pod));
        desk.world.pass(HOUR);
        assert_eq!(desk.world.assigned(&pod), had, "nothing is taken from it");
        assert_eq!(desk.world.count("vsw-b", "in_use"), 1);
        desk.reopen();
        assert_eq!(desk.world.assigned(&pod), had, "nor by a restart");

        desk.world.delete(&pod);
        desk.world.pass(SECOND * 5);
        assert_eq!(desk.world.count("vsw-b", "free"), 252, "as an ordinary one");
        let next = desk.world.create(&fixed("web-0"));
        desk.world.pass(SECOND * 5);
        assert_eq!(
            desk.world.claims().len(),
            1,
            "a later pod claims a new address"
        );
        assert_ne!(desk.world.address(&next), had.address);
    }
}

#[test]
fn a_pod_that_waits_for_a_claim_released_by_force_gets_a_new_address() {
    let mut desk = Desk::new(slow_cloud());
    let old = desk.world.create(&fixed("web-0"));
    desk.world.pass(SECOND * 2);
    let had = desk.world.address(&old);
    desk.world.begin_deletion(&old);
    desk.world.vanish(&old);
    let new = desk.world.create(&fixed("web-0"));
    desk.release("web-0", true).unwrap();
    desk.world.pass(SECOND * 5);
    assert_ne!(desk.world.address(&new), had);
    assert_eq!(
        desk.world.count("vsw-b", "free"),
        251,
        "the old one is free"
    );
    assert_eq!(desk.world.claims().len(), 1);
}

#[test]
fn an_ended_pod_whose_claim_is_released_by_force_has_nothing_left_to_keep() {
    let mut desk = Desk::new(slow_cloud());
    let pod = desk.world.create(&fixed("job"));
    desk.world.pass(SECOND * 2);
    desk.world.tell(Event::Ended(pod.clone()));
    desk.world.pass(SECOND * 2);
    assert!(matches!(
        desk.release("job", false),
        Err(Error::InUse { .. })
    ));
    assert_eq!(desk.release("job", true).unwrap().kept_by, None);
    desk.world.pass(SECOND * 5);
    assert_eq!(desk.world.count("vsw-b", "free"), 252);
    desk.world.vanish(&pod);
    assert_eq!(desk.world.count("vsw-b", "free"), 252);
}

#[test]
fn a_release_without_a_running_process_is_finished_by_the_next_one() {
    for cloud in clouds() {
        let mut desk = Desk::new(cloud);
        let pod = desk.world.create(&fixed("web-0"));
        desk.world.pass(SECOND * 2);
        desk.world.delete(&pod);
        let release = Release {
            key: &PodKey::new("default", "web-0"),
            cluster: None,
            reason: None,
            force: false,
        };
        desk.operator.release(desk.world.now, &release).unwrap();
        desk.reopen();
        desk.world.pass(SECOND * 5);
        assert_eq!(desk.world.count("vsw-b", "free"), 252);
    }
}

#[test]
fn what_is_not_there_cannot_be_released() {
    let mut desk = Desk::new(Config::default());
    desk.world.create(&ordinary("job"));
    for name in ["job", "nobody"] {
        let refused = desk.release(name, true).unwrap_err();
        assert!(matches!(refused, Error::NoClaim { .. }), "{refused}");
    }
}

#[test]
fn a_key_of_two_clusters_is_released_for_the_one_that_is_named() {
    let mut desk = Desk::new(Config::default());
    let here = desk.world.create(&fixed("web-0"));
    desk.world.delete(&here);
    let mut other = desk.world.ledger.settings().clone();
    other.cluster = "other".into();
    let now = desk.world.now;
    desk.world.ledger.reconfigure(other, now).unwrap();
    let there = desk.world.create(&fixed("web-0"));
    desk.world.delete(&there);
    let refused = desk.release("web-0", false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "clusters cluster and other each have a claim of default/web-0: say which one with --cluster"
    );
    let release = Release {
        key: &PodKey::new("default", "web-0"),
        cluster: Some(&"other".into()),
        reason: None,
        force: false,
    };
    let released = desk.operator.release(now, &release).unwrap();
    assert_eq!(released.cluster.as_str(), "other");
}
