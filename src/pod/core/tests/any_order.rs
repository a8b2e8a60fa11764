use holdfast_provider::engine::Network;
use proptest::prelude::*;
use serde_json::json;

use super::world::World;
use super::{Acs, Fast, job};
use crate::pod::view::Phase;

const ASKS: &[(&str, &str)] = &[
    ("nginx.holdfast.dev/run-for", "3s"),
    ("nginx.holdfast.dev/crash-after", "2s"),
    ("migrate.holdfast.dev/run-for", "2s"),
    ("migrate.holdfast.dev/crash-after", "1s"),
    ("mesh.holdfast.dev/oom-after", "4s"),
    ("holdfast.dev/start-after", "1s"),
    ("holdfast.dev/not-ready", "2s-3s"),
    ("holdfast.dev/image-pull-error", "4s"),
];

#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(i64),
    Attach,
    Wait,
    Pending,
    Detach,
    Delete(i64),
    NotReady,
    Foreign,
    Fail,
    Restart,
    RemoveFinalizers,
    /// The node shuts down, or is up again.
    ShutDown(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..5_i64).prop_map(Event::Pass),
        3 => Just(Event::Attach),
        1 => Just(Event::Wait),
        1 => Just(Event::Pending),
        1 => Just(Event::Detach),
        2 => (0..40_i64).prop_map(Event::Delete),
        1 => Just(Event::NotReady),
        1 => Just(Event::Foreign),
        1 => Just(Event::Fail),
        1 => Just(Event::Restart),
        1 => Just(Event::RemoveFinalizers),
        1 => any::<bool>().prop_map(Event::ShutDown),
    ]
}

fn happen(world: &mut World, event: Event) {
    let grace_s = world.pod()["metadata"]["deletionGracePeriodSeconds"].as_i64();
    match event {
        Event::Pass(seconds) => world.run(seconds),
        Event::Attach => world.attach("192.168.1.8"),
        Event::Wait => world.wait_for("no free address"),
        Event::Pending => world.network = Network::Pending,
        Event::Detach => world.network = Network::Detached,
        Event::Delete(grace) if grace <= grace_s.unwrap_or(grace) => world.delete(grace),
        Event::NotReady => world.set_condition("Ready", "False"),
        Event::Foreign => world.set_condition("DisruptionTarget", "True"),
        Event::Fail if world.record.phase() != Phase::Succeeded => {
            world.edit(|pod| pod["status"]["phase"] = "Failed".into());
        }
        Event::Delete(_) | Event::Fail => {}
        Event::Restart => world.restart(),
        Event::RemoveFinalizers => world.remove_finalizers(),
        Event::ShutDown(begins) => world.shutdown_at = begins.then_some(world.now),
    }
}

proptest! {
    // The world refuses a write that changes nothing and one that leaves a terminal phase.
    #[test]
    fn writes_change_something_and_a_deleted_pod_goes(
        fast in any::<bool>(),
        finalizer in any::<bool>(),
        host_network in any::<bool>(),
        asks in prop::sample::subsequence(ASKS, 0..=3),
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        inits in any::<bool>(),
        deadline in prop::option::of(5..60_i64),
        events in prop::collection::vec(event(), 1..30),
    ) {
        let mut world = World::with(if fast { Fast } else { Acs }, |pod| {
            if finalizer {
                job(pod);
            }
            pod["spec"]["hostNetwork"] = host_network.into();
            pod["spec"]["restartPolicy"] = policy.into();
            let there = |name: &str| inits || !name.starts_with('m');
            for (name, value) in asks.into_iter().filter(|(name, _)| there(name)) {
                pod["metadata"]["annotations"][name] = value.into();
            }
            if inits {
                pod["spec"]["initContainers"] = json!([
                    {"name": "migrate", "image": "m"},
                    {"name": "mesh", "image": "s", "restartPolicy": "Always"},
                ]);
            }
            if let Some(seconds) = deadline {
                pod["spec"]["activeDeadlineSeconds"] = seconds.into();
            }
        });
        for event in events {
            world.run(0);
            if world.pod.is_none() {
                return Ok(());
            }
            happen(&mut world, event);
            if world.pod.is_none() {
                return Ok(());
            }
        }
        let grace_s = world.pod()["metadata"]["deletionGracePeriodSeconds"].as_i64();
        world.delete(grace_s.unwrap_or(30));
        world.run(60);
        if world.pod.is_some() {
            prop_assert!(world.record.phase().is_terminal(), "finalizers need the terminal phase");
            world.remove_finalizers();
        }
        prop_assert!(world.pod.is_none());
    }
}
