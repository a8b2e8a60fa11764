//! A vSwitch that runs out.

use holdfast_testbed::eventually;
use jiff::{SignedDuration, Timestamp};

use crate::support::*;

#[tokio::test]
async fn two_stateful_sets_that_want_six_of_four_addresses() {
    // 48 hours last 24 seconds.
    let extra = "profile: fast\nretention: {hour: 500ms}";
    let scene = Scene::start(&with_cidrs("192.168.1.0/29", extra)).await;
    scene
        .create_set("one", 3, &TestPod::fixed("one").in_zone(ZONE_B))
        .await;
    scene.rolled_out("one").await;
    scene
        .create_set("two", 3, &TestPod::fixed("two").in_zone(ZONE_B))
        .await;
    let waiting = eventually("four run and two wait", PATIENCE, async || {
        let pods = scene.all_pods().await;
        let (running, waiting): (Vec<_>, Vec<_>) = pods.into_iter().partition(is_ready);
        let bound = waiting
            .iter()
            .all(|pod| pod.spec.as_ref().unwrap().node_name.is_some());
        let settled = running.len() == 4 && waiting.len() == 2 && bound;
        if settled {
            Ok(waiting)
        } else {
            Err(format!("{} run, {} wait", running.len(), waiting.len()))
        }
    })
    .await
    .unwrap();
    for pod in &waiting {
        let event = scene.event(pod, "IPPoolExhausted").await;
        let want = format!("no free address in vsw-b ({ZONE_B}, 192.168.1.0/29): 4 usable = ");
        assert!(message(&event).starts_with(&want), "{}", message(&event));
        assert_eq!((pod_phase(pod), address(pod)), ("Pending", None));
    }

    // Two are given back: they are retained, and nobody else's.
    scene.scale("one", 1).await;
    let deadline = eventually("two retained", PATIENCE, async || {
        let claims = scene.claims().await;
        let retained: Vec<_> = claims
            .iter()
            .filter(|claim| claim["state"] == "retained")
            .collect();
        let deadlines = retained
            .iter()
            .map(|claim| claim["expires_at"].as_str().unwrap());
        let last = deadlines.map(|at| at.parse::<Timestamp>().unwrap()).max();
        if retained.len() == 2 {
            Ok(last.unwrap())
        } else {
            Err(format!("{claims:#?}"))
        }
    })
    .await
    .unwrap();
    assert!(deadline.duration_since(Timestamp::now()) > SignedDuration::from_secs(15));
    let ended = eventually("the retentions end", PATIENCE, async || {
        let retained = scene.count("vsw-b", "retained").await;
        if retained == 0 {
            return Ok(Timestamp::now());
        }
        let pods = scene.all_pods().await;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        assert!(retained < 2 || ready == 2, "a retained address was taken");
        Err(format!("{retained} retained"))
    })
    .await
    .unwrap();
    assert!(ended >= deadline, "{ended} is before {deadline}");
    eventually("the waiting pods run", PATIENCE, async || {
        let pods = scene.all_pods().await;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        (ready == 4)
            .then_some(())
            .ok_or_else(|| format!("{ready} ready"))
    })
    .await
    .unwrap();
    let late = Timestamp::now().duration_since(deadline);
    // Two seconds for the deadline to be noticed and two for the pods to run.
    assert!(
        late < SignedDuration::from_secs(4),
        "{late:#} after the deadline"
    );
}

#[tokio::test]
async fn growing_a_vswitch_by_sighup_serves_the_pods_that_wait() {
    let mut scene = Scene::start(&with_cidrs("192.168.1.0/29", "profile: fast")).await;
    scene
        .create_set("web", 6, &TestPod::fixed("web").in_zone(ZONE_B))
        .await;
    eventually("four run", PATIENCE, async || {
        let ready = scene
            .all_pods()
            .await
            .iter()
            .filter(|pod| is_ready(pod))
            .count();
        (ready == 4)
            .then_some(())
            .ok_or_else(|| format!("{ready} ready"))
    })
    .await
    .unwrap();
    scene.configure(&with_cidrs("192.168.1.0/28", "profile: fast"));
    scene.hang_up().await;
    scene.rolled_out("web").await;
    scene.configure(&with_cidrs("192.168.1.0/29", "profile: fast"));
    scene.hang_up().await;
    eventually("shrinking is refused", PATIENCE, async || {
        let log = scene.log();
        log.contains("leaves out an address that is held")
            .then_some(())
            .ok_or(log)
    })
    .await
    .unwrap();
}
