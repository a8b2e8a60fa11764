//! What is done in the demo, in order, and what has to come of it.

use std::{env, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use holdfast_testbed::{PodRecorder, PodRow, eventually};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use tokio::{
    sync::{
        Mutex,
        mpsc::{self, UnboundedReceiver},
    },
    time::sleep,
};

use crate::{
    cluster::Cluster,
    promise::{Change, Holding, check_kept, check_life, check_lost},
    screen::Screen,
};

const WEB: [&str; 2] = ["web-0", "web-1"];

/// Moves web-1, and only it, to the ECS node: the partition leaves web-0 as it is.
const TO_ECS: &str = "
spec:
  updateStrategy: {rollingUpdate: {partition: 1}}
  template:
    spec:
      nodeSelector: {holdfast.dev/node-type: ecs}
      tolerations: [{key: holdfast.dev/simulated, operator: Exists}]";

const REUSED: &str = "FixedIPReused";
const NOT_RETAINED: &str = "FixedIPNotRetained";

/// A pod takes four seconds to run and three to end; the rest is for a machine that compiles beside it.
const PODS_LIMIT: Duration = Duration::from_mins(1);

/// Events are sent beside the status and may come later.
const EVENT_LIMIT: Duration = Duration::from_secs(15);

/// A claim ends at most two seconds late; deleting its ENI, and looking, take a little longer.
const FREE_LIMIT: Duration = Duration::from_secs(10);

const COUNTDOWN_PERIOD: Duration = Duration::from_secs(6);

/// Shows everything.
///
/// # Errors
/// Something was not as promised, or could not be done; a sentence says what.
pub(crate) async fn play(cluster: &Cluster, screen: Screen) -> Result<()> {
    let (show, rows) = mpsc::unbounded_channel();
    let recorder = PodRecorder::start_with(cluster.client(), cluster.namespace(), move |row| {
        // kubectl prints no row for a pod that has gone either.
        if !row.gone {
            // Closed only at the end, when nobody looks any more.
            let _ = show.send(row.clone());
        }
    })
    .await?;
    let script = Script {
        cluster,
        screen,
        recorder,
        rows: Mutex::new(rows),
    };
    script.create().await?;
    let mut changes = script.restart().await?;
    changes.push(script.cross_to_ecs().await?);
    changes.push(script.cross_back().await?);
    changes.push(script.expire().await?);
    script.summarise(&changes);
    Ok(())
}

struct Script<'a> {
    cluster: &'a Cluster,
    screen: Screen,
    recorder: PodRecorder,
    /// Rows that are not shown yet: a command is to be shown before what it brings about.
    rows: Mutex<UnboundedReceiver<PodRow>>,
}

/// An event of a pod.
#[derive(Clone, Debug)]
struct Said {
    kind: String,
    reason: String,
    message: String,
}

