//! Faults that an operator sets and clears in the file beside a running process.

use tempfile::TempDir;

use super::*;
use crate::cloud::sim::Fault;
use crate::ledger::faults::{Error, Switchboard};

/// A world whose ledger is a file, and a switchboard with another connection to it.
struct Bench {
    world: World,
    switchboard: Switchboard,
    dir: TempDir,
}

impl Bench {
    fn new(cloud: Config) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("holdfast.db");
        let ledger = Ledger::open(&path, settings("192.168.1.0/24", cloud), World::begin());
        Self {
            world: World::on(ledger.unwrap()),
            switchboard: Switchboard::open(&path).unwrap(),
            dir,
        }
    }

    fn set(&mut self, name: &str, settings: &[&str]) -> Result<(), Error> {
        let fault = Fault::parse(name, settings).unwrap();
        self.switchboard.set(self.world.now, &fault)?;
        self.look();
        Ok(())
    }

    fn clear(&mut self, name: &str) -> Result<(), Error> {
        self.switchboard.clear(self.world.now, &[name.to_owned()])?;
        self.look();
        Ok(())
    }

    /// What the shell does every second.
    fn look(&mut self) {
        if self.world.ledger.changed().unwrap() {
            let cloud = self.world.ledger.cloud().clone();
            self.world.engine.set_cloud(cloud);
            self.world.tell(Event::LedgerChanged);
        }
    }

    fn in_force(&self) -> Vec<String> {
        let faults = &self.world.ledger.cloud().faults;
        faults.iter().map(Fault::name).collect()
    }

    fn reopen(&mut self) {
        let settings = self.world.ledger.settings().clone();
        self.world.ledger = Ledger::in_memory(settings.clone(), self.world.now).unwrap();
        let path = self.dir.path().join("holdfast.db");
        self.world.ledger = Ledger::open(&path, settings, self.world.now).unwrap();
        self.world.restart();
    }
}

#[test]
fn a_pod_shows_the_code_of_the_fault_and_runs_once_it_is_cleared() {
    let cases: [(&str, &[&str], &str); 7] = [
        ("fail/create", &[], "InternalError"),
        (
            "fail/attach",
            &["code=Operation.Conflict"],
            "Operation.Conflict",
        ),
        ("fail/describe", &[], "InternalError"),
        ("throttle", &["calls_per_s=0"], "Throttling.User"),
        (
            "out_of_addresses/vsw-b",
            &[],
            "InvalidVSwitchId.IpNotEnough",
        ),
        ("eni_quota", &["enis_max=0"], "MaxEniCountExceeded"),
        ("lost_answer/create", &[], "RequestTimeout"),
    ];
    for cloud in [Config::default(), slow_cloud()] {
        for (name, settings, code) in cases {
            // An instant cloud has nothing to describe as long as every call is answered.
            if name == "fail/describe" && cloud.is_instant() {
                continue;
            }
            let mut bench = Bench::new(cloud.clone());
            bench.set(name, settings).unwrap();
            let pod = bench.world.create(&fixed("web-0"));
            // A lost answer is found out by the next look.
            if name != "lost_answer/create" {
                bench.world.pass(HOUR);
                let want = if name == "throttle" {
                    Reason::CloudCallThrottled
                } else {
                    Reason::CloudCallFailed
                };
                let note = bench.world.is_waiting(&pod, want);
                assert!(note.contains(code), "{name}: {note}");
            }
            bench.clear(name).unwrap();
            bench.world.pass(SECOND * 5);
            bench.world.address(&pod);
            bench.world.delete(&pod);
            bench.world.pass(HOUR * 49);
            assert_eq!(bench.world.count("vsw-b", "free"), 252, "{name}");
        }
    }
}

#[test]
fn a_detach_that_hangs_makes_the_next_pod_wait_until_it_is_cleared() {
    let mut bench = Bench::new(slow_cloud());
    let first = bench.world.create(&fixed("web-0"));
    bench.world.pass(SECOND * 5);
    let had = bench.world.address(&first);
    bench.set("stuck/detach", &[]).unwrap();
    bench.world.delete(&first);
    let second = bench.world.create(&fixed("web-0"));
    bench.world.pass(HOUR);
    bench.world.is_waiting(&second, Reason::FixedIPWaiting);
    bench.clear("stuck/detach").unwrap();
    bench.world.pass(SECOND * 10);
    assert_eq!(bench.world.address(&second), had);
}

#[test]
fn a_slow_detach_takes_its_time_and_not_more_than_a_second_longer() {
    let mut bench = Bench::new(slow_cloud());
    let pod = bench.world.create(&ordinary("job"));
    bench.world.pass(SECOND * 5);
    bench.set("slow/detach", &["latency=90s"]).unwrap();
    // Takes two seconds by itself.
    bench.world.delete(&pod);
    bench.world.pass(SECOND * 87);
    assert_eq!(bench.world.count("vsw-b", "free"), 251);
    bench.world.pass(SECOND * 2);
    assert_eq!(bench.world.count("vsw-b", "free"), 252);
}

#[test]
fn a_fault_outlives_the_process_and_changed_settings() {
    let mut bench = Bench::new(slow_cloud());
    bench.set("throttle", &["calls_per_s=0"]).unwrap();
    bench.reopen();
    assert_eq!(bench.in_force(), ["throttle"]);
    let configured = Config {
        faults: vec![
            Fault::parse("stuck/attach", &[""; 0]).unwrap(),
            Fault::parse("throttle", &["calls_per_s=9"]).unwrap(),
        ],
        ..slow_cloud()
    };
    let changed = settings("192.168.1.0/24", configured);
    let now = bench.world.now;
    bench.world.ledger.reconfigure(changed, now).unwrap();
    assert_eq!(bench.in_force(), ["stuck/attach", "throttle"]);
    let throttle = Fault::Throttle { calls_per_s: 0 };
    assert!(bench.world.ledger.cloud().faults.contains(&throttle));

    bench.clear("throttle").unwrap();
    let throttle = Fault::Throttle { calls_per_s: 9 };
    assert!(bench.world.ledger.cloud().faults.contains(&throttle));
}

#[test]
fn what_cannot_be_set_or_cleared_changes_nothing() {
    let mut bench = Bench::new(slow_cloud());
    bench.set("stuck/attach", &[]).unwrap();
    let refused = bench.set("out_of_addresses/vsw-x", &[]).unwrap_err();
    assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    let names = ["stuck/attach".to_owned(), "throttle".to_owned()];
    let refused = bench.switchboard.clear(bench.world.now, &names);
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.starts_with("no fault throttle was set by a command"),
        "{refused}"
    );
    bench.look();
    assert_eq!(bench.in_force(), ["stuck/attach"]);
    let cleared = bench.switchboard.clear_all(bench.world.now).unwrap();
    assert_eq!(cleared.len(), 1);
    bench.look();
    assert!(bench.in_force().is_empty());
}
