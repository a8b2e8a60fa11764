//! What the agent takes from a pod when it first sees it. Annotations count then, and never again.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_provider::engine::{Creation, Network, Published, Reason};
use holdfast_provider::id::{NodeName, PodUid};
use holdfast_provider::policy::opt_in::{self, FixedIp, OptIn, UnsupportedClass, WarningKind};
use holdfast_provider::policy::use_spec::{
    InvalidSpec, POD_REQUIRED_SPEC, Resources, required_spec, use_spec,
};
use jiff::Timestamp;

use super::step::{Introduction, Pod, Told};
use super::supply::Search;
use super::{Action, Agent};
use crate::pod::behaviour::{self, Behaviours};
use crate::pod::core::Topic;
use crate::pod::record::{self, Record, Terms};
use crate::pod::status::SYSTEM_ANNOTATIONS;
use crate::pod::view::{Container, Phase, PodView};

/// Reason of the event that tells of a size that cannot be had.
const INVALID_SPEC: &str = "InvalidPodRequiredSpec";

/// As what a warning about annotations is told.
fn reason(warning: &opt_in::Warning) -> Reason {
    match warning.kind {
        WarningKind::InvalidAnnotation => Reason::FixedIPInvalidAnnotation,
        WarningKind::InvalidReleaseAfter => Reason::FixedIPInvalidReleaseAfter,
        WarningKind::Unsupported => Reason::FixedIPUnsupported,
        WarningKind::InvalidSecurityGroups => Reason::InvalidSecurityGroupIds,
    }
}

impl Agent {
    /// A pod on one of our nodes, for the first time in this process.
    pub(super) fn accept(&mut self, now: Timestamp, uid: &PodUid, node: NodeName, view: &PodView) {
        let (opt_in, warnings) = self.read_opt_in(view);
        let (spec, misfit) = size(view);
        let (behaviours, misread) = read_behaviours(view);
        let terms = Terms {
            node,
            pod_use_spec: spec.into(),
            behaviours,
        };
        let Some(record) = Record::from_view(view, terms, &mut self.names, now) else {
            return;
        };
        let is_news = self.engine.network(uid).is_none()
            && record.phase() == Phase::Pending
            && !record.host_network();
        if record.phase() == Phase::Pending && record.pod_ip().is_none() {
            let uid = Arc::new(uid.clone());
            let misread = misread
                .into_iter()
                .map(|one| (behaviour::INVALID, one.message));
            let misfit = misfit.map(|error| (INVALID_SPEC, error.to_string()));
            for (reason, note) in misread.chain(misfit) {
                let (uid, key) = (Arc::clone(&uid), record.key().clone());
                let topic = Topic::warning(reason);
                self.actions.push(Action::Event(uid, key, topic, note));
            }
        }
        let is_unsupported = matches!(opt_in.fixed_ip, FixedIp::Unsupported { .. });
        let mut refused = None;
        for warning in warnings {
            let (reason, note) = (reason(&warning), warning.note);
            if is_unsupported && reason == Reason::FixedIPUnsupported {
                let note = note.clone();
                refused = Some(Box::new(Network::Waiting { reason, note }));
            }
            if is_news {
                let (uid, key) = (Arc::new(uid.clone()), record.key().clone());
                let event = Action::Event(uid, key, reason.into(), note);
                self.actions.push(event);
            }
        }
        // Who was accepted before is served on, whatever its class has become since.
        let is_accepted = self.engine.network(uid).is_some() || record.pod_ip().is_some();
        let refused = refused.filter(|_| !record.host_network() && !is_accepted);
        let pod = Pod {
            search: Search::begin(&record, now),
            record,
            seen_at: now,
            introduction: Some(Box::new(Introduction {
                opt_in,
                published: published(view),
            })),
            refused,
            told: Told::default(),
            busy: false,
            queued: false,
            attempts: 0,
            not_before: None,
            awaited: None,
            wake_at: None,
        };
        self.keys.insert(pod.record.key(), uid.clone());
        self.pods.insert(uid.clone(), Box::new(pod));
        self.evaluate(now, uid);
    }

