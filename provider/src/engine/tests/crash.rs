//! The process dies before and after every statement and every COMMIT, and a new one goes on.
//!
//! A [`Moment`] is a cluster and a ledger file between which something is outstanding. It is
//! worked off once without a death, and then once for each failpoint that was passed: there the
//! process dies, and the next one starts on the files as they were. It must end where the first
//! one ended, and the ledger must be able to prove it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::rc::Rc;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::failpoint::{self, Died};
use crate::ledger::operator::{Error, Operator, Release};
use crate::ledger::{Job, Note};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// What survives a death, and what is to be done.
struct Moment {
    name: &'static str,
    cloud: Config,
    cidr: &'static str,
    /// Brings cluster and ledger to where something is outstanding.
    prepare: fn(&mut World),
    /// Changes the settings that the file is opened with.
    resize: fn(&mut Settings),
    /// Done beside the process, before it starts.
    beside: fn(&Path, Timestamp),
    /// How long it is served.
    lasts: SignedDuration,
}

impl Moment {
    fn new(name: &'static str, prepare: fn(&mut World)) -> Self {
        Self {
            name,
            cloud: Config::default(),
            cidr: "192.168.0.0/28",
            prepare,
            resize: |_| {},
            beside: |_, _| {},
            lasts: SECOND * 5,
        }
    }

    fn slow(name: &'static str, prepare: fn(&mut World)) -> Self {
        Self {
            cloud: slow_cloud(),
            ..Self::new(name, prepare)
        }
    }
}

/// The cluster as it is, and the files to begin with.
struct Stage<'a> {
    moment: &'a Moment,
    settings: Settings,
    now: Timestamp,
    api: BTreeMap<PodKey, ApiPod>,
    /// The MACs that claims had before, and keep.
    macs: BTreeSet<String>,
    dir: TempDir,
}

impl<'a> Stage<'a> {
    fn set(moment: &'a Moment) -> Self {
        // In memory where there is such a place: thousands of COMMITs each wait for the disk else.
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
        let dir = dir.unwrap();
        let mut settings = settings(moment.cidr, moment.cloud.clone());
        // Every address is a row, and the sweep opens the file thousands of times.
        settings.vswitches[1].cidr = "192.168.2.0/28".parse().unwrap();
        let now = World::begin();
        let path = dir.path().join("prepared.db");
        let mut world = World::on(Ledger::open(&path, settings.clone(), now).unwrap());
        (moment.prepare)(&mut world);
        let (now, api) = (world.now, world.api.clone());
        let macs = world.claims().into_iter().filter_map(|claim| claim.mac);
        let macs = macs.collect();
        world.ledger.copy_to(&dir.path().join("before.db")).unwrap();
        (moment.resize)(&mut settings);
        Self {
            moment,
            settings,
            now,
            api,
            macs,
            dir,
        }
    }

    /// A process from its start at `now` to its orderly end.
    fn serve(&self, path: &Path, now: Timestamp) -> (Vec<String>, BTreeSet<String>) {
        (self.moment.beside)(path, now);
        let ledger = Ledger::open(path, self.settings.clone(), now).unwrap();
        let mut world = World::starting(ledger, now);
        world.next_uid = 1000;
        world.api = self.api.clone();
        world.tell_all();
        world.tell(Event::LedgerChanged);
        world.pass(self.moment.lasts);
        let stopped = [Job::Note(world.now, Note::Stopped)];
        world.ledger.commit(world.now, &stopped).unwrap();
        assert!(world.refusals.is_empty(), "{:?}", world.refusals);
        (self.outcome(&world), std::mem::take(&mut world.jobs))
    }

