//! What few pods have, or have for a while: kept beside the record, for which it would be too large. Takes note, and
//! decides nothing.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Container, Names, Record};
use crate::pod::behaviour::{self, Behaviour, Behaviours};
use crate::pod::needs::Needs;
use crate::pod::observed::{Observed, State};
use crate::pod::view::{PodView, Spec};

/// A container that ran for this long starts its back-off anew (kubernetes/kubernetes,
/// client-go/util/flowcontrol: twice the longest back-off).
const RESTED: SignedDuration = SignedDuration::from_mins(10);

/// What few pods have.
#[derive(Debug, Default)]
pub(super) struct Extra {
    behaviours: Behaviours,
    needs: Option<Needs>,
    ephemeral: Box<[Container]>,
    active_deadline: Option<SignedDuration>,
    /// Containers that have run for long, and how often they had been restarted by then: a
    /// failure after that is their first.
    rested: Vec<(Arc<str>, u32)>,
    /// Since when a container runs whose image was changed.
    outdated_since: Option<Timestamp>,
    /// Processes that have ended, the newest of each container, and when.
    exits: Vec<(ProcessExit, Timestamp)>,
}

impl Extra {
    /// `None` for a pod that has nothing of it.
    pub(super) fn of(spec: &Spec, behaviours: Behaviours) -> Option<Box<Self>> {
        let needs = Needs::of(spec);
        let is_rare = needs.is_some() || behaviours != Behaviours::default();
        is_rare.then(|| {
            Box::new(Self {
                behaviours,
                needs,
                ..Self::default()
            })
        })
    }
}

/// The end of a container's first process, such as a shell that somebody left. The API does not show it before the
/// status that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessExit {
    /// Name of the container.
    pub container: Box<str>,
    /// `restartCount` of the run that it was in. Any other run has a process of its own.
    pub restarts: u32,
    /// Its exit code.
    pub code: u8,
}

impl Record {
    pub(super) fn refresh_extra(&mut self, view: &PodView, names: &mut Names) {
        self.refresh_figures(view);
        let spec = &view.spec;
        let ephemeral = &spec.ephemeral_containers;
        if self.extra.is_none() && ephemeral.is_empty() && spec.active_deadline_seconds.is_none() {
            return;
        }
        let extra = self.extra.get_or_insert_default();
        extra.active_deadline = spec.active_deadline_seconds.map(SignedDuration::from_secs);
        // They can be added, and nothing else.
        if extra.ephemeral.len() != ephemeral.len() {
            let all = ephemeral.iter().map(|one| Container::new(one, names));
            extra.ephemeral = all.collect();
        }
    }

    /// What containers use may change while they run, as it does on a real node.
    fn refresh_figures(&mut self, view: &PodView) {
        let annotations = view.metadata.annotations.as_ref();
        let asked = annotations.and_then(|all| {
            let is_ours = |name: &String| name.contains(behaviour::PREFIX);
            let names = self.init_containers.iter().chain(&self.containers);
            let names = names.map(|container| &*container.name);
            all.keys()
                .any(is_ours)
                .then(|| behaviour::parse(all, names).0)
        });
        if let Some(asked) = asked {
            let extra = self.extra.get_or_insert_default();
            extra.behaviours.take_figures(&asked);
        } else if let Some(extra) = &mut self.extra {
            extra.behaviours.take_figures(&Behaviours::default());
        }
    }

    pub(super) fn refresh_outdated(&mut self, now: Timestamp) {
        let is_outdated = self.containers_with_status().any(|(_, status)| {
            matches!(status.state, State::Running { .. }) && status.older_image().is_some()
        });
        if is_outdated {
            let extra = self.extra.get_or_insert_default();
            extra.outdated_since.get_or_insert(now);
        } else if let Some(extra) = &mut self.extra {
            extra.outdated_since = None;
        }
    }

    pub(super) fn refresh_rested(&mut self, before: &Observed) {
        let all = [
            (
                &self.init_containers,
                &self.observed.init_containers,
                &before.init_containers,
            ),
            (
                &self.containers,
                &self.observed.containers,
                &before.containers,
            ),
        ];
        for (containers, seen, before) in all {
            let before = before.iter().map(Some).chain(std::iter::repeat(None));
            for ((container, seen), before) in containers.iter().zip(seen).zip(before) {
                let ran = seen.last_end().map(|ended| ended.ran());
                let has_rested = ran.is_some_and(|ran| ran >= RESTED);
                // The kubelet counts the failures of each image anew (pkg/kubelet/kuberuntime,
                // `getStableKey`).
                let is_another = before.is_some_and(|before| before.older_image().is_some())
                    && seen.older_image().is_none();
                if seen.restarts > 0 && (has_rested || is_another) {
                    let extra = self.extra.get_or_insert_default();
                    extra.rested.retain(|(name, _)| *name != container.name);
                    extra.rested.push((container.name.clone(), seen.restarts));
                }
            }
        }
    }

    /// What is asked of a container, if anything.
    pub(in crate::pod) fn behaviour(&self, container: &str) -> Option<&Behaviour> {
        let extra = self.extra.as_deref()?;
        Some(extra.behaviours.of(container))
    }

    /// ConfigMaps and Secrets that it names.
    pub(in crate::pod) fn needs(&self) -> Option<&Needs> {
        self.extra.as_deref()?.needs.as_ref()
    }

    /// Containers that were added since it was made.
    pub(in crate::pod) fn ephemeral_containers(&self) -> &[Container] {
        self.extra.as_deref().map_or(&[], |extra| &extra.ephemeral)
    }

    /// How long it may last.
    pub(in crate::pod) fn active_deadline(&self) -> Option<SignedDuration> {
        self.extra.as_deref()?.active_deadline
    }

    /// How often a container had been restarted when it last ran for long.
    pub(in crate::pod) fn rested_at(&self, container: &str) -> u32 {
        let all = self.extra.as_deref().map_or(&[][..], |extra| &extra.rested);
        let found = all.iter().find(|(name, _)| **name == *container);
        found.map_or(0, |(_, restarts)| *restarts)
    }

    /// Takes note that a process ended at `at`; whether nothing had ended that run of the container before.
    pub(in crate::pod) fn exited(&mut self, exit: ProcessExit, at: Timestamp) -> bool {
        let exits = &mut self.extra.get_or_insert_default().exits;
        let is_late = exits
            .iter()
            .any(|(known, _)| known.container == exit.container && known.restarts >= exit.restarts);
        if !is_late {
            exits.retain(|(known, _)| known.container != exit.container);
            exits.push((exit, at));
        }
        !is_late
    }

    /// With what code and when the process of this run of a container ended, if it did.
    pub(in crate::pod) fn exit_of(
        &self,
        container: &str,
        restarts: u32,
    ) -> Option<(u8, Timestamp)> {
        let exits = self.extra.as_deref().map_or(&[][..], |extra| &extra.exits);
        let mut all = exits.iter();
        let is_of = |exit: &ProcessExit| *exit.container == *container && exit.restarts == restarts;
        let (exit, at) = all.find(|(exit, _)| is_of(exit))?;
        Some((exit.code, *at))
    }

    /// Since when a container of it runs whose image was changed.
    pub(in crate::pod) fn outdated_since(&self) -> Option<Timestamp> {
        self.extra.as_deref()?.outdated_since
    }
}
