//! A day of churn: memory does not grow.
//!
//! `HOLDFAST_SOAK_S` says how long (default 60); an hour of retention lasts ten seconds.

use std::time::{Duration, Instant};

use crate::support::*;

/// Memory settles while the first pods and claims come; what comes after must not need more.
const WARM_UP: Duration = Duration::from_secs(15);
const PERIOD: Duration = Duration::from_millis(500);

/// Two sets whose claims run out while others are made, and ordinary pods.
async fn churn(scene: &Scene, round: usize) {
    let down = if round.is_multiple_of(3) { 0 } else { 4 };
    scene.scale("kept", 12 - down).await;
    scene
        .scale("brief", if round.is_multiple_of(2) { 0 } else { 10 })
        .await;
    scene.scale("plain", 2 + down * 2).await;
    for set in ["kept", "brief", "plain"] {
        scene.rolled_out(set).await;
    }
    if round.is_multiple_of(5) {
        scene.rollout_restart("kept", round).await;
        scene.rolled_out("kept").await;
    }
}

#[tokio::test]
async fn memory_in_the_last_tenth_is_at_most_a_twentieth_above_the_first() {
    let length = Duration::from_secs(number("HOLDFAST_SOAK_S").unwrap_or(60));
    let scene = Scene::start(&two_zones(
        "profile: fast\nretention: {hours: 48, hour: 10s}\nhistory: {days: 1}",
    ))
    .await;
    let kept = TestPod::fixed("kept");
    let brief = TestPod::fixed("brief").annotated(RELEASE_AFTER, "1");
    scene.create_set("kept", 12, &kept).await;
    scene.create_set("brief", 10, &brief).await;
    scene
        .create_set("plain", 2, &TestPod::ordinary("plain"))
        .await;
    let mut rounds = 0;
    let began = Instant::now();
    let mut samples_kb = Vec::new();
    while began.elapsed() < WARM_UP + length {
        rounds += 1;
        let (work, mut next) = (churn(&scene, rounds), tokio::time::interval(PERIOD));
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                () = &mut work => break,
                _ = next.tick() => if began.elapsed() >= WARM_UP {
                    samples_kb.push(scene.resident_kb());
                },
            }
        }
    }
    let tenth = samples_kb.len() / 10;
    assert!(tenth > 0, "{} samples are too few", samples_kb.len());
    let mean = |part: &[u64]| part.iter().sum::<u64>() / part.len() as u64;
    let first_kb = mean(&samples_kb[..tenth]);
    let last_kb = mean(&samples_kb[samples_kb.len() - tenth..]);
    println!("{rounds} rounds; first tenth {first_kb} kB, last tenth {last_kb} kB");
    assert!(
        last_kb <= first_kb + first_kb / 20,
        "grew from {first_kb} kB to {last_kb} kB: {samples_kb:?}"
    );
}
