//! The file as written: keys and nesting, nothing checked but that.
//!
//! Scalars stay text with their place, so that a refusal can quote them and point at them.

use serde::Deserialize;
use serde_saphyr::{Spanned, UserMessageFormatter};

use holdfast_provider::cloud::sim::Fault;
use holdfast_provider::id::NodeType;
use holdfast_provider::policy::opt_in::UnsupportedClass;

use super::Refusal;

/// A scalar and where it stands.
pub(super) type Text = Spanned<String>;

/// Which stages pods go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Delays and the Completed stage as ACS shows them.
    #[default]
    Acs,
    /// No delays, fewest writes.
    Fast,
}

/// What becomes of an opted-in pod when the webhook cannot answer, or cannot read the pod's
/// claim: `failurePolicy` of admissionregistration.k8s.io/v1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum FailurePolicy {
    /// It is refused; its controller tries again. A pod never loses its address this way.
    #[default]
    Fail,
    /// It is created without what the webhook would have added. When only the claim cannot be
    /// read, it lacks only the zone pin, and its creator is warned.
    Ignore,
}

impl FailurePolicy {
    /// As the Kubernetes API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "Fail",
            Self::Ignore => "Ignore",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) cluster: Option<Text>,
    pub(super) region: Option<Text>,
    pub(super) vpc: Option<Text>,
    pub(super) ledger: Option<Text>,
    #[serde(default)]
    pub(super) profile: Profile,
    #[serde(default)]
    pub(super) vswitches: Vec<VSwitch>,
    #[serde(default)]
    pub(super) nodes: Vec<Spanned<NodeEntry>>,
    #[serde(default)]
    pub(super) retention: Retention,
    #[serde(default, rename = "fixedIP")]
    pub(super) fixed_ip: FixedIp,
    #[serde(default)]
    pub(super) capacity: Capacity,
    #[serde(default)]
    pub(super) delays: Delays,
    #[serde(default)]
    pub(super) cloud: Cloud,
    #[serde(default)]
    pub(super) history: History,
    #[serde(default)]
    pub(super) kubelet: Kubelet,
    #[serde(default)]
    pub(super) webhook: Webhook,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VSwitch {
    pub(super) id: Text,
    pub(super) zone: Text,
    pub(super) cidr: Text,
    #[serde(default)]
    pub(super) exclude: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeEntry {
    pub(super) name: Option<Text>,
    pub(super) zone: Text,
    #[serde(rename = "type")]
    pub(super) node_type: Option<NodeType>,
    pub(super) count: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retention {
    pub(super) hours: Option<Text>,
    pub(super) hour: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FixedIp {
    #[serde(default)]
    pub(super) unsupported_class: UnsupportedClass,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Capacity {
    pub(super) cpu: Option<Text>,
    pub(super) memory: Option<Text>,
    pub(super) pods: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delays {
    pub(super) creating: Option<Text>,
    pub(super) running: Option<Text>,
    pub(super) stop: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cloud {
    pub(super) attach: Option<Text>,
    pub(super) detach: Option<Text>,
    pub(super) calls_per_s: Option<Text>,
    pub(super) enis_max: Option<Text>,
    #[serde(default)]
    pub(super) faults: Vec<Spanned<Fault>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    pub(super) days: Option<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kubelet {
    pub(super) address: Option<Text>,
    pub(super) port: Option<Text>,
    #[serde(default)]
    pub(super) anonymous: Vec<Text>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Webhook {
    pub(super) enabled: Option<bool>,
    pub(super) address: Option<Text>,
    pub(super) port: Option<Text>,
    pub(super) bind: Option<bool>,
    pub(super) zone_pin: Option<bool>,
    pub(super) surplus: Option<bool>,
    #[serde(default)]
    pub(super) failure_policy: FailurePolicy,
    pub(super) service: Option<Service>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) namespace: Text,
    pub(super) name: Text,
    pub(super) port: Option<Text>,
}

/// Reads the YAML. The first structural mistake ends it: what follows it has no known shape.
pub(super) fn parse(text: &str) -> Result<Raw, Refusal> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let (line, column) = error
            .location()
            .map_or((1, 1), |at| (at.line(), at.column()));
        let reason = error.render_with_formatter(&UserMessageFormatter);
        // The place is already said in front.
        let place = format!(" at line {line}, column {column}");
        let reason = reason.strip_suffix(&place).unwrap_or(&reason).to_owned();
        Refusal {
            line,
            column,
            reason,
        }
    })
}