    pub(super) fn read_opt_in(&self, view: &PodView) -> (OptIn, Vec<opt_in::Warning>) {
        let settings = &self.settings;
        asks(view, settings.unsupported_class, settings.default_hours)
    }
}

/// What a pod asks of its network, by its annotations and its compute class.
pub(in crate::pod) fn asks(
    view: &PodView,
    unsupported: UnsupportedClass,
    default_hours: u32,
) -> (OptIn, Vec<opt_in::Warning>) {
    let annotations = view.metadata.annotations.as_ref();
    let annotation = |name: &str| annotations?.get(name).map(String::as_str);
    opt_in::read(annotation, class(view), unsupported, default_hours)
}

/// Its compute class.
pub(in crate::pod) fn class(view: &PodView) -> Option<&str> {
    let labels = view.metadata.labels.as_ref()?;
    labels.get(opt_in::COMPUTE_CLASS).map(String::as_str)
}

/// The address that a pod shows, and the ENI beside it.
pub(in crate::pod) fn published(view: &PodView) -> Option<Published> {
    let address = view.status.pod_ip.as_deref()?.parse().ok()?;
    let annotations = view.metadata.annotations.as_ref();
    let eni = annotations.and_then(|all| all.get(SYSTEM_ANNOTATIONS[0]));
    Some(Published {
        address,
        eni: eni.map(|id| id.as_str().into()),
    })
}

pub(super) fn created(view: &PodView) -> Creation {
    let stamp = view.metadata.creation_timestamp.as_ref();
    Creation {
        // No object from an API server lacks it; the oldest time holds the most off.
        at: stamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        revision: record::version(view).unwrap_or(0),
    }
}

/// The size of the pod's instance, and why it is not the one that its annotation requires. The
/// webhook refuses such a pod; without it, requests and limits decide.
fn size(view: &PodView) -> (String, Option<InvalidSpec>) {
    let containers: Vec<_> = view.spec.containers.iter().map(Container::asks).collect();
    let meta = &view.metadata;
    match instance_size(meta.labels.as_ref(), meta.annotations.as_ref(), &containers) {
        Ok(spec) => (spec, None),
        Err(error) => (use_spec(&containers), Some(error)),
    }
}

/// The size of a pod's instance: the one it requires, or the one that its containers need.
pub(crate) fn instance_size(
    labels: Option<&BTreeMap<String, String>>,
    annotations: Option<&BTreeMap<String, String>>,
    containers: &[Resources],
) -> Result<String, InvalidSpec> {
    let required = required_size(labels, annotations, containers);
    required.unwrap_or_else(|| Ok(use_spec(containers)))
}

/// The size that a pod requires by annotation, which counts for the two CPU classes only.
fn required_size(
    labels: Option<&BTreeMap<String, String>>,
    annotations: Option<&BTreeMap<String, String>>,
    containers: &[Resources],
) -> Option<Result<String, InvalidSpec>> {
    let text = annotations?.get(POD_REQUIRED_SPEC)?;
    let class = labels.and_then(|labels| labels.get(opt_in::COMPUTE_CLASS));
    let class = class.map(String::as_str);
    opt_in::is_cpu_class(class).then(|| required_spec(text, containers))
}

/// What the annotations ask of the containers, ephemeral ones included.
fn read_behaviours(view: &PodView) -> (Behaviours, Vec<behaviour::Warning>) {
    let Some(annotations) = &view.metadata.annotations else {
        return Default::default();
    };
    let spec = &view.spec;
    let all = spec.init_containers.iter().chain(&spec.containers);
    let all = all.chain(&spec.ephemeral_containers);
    behaviour::parse(annotations, all.map(|container| container.name.as_str()))
}
