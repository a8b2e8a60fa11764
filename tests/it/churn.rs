//! Scaling and killing at random: no address is lost, doubled or stolen.
//!
//! `HOLDFAST_CHURN_S` says how long (default 60), `HOLDFAST_SEED` which steps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use holdfast_testbed::{PodRecorder, PodRow, eventually};

use crate::support::*;

/// What a StatefulSet is scaled to, over and over.
const REPLICAS: [i32; 4] = [5, 3, 0, 5];
const KEPT: [&str; 2] = ["web", "api"];

struct Churn {
    scene: Scene,
    recorder: PodRecorder,
    rng: Rng,
    /// How far each set is in its sequence.
    steps: [usize; 2],
    kills: usize,
    scalings: usize,
}

impl Churn {
    async fn scale_one(&mut self) -> usize {
        let set = self.rng.usize(..KEPT.len());
        self.steps[set] += 1;
        let replicas = REPLICAS[self.steps[set] % REPLICAS.len()];
        self.scene.scale(KEPT[set], replicas).await;
        let others = self.rng.i32(1..=3);
        self.scene.scale("plain", others).await;
        self.scalings += 1;
        set
    }

    /// Kills holdfast once some more has happened, and starts it again.
    async fn kill(&mut self) {
        let rows = self.recorder.rows().len() + self.rng.usize(..12);
        let more = eventually(
            "more has happened",
            Duration::from_millis(800),
            async || {
                (self.recorder.rows().len() >= rows)
                    .then_some(())
                    .ok_or_else(|| "not yet".to_owned())
            },
        );
        // A quiet moment is as good a moment as any.
        drop(more.await);
        self.scene.kill9().await;
        self.kills += 1;
        if self.rng.bool() {
            self.scale_one().await;
        }
        self.scene.spawn(&[]).await;
        self.scene.is_serving().await;
    }
}

/// Every fixed-IP pod showed one address only, and no address was shown by two pods at a time.
fn judge(rows: &[PodRow]) {
    let mut kept: BTreeMap<&str, &str> = BTreeMap::new();
    let mut holders: BTreeMap<&str, &PodRow> = BTreeMap::new();
    for row in rows {
        let Some(address) = row.ip.as_deref() else {
            continue;
        };
        if !row.name.starts_with("plain") {
            let first = *kept.entry(&row.name).or_insert(address);
            assert_eq!(first, address, "{row:?}");
        }
        if row.gone || row.status == "Completed" {
            if holders.get(address).is_some_and(|held| held.uid == row.uid) {
                holders.remove(address);
            }
            continue;
        }
        let other = holders.insert(address, row);
        assert!(
            other.is_none_or(|other| other.uid == row.uid),
            "two pods have {address}: {other:?} and {row:?}"
        );
    }
    assert_eq!(kept.len(), 10, "{kept:?}");
}

#[tokio::test]
async fn two_stateful_sets_scaled_5_3_0_5_under_random_kills_keep_every_address() {
    let length = Duration::from_secs(number("HOLDFAST_CHURN_S").unwrap_or(60));
    let seed = number("HOLDFAST_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().as_secs()
    });
    println!("seed {seed}");
    // 12 addresses: 10 are retained or in use, and three ordinary pods want the other two.
    let scene = Scene::start(&with_cidrs("192.168.1.0/28", "profile: fast")).await;
    let recorder = PodRecorder::start(scene.client.clone(), &scene.namespace)
        .await
        .unwrap();
    for set in KEPT {
        let pod = TestPod::fixed(set).in_zone(ZONE_B);
        scene.create_set(set, REPLICAS[0], &pod).await;
        scene.rolled_out(set).await;
    }
    let plain = TestPod::ordinary("plain").in_zone(ZONE_B);
    scene.create_set("plain", 3, &plain).await;
    let mut churn = Churn {
        scene,
        recorder,
        rng: Rng::with_seed(seed),
        steps: [0; 2],
        kills: 0,
        scalings: 0,
    };
    let began = Instant::now();
    while began.elapsed() < length {
        let set = churn.scale_one().await;
        if churn.rng.bool() {
            churn.kill().await;
        }
        if churn.rng.bool() {
            churn.scene.rolled_out(KEPT[set]).await;
        }
    }
    for set in KEPT {
        churn.scene.scale(set, REPLICAS[0]).await;
    }
    for set in KEPT {
        churn.scene.rolled_out(set).await;
    }
    let rows = churn.recorder.rows();
    judge(&rows);
    let output = churn.scene.command(&["check"]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    println!(
        "{:?}: {} scalings, {} kills, {} rows of the watch; {said}",
        began.elapsed(),
        churn.scalings,
        churn.kills,
        rows.len()
    );
    assert!(churn.kills > 0, "the test killed nothing");
}
