use std::net::Ipv4Addr;
use std::num::NonZeroU32;

use rusqlite::Connection;

use super::*;
use crate::cloud::{Cloud, Eni, EniState, Request, Response};
use crate::id::{ClientToken, InstanceId};

mod launch;

const ZONE: &str = "cn-wulanchabu-b";

/// A cloud with a clock that only the test moves.
struct Fixture {
    conn: Connection,
    sim: Simulator,
    now: Timestamp,
}

impl Fixture {
    fn new(config: Config) -> Self {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(include_str!("../../../../migrations/0002-simulator/up.sql"))
            .unwrap();
        Self {
            conn,
            sim: Simulator::new(config, "cn-wulanchabu", 7),
            now: Timestamp::from_second(1_700_000_000).unwrap(),
        }
    }

    fn with_faults(faults: Vec<Fault>) -> Self {
        Self::new(Config {
            faults,
            ..Config::default()
        })
    }

    fn pass_ms(&mut self, ms: i64) {
        self.now += SignedDuration::from_millis(ms);
    }

    #[track_caller]
    fn call(&mut self, request: &Request) -> Result<Response, Error> {
        let tx = Tx::new(&self.conn);
        match self.sim.on(&tx).run(self.now, request) {
            Ok(response) => Ok(response),
            Err(Failure::Cloud(error)) => Err(error),
            Err(Failure::Table(error)) => panic!("{error}"),
        }
    }

    /// The code of the refusal, or `ok`.
    #[track_caller]
    fn code(&mut self, request: &Request) -> String {
        self.call(request)
            .map_or_else(|error| error.code.into_owned(), |_| "ok".to_owned())
    }

