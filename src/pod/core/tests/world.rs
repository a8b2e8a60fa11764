//! One pod, an API server that holds it, and a clock: what the core decides is carried out here.
//!
//! Every patch is checked on its way in: right UID, one address per family, something changed
//! besides times, a terminal phase is never left, and `lastTransitionTime` moves with `status`.

use holdfast_provider::engine::{Assignment, Network, Reason};
use holdfast_provider::id::{Mac, NodeType};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::{Action, Facts, Lifecycle, NodeInfo, Profile, step};
use crate::pod::base::tests::means_what_the_patch_does;
use crate::pod::behaviour;
use crate::pod::needs::Supply;
use crate::pod::record::{Names, ProcessExit, Record, Terms};
use crate::pod::testing::{cut, kubectl, merge, view, without_times};

pub(super) const UID: &str = "0b9e3a51-6f0e-4c53-9a44-0f6f0f1c7d11";

pub(super) struct World {
    /// The object in the API; `None` once it is gone.
    pub(super) pod: Option<Value>,
    pub(super) network: Network,
    /// Whether stopping or ending the network takes effect at once.
    pub(super) detaches: bool,
    pub(super) node: NodeInfo,
    pub(super) lifecycle: Lifecycle,
    pub(super) now: Timestamp,
    pub(super) record: Record,
    /// What was done, with the time in seconds and what kubectl showed then.
    pub(super) story: Vec<String>,
    /// The events, as reason and note.
    pub(super) said: Vec<String>,
    pub(super) supply: Supply,
    pub(super) shutdown_at: Option<Timestamp>,
    /// The last patch sent.
    pub(super) patch: Value,
    names: Names,
    seen_at: Timestamp,
    pub(super) begun_at: Timestamp,
}

impl World {
    pub(super) fn new(profile: Profile) -> Self {
        Self::with(profile, |_| ())
    }

    /// A world whose pod was changed by `edit` before it was first seen.
    pub(super) fn with(profile: Profile, edit: impl FnOnce(&mut Value)) -> Self {
        // Not a whole second: the API's times are cut, ours are not.
        let now: Timestamp = "2026-11-24T10:00:00.4Z".parse().unwrap();
        let seconds =
            |acs| SignedDuration::from_secs(if profile == Profile::Acs { acs } else { 0 });
        let mut pod = pod();
        edit(&mut pod);
        let mut names = Names::default();
        let record = record(&pod, &mut names, now);
        Self {
            pod: Some(pod),
            network: Network::Pending,
            detaches: true,
            node: NodeInfo {
                host_ip: "10.0.0.1".parse().unwrap(),
                zone: "cn-wulanchabu-b".into(),
                region: "cn-wulanchabu".into(),
                vpc: "vpc-1".into(),
                node_type: NodeType::Acs,
            },
            lifecycle: Lifecycle {
                profile,
                creating: seconds(3),
                running: seconds(1),
                stop: seconds(1),
            },
            now,
            record,
            story: Vec::new(),
            said: Vec::new(),
            supply: Supply::Complete,
            shutdown_at: None,
            patch: Value::Null,
            names,
            seen_at: now,
            begun_at: now,
        }
    }

    /// A world whose pod runs, and what led there forgotten.
    pub(super) fn running(profile: Profile, edit: impl FnOnce(&mut Value)) -> Self {
        let mut world = Self::with(profile, edit);
        world.attach("192.168.1.8");
        world.run(10);
        assert_eq!(world.pod()["status"]["phase"], "Running");
        world.begun_at = world.now;
        world.story.clear();
        world
    }

    pub(super) fn attach(&mut self, address: &str) {
        self.network = Network::Attached(Assignment {
            address: address.parse().unwrap(),
            eni: "eni-1".into(),
            mac: Mac([0, 0x16, 0x3e, 0, 0, 1]),
            vswitch: "vsw-b".into(),
            zone: "cn-wulanchabu-b".into(),
            instance: "acs-1".into(),
            request_id: "5F2C".to_owned(),
        });
    }

    pub(super) fn wait_for(&mut self, note: &str) {
        self.network = Network::Waiting {
            reason: Reason::IPPoolExhausted,
            note: note.to_owned(),
        };
    }