    /// Everything that must not depend on whether a process died.
    fn outcome(&self, world: &World) -> Vec<String> {
        let networks = self.api.values().map(|pod| {
            let uid = &pod.facts.uid;
            match world.network(uid) {
                Network::Attached(assignment) => format!("{uid} has {}", assignment.address),
                Network::Waiting { reason, .. } => format!("{uid} waits: {reason:?}"),
                other => format!("{uid}: {other:?}"),
            }
        });
        let addresses = world.ledger.addresses(false).unwrap().into_iter();
        let addresses = addresses.map(|row| {
            let pod = row.pod.map(|uid| uid.to_string());
            format!("{} {} {} {pod:?}", row.vswitch, row.address, row.state)
        });
        let claims = world.claims().into_iter().map(|claim| {
            // An ENI that was not named before the death may be named anew after it.
            let mac = claim.mac.filter(|mac| self.macs.contains(mac));
            let (key, address) = (claim.key, claim.address);
            let (holder, deleted_at) = (claim.holder, claim.deleted_at);
            format!("claim {key} {address} {mac:?} {holder:?} {deleted_at:?}")
        });
        networks.chain(addresses).chain(claims).collect()
    }

    /// A fresh copy of the files as they were before.
    fn begin(&self, name: &str) -> std::path::PathBuf {
        let path = self.dir.path().join(name);
        copy_files(&self.dir.path().join("before.db"), &path);
        path
    }
}

/// The database and what of it is still in the write-ahead log.
fn copy_files(from: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let file = |path: &Path| format!("{}{suffix}", path.display());
        let (from, to) = (file(from), file(to));
        if Path::new(&from).exists() {
            std::fs::copy(from, to).unwrap();
        } else {
            drop(std::fs::remove_file(to));
        }
    }
}

/// The files of a process that dies while another thread of it brings the log into the database:
/// of that, every second page has been written.
fn copy_files_amid_a_checkpoint(from: &Path, to: &Path) {
    const PAGE: usize = 4096;
    copy_files(from, to);
    let beside = Connection::open(from).unwrap();
    let busy = |row: &rusqlite::Row<'_>| row.get::<_, bool>(0);
    let busy = beside.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], busy);
    assert!(!busy.unwrap(), "no other checkpoint is under way");
    let mut database = std::fs::read(from).unwrap();
    let before = std::fs::read(to).unwrap();
    for (index, page) in database.chunks_mut(PAGE).enumerate().step_by(2) {
        let old = before.chunks(PAGE).nth(index);
        match old {
            Some(old) => page.copy_from_slice(old),
            None => page.fill(0),
        }
    }
    std::fs::write(to, database).unwrap();
}

/// Runs `work` until it dies at the point after `left` others, and leaves the files of that moment
/// at `died`. Says whether it died.
fn dies(left: usize, path: &Path, died: &Path, work: impl FnOnce()) -> bool {
    let has_died = Rc::new(Cell::new(false));
    let (flag, from, to) = (Rc::clone(&has_died), path.to_owned(), died.to_owned());
    failpoint::arm(left, move || {
        flag.set(true);
        if left.is_multiple_of(2) {
            copy_files(&from, &to);
        } else {
            copy_files_amid_a_checkpoint(&from, &to);
        }
    });
    let ended = catch_unwind(AssertUnwindSafe(work));
    failpoint::disarm();
    if let Err(panic) = ended
        && !panic.is::<Died>()
    {
        resume_unwind(panic);
    }
    has_died.get()
}

/// Works a moment off with a death at each of its points, and says how many there were.
fn sweep(moment: &Moment, jobs: &mut BTreeSet<String>) -> usize {
    let stage = Stage::set(moment);
    failpoint::disarm();
    let path = stage.begin("alive.db");
    let (expected, done) = stage.serve(&path, stage.now);
    jobs.extend(done);
    let points = failpoint::disarm();
    for left in 0..points {
        let path = stage.begin("dying.db");
        let died = stage.dir.path().join("died.db");
        // It may die before there is a world.
        ENDED_AT.set(stage.now);
        let death = dies(left, &path, &died, || drop(stage.serve(&path, stage.now)));
        let died_at = ENDED_AT.get();
        assert!(
            death,
            "{}: point {left} of {points} was not passed",
            moment.name
        );
        let (outcome, _) = stage.serve(&died, died_at);
        assert_eq!(
            outcome, expected,
            "{}: after a death at point {left}",
            moment.name
        );
    }
    println!("{points} points: {}", moment.name);
    points
}

fn ecs(name: &'static str) -> Wish {
    Wish {
        node_type: NodeType::Ecs,
        ..fixed(name)
    }
}

