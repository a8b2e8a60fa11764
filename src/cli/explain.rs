//! `holdfast explain`: what a pod gets, or would get if it were made now, and the facts behind it.
//!
//! Owns where the facts about the pod come from and which nodes are asked about. The decision is
//! the ledger's own ([`holdfast_provider::ledger::explain`]). Asks no scheduler: whether the pod
//! could go to a node is not looked at. Changes nothing.

mod manifest;
mod table;

use std::path::PathBuf;

use anyhow::Context as _;
use holdfast_provider::engine::Node;
use holdfast_provider::id::{ClusterId, NodeName, PodKey, VSwitchId, Zone};
use holdfast_provider::ledger::Reader;
use holdfast_provider::ledger::explain::{Answer, Explanation, Kind, Place, Subject};
use holdfast_provider::policy::opt_in::{FixedIp, OptIn, WarningKind};
use jiff::Timestamp;
use kube::Client;
use serde::Serialize;

use super::output::{self, Format};
use super::{CONFIG, block_on, pod_key};
use crate::config::{Config, NodeSpec};
use crate::pod::census::{self, Asking};
use crate::{clock, kube_client, serve};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pod, as NAMESPACE/POD.
    #[arg(value_name = "NAMESPACE/POD", value_parser = pod_key, required_unless_present = "file")]
    key: Option<PodKey>,
    /// A pod that does not exist yet: its manifest, or that of a workload together with
    /// NAMESPACE/POD.
    #[arg(short, long, value_name = "MANIFEST")]
    file: Option<PathBuf>,
    /// As if it were bound to this node.
    #[arg(long)]
    node: Option<String>,
    /// As if it were bound to a node of this zone.
    #[arg(long, conflicts_with = "node")]
    zone: Option<String>,
    /// Ask this cluster about the pod; else the ledger alone is asked.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The cluster id in the ledger; else that of the configuration, the UID of namespace
    /// kube-system, or the only one that the ledger has.
    #[arg(long)]
    cluster: Option<String>,
    /// The configuration.
    #[arg(short, long, default_value = CONFIG)]
    config: PathBuf,
    /// How the answer looks.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The question cannot be understood.
    #[error("{0}")]
    Arguments(String),
    /// There is nothing to explain.
    #[error(
        "nothing is known of {key}: {asked} no pod of this name, and the ledger has no claim for it; to explain one that does not exist yet, give its manifest with -f"
    )]
    Unknown {
        /// The pod.
        key: PodKey,
        /// Who was asked.
        asked: &'static str,
    },
}

/// Where the facts about the pod come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    /// The API server.
    Cluster,
    /// The rows that the ledger made when it accepted the pod.
    Ledger,
    /// The file.
    Manifest,
    /// There is no such pod: one that asks for a fixed IP and names nothing else.
    Assumed,
}

/// The answer.
#[derive(Serialize)]
struct Report {
    /// The cluster in whose name the ledger was asked.
    cluster: Option<ClusterId>,
    #[serde(flatten)]
    key: PodKey,
    source: Source,
    #[serde(flatten)]
    pod: PodFacts,
    #[serde(flatten)]
    explanation: Explanation,
}

/// What is known of the pod.
#[derive(Serialize)]
struct PodFacts {
    uid: Option<String>,
    created_at: Option<Timestamp>,
    /// The node that it is bound to.
    bound_to: Option<NodeName>,
    host_network: bool,
    /// `on`, `off` or `unsupported`.
    fixed_ip: &'static str,
    /// How long its address is kept after its deletion.
    hours: Option<u32>,
    /// Its compute class. The ledger does not know it.
    class: Option<String>,
    /// The vSwitches that it names.
    vswitch_ids: Vec<VSwitchId>,
    /// What is wrong with its annotations.
    warnings: Vec<String>,
}

/// What is asked about the pod, and of whom.
struct Question<'a> {
    args: &'a Args,
    config: Config,
    reader: Reader,
    client: Option<Client>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    block_on(explain(args))
}

