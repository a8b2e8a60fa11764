//! What an operator changes in the file beside a running process.

use tempfile::TempDir;

use super::*;
use crate::check::Repair;
use crate::check::cluster::absent;
use crate::id::ClusterId;
use crate::ledger::operator::{Error, Operator, Release, Released};
use crate::ledger::{self, Reader};

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

    fn repair(&self, repairs: &[Repair]) -> Result<Vec<bool>, ledger::Error> {
        let path = self.dir.path().join("holdfast.db");
        let settings = self.world.ledger.settings().clone();
        ledger::repair(&path, settings, self.world.now, repairs)
    }

    /// Ends the process.
    fn kill(&mut self) {
        let settings = self.world.ledger.settings().clone();
        self.world.ledger = Ledger::in_memory(settings, self.world.now).unwrap();
    }

    /// Ends the process and starts another one on the file.
    fn reopen(&mut self) {
        self.kill();
        let path = self.dir.path().join("holdfast.db");
        let settings = self.world.ledger.settings().clone();
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

#[test]
fn a_release_while_nothing_runs_does_not_make_other_endings_late() {
    let mut desk = Desk::new(Config::default());
    for wish in [
        fixed("web-0"),
        Wish {
            hours: Some(1),
            ..fixed("web-1")
        },
    ] {
        let pod = desk.world.create(&wish);
        desk.world.delete(&pod);
    }
    // Killed; web-1 runs out meanwhile.
    desk.world.now += HOUR * 2;
    let release = Release {
        key: &PodKey::new("default", "web-0"),
        cluster: None,
        reason: None,
        force: false,
    };
    desk.operator.release(desk.world.now, &release).unwrap();
    desk.world.now += HOUR;
    desk.reopen();
    desk.world.pass(SECOND * 5);
    assert!(desk.world.claims().is_empty());
    // The checker, at the end of every test, knows when the process ended.
}

/// What a check finds when a holder is gone and nobody saw it go.
fn let_go(desk: &Desk, uid: &PodUid) -> Repair {
    let holders = desk.reader().holders().unwrap();
    let cluster = ClusterId::from("cluster");
    let unseen = holders.unseen(&cluster, &[]);
    let holder = unseen.iter().find(|holder| holder.uid == *uid).unwrap();
    absent(holder).repair.unwrap()
}

#[test]
fn a_repair_is_refused_while_a_process_runs() {
    let mut desk = Desk::new(Config::default());
    let pod = desk.world.create(&fixed("web-0"));
    let repair = [let_go(&desk, &pod)];
    let refused = desk.repair(&repair).unwrap_err();
    assert!(matches!(refused, ledger::Error::Locked { .. }), "{refused}");
    assert_eq!(desk.world.count("vsw-b", "in_use"), 1);
}

#[test]
fn a_repaired_holder_keeps_a_fixed_address_retained_and_frees_an_ordinary_one() {
    for cloud in clouds() {
        let mut desk = Desk::new(cloud);
        let fixed_pod = desk.world.create(&fixed("web-0"));
        let ordinary_pod = desk.world.create(&ordinary("job"));
        desk.world.pass(SECOND * 2);
        let kept = desk.world.assigned(&fixed_pod);
        let repairs = [&fixed_pod, &ordinary_pod].map(|pod| let_go(&desk, pod));
        desk.kill();
        desk.world.vanish_unseen(&fixed_pod);
        desk.world.vanish_unseen(&ordinary_pod);
        desk.world.now += HOUR;
        assert_eq!(desk.repair(&repairs).unwrap(), [true, true]);
        assert_eq!(desk.repair(&repairs).unwrap(), [false, false], "done");
        desk.reopen();
        desk.world.pass(SECOND * 5);
        assert_eq!(desk.world.count("vsw-b", "retained"), 1);
        assert_eq!(desk.world.count("vsw-b", "free"), 251);
        assert_eq!(
            desk.world
                .ledger
                .number("SELECT count(*) FROM journal WHERE what = 'repaired'"),
            2
        );
        let again = desk.world.create(&fixed("web-0"));
        desk.world.pass(SECOND * 5);
        assert_eq!(desk.world.assigned(&again).eni, kept.eni);
    }
}

#[test]
fn an_eni_of_nobody_is_deleted_and_one_of_somebody_is_not() {
    let mut desk = Desk::new(Config::default());
    let pod = desk.world.create(&fixed("web-0"));
    let used = desk.world.assigned(&pod);
    let request = Request::Create {
        token: "lost".into(),
        vswitch: "vsw-b".into(),
        zone: "b".into(),
        address: "192.168.1.77".parse().unwrap(),
    };
    let now = desk.world.now;
    desk.world.ledger.call(now, &[request]).unwrap();
    let found = desk.reader().holders().unwrap().leaked(Some(&[]));
    let leak = found[0].repair.clone().unwrap();
    assert_eq!(found.len(), 1);
    desk.kill();
    let of_somebody = Repair::DeleteEni {
        token: "lost".into(),
        eni: used.eni,
        address: used.address.to_string(),
    };
    assert_eq!(desk.repair(&[of_somebody, leak]).unwrap(), [false, true]);
    desk.reopen();
    assert_eq!(desk.world.ledger.number("SELECT count(*) FROM sim_eni"), 1);
}