fn appear(world: &mut World, wish: &Wish) {
    let facts = world.facts(wish);
    world.appear(&facts);
}

/// A retained address of `web-0`, two seconds old.
fn retained(world: &mut World) {
    let old = world.create(&fixed("web-0"));
    world.pass(SECOND * 2);
    world.delete(&old);
}

fn running(world: &mut World, wish: &Wish) -> PodUid {
    let pod = world.create(wish);
    world.pass(SECOND * 2);
    pod
}

/// The pod was deleted and its containers have ended while nobody watched.
fn deleted(world: &mut World, wish: &Wish) {
    let pod = running(world, wish);
    let at = world.now;
    let seen = world.api.values_mut().find(|one| one.facts.uid == pod);
    let seen = seen.unwrap();
    (seen.deleted_at, seen.stopped) = (Some(at), true);
}

/// The pod was deleted while nobody watched, and its containers run on.
fn leaving(world: &mut World, wish: &Wish) {
    deleted(world, wish);
    for seen in world.api.values_mut() {
        seen.stopped = false;
    }
}

/// The containers of a pod whose deletion is known have ended while nobody watched.
fn stopped(world: &mut World, wish: &Wish) {
    let pod = running(world, wish);
    world.begin_deletion(&pod);
    for seen in world.api.values_mut() {
        seen.stopped = true;
    }
}

fn ended(world: &mut World, wish: &Wish) {
    let pod = running(world, wish);
    let seen = world.api.values_mut().find(|one| one.facts.uid == pod);
    seen.unwrap().ended = true;
}

fn vanished(world: &mut World, wish: &Wish) {
    let pod = running(world, wish);
    world.vanish_unseen(&pod);
}

/// Five pods want four addresses, and one of the four is gone.
fn full(world: &mut World) {
    for name in ["web-0", "web-1", "web-2", "web-3"] {
        running(world, &ordinary(name));
    }
    world.create(&fixed("web-4"));
    let first = world.api.remove(&PodKey::new("default", "web-0"));
    assert!(first.is_some());
}

