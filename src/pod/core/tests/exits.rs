//! Containers whose process ends, as a shell does that somebody leaves.

use super::life::{asked, container, policy, writes};
use super::world::Next;

#[test]
fn the_exit_code_of_its_process_is_that_of_the_container() {
    for (code, want, phase) in [
        (0, "5.0 0/1 Completed", "Succeeded"),
        (3, "5.0 0/1 Error", "Failed"),
    ] {
        let mut world = asked(&[], policy("Never"));
        world.run(5);
        assert!(world.exit(0, code));
        world.run(60);
        assert_eq!(writes(&world), ["0.0 1/1 Running", want]);
        assert_eq!(world.pod()["status"]["phase"], phase);
        let ended = &container(&world)["state"]["terminated"];
        assert_eq!(ended["exitCode"], code);
        assert_eq!(ended["startedAt"], "2026-11-24T10:00:00Z");
        assert_eq!(ended["finishedAt"], "2026-11-24T10:00:05Z");
    }
}

#[test]
fn a_container_whose_process_ended_is_started_again_as_its_policy_says() {
    let mut world = asked(&[], policy("Always"));
    world.run(5);
    assert!(world.exit(0, 0));
    world.run(5);
    assert!(world.exit(1, 1));
    world.run(60);
    assert_eq!(
        writes(&world),
        [
            "0.0 1/1 Running",
            "5.0 0/1 Completed",
            "5.0 1/1 Running",
            "10.0 0/1 Error",
            "10.0 0/1 CrashLoopBackOff",
            "20.0 1/1 Running",
        ]
    );
    let mut world = asked(&[], policy("OnFailure"));
    world.run(5);
    assert!(world.exit(0, 0));
    world.run(60);
    assert_eq!(writes(&world), ["0.0 1/1 Running", "5.0 0/1 Completed"]);
}

#[test]
fn the_end_of_an_earlier_run_and_a_second_end_of_the_same_change_nothing() {
    let mut world = asked(&[], policy("Always"));
    world.run(5);
    assert!(world.exit(0, 4));
    assert!(!world.exit(0, 5));
    world.run(5);
    assert_eq!(container(&world)["lastState"]["terminated"]["exitCode"], 4);
    assert!(!world.exit(0, 6));
    assert!(matches!(world.act(), Next::Idle));
    assert_eq!(container(&world)["restartCount"], 1);
}

#[test]
fn what_comes_first_ends_a_container_its_process_or_its_annotation() {
    let asks = [("run-for", "10s"), ("exit-code", "7")];
    for (at, code, want) in [(4, 3, "4.0 0/1 Error"), (12, 3, "10.0 0/1 Error")] {
        let mut world = asked(&asks, policy("Never"));
        world.run(at);
        world.exit(0, code);
        world.run(60);
        assert_eq!(writes(&world), ["0.0 1/1 Running", want]);
        let shown = &container(&world)["state"]["terminated"]["exitCode"];
        assert_eq!(*shown, if at == 4 { 3 } else { 7 });
    }
}

#[test]
fn a_restart_of_this_program_ends_no_container() {
    let mut world = asked(&[], policy("Never"));
    world.run(5);
    world.restart();
    world.run(60);
    assert_eq!(writes(&world), ["0.0 1/1 Running"]);
}