async fn explain(args: &Args) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let reader = Reader::open(&config.ledger)?;
    let client = match &args.kubeconfig {
        Some(path) => {
            let access = kube_client::access(Some(path)).await?;
            Some(kube_client::client(&access)?)
        }
        None => None,
    };
    let question = Question {
        args,
        config,
        reader,
        client,
    };
    let cluster = question.cluster().await?;
    // No row has it: there is no row at all.
    let id = cluster.clone().unwrap_or_else(|| "".into());
    let (source, asking, bound) = question.pod(&id).await?;
    let places = question.places(bound, asking.node.as_ref()).await?;
    let mut explanation = question
        .reader
        .explain(&id, &asking.subject, &places, clock::wall())
        .context("could not read the ledger")?;
    if source == Source::Assumed && !explanation.knows_key() {
        let asked = if question.client.is_some() {
            "the cluster has"
        } else {
            "the ledger has"
        };
        let key = asking.subject.key;
        return Err(Error::Unknown { key, asked }.into());
    }
    complete(&mut explanation, &asking);
    let report = Report {
        cluster,
        key: asking.subject.key.clone(),
        source,
        pod: asking.into(),
        explanation,
    };
    output::print_as(args.output, &report, |_| table::text(&report))
}

/// What the ledger never hears of: pods of the host's network, and the words of a refusal.
fn complete(explanation: &mut Explanation, asking: &Asking) {
    for outlook in &mut explanation.outlooks {
        if asking.host_network {
            outlook.answer = Answer::bare(Kind::HostNetwork);
            outlook.next = None;
        } else if outlook.answer.verdict == Kind::Refused {
            let mut warnings = asking.warnings.iter();
            let refusal = warnings.find(|warning| warning.kind == WarningKind::Unsupported);
            outlook.answer.note = refusal.map(|warning| warning.note.clone());
        }
    }
}