    #[track_caller]
    fn create(&mut self, n: u8) -> Eni {
        match self.call(&create(n)) {
            Ok(Response::Eni(Some(eni))) => eni,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn describe(&mut self, n: u8) -> Option<Eni> {
        match self.call(&describe(n)) {
            Ok(Response::Eni(eni)) => eni,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn state(&mut self, n: u8) -> &'static str {
        self.describe(n).map_or("gone", |eni| eni.state.as_str())
    }

    #[track_caller]
    fn adopt(&mut self, adoption: &Adoption) -> Result<Eni, Error> {
        let tx = Tx::new(&self.conn);
        match self.sim.on(&tx).adopt(self.now, adoption) {
            Ok(eni) => Ok(eni),
            Err(Failure::Cloud(error)) => Err(error),
            Err(Failure::Table(error)) => panic!("{error}"),
        }
    }
}

fn create(n: u8) -> Request {
    Request::Create {
        token: token(n),
        vswitch: "vsw-b".into(),
        zone: ZONE.into(),
        address: address(n),
    }
}

fn attach(eni: &Eni, instance: &str) -> Request {
    Request::Attach {
        eni: eni.id.clone(),
        instance: instance.into(),
        zone: ZONE.into(),
    }
}

fn detach(eni: &Eni) -> Request {
    Request::Detach {
        eni: eni.id.clone(),
    }
}

fn delete(eni: &Eni) -> Request {
    Request::Delete {
        eni: eni.id.clone(),
    }
}

fn describe(n: u8) -> Request {
    Request::Describe { token: token(n) }
}

fn token(n: u8) -> ClientToken {
    format!("token-{n}").into()
}

fn address(n: u8) -> Ipv4Addr {
    [192, 168, 1, n].into()
}

fn adoption(n: u8) -> Adoption {
    Adoption {
        token: token(n),
        id: Some("eni-0jlaaaaaaaaaaaaaaaaa".into()),
        mac: None,
        vswitch: "vsw-b".into(),
        zone: ZONE.into(),
        address: address(n),
        instance: "acs-1".into(),
    }
}

fn every(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

fn slow_by_a_second() -> Config {
    let second = SignedDuration::from_secs(1);
    let slow_delete = Fault::Slow {
        action: Transition::Delete,
        latency: second,
    };
    Config {
        attach: second,
        detach: second,
        faults: vec![slow_delete],
        ..Config::default()
    }
}

#[test]
fn a_call_in_each_state_is_accepted_or_refused_as_by_ecs() {
    const WRONG: &str = "InvalidOperation.InvalidEniState";
    let table = [
        // state, attach, detach, delete
        ("Available", "ok", WRONG, "ok"),
        ("Attaching", WRONG, WRONG, WRONG),
        ("InUse", WRONG, "ok", WRONG),
        ("Detaching", WRONG, "ok", WRONG),
        ("Deleting", WRONG, WRONG, "ok"),
        ("gone", "InvalidEniId.NotFound", "ok", "ok"),
    ];
    for (state, on_attach, on_detach, on_delete) in table {
        for (name, want) in [
            ("attach", on_attach),
            ("detach", on_detach),
            ("delete", on_delete),
        ] {
            let mut cloud = Fixture::new(slow_by_a_second());
            let eni = cloud.create(8);
            bring_to(&mut cloud, &eni, state);
            assert_eq!(cloud.state(8), state);
            let request = match name {
                "attach" => attach(&eni, "acs-1"),
                "detach" => detach(&eni),
                _ => delete(&eni),
            };
            assert_eq!(cloud.code(&request), want, "{name} while {state}");
        }
    }
}

fn bring_to(cloud: &mut Fixture, eni: &Eni, state: &str) {
    let way: &[(Request, i64)] = match state {
        "Available" => &[],
        "Attaching" => &[(attach(eni, "acs-1"), 999)],
        "InUse" => &[(attach(eni, "acs-1"), 1000)],
        "Detaching" => &[(attach(eni, "acs-1"), 1000), (detach(eni), 999)],
        "Deleting" => &[(delete(eni), 999)],
        "gone" => &[(delete(eni), 1000)],
        other => panic!("{other}"),
    };
    for (request, ms) in way {
        assert_eq!(cloud.code(request), "ok");
        cloud.pass_ms(*ms);
    }
}

#[test]
fn a_whole_life_keeps_id_and_mac_and_shows_the_instance_while_there_is_one() {
    let mut cloud = Fixture::new(slow_by_a_second());
    let eni = cloud.create(8);
    let mut seen = vec![(eni.state, eni.instance.clone())];
    for request in [attach(&eni, "acs-1"), detach(&eni)] {
        assert_eq!(cloud.code(&request), "ok");
        for ms in [999, 1] {
            cloud.pass_ms(ms);
            let now = cloud.describe(8).unwrap();
            assert_eq!((&now.id, now.mac), (&eni.id, eni.mac));
            seen.push((now.state, now.instance));
        }
    }
    let acs = Some(InstanceId::from("acs-1"));
    assert_eq!(
        seen,
        [
            (EniState::Available, None),
            (EniState::Attaching, acs.clone()),
            (EniState::InUse, acs.clone()),
            (EniState::Detaching, acs),
            (EniState::Available, None),
        ]
    );
}

#[test]
fn without_latency_every_transition_is_through_at_once() {
    assert!(Config::default().is_instant());
    let mut cloud = Fixture::new(Config::default());
    let eni = cloud.create(8);
    assert_eq!(cloud.code(&attach(&eni, "acs-1")), "ok");
    assert_eq!(cloud.state(8), "InUse");
    assert_eq!(cloud.code(&detach(&eni)), "ok");
    assert_eq!(cloud.state(8), "Available");
    assert_eq!(cloud.code(&delete(&eni)), "ok");
    assert_eq!(cloud.state(8), "gone");
}

#[test]
fn anything_that_can_delay_or_refuse_is_not_instant() {
    let second = SignedDuration::from_secs(1);
    let stuck = Fault::Stuck {
        action: Transition::Attach,
    };
    let plain = Config::default;
    for config in [
        Config {
            attach: second,
            ..plain()
        },
        Config {
            detach: second,
            ..plain()
        },
        Config {
            calls_per_s: 1,
            ..plain()
        },
        Config {
            enis_max: 1,
            ..plain()
        },
        Config {
            faults: vec![stuck],
            ..plain()
        },
    ] {
        assert!(!config.is_instant(), "{config:?}");
    }
}

#[test]
fn one_token_creates_one_eni() {
    let mut cloud = Fixture::new(Config::default());
    let eni = cloud.create(8);
    assert_eq!(cloud.create(8), eni);

    let mut other = create(8);
    if let Request::Create { address, .. } = &mut other {
        *address = [192, 168, 1, 9].into();
    }
    assert_eq!(cloud.code(&other), "IdempotentFailed");
    assert_eq!(cloud.describe(8), Some(eni));
}

#[test]
fn an_address_is_taken_until_its_eni_is_gone() {
    let mut cloud = Fixture::new(slow_by_a_second());
    let eni = cloud.create(8);
    let again = Request::Create {
        token: "another".into(),
        vswitch: "vsw-b".into(),
        zone: ZONE.into(),
        address: address(8),
    };
    assert_eq!(cloud.code(&again), "InvalidIp.IpAssigned");
    assert_eq!(cloud.code(&delete(&eni)), "ok");
    cloud.pass_ms(999);
    assert_eq!(cloud.code(&again), "InvalidIp.IpAssigned");
    cloud.pass_ms(1);
    assert_eq!(cloud.code(&again), "ok");
}

#[test]
fn an_eni_attaches_in_its_own_zone_only() {
    let mut cloud = Fixture::new(Config::default());
    let eni = cloud.create(8);
    let elsewhere = Request::Attach {
        eni: eni.id,
        instance: "acs-1".into(),
        zone: "cn-wulanchabu-c".into(),
    };
    let code = "InvalidOperation.AvailabilityZoneMismatch";
    assert_eq!(cloud.code(&elsewhere), code);
    assert_eq!(cloud.state(8), "Available");
}

#[test]
fn an_instance_takes_its_next_eni_when_the_last_is_detached() {
    let mut cloud = Fixture::new(slow_by_a_second());
    let (first, second) = (cloud.create(8), cloud.create(9));
    assert_eq!(cloud.code(&attach(&first, "acs-1")), "ok");
    cloud.pass_ms(1000);
    assert_eq!(cloud.code(&detach(&first)), "ok");
    cloud.pass_ms(999);
    let full = "EniPerInstanceLimitExceeded";
    assert_eq!(cloud.code(&attach(&second, "acs-1")), full);
    cloud.pass_ms(1);
    assert_eq!(cloud.code(&attach(&second, "acs-1")), "ok");
}

#[test]
fn enis_beyond_the_quota_are_refused_until_one_is_gone() {
    let mut cloud = Fixture::new(Config {
        enis_max: 2,
        ..slow_by_a_second()
    });
    let eni = cloud.create(1);
    cloud.create(2);
    assert_eq!(cloud.code(&create(3)), "MaxEniCountExceeded");
    assert_eq!(cloud.create(1), eni, "a repeated creation needs no room");
    assert_eq!(cloud.code(&delete(&eni)), "ok");
    assert_eq!(cloud.code(&create(3)), "MaxEniCountExceeded");
    cloud.pass_ms(1000);
    assert_eq!(cloud.code(&create(3)), "ok");
}

#[test]
fn a_creation_whose_answer_was_lost_is_found_by_its_token() {
    let lost = Fault::LostAnswer {
        action: Action::Create,
        every: every(2),
    };
    let mut cloud = Fixture::with_faults(vec![lost]);
    cloud.create(1);
    assert_eq!(cloud.code(&create(2)), "RequestTimeout");
    let found = cloud.describe(2).unwrap();
    assert_eq!(cloud.create(2), found);
}

#[test]
fn every_third_attach_fails_without_effect() {
    let fail = Fault::Fail {
        action: Action::Attach,
        every: every(3),
        code: "Operation.Conflict".to_owned(),
    };
    let mut cloud = Fixture::with_faults(vec![fail]);
    let codes: Vec<_> = (1..=6)
        .map(|n| {
            let eni = cloud.create(n);
            cloud.code(&attach(&eni, &format!("acs-{n}")))
        })
        .collect();
    let conflict = "Operation.Conflict";
    assert_eq!(codes, ["ok", "ok", conflict, "ok", "ok", conflict]);
    assert_eq!(cloud.state(2), "InUse");
    assert_eq!(cloud.state(3), "Available");
}

#[test]
fn a_stuck_transition_ends_only_when_the_fault_is_taken_away() {
    for (transition, during, after) in [
        (Transition::Attach, "Attaching", "InUse"),
        (Transition::Detach, "Detaching", "Available"),
        (Transition::Delete, "Deleting", "gone"),
    ] {
        let mut cloud = Fixture::with_faults(vec![Fault::Stuck { action: transition }]);
        let eni = cloud.create(8);
        let way = match transition {
            Transition::Attach => vec![attach(&eni, "acs-1")],
            Transition::Detach => vec![attach(&eni, "acs-1"), detach(&eni)],
            Transition::Delete => vec![delete(&eni)],
        };
        for request in &way {
            assert_eq!(cloud.code(request), "ok");
        }
        cloud.pass_ms(3_600_000);
        assert_eq!(cloud.state(8), during);
        cloud.sim.set_config(Config::default());
        assert_eq!(cloud.state(8), after);
    }
}

#[test]
fn latencies_count_for_calls_made_after_their_change() {
    let mut cloud = Fixture::new(slow_by_a_second());
    let (first, second) = (cloud.create(1), cloud.create(2));
    assert_eq!(cloud.code(&attach(&first, "acs-1")), "ok");
    let slow = Fault::Slow {
        action: Transition::Attach,
        latency: SignedDuration::from_secs(5),
    };
    cloud.sim.set_config(Config {
        faults: vec![slow],
        ..Config::default()
    });
    let expected = cloud.sim.config().latency(Transition::Attach);
    assert_eq!(expected, SignedDuration::from_secs(5));
    assert_eq!(cloud.code(&attach(&second, "acs-2")), "ok");
    cloud.pass_ms(1000);
    assert_eq!((cloud.state(1), cloud.state(2)), ("InUse", "Attaching"));
    cloud.pass_ms(4000);
    assert_eq!(cloud.state(2), "InUse");
}

#[test]
fn a_vswitch_without_addresses_says_so_in_the_words_of_ecs() {
    let out = Fault::OutOfAddresses {
        vswitch: "vsw-b".into(),
    };
    let mut cloud = Fixture::with_faults(vec![out]);
    let error = cloud.call(&create(8)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "InvalidVSwitchId.IpNotEnough: The specified VSwitch \"vsw-b\" has not enough IpAddress."
    );
    assert_eq!(cloud.describe(8), None);
}

#[test]
fn the_smallest_limit_counts_and_zero_lets_no_call_through() {
    let limited_to = |calls_per_s| {
        Fixture::new(Config {
            calls_per_s: 3,
            faults: vec![Fault::Throttle { calls_per_s }],
            ..Config::default()
        })
    };
    for (limit, want) in [(0, 0), (2, 2), (9, 3)] {
        let mut cloud = limited_to(limit);
        let passed = (0..20).filter(|_| cloud.code(&describe(1)) == "ok");
        assert_eq!(passed.count(), want, "fault limit {limit}");
    }
}

#[test]
fn a_running_pods_eni_is_adopted_with_its_id_and_can_be_detached() {
    let mut cloud = Fixture::new(slow_by_a_second());
    let eni = cloud.adopt(&adoption(8)).unwrap();
    assert_eq!(eni.id.as_str(), "eni-0jlaaaaaaaaaaaaaaaaa");
    assert_eq!(eni.state, EniState::InUse);
    assert_eq!(cloud.describe(8), Some(eni.clone()));
    assert_eq!(cloud.adopt(&adoption(8)), Ok(eni.clone()), "twice is once");
    assert_eq!(cloud.code(&detach(&eni)), "ok");
}

#[test]
fn adoption_brings_a_known_eni_to_the_state_that_the_pod_proves() {
    let mut cloud = Fixture::new(slow_by_a_second());
    let known = cloud.create(8);
    let adopted = cloud
        .adopt(&Adoption {
            token: token(80),
            id: None,
            ..adoption(8)
        })
        .unwrap();
    assert_eq!((&adopted.id, adopted.mac), (&known.id, known.mac));
    assert_eq!(cloud.state(80), "InUse");
    assert_eq!(cloud.describe(8), None);
}

#[test]
fn adoption_takes_nothing_from_another_eni() {
    let mut cloud = Fixture::new(Config::default());
    let other = cloud.create(8);
    assert_eq!(cloud.code(&attach(&other, "acs-1")), "ok");
    let free = Adoption {
        instance: "acs-2".into(),
        ..adoption(9)
    };
    for (adoption, code) in [
        (adoption(8), "InvalidIp.IpAssigned"),
        (adoption(9), "EniPerInstanceLimitExceeded"),
        (
            Adoption {
                token: token(8),
                ..free.clone()
            },
            "IdempotentFailed",
        ),
        (
            Adoption {
                id: Some(other.id.clone()),
                ..free.clone()
            },
            "Operation.Conflict",
        ),
        (
            Adoption {
                mac: Some(other.mac),
                ..free
            },
            "Operation.Conflict",
        ),
    ] {
        assert_eq!(cloud.adopt(&adoption).unwrap_err().code, code);
    }
    assert_eq!(cloud.state(8), "InUse");
}

#[test]
fn a_mac_that_is_taken_is_passed_over() {
    let mut cloud = Fixture::new(Config::default());
    let taken = name::mac(7, 2);
    cloud
        .adopt(&Adoption {
            mac: Some(taken),
            ..adoption(8)
        })
        .unwrap();
    let eni = cloud.create(9);
    assert_eq!(eni.mac, name::mac(7, 3));
}

#[test]
fn a_deleted_enis_id_is_not_given_again() {
    let mut cloud = Fixture::new(Config::default());
    let first = cloud.create(8);
    assert_eq!(cloud.code(&delete(&first)), "ok");
    // As after a restart: nothing but the table is left.
    cloud.sim = Simulator::new(Config::default(), "cn-wulanchabu", 7);
    let second = cloud.create(8);
    assert_ne!((first.id, first.mac), (second.id, second.mac));
}

#[test]
fn the_same_seed_gives_the_same_enis() {
    let enis = |seed| {
        let mut cloud = Fixture::new(Config::default());
        cloud.sim = Simulator::new(Config::default(), "cn-wulanchabu", seed);
        (1..9).map(|n| cloud.create(n)).collect::<Vec<_>>()
    };
    assert_eq!(enis(1), enis(1));
    assert_ne!(enis(1), enis(2));
}

#[test]
fn a_broken_table_is_told_apart_from_a_refusal() {
    let mut cloud = Fixture::new(Config::default());
    cloud.conn.execute_batch("DROP TABLE sim_eni").unwrap();
    let tx = Tx::new(&cloud.conn);
    let mut session = cloud.sim.on(&tx);
    let failure = session.run(cloud.now, &describe(8)).unwrap_err();
    assert!(matches!(failure, Failure::Table(_)), "{failure:?}");
    let error = session.call(cloud.now, &describe(8)).unwrap_err();
    assert_eq!(error.code, "InternalError");
}

#[test]
fn a_process_that_begins_among_the_macs_of_an_earlier_one_finds_those_behind_them() {
    let mut fixture = Fixture::new(Config::default());
    let before = 70_000;
    let insert = format!(
        "WITH RECURSIVE earlier(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM earlier WHERE n < {before}) \
         INSERT INTO sim_eni (serial, token, eni_id, mac, vswitch, zone, address, state) \
         SELECT n, 'earlier-' || n, 'eni-' || n, printf('00:16:3e:%02x:%02x:%02x', m >> 16, (m >> 8) & 255, m & 255), \
           'vsw-a', 'a', 'address-' || n, 'Available' FROM (SELECT n, n + 7 + {before} AS m FROM earlier)"
    );
    fixture.conn.execute(&insert, []).unwrap();
    let eni = fixture.create(1);
    assert_eq!(eni.mac, name::mac(7, 2 * 70_000 + 1));
}