    pub(super) fn pod(&self) -> &Value {
        self.pod.as_ref().expect("the pod is there")
    }

    /// The condition of that type, without its times.
    pub(super) fn condition(&self, kind: &str) -> Option<Value> {
        let all = self.pod()["status"]["conditions"].as_array().unwrap();
        let found = all.iter().find(|condition| condition["type"] == kind)?;
        Some(without_times(found))
    }

    /// Lets `seconds` pass and does all that is due meanwhile.
    pub(super) fn run(&mut self, seconds: i64) {
        let end = self.now + SignedDuration::from_secs(seconds);
        while self.pod.is_some() {
            match self.act() {
                Next::Again => {}
                Next::At(at) if at <= end => self.now = at.max(self.now),
                Next::At(_) | Next::Idle => break,
            }
        }
        self.now = end;
    }

    /// Does the one thing that is to be done now.
    pub(super) fn act(&mut self) -> Next {
        let facts = Facts {
            network: &self.network,
            node: &self.node,
            lifecycle: &self.lifecycle,
            seen_at: self.seen_at,
            supply: &self.supply,
            shutdown_at: self.shutdown_at,
        };
        let step = step(&self.record, &facts, self.now);
        let acts = step.action.is_some();
        self.said.extend(
            step.said
                .into_iter()
                .filter(|_| acts)
                .map(|(topic, note)| format!("{} {note}", topic.reason)),
        );
        let did = match step.action {
            None => return step.wake_at.map_or(Next::Idle, Next::At),
            Some(Action::WriteStatus(wanted)) => {
                let is_first = self.patch.is_null() && self.begun_at == self.seen_at;
                assert!(means_what_the_patch_does(self.pod(), &wanted) || !is_first);
                self.patch = serde_json::to_value(wanted).unwrap();
                self.apply();
                format!("write: {}", self.kubectl())
            }
            Some(Action::StopNetwork) => "stop network".to_owned(),
            Some(Action::EndNetwork) => "end network".to_owned(),
            Some(Action::DeleteObject) => "delete object".to_owned(),
        };
        match &*did {
            "stop network" | "end network" if self.detaches => self.network = Network::Detached,
            "stop network" | "end network" => {
                self.tell(&did);
                return Next::Idle;
            }
            "delete object" => self.delete(0),
            _ => {}
        }
        self.tell(&did);
        Next::Again
    }

    fn tell(&mut self, what: &str) {
        let at_ms = self.now.duration_since(self.begun_at).as_millis();
        let line = format!("{}.{}s {what}", at_ms / 1000, at_ms % 1000 / 100);
        if self.story.last() != Some(&line) {
            self.story.push(line);
        }
    }

    /// What the API server does with a DELETE.
    pub(super) fn delete(&mut self, grace_s: i64) {
        let now = self.now;
        let has_finalizers = self.pod()["metadata"]["finalizers"].is_array();
        if grace_s == 0 && !has_finalizers {
            self.pod = None;
            return;
        }
        self.edit(|pod| {
            let metadata = &mut pod["metadata"];
            let second = SignedDuration::from_secs(1);
            let at = match metadata["deletionTimestamp"].as_str() {
                Some(first) => {
                    let before = metadata["deletionGracePeriodSeconds"].as_i64().unwrap();
                    assert!(grace_s <= before, "a later deletion only shortens");
                    let first: Timestamp = first.parse().unwrap();
                    first + second * i32::try_from(grace_s - before).unwrap()
                }
                None => now + second * i32::try_from(grace_s).unwrap(),
            };
            metadata["deletionTimestamp"] = cut(at);
            metadata["deletionGracePeriodSeconds"] = grace_s.into();
            metadata["generation"] = (metadata["generation"].as_i64().unwrap() + 1).into();
        });
    }