impl Question<'_> {
    async fn cluster(&self) -> anyhow::Result<Option<ClusterId>> {
        let configured = self.args.cluster.as_deref().map(ClusterId::from);
        let configured = configured.or_else(|| self.config.cluster.clone());
        if let Some(client) = &self.client {
            return Ok(Some(serve::cluster_id(configured.as_ref(), client).await?));
        }
        if configured.is_some() {
            return Ok(configured);
        }
        let mut known = self
            .reader
            .clusters()
            .context("could not read the ledger")?;
        if known.len() > 1 {
            let ids: Vec<_> = known.iter().map(ClusterId::as_str).collect();
            return Err(Error::Arguments(format!(
                "the ledger has pods of clusters {}: say which one with --cluster or --kubeconfig",
                ids.join(" and ")
            ))
            .into());
        }
        Ok(known.pop())
    }

    /// The pod, and where the ledger has it.
    async fn pod(&self, cluster: &ClusterId) -> anyhow::Result<(Source, Asking, Option<Place>)> {
        let (unsupported, hours) = (
            self.config.unsupported_class,
            self.config.retention.default_hours,
        );
        if let Some(file) = &self.args.file {
            let (view, key) = manifest::read(file, self.args.key.as_ref())?;
            let asking = census::asking(&view, &key, unsupported, hours);
            return Ok((Source::Manifest, asking, None));
        }
        let key = self.args.key.as_ref().context("no pod is named")?;
        if let Some(client) = &self.client {
            if let Some(view) = census::pod(client, key).await? {
                let mut asking = census::asking(&view, key, unsupported, hours);
                let accepted = self.reader.accepted(cluster, key);
                let accepted = accepted.context("could not read the ledger")?;
                // Edits of a pod that was accepted change nothing.
                if let Some(known) =
                    accepted.filter(|known| known.subject.uid == asking.subject.uid)
                {
                    asking.subject.opt_in.fixed_ip = known.subject.opt_in.fixed_ip;
                }
                return Ok((Source::Cluster, asking, None));
            }
        } else {
            let found = self.reader.accepted(cluster, key);
            if let Some(found) = found.context("could not read the ledger")? {
                let node = found.place.node.name.clone();
                let asking = plain(found.subject, Some(node));
                return Ok((Source::Ledger, asking, Some(found.place)));
            }
        }
        let subject = Subject {
            uid: None,
            key: key.clone(),
            created_at: None,
            opt_in: OptIn {
                fixed_ip: FixedIp::On { hours },
                vswitches: Vec::new(),
                security_groups: Vec::new(),
            },
        };
        Ok((Source::Assumed, plain(subject, None), None))
    }

    /// The nodes that are asked about: the one that is given, or the pod's, or one of each kind.
    async fn places(
        &self,
        bound: Option<Place>,
        node: Option<&NodeName>,
    ) -> anyhow::Result<Vec<Place>> {
        if let Some(node) = &self.args.node {
            let place = self.place(&node.as_str().into()).await?;
            return place.map(|place| vec![place]).ok_or_else(|| {
                let virtual_node = format!("node {node} is a virtual node of another provider");
                Error::Arguments(virtual_node).into()
            });
        }
        if let Some(zone) = self.args.zone.as_deref().map(Zone::from) {
            return self.zones(Some(&zone));
        }
        match (bound, node) {
            (Some(place), _) => Ok(vec![place]),
            (None, Some(node)) => Ok(self.place(node).await?.into_iter().collect()),
            (None, None) => self.zones(None),
        }
    }

    /// A node by its name; `None` for a virtual node of another provider, on which holdfast neither
    /// gives nor takes anything.
    async fn place(&self, name: &NodeName) -> anyhow::Result<Option<Place>> {
        if let Some(spec) = self.config.nodes.iter().find(|spec| spec.name == *name) {
            return Ok(Some(place(spec)));
        }
        let unknown = |why: &str| {
            Error::Arguments(format!(
                "node {name} is not in the configuration {}, and {why}",
                self.args.config.display()
            ))
        };
        let Some(client) = &self.client else {
            return Err(unknown("no cluster was given to ask, with --kubeconfig").into());
        };
        let found = census::node(client, name).await?;
        let found = found.ok_or_else(|| unknown("not in the cluster"))?;
        Ok((!found.is_virtual).then(|| Place {
            node: Node {
                name: name.clone(),
                zone: found.zone,
                node_type: holdfast_provider::id::NodeType::Ecs,
            },
            foreign: true,
        }))
    }

    /// The first node of each type in each zone, or in this one.
    fn zones(&self, only: Option<&Zone>) -> anyhow::Result<Vec<Place>> {
        let mut firsts: Vec<&NodeSpec> = Vec::new();
        for spec in &self.config.nodes {
            let is_known = firsts
                .iter()
                .any(|first| (&first.zone, first.node_type) == (&spec.zone, spec.node_type));
            if !is_known && only.is_none_or(|zone| *zone == spec.zone) {
                firsts.push(spec);
            }
        }
        if let Some(zone) = only.filter(|_| firsts.is_empty()) {
            let mut zones: Vec<_> = self.config.nodes.iter().map(|spec| &spec.zone).collect();
            zones.sort_unstable();
            zones.dedup();
            let zones: Vec<_> = zones.into_iter().map(Zone::as_str).collect();
            return Err(Error::Arguments(format!(
                "no node of the configuration is in zone {zone}: there are {}",
                zones.join(", ")
            ))
            .into());
        }
        Ok(firsts.into_iter().map(place).collect())
    }
}

fn place(spec: &NodeSpec) -> Place {
    Place {
        node: Node {
            name: spec.name.clone(),
            zone: spec.zone.clone(),
            node_type: spec.node_type,
        },
        foreign: false,
    }
}

/// A pod of which nobody knows more.
fn plain(subject: Subject, node: Option<NodeName>) -> Asking {
    Asking {
        subject,
        class: None,
        warnings: Vec::new(),
        host_network: false,
        node,
    }
}

impl From<Asking> for PodFacts {
    fn from(asking: Asking) -> Self {
        let Subject {
            uid,
            created_at,
            opt_in,
            ..
        } = asking.subject;
        let (fixed_ip, hours) = match opt_in.fixed_ip {
            FixedIp::On { hours } => ("on", Some(hours)),
            FixedIp::Off => ("off", None),
            FixedIp::Unsupported { .. } => ("unsupported", None),
        };
        Self {
            uid: uid.map(|uid| uid.to_string()),
            created_at,
            bound_to: asking.node,
            host_network: asking.host_network,
            fixed_ip,
            hours,
            class: asking.class,
            vswitch_ids: opt_in.vswitches,
            warnings: asking.warnings.into_iter().map(|one| one.note).collect(),
        }
    }
}
