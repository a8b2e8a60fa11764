//! Twenty bugs by which address managers lost, doubled or gave away an address, each as a script
//! that must not end as theirs did. The names say the rule that the peer broke.
//!
//! Sources are the issues and pull requests (PR) of the projects named; they were read for what
//! went wrong, not for code.

mod lists;
mod pools;
mod races;

use super::*;

/// Four addresses, three of them kept out.
fn pool_of_one(cloud: Config) -> Settings {
    let mut settings = settings("192.168.1.0/29", cloud);
    settings.vswitches[0].exclude = vec![([192, 168, 1, 2].into(), [192, 168, 1, 4].into())];
    settings
}

fn for_an_hour(name: &'static str) -> Wish {
    Wish {
        hours: Some(1),
        ..fixed(name)
    }
}

/// What an event leads to, kept back until [`let_go`].
fn hold_back(world: &mut World, event: Event) -> Vec<Effect> {
    world.engine.handle(world.now, event)
}

fn let_go(world: &mut World, effects: Vec<Effect>) {
    world.pending.extend(effects);
    world.settle();
}

/// Does one thing; a quarter of a second passes where there is nothing to do.
fn step(world: &mut World) {
    let event = if let Some(effect) = world.pending.pop_front() {
        world.run(effect)
    } else {
        world.now += SECOND / 4;
        Some(Event::Tick)
    };
    if let Some(event) = event {
        let effects = world.engine.handle(world.now, event);
        world.pending.extend(effects);
    }
}

/// Runs until the API is asked for a pod, and leaves the question without an answer.
#[track_caller]
fn run_until_asked(world: &mut World) -> PodKey {
    let effects = world.engine.handle(world.now, Event::Tick);
    world.pending.extend(effects);
    loop {
        match world.pending.front() {
            Some(Effect::Look(key)) => {
                let key = key.clone();
                world.pending.pop_front();
                world.settle();
                return key;
            }
            Some(_) => step(world),
            None => panic!("nobody asked"),
        }
    }
}

/// The pod's name is free and its containers have ended, and nobody has said that it is gone.
fn vanish_after_its_end(world: &mut World, uid: &PodUid) {
    world.begin_deletion(uid);
    world.tell(Event::Stopped(uid.clone()));
    world.vanish_unseen(uid);
}

/// Everything that can still be said of a pod that is gone.
fn late_news(uid: &PodUid, now: Timestamp) -> [Event; 5] {
    [
        Event::Deleted(uid.clone(), now),
        Event::Stopped(uid.clone()),
        Event::DeletedAndStopped(uid.clone(), now),
        Event::Ended(uid.clone()),
        Event::Gone(uid.clone()),
    ]
}

/// The new pod has the address, and the claim knows nobody else.
#[track_caller]
fn assert_kept(world: &World, pod: &PodUid, had: Ipv4Addr) {
    assert_eq!(world.address(pod), had);
    let claims = world.claims();
    assert_eq!(claims.len(), 1, "{claims:?}");
    assert_eq!(claims[0].holder.as_ref(), Some(pod));
    assert_eq!(claims[0].deleted_at, None);
}

/// Every address of `vsw-b` is in exactly one state.
#[track_caller]
fn assert_adds_up(world: &World, size: usize) {
    let states = ["free", "in_use", "retained", "detaching", "excluded"];
    let counts = states.map(|state| world.count("vsw-b", state));
    assert_eq!(counts.iter().sum::<usize>(), size, "{counts:?}");
}