    pub(super) fn remove_finalizers(&mut self) {
        self.edit(|pod| {
            pod["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("finalizers");
        });
        if self.pod()["metadata"]["deletionGracePeriodSeconds"] == 0 {
            self.pod = None;
        }
    }

    /// Somebody else writes a condition.
    pub(super) fn set_condition(&mut self, kind: &str, status: &str) {
        let condition = json!({
            "type": kind, "status": status, "lastTransitionTime": cut(self.now),
        });
        self.edit(|pod| merge(&mut pod["status"], json!({"conditions": [condition]})));
    }

    /// Somebody else changes the object, and the watch tells.
    pub(super) fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        let pod = self.pod.as_mut().expect("the pod is there");
        change(pod);
        let version = pod["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap();
        pod["metadata"]["resourceVersion"] = (version + 1).to_string().into();
        assert!(self.record.observe(&view(pod), &mut self.names, self.now));
    }

    /// The process of the first container ends in the run after so many restarts; whether that was news.
    pub(super) fn exit(&mut self, restarts: u32, code: u8) -> bool {
        let name = self.pod()["spec"]["containers"][0]["name"].clone();
        let exit = ProcessExit {
            container: name.as_str().unwrap().into(),
            restarts,
            code,
        };
        self.record.exited(exit, self.now)
    }

    /// All that was in memory is lost.
    pub(super) fn restart(&mut self) {
        self.seen_at = self.now;
        self.names = Names::default();
        self.record = record(self.pod.as_ref().unwrap(), &mut self.names, self.now);
    }

    fn apply(&mut self) {
        let (patch, now) = (self.patch.clone(), self.now);
        assert_eq!(patch["metadata"]["uid"], UID);
        let before = self.pod().clone();
        self.edit(|pod| merge(pod, patch));
        let after = self.pod();

        let told =
            |pod: &Value| without_times(&json!([pod["status"], pod["metadata"]["annotations"]]));
        assert_ne!(told(&before), told(after), "a write that changes nothing");
        for list in ["podIPs", "hostIPs"] {
            let length = after["status"][list].as_array().map_or(0, Vec::len);
            assert!(
                length <= 1,
                "422: more than one address of a family in {list}"
            );
        }
        let phase = before["status"]["phase"].as_str().unwrap();
        assert!(
            !["Succeeded", "Failed"].contains(&phase),
            "a terminal pod was written to"
        );
        for condition in after["status"]["conditions"].as_array().unwrap() {
            let olds = before["status"]["conditions"].as_array().unwrap();
            let old = olds.iter().find(|old| old["type"] == condition["type"]);
            let kept = old.filter(|old| old["status"] == condition["status"]);
            let since = kept.map_or(cut(now), |old| old["lastTransitionTime"].clone());
            assert_eq!(condition["lastTransitionTime"], since, "{condition}");
        }
    }

    pub(super) fn kubectl(&self) -> String {
        kubectl(self.pod())
    }
}

/// What there is to do after one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Again,
    At(Timestamp),
    Idle,
}

fn pod() -> Value {
    json!({
        "metadata": {
            "name": "web-0", "namespace": "default", "uid": UID, "generation": 1,
            "resourceVersion": "10", "creationTimestamp": "2026-11-24T09:59:59Z",
            "annotations": {"network.alibabacloud.com/enable-fixed-ip": "true"},
        },
        "spec": {
            "nodeName": "virtual-kubelet-cn-wulanchabu-b", "restartPolicy": "Always",
            "containers": [{"name": "nginx", "image": "nginx:1.14.1-8.6"}],
        },
        "status": {
            "phase": "Pending", "qosClass": "BestEffort",
            "conditions": [{
                "type": "PodScheduled", "status": "True", "lastProbeTime": null,
                "lastTransitionTime": "2026-11-24T10:00:00Z",
            }],
        },
    })
}

fn record(pod: &Value, names: &mut Names, now: Timestamp) -> Record {
    let node = pod["spec"]["nodeName"].as_str().unwrap().into();
    let view = view(pod);
    let annotations = view.metadata.annotations.clone().unwrap_or_default();
    let spec = &view.spec;
    let all = spec.init_containers.iter().chain(&spec.containers);
    let (behaviours, warnings) = behaviour::parse(&annotations, all.map(|one| &*one.name));
    assert_eq!(warnings, []);
    let terms = Terms {
        node,
        pod_use_spec: "0.25-0.5Gi".into(),
        behaviours,
    };
    Record::from_view(&view, terms, names, now).unwrap()
}
