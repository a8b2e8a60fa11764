//! Ends of pods: forced, lost, early, or held up by a finalizer.

use super::*;

#[test]
fn a_forced_deletion_starts_the_clock_from_its_deleted_event() {
    let mut world = World::fast();
    world.create(fixed("web-0"));
    world.pass(SECOND * 60);
    world.watching = false;
    world.api.now = world.now;
    world.api.delete("web-0", 0);
    world.pass(HOUR);
    world.watching = true;
    world.settle();
    let claims = world.ledger.claims(world.now).unwrap();
    let late = world.now.duration_since(claims[0].deleted_at.unwrap());
    assert!(late > SignedDuration::from_mins(59), "{late:#}");
    assert_eq!(world.count("retained"), 1);
}

/// Two would be two waits for a COMMIT before the object may go.
#[test]
fn a_pod_that_may_stop_at_once_waits_for_one_job_of_the_ledger() {
    let mut world = World::fast();
    world.create(fixed("web-0"));
    world.pass(SECOND * 60);
    world.trace = Some(Vec::new());
    world.delete("web-0");
    world.settle();
    assert!(world.is_gone("web-0"));
    let trace = world.trace.take().unwrap();
    let jobs = trace.iter().filter_map(|line| line.split_once("Commit("));
    let jobs = jobs.filter_map(|(_, job)| job.split([' ', '(']).nth(1));
    assert_eq!(jobs.collect::<Vec<_>>(), ["DeletedAndStopped", "Gone"]);
}

#[test]
fn a_deleted_event_that_is_lost_shows_at_the_next_list_and_is_proved_by_a_get() {
    let mut world = World::fast();
    world.create(fixed("web-0"));
    world.create(ordinary("plain"));
    world.watching = false;
    for name in ["web-0", "plain"] {
        world.api.delete(name, 0);
    }
    world.pass(SECOND * 60);
    assert_eq!(world.count("in_use"), 2, "nobody knows");
    world.watching = true;
    world.api.requests.clear();
    world.list();
    world.settle();
    assert_eq!((world.count("in_use"), world.count("retained")), (0, 1));
    let mut requests = std::mem::take(&mut world.api.requests);
    requests.sort_unstable();
    assert_eq!(requests, ["GET default/plain", "GET default/web-0"]);
}

#[test]
fn an_answer_that_takes_longer_than_the_pause_between_two_looks_is_believed() {
    let mut world = World::fast();
    world.create(fixed("web-0"));
    world.create(ordinary("plain"));
    world.kill();
    for name in ["web-0", "plain"] {
        world.api.delete(name, 0);
    }
    world.api.changes.clear();
    world.latency = SECOND * 6;
    world.start();
    world.pass(SECOND * 60);
    assert_eq!((world.count("in_use"), world.count("retained")), (0, 1));
}

#[test]
fn what_is_kept_elsewhere_for_a_pod_is_dropped_when_it_is_gone_and_not_before() {
    let mut world = World::acs();
    let seen = world.create(fixed("web-0"));
    let unseen = world.create(on("acs-b", ordinary("plain")));
    world.pass(SECOND * 60);
    world.delete("web-0");
    world.pass(SECOND / 2);
    assert!(world.forgotten.is_empty(), "it is being deleted");
    world.pass(SECOND * 10);
    assert_eq!(world.forgotten, std::slice::from_ref(&seen));
    // By a GET.
    world.watching = false;
    world.api.delete("plain", 0);
    world.watching = true;
    world.list();
    world.settle();
    assert_eq!(world.forgotten, [seen, unseen]);
}

#[test]
fn a_list_that_lacks_pods_frees_nothing() {
    let mut world = World::fast();
    for name in ["web-0", "web-1"] {
        world.create(fixed(name));
    }
    world.list_without(|name| name == "web-0");
    world.settle();
    assert_eq!(world.count("in_use"), 2);
    world.delete("web-0");
    assert!(world.is_gone("web-0"), "it is still served");
}