fn release(path: &Path, now: Timestamp, force: bool) {
    let mut operator = Operator::open(path).unwrap();
    let key = PodKey::new("default", "web-0");
    let release = Release {
        key: &key,
        cluster: None,
        reason: None,
        force,
    };
    match operator.release(now, &release) {
        // Done before the death.
        Ok(_) | Err(Error::NoClaim { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

fn moments_of_keeping() -> Vec<Moment> {
    vec![
        Moment::new("a fixed-IP pod", |world| appear(world, &fixed("web-0"))),
        Moment::slow("a fixed-IP pod, slow cloud", |world| {
            appear(world, &fixed("web-0"));
        }),
        Moment::slow("an ordinary pod", |world| appear(world, &ordinary("web-0"))),
        Moment::new("a deletion", |world| deleted(world, &fixed("web-0"))),
        Moment::slow("a deletion, slow cloud", |world| {
            deleted(world, &fixed("web-0"));
        }),
        Moment::slow("an ordinary pod's deletion", |world| {
            deleted(world, &ordinary("web-0"));
        }),
        Moment::new("a deletion that takes time", |world| {
            leaving(world, &fixed("web-0"));
        }),
        Moment::slow("the end of a deletion that took time", |world| {
            stopped(world, &fixed("web-0"));
        }),
        Moment::new("a pod that is gone", |world| {
            vanished(world, &fixed("web-0"));
        }),
        Moment::slow("a pod that is gone, slow cloud", |world| {
            vanished(world, &fixed("web-0"));
        }),
        Moment::new("an end", |world| ended(world, &fixed("web-0"))),
        Moment::slow("an ordinary pod's end", |world| {
            ended(world, &ordinary("web-0"));
        }),
        Moment::slow("the same name again", |world| {
            retained(world);
            appear(world, &fixed("web-0"));
        }),
        Moment::slow("the same name again, old ENI attached", |world| {
            vanished(world, &fixed("web-0"));
            appear(world, &fixed("web-0"));
        }),
    ]
}

fn moments_of_losing() -> Vec<Moment> {
    vec![
        Moment::slow("the same name without fixed IP", |world| {
            retained(world);
            appear(world, &ordinary("web-0"));
        }),
        Moment::slow("another zone", |world| {
            retained(world);
            let wish = Wish {
                zone: "c",
                ..fixed("web-0")
            };
            appear(world, &wish);
        }),
        Moment::slow("an ECS node of ours", |world| {
            retained(world);
            appear(world, &ecs("web-0"));
        }),
        Moment::slow("an ECS node of somebody else", |world| {
            retained(world);
            let facts = world.facts(&ecs("web-0"));
            world.appear(&facts);
            for pod in world.api.values_mut() {
                pod.foreign = true;
            }
        }),
        Moment {
            lasts: SECOND * 20,
            ..Moment::slow("a deadline", |world| {
                let old = running(
                    world,
                    &Wish {
                        hours: Some(1),
                        ..fixed("web-0")
                    },
                );
                world.delete(&old);
                world.pass(HOUR - SECOND * 10);
            })
        },
        Moment {
            beside: |path, now| release(path, now, false),
            ..Moment::slow("a release by the operator", retained)
        },
        Moment {
            beside: |path, now| release(path, now, true),
            ..Moment::slow("a forced release", |world| {
                running(world, &fixed("web-0"));
            })
        },
    ]
}

fn moments_of_the_pool() -> Vec<Moment> {
    vec![
        Moment {
            cidr: "192.168.0.0/29",
            ..Moment::slow("a full vSwitch", full)
        },
        Moment::new("a ledger that was lost", |world| {
            for (name, last) in [("web-0", 8), ("plain", 9)] {
                let wish = if last == 8 {
                    fixed(name)
                } else {
                    ordinary(name)
                };
                let mut facts = world.facts(&wish);
                facts.published = Some(Published {
                    address: [192, 168, 0, last].into(),
                    eni: None,
                });
                world.appear(&facts);
            }
        }),
        Moment {
            resize: |settings| settings.vswitches[0].cidr = "192.168.0.0/27".parse().unwrap(),
            ..Moment::new("a vSwitch that grows", |world| {
                running(world, &fixed("web-0"));
            })
        },
        Moment {
            resize: |settings| settings.vswitches[1].cidr = "192.168.2.0/29".parse().unwrap(),
            ..Moment::new("a vSwitch that shrinks", |world| {
                running(world, &fixed("web-0"));
            })
        },
        Moment {
            resize: |settings| settings.history_days = 1,
            lasts: MINUTE * 2,
            ..Moment::new("history that is too old", |world| {
                let pod = running(world, &ordinary("plain"));
                world.delete(&pod);
                world.pass(HOUR * 50);
            })
        },
    ]
}

/// Too few points would mean that the sweep does not see the statements any more.
fn sweep_all(moments: &[Moment], points_min: usize) -> BTreeSet<String> {
    let mut jobs = BTreeSet::new();
    let points: usize = moments.iter().map(|moment| sweep(moment, &mut jobs)).sum();
    println!("{} moments, {points} deaths", moments.len());
    assert!(points >= points_min, "only {points} points");
    jobs
}

#[test]
fn a_death_at_any_statement_keeps_what_is_kept() {
    let jobs = sweep_all(&moments_of_keeping(), 1000);
    for job in [
        "Acquire",
        "Deleted",
        "Stopped",
        "DeletedAndStopped",
        "Ended",
        "Gone",
        "Record",
        "Open",
        "Note",
    ] {
        assert!(jobs.contains(job), "{job} was not swept: {jobs:?}");
    }
}

#[test]
fn a_death_at_any_statement_ends_what_ends_once() {
    let jobs = sweep_all(&moments_of_losing(), 600);
    for job in ["SeenOnEcs", "Due", "Expire"] {
        assert!(jobs.contains(job), "{job} was not swept: {jobs:?}");
    }
}

#[test]
fn a_death_at_any_statement_leaves_the_pool_whole() {
    let jobs = sweep_all(&moments_of_the_pool(), 300);
    for job in ["Import", "Prune"] {
        assert!(jobs.contains(job), "{job} was not swept: {jobs:?}");
    }
}