impl Script<'_> {
    async fn create(&self) -> Result<()> {
        self.screen.heading(
            "1. The documentation's example, unchanged",
            "One annotation asks for a fixed IP. holdfast's webhook sends such pods to the virtual nodes, where each \
             gets an ENI with an address of its zone's vSwitch. The rows are those of `kubectl get pod -o wide -w`.",
        );
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/fixed-ip.yaml");
        let manifest = manifest
            .canonicalize()
            .with_context(|| format!("there is no {}", manifest.display()))?;
        let here = env::current_dir().context("there is no working directory")?;
        let manifest = manifest.strip_prefix(&here).unwrap_or(&manifest);
        let manifest = manifest.to_string_lossy();
        self.cluster.kubectl(&["apply", "-f", &manifest]).await?;
        self.wait_for_successors(&WEB, &[]).await?;
        for name in WEB {
            check_life(&self.recorder.rows(), &self.latest(name)?.uid, false)?;
        }
        self.cluster.show_ledger("claims").await
    }

    async fn restart(&self) -> Result<Vec<Change>> {
        self.screen.heading(
            "2. A rolling upgrade: the addresses stay",
            "Each pod is deleted and made again under its name. The old pod has its address until it is gone; the new \
             one gets the same address, ENI and MAC, and is sent to the zone where they are.",
        );
        let before = self.holdings(&WEB).await?;
        self.cluster
            .kubectl(&["rollout", "restart", "statefulset", "web"])
            .await?;
        self.wait_for_successors(&WEB, &before).await?;
        let mut changes = Vec::new();
        for before in before {
            let after = self.successor(&before).await?;
            check_kept(&before, &after)?;
            let change = self.explained("rollout restart", before, after, REUSED);
            changes.push(change.await?);
        }
        Ok(changes)
    }

    async fn cross_to_ecs(&self) -> Result<Change> {
        self.screen.heading(
            "3. From an ACS node to an ECS node: the address is not retained",
            "The documentation's limit. The template now selects the simulated ECS node, for web-1 only.",
        );
        let before = self.holding("web-1").await?;
        self.cluster
            .kubectl(&["patch", "statefulset", "web", "--patch", TO_ECS])
            .await?;
        self.lose_to_crossing("ACS to ECS", before).await
    }

    async fn cross_back(&self) -> Result<Change> {
        self.screen.heading(
            "4. And back from ECS to ACS: not retained either",
            "What web-1 had on the ECS node stays there, and what it had before on ACS is forfeit.",
        );
        let before = self.holding("web-1").await?;
        self.cluster
            .kubectl(&["rollout", "undo", "statefulset", "web"])
            .await?;
        self.lose_to_crossing("ECS to ACS", before).await
    }

    async fn lose_to_crossing(&self, step: &'static str, before: Holding) -> Result<Change> {
        self.wait_for_successors(&["web-1"], std::slice::from_ref(&before))
            .await?;
        let after = self.successor(&before).await?;
        check_lost(&before, &after)?;
        let change = self.explained(step, before, after, NOT_RETAINED).await?;
        let Change { before, after, .. } = &change;
        for node in [&before.node, &after.node] {
            ensure!(
                change.why.contains(node.as_str()),
                "the event had to name node {node}; it says: {}",
                change.why
            );
        }
        Ok(change)
    }

    async fn expire(&self) -> Result<Change> {
        self.screen.heading(
            "5. A retention that runs out",
            "Without web-1 its address is kept for 48 hours from the deletion. An hour is shortened here; see TIME LEFT.",
        );
        let before = self.holding("web-1").await?;
        self.cluster
            .kubectl(&["scale", "statefulset", "web", "--replicas", "1"])
            .await?;
        self.wait_until_gone(&before).await?;
        self.cluster.show_ledger("claims").await?;
        let late = self.wait_for_the_end_of_the_claim(&before).await?;
        self.cluster.show_ledger("claims").await?;
        self.cluster.show_ledger("vswitches").await?;
        self.screen.text(&format!(
            "{} was free {:.1} s after the end of its retention: any pod may get it now. A new web-1 starts afresh.",
            before.address,
            late.as_secs_f64(),
        ));
        self.cluster
            .kubectl(&["scale", "statefulset", "web", "--replicas", "2"])
            .await?;
        self.wait_for_successors(&["web-1"], std::slice::from_ref(&before))
            .await?;
        let after = self.holding("web-1").await?;
        check_life(&self.recorder.rows(), &after.uid, false)?;
        let events = self.events(&after.uid).await?;
        ensure!(
            !events.iter().any(|it| it.reason == REUSED),
            "web-1 had no retained address any more, but has the event {REUSED}"
        );
        check_lost(&before, &after)?;
        Ok(Change {
            step: "retention over",
            before,
            after,
            why: "No claim was left: 48 hours without a pod of this name had gone by.".to_owned(),
        })
    }

    /// Waits until the address of a deleted pod is free, counts the time down, and returns how long after the
    /// end of its retention that was.
    async fn wait_for_the_end_of_the_claim(&self, before: &Holding) -> Result<SignedDuration> {
        let claim = self.cluster.claim(&before.pod).await?;
        let claim = claim.with_context(|| format!("{} is gone and has no claim", before.pod))?;
        ensure!(
            claim.state == "retained" && claim.address == before.address,
            "{} had to be retained for {}, but {} is {}",
            before.address,
            before.pod,
            claim.address,
            claim.state
        );
        let ends = claim
            .expires_at
            .context("a retained claim has no end in the ledger")?;
        loop {
            let left = ends.duration_since(Timestamp::now());
            if left <= SignedDuration::ZERO {
                break;
            }
            self.screen
                .text(&format!("{:>3.0} s left", left.as_secs_f64()));
            sleep(left.unsigned_abs().min(COUNTDOWN_PERIOD)).await;
            let claim = self.cluster.claim(&before.pod).await?;
            ensure!(
                claim.is_some() || Timestamp::now() >= ends,
                "the claim of {} has ended before its time",
                before.pod
            );
        }
        eventually("the address is free", FREE_LIMIT, async || {
            match self.cluster.is_free(&before.address).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(format!("{} is not free", before.address)),
                Err(e) => Err(format!("{e:#}")),
            }
        })
        .await?;
        Ok(Timestamp::now().duration_since(ends))
    }

    /// What the successor of a pod has, once the lives of both are as promised.
    async fn successor(&self, before: &Holding) -> Result<Holding> {
        let after = self.holding(&before.pod).await?;
        let rows = self.recorder.rows();
        check_life(&rows, &before.uid, true)?;
        check_life(&rows, &after.uid, false)?;
        Ok(after)
    }

    /// A change and its reason, which is the message of the successor's event `reason`; shows the event.
    async fn explained(
        &self,
        step: &'static str,
        before: Holding,
        after: Holding,
        reason: &str,
    ) -> Result<Change> {
        let said = eventually("the event of a pod", EVENT_LIMIT, async || {
            let events = self.events(&after.uid).await;
            let events = events.map_err(|e| format!("{e:#}"))?;
            let reasons: Vec<_> = events.iter().map(|it| it.reason.as_str()).collect();
            let said = events.iter().find(|it| it.reason == reason).cloned();
            said.ok_or_else(|| format!("{} has {}, not {reason}", after.pod, reasons.join(", ")))
        })
        .await?;
        let Said { kind, message, .. } = said;
        self.screen.event(&kind, reason, &after.pod, &message);
        Ok(Change {
            step,
            before,
            after,
            why: format!("{reason}: {message}"),
        })
    }

    /// Waits until all of `names` run as other pods than `before`.
    async fn wait_for_successors(&self, names: &[&str], before: &[Holding]) -> Result<()> {
        let running = eventually("the pods run", PODS_LIMIT, async || {
            for name in names {
                let row = self.latest(name).map_err(|e| e.to_string())?;
                let is_old = before.iter().any(|it| it.uid == row.uid);
                if is_old || row.gone || row.status != "Running" || row.ready != "1/1" {
                    return Err(format!("{name} is {} {}", row.status, row.ready));
                }
            }
            Ok(())
        });
        match self.show_rows_during(running).await {
            Ok(()) => Ok(()),
            Err(e) => Err(e.context(self.warnings().await?)),
        }
    }

    async fn wait_until_gone(&self, pod: &Holding) -> Result<()> {
        let gone = eventually("the pod is gone", PODS_LIMIT, async || {
            let row = self.latest(&pod.pod).map_err(|e| e.to_string())?;
            let is_gone = row.uid == pod.uid && row.gone;
            is_gone.then_some(()).ok_or(row.status)
        });
        self.show_rows_during(gone).await?;
        check_life(&self.recorder.rows(), &pod.uid, true)
    }

    async fn show_rows_during<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut rows = self.rows.lock().await;
        self.screen.row_header();
        let mut wait = std::pin::pin!(wait);
        loop {
            tokio::select! {
                biased;
                Some(row) = rows.recv() => self.screen.row(&row),
                done = &mut wait => return done,
            }
        }
    }

    fn latest(&self, name: &str) -> Result<PodRow> {
        let last = self.recorder.rows_of(name).pop();
        last.with_context(|| format!("there is no pod {name}"))
    }

    async fn holdings(&self, names: &[&str]) -> Result<Vec<Holding>> {
        let mut holdings = Vec::new();
        for name in names {
            holdings.push(self.holding(name).await?);
        }
        Ok(holdings)
    }

    /// What the pod shows, if the ledger says the same.
    async fn holding(&self, name: &str) -> Result<Holding> {
        let pods = Api::<Pod>::namespaced(self.cluster.client(), self.cluster.namespace());
        let pod = pods.get(name).await.context("cannot read a pod")?;
        let uid = pod.uid().unwrap_or_default();
        let eni = pod
            .annotations()
            .get("network.alibabacloud.com/allocated-eni-id")
            .cloned();
        let shown = (pod.status.and_then(|it| it.pod_ip), eni);
        let [address, eni, mac] = self.cluster.address_of(&uid).await?;
        let kept = (Some(address.clone()), Some(eni.clone()));
        ensure!(
            shown == kept,
            "{name} shows address and ENI {shown:?}, and the ledger has {kept:?}"
        );
        Ok(Holding {
            pod: name.to_owned(),
            uid,
            node: pod.spec.and_then(|it| it.node_name).unwrap_or_default(),
            address,
            eni,
            mac,
        })
    }

    async fn events(&self, uid: &str) -> Result<Vec<Said>> {
        self.list_events(&format!("involvedObject.uid={uid}")).await
    }

    /// The Warning events so far, for an error of something that did not come to pass.
    async fn warnings(&self) -> Result<String> {
        let warnings = self.list_events("type=Warning").await?;
        let lines: Vec<_> = warnings
            .iter()
            .map(|it| format!("{}: {}", it.reason, it.message))
            .collect();
        Ok(format!("Warning events: [{}]", lines.join("; ")))
    }

    async fn list_events(&self, selector: &str) -> Result<Vec<Said>> {
        let events = Api::<Event>::namespaced(self.cluster.client(), self.cluster.namespace());
        let list = events
            .list(&ListParams::default().fields(selector))
            .await
            .context("cannot list events")?;
        let said = |it: Event| Said {
            kind: it.type_.unwrap_or_default(),
            reason: it.reason.unwrap_or_default(),
            message: it.message.unwrap_or_default(),
        };
        Ok(list.items.into_iter().map(said).collect())
    }

    fn summarise(&self, changes: &[Change]) {
        self.screen.heading("Summary", "");
        self.screen
            .output(&columns(["STEP", "POD", "BEFORE", "", "AFTER", "", "KEPT"]));
        for change in changes {
            let Change { before, after, .. } = change;
            let kept = change.is_kept();
            let line = columns([
                change.step,
                &after.pod,
                &before.address,
                &before.eni,
                &after.address,
                &after.eni,
                if kept { "yes" } else { "no" },
            ]);
            self.screen.verdict(kept, &line, &change.why);
        }
    }
}

/// A line of the summary.
fn columns(cells: [&str; 7]) -> String {
    let [step, pod, address, eni, new_address, new_eni, kept] = cells;
    format!(
        "{step:<15}  {pod:<5}  {address:<13} {eni:<24}  {new_address:<13} {new_eni:<24}  {kept}"
    )
}
