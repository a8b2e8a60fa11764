//! Node entries: names, zones and ports of every node of the process.

use std::collections::BTreeSet;

use holdfast_provider::id::{NodeName, NodeType};
use serde_saphyr::{Location, Spanned};

use super::NodeSpec;
use super::check::Checks;
use super::raw::{self, Text};

/// More nodes in one entry than any cluster has (Kubernetes' own limit is 5,000).
const COUNT_MAX: u32 = 10_000;

/// The nodes of the file, `count` entries expanded.
pub(super) fn nodes(
    raw: &[Spanned<raw::NodeEntry>],
    vswitches: &[raw::VSwitch],
    first_port: u16,
    checks: &mut Checks<'_>,
) -> Vec<NodeSpec> {
    if raw.is_empty() {
        checks.missing("nodes is missing: give at least one, such as {zone: cn-wulanchabu-b}");
    }
    let mut nodes = Vec::new();
    let mut names = BTreeSet::new();
    for (
        entry,
        Spanned {
            value: node,
            referenced,
            ..
        },
    ) in raw.iter().enumerate()
    {
        let zone = checks.id(&node.zone, "zone");
        if !vswitches.iter().any(|vswitch| vswitch.zone.value == zone) {
            checks.refuse(
                node.zone.referenced,
                format!("zone {zone} has no vSwitch, so its pods could get no address: add one"),
            );
        }
        let node_type = node.node_type.unwrap_or(NodeType::Acs);
        let Ok(kubelet_port) = u16::try_from(usize::from(first_port) + entry) else {
            checks.refuse(
                *referenced,
                format!(
                    "no port is left for this entry: each has one of its own from kubelet.port \
                     ({first_port}) upward, so give a lower kubelet.port"
                ),
            );
            continue;
        };
        for name in entry_names(node, node_type, *referenced, checks) {
            if !names.insert(name.clone()) {
                let at = node
                    .name
                    .as_ref()
                    .map_or(*referenced, |name| name.referenced);
                checks.refuse(
                    at,
                    format!("node {name} is there twice: give it another name"),
                );
                break;
            }
            nodes.push(NodeSpec {
                name,
                zone: zone.into(),
                node_type,
                entry,
                kubelet_port,
                shared_port: node.count.is_some(),
            });
        }
    }
    nodes
}

/// The names of one entry; none when it is refused.
fn entry_names(
    node: &raw::NodeEntry,
    node_type: NodeType,
    entry: Location,
    checks: &mut Checks<'_>,
) -> Vec<NodeName> {
    let placeholders = node
        .name
        .as_ref()
        .map_or(0, |name| name.value.matches("%d").count());
    let names: Vec<String> = match (&node.name, &node.count) {
        (Some(name), Some(count)) if placeholders == 1 => expand(name, count, checks),
        (name, Some(count)) => {
            let at = name
                .as_ref()
                .map_or(count.referenced, |name| name.referenced);
            checks.refuse(
                at,
                "an entry with count needs a name with one `%d`, like load-%d",
            );
            return Vec::new();
        }
        (Some(name), None) if placeholders > 0 => {
            checks.refuse(
                name.referenced,
                format!("`{}` has `%d` but no count: say how many", name.value),
            );
            return Vec::new();
        }
        (Some(name), None) => vec![name.value.clone()],
        (None, None) if node_type == NodeType::Ecs => {
            checks.refuse(entry, "a node of type ecs needs a name");
            return Vec::new();
        }
        (None, None) => vec![format!("virtual-kubelet-{}", node.zone.value)],
    };
    // The last one is the longest.
    if let Some(last) = names.last() {
        let at = node.name.as_ref().map_or(entry, |name| name.referenced);
        checks.dns_name(at, last, "node");
    }
    names.into_iter().map(NodeName::from).collect()
}

fn expand(name: &Text, count: &Text, checks: &mut Checks<'_>) -> Vec<String> {
    let count = checks.number(Some(count), "count", 1..=COUNT_MAX, 0);
    (0..count)
        .map(|index| name.value.replace("%d", &index.to_string()))
        .collect()
}