#[test]
fn a_get_that_was_answered_before_the_list_says_nothing_about_what_the_list_lacks() {
    let mut world = World::fast();
    world.create(ordinary("plain"));
    world.latency = SignedDuration::from_millis(100);
    world.list_without(|name| name == "plain");
    world.settle();
    world.watching = false;
    world.api.delete("plain", 0);
    world.list();
    world.settle();
    world.pass(SECOND * 60);
    assert_eq!(world.count("in_use"), 0);
}

#[test]
fn a_pod_that_is_deleted_while_it_waits_goes_and_starts_the_clock_anew() {
    let mut world = World::new(&Wish {
        cidr: "192.168.1.0/29",
        ..Wish::fast()
    });
    for name in ["a", "b", "c", "d"] {
        world.create(ordinary(name));
    }
    world.create(fixed("web-0"));
    assert_eq!(world.said(Reason::IPPoolExhausted).len(), 1);
    assert_eq!(world.shown("web-0"), "0/1 Pending <none>");
    world.delete("web-0");
    assert!(world.is_gone("web-0"));
    let before = world.count("free");
    world.delete("a");
    assert_eq!(world.count("free"), before + 1, "nobody waits any more");
}

#[test]
fn a_job_pod_deleted_halfway_has_failed_and_then_goes() {
    for mut world in [World::fast(), World::acs()] {
        world.create(of_job(ordinary("job")));
        world.pass(SECOND * 10);
        world.delete("job");
        world.pass(SECOND * 10);
        assert_eq!(world.shown("job"), "0/1 Error 192.168.1.1");
        let deletes = |world: &World| {
            let all = world.api.requests.iter();
            all.filter(|line| *line == "DELETE default/job").count()
        };
        assert_eq!(
            deletes(&world),
            1,
            "a finalizer keeps it, and no DELETE helps"
        );
        world.pass(SECOND * 60);
        assert_eq!(deletes(&world), 1);
        world.edit("job", |pod| {
            pod["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("finalizers");
        });
        assert!(world.is_gone("job"));
        world.pass(SECOND * 5);
        assert_eq!(world.count("free"), world.addresses().len());
    }
}

#[test]
fn an_evicted_pod_that_stays_gives_its_address_back_and_a_fixed_one_keeps_its_claim() {
    let mut world = World::fast();
    world.create(ordinary("plain"));
    world.create(fixed("web-0"));
    let had = world.ip("web-0");
    for name in ["plain", "web-0"] {
        world.edit(name, |pod| pod["status"]["phase"] = "Failed".into());
    }
    assert_eq!(world.count("in_use"), 1);
    world.delete("web-0");
    assert!(world.is_gone("web-0"));
    world.create(fixed("web-0"));
    assert_eq!(world.ip("web-0"), had);
}

#[test]
fn a_pod_that_seems_to_fail_while_its_status_is_written_keeps_its_address_if_it_runs_on() {
    let mut world = World::fast();
    world.create(ordinary("plain"));
    world.api.edit("plain", |pod| {
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    });
    world.advance(Queue::Watch);
    // Our repair is under way and will put the phase back.
    world
        .api
        .edit("plain", |pod| pod["status"]["phase"] = "Failed".into());
    world.advance(Queue::Watch);
    world.settle();
    assert_eq!(world.shown("plain"), "1/1 Running 192.168.1.1");
    assert_eq!(world.count("in_use"), 1);
}

#[test]
fn an_answer_that_is_older_than_a_pod_does_not_call_it_gone() {
    let mut world = World::fast();
    world.create(fixed("web-0"));
    let had = world.ip("web-0");
    world.api.delete("web-0", 0);
    // The watch broke off and never told; the list makes the agent ask, and nothing is there.
    world.list();
    while world.advance(Queue::Watch) {}
    while world.advance(Queue::Requests) {}
    assert_eq!(world.answers.len(), 1);
    // The new pod is seen before that answer is.
    world.api.create(fixed("web-0"));
    while world.advance(Queue::Watch) {}
    world.settle();
    world.pass(SECOND * 10);
    assert_eq!(world.shown("web-0"), format!("1/1 Running {had}"));
}
