//! What a node needs next. Pure: what is configured, what was seen and the time in, at most one
//! request out. The shell asks again after every answer.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use super::object::Template;
use super::view::NodeView;
use crate::config::NodeSpec;

/// What is known about the object of a configured node.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// Nothing: it was not looked for yet, or an answer contradicted what was known.
    Unknown,
    /// There is none.
    Absent,
    /// There is this one.
    Present(Box<NodeView>),
}

impl Seen {
    /// Whether there is a node, and it is not somebody else's.
    pub(super) fn is_registered(&self) -> bool {
        matches!(self, Self::Present(node) if !node.is_foreign())
    }
}

/// One request to the API server.
#[derive(Debug)]
pub(super) enum Action {
    /// Read the node.
    Get,
    /// Create it, with its status.
    Create(Box<Node>),
    /// JSON merge patch of the node.
    PatchMetadata(Value),
    /// Strategic merge patch of its status.
    PatchStatus(Value),
}

/// The next request for the node of `spec`, if one is due.
pub(super) fn next_action(
    template: &Template,
    spec: &NodeSpec,
    seen: &Seen,
    heartbeat_due: bool,
    now: Timestamp,
) -> Option<Action> {
    match seen {
        Seen::Unknown => Some(Action::Get),
        Seen::Absent => Some(Action::Create(Box::new(template.node(spec, now)))),
        Seen::Present(node) if node.is_foreign() => None,
        Seen::Present(node) => {
            // Status first: a refused change of labels must not silence a node.
            if heartbeat_due || Template::status_differs(node) {
                Some(Action::PatchStatus(template.status_patch(spec, node, now)))
            } else {
                template
                    .metadata_patch(spec, node)
                    .map(Action::PatchMetadata)
            }
        }
    }
}
