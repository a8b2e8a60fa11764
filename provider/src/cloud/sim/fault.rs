//! Faults by name: what can go wrong in the simulated cloud, and how it is written.
//!
//! One vocabulary for the configuration, the command line and the ledger: [`Fault`] is what serde
//! reads and writes everywhere, and [`Fault::check`] is the one judgement of its values. Does not
//! make anything go wrong (the list in force does, in `faults`).

use std::fmt;
use std::num::NonZeroU32;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cloud::{EniState, Request};
use crate::id::VSwitchId;

/// No rehearsal needs more; keeps every deadline far from the end of time.
const LATENCY_MAX: SignedDuration = SignedDuration::from_hours(24);
/// The longest code of the ECS API reference has half as many characters.
const CODE_MAX: usize = 100;

/// The five calls, as faults name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// CreateNetworkInterface.
    Create,
    /// AttachNetworkInterface.
    Attach,
    /// DetachNetworkInterface.
    Detach,
    /// DeleteNetworkInterface.
    Delete,
    /// DescribeNetworkInterfaces.
    Describe,
}

impl Action {
    /// Which call a request is.
    pub fn of(request: &Request) -> Self {
        match request {
            Request::Create { .. } => Self::Create,
            Request::Attach { .. } => Self::Attach,
            Request::Detach { .. } => Self::Detach,
            Request::Delete { .. } => Self::Delete,
            Request::Describe { .. } => Self::Describe,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Attach => "attach",
            Self::Detach => "detach",
            Self::Delete => "delete",
            Self::Describe => "describe",
        })
    }
}

/// The calls that are accepted first and take effect later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// `Available` to `InUse`, by way of `Attaching`.
    Attach,
    /// `InUse` to `Available`, by way of `Detaching`.
    Detach,
    /// `Available` to gone, by way of `Deleting`.
    Delete,
}

impl Transition {
    /// The transition that is under way in `state`.
    pub(super) fn under_way_in(state: EniState) -> Option<Self> {
        match state {
            EniState::Attaching => Some(Self::Attach),
            EniState::Detaching => Some(Self::Detach),
            EniState::Deleting => Some(Self::Delete),
            EniState::Available | EniState::InUse => None,
        }
    }

    /// The state while it is under way.
    pub(super) fn state(self) -> EniState {
        match self {
            Self::Attach => EniState::Attaching,
            Self::Detach => EniState::Detaching,
            Self::Delete => EniState::Deleting,
        }
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attach => "attach",
            Self::Detach => "detach",
            Self::Delete => "delete",
        })
    }
}

/// One thing that goes wrong, until the configuration or an operator takes it away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Every n-th call of an action fails and has no effect.
    Fail {
        /// Which calls.
        action: Action,
        /// 1: every call.
        #[serde(default = "always")]
        every: NonZeroU32,
        /// The ECS error code to answer with.
        #[serde(default = "internal_error")]
        code: String,
    },
    /// No more than so many calls in a second are let through; the others get
    /// `Throttling.User`. The smallest such limit counts, that of the configuration included.
    Throttle {
        /// 0: no call at all.
        calls_per_s: u32,
    },
    /// A transition takes at least so long.
    Slow {
        /// Which.
        action: Transition,
        /// From the call on; less than nothing counts as nothing.
        #[serde(with = "duration")]
        latency: SignedDuration,
    },
    /// Transitions that begin now do not end before this fault is taken away.
    Stuck {
        /// Which.
        action: Transition,
    },
    /// Every n-th call of an action takes effect, but is answered with `RequestTimeout`.
    LostAnswer {
        /// Which calls.
        action: Action,
        /// 1: every call.
        #[serde(default = "always")]
        every: NonZeroU32,
    },
    /// A vSwitch has no address for another ENI: `InvalidVSwitchId.IpNotEnough`.
    OutOfAddresses {
        /// Which.
        vswitch: VSwitchId,
    },
    /// No more than so many ENIs may exist: `MaxEniCountExceeded`. The smallest such limit counts,
    /// that of the configuration included.
    EniQuota {
        /// 0: no ENI at all.
        enis_max: u32,
    },
}

fn always() -> NonZeroU32 {
    NonZeroU32::MIN
}

fn internal_error() -> String {
    "InternalError".to_owned()
}

/// A fault that cannot be had. One sentence says what, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fault {name}: {reason}")]
pub struct Invalid {
    name: String,
    reason: String,
}

impl Fault {
    /// The fault of this name with these settings, `KEY=VALUE` each. Its values are not judged:
    /// [`Fault::check`] does that.
    ///
    /// # Errors
    /// When there is no such fault, or it does not have these settings.
    pub fn parse(name: &str, settings: &[impl AsRef<str>]) -> Result<Self, Invalid> {
        let invalid = |reason: String| Invalid {
            name: name.to_owned(),
            reason,
        };
        let (kind, subject) = match name.split_once('/') {
            Some((kind, subject)) => (kind, Some(subject)),
            None => (name, None),
        };
        let mut fields = Map::new();
        match (subject_of(kind), subject) {
            (Some((key, _)), Some(subject)) => {
                fields.insert(key.to_owned(), subject.into());
            }
            (Some((_, example)), None) => {
                return Err(invalid(format!("say what it acts on: {kind}/{example}")));
            }
            (None, Some(_)) => return Err(invalid(format!("there is no such: {NAMES}"))),
            (None, None) => {}
        }
        for setting in settings {
            let setting = setting.as_ref();
            let Some((key, value)) = setting.split_once('=') else {
                let reason = format!("`{setting}` is no setting: write KEY=VALUE");
                return Err(invalid(reason));
            };
            let number = value.parse::<u64>().map(Value::from);
            let value = number.unwrap_or_else(|_| value.into());
            if fields.insert(key.to_owned(), value).is_some() {
                return Err(invalid(format!("{key} is given twice")));
            }
        }
        if !KINDS.contains(&kind) {
            return Err(invalid(format!("there is no such: {NAMES}")));
        }
        let whole = Map::from_iter([(kind.to_owned(), Value::Object(fields))]);
        serde_json::from_value(Value::Object(whole)).map_err(|error| invalid(error.to_string()))
    }

    /// Its kind and what it acts on, such as `slow/detach`. Of one name there is one at a time.
    pub fn name(&self) -> String {
        match self {
            Self::Fail { action, .. } => format!("fail/{action}"),
            Self::Throttle { .. } => "throttle".to_owned(),
            Self::Slow { action, .. } => format!("slow/{action}"),
            Self::Stuck { action } => format!("stuck/{action}"),
            Self::LostAnswer { action, .. } => format!("lost_answer/{action}"),
            Self::OutOfAddresses { vswitch } => format!("out_of_addresses/{vswitch}"),
            Self::EniQuota { .. } => "eni_quota".to_owned(),
        }
    }

    /// What else it says, as [`Fault::parse`] reads it.
    pub fn settings(&self) -> Vec<String> {
        match self {
            Self::Fail { every, code, .. } => {
                vec![format!("every={every}"), format!("code={code}")]
            }
            Self::Throttle { calls_per_s } => vec![format!("calls_per_s={calls_per_s}")],
            Self::Slow { latency, .. } => vec![format!("latency={}", duration::text(*latency))],
            Self::LostAnswer { every, .. } => vec![format!("every={every}")],
            Self::EniQuota { enis_max } => vec![format!("enis_max={enis_max}")],
            Self::Stuck { .. } | Self::OutOfAddresses { .. } => Vec::new(),
        }
    }

    /// Whether its values make sense where these vSwitches are configured.
    ///
    /// # Errors
    /// When they do not.
    pub fn check<'a>(
        &self,
        vswitches: impl IntoIterator<Item = &'a VSwitchId>,
    ) -> Result<(), Invalid> {
        let reason = match self {
            Self::Fail { code, .. } if !is_code(code) => format!(
                "code is `{code}`: give an ECS error code of letters, digits and dots, such as \
                 InternalError"
            ),
            Self::Slow { latency, .. } if *latency > LATENCY_MAX || latency.is_negative() => {
                format!("latency is `{}`: give 0s to 24h", duration::text(*latency))
            }
            Self::OutOfAddresses { vswitch } => {
                let known: Vec<&VSwitchId> = vswitches.into_iter().collect();
                if known.contains(&vswitch) {
                    return Ok(());
                }
                let known: Vec<&str> = known.into_iter().map(VSwitchId::as_str).collect();
                format!(
                    "no such vSwitch is configured: name one of {}",
                    known.join(", ")
                )
            }
            _ => return Ok(()),
        };
        Err(Invalid {
            name: self.name(),
            reason,
        })
    }
}

/// Every kind, as it is written.
const KINDS: [&str; 7] = [
    "fail",
    "throttle",
    "slow",
    "stuck",
    "lost_answer",
    "out_of_addresses",
    "eni_quota",
];

/// Every name, for whoever has written another.
const NAMES: &str = "use fail/CALL, throttle, slow/CALL, stuck/CALL, lost_answer/CALL, \
                     out_of_addresses/VSWITCH or eni_quota";

/// The key of what a kind acts on, with an example.
fn subject_of(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "fail" | "lost_answer" | "slow" | "stuck" => Some(("action", "attach")),
        "out_of_addresses" => Some(("vswitch", "VSWITCH")),
        _ => None,
    }
}

fn is_code(code: &str) -> bool {
    code.len() <= CODE_MAX
        && code.starts_with(|c: char| c.is_ascii_alphabetic())
        && code.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
}

/// Durations as the rest of the configuration has them.
mod duration {
    use jiff::SignedDuration;
    use serde::de::{Deserialize as _, Deserializer, Error as _};
    use serde::ser::Serializer;

    /// Without the spaces that jiff puts between units.
    pub(super) fn text(duration: SignedDuration) -> String {
        format!("{duration:#}").replace(' ', "")
    }

    pub(super) fn serialize<S: Serializer>(
        duration: &SignedDuration,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(*duration))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<SignedDuration, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|_| {
            D::Error::custom(format!(
                "latency is `{text}`, which is no duration: write it like 90s, 500ms or 1m30s"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_written_by_name_and_unknown_ones_refused() {
        let text = r#"[
            {"fail": {"action": "create"}},
            {"throttle": {"calls_per_s": 5}},
            {"slow": {"action": "attach", "latency": "3s"}},
            {"stuck": {"action": "detach"}},
            {"lost_answer": {"action": "delete", "every": 4}},
            {"out_of_addresses": {"vswitch": "vsw-b"}},
            {"eni_quota": {"enis_max": 3}}
        ]"#;
        let faults: Vec<Fault> = serde_json::from_str(text).unwrap();
        let first = Fault::Fail {
            action: Action::Create,
            every: NonZeroU32::MIN,
            code: "InternalError".to_owned(),
        };
        assert_eq!(faults[0], first);
        let again = serde_json::to_string(&faults).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Fault>>(&again).unwrap(), faults);

        for wrong in [
            r#"{"stuck": {"action": "create"}}"#,
            r#"{"lost_answer": {"action": "create", "every": 0}}"#,
            r#"{"throttle": {"calls_per_s": 5, "burst": 1}}"#,
            r#"{"explode": {}}"#,
        ] {
            assert!(serde_json::from_str::<Fault>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_with_settings_is_the_same_fault_as_in_the_configuration() {
        let cases: [(&str, &[&str], &str); 8] = [
            (
                "fail/attach",
                &["every=10", "code=InternalError"],
                r#"{"fail": {"action": "attach", "every": 10}}"#,
            ),
            (
                "fail/create",
                &["every=1", "code=MaxEniCountExceeded"],
                r#"{"fail": {"action": "create", "code": "MaxEniCountExceeded"}}"#,
            ),
            (
                "throttle",
                &["calls_per_s=20"],
                r#"{"throttle": {"calls_per_s": 20}}"#,
            ),
            (
                "slow/detach",
                &["latency=1m30s"],
                r#"{"slow": {"action": "detach", "latency": "90s"}}"#,
            ),
            ("stuck/detach", &[], r#"{"stuck": {"action": "detach"}}"#),
            (
                "lost_answer/delete",
                &["every=2"],
                r#"{"lost_answer": {"action": "delete", "every": 2}}"#,
            ),
            (
                "out_of_addresses/vsw-b",
                &[],
                r#"{"out_of_addresses": {"vswitch": "vsw-b"}}"#,
            ),
            (
                "eni_quota",
                &["enis_max=0"],
                r#"{"eni_quota": {"enis_max": 0}}"#,
            ),
        ];
        for (name, settings, json) in cases {
            let fault = Fault::parse(name, settings).unwrap();
            assert_eq!(fault, serde_json::from_str(json).unwrap(), "{name}");
            assert_eq!(fault.name(), name);
            assert_eq!(fault.settings(), settings, "{name}");
            assert_eq!(fault.check([&"vsw-b".into()]), Ok(()), "{name}");
        }
    }

    #[test]
    fn every_refusal_is_one_sentence_that_says_what_to_write() {
        let cases: [(&str, &[&str], &str); 12] = [
            (
                "explode",
                &[],
                "fault explode: there is no such: use fail/CALL, throttle,",
            ),
            (
                "explode/attach",
                &[],
                "fault explode/attach: there is no such: use fail/CALL",
            ),
            (
                "throttle/attach",
                &[],
                "fault throttle/attach: there is no such: use fail/CALL",
            ),
            (
                "slow",
                &["latency=1s"],
                "fault slow: say what it acts on: slow/attach",
            ),
            (
                "slow/detach",
                &[],
                "fault slow/detach: missing field `latency`",
            ),
            (
                "slow/detach",
                &["latency=soon"],
                "fault slow/detach: latency is `soon`, which is no duration: write it like 90s",
            ),
            (
                "slow/detach",
                &["latency=25h"],
                "fault slow/detach: latency is `25h`: give 0s to 24h",
            ),
            (
                "stuck/create",
                &[],
                "fault stuck/create: unknown variant `create`, expected one of",
            ),
            (
                "fail/attach",
                &["every=0"],
                "fault fail/attach: invalid value: integer `0`",
            ),
            (
                "fail/attach",
                &["code=not found"],
                "fault fail/attach: code is `not found`: give an ECS error code",
            ),
            (
                "fail/attach",
                &["often"],
                "fault fail/attach: `often` is no setting: write KEY=VALUE",
            ),
            (
                "out_of_addresses/vsw-x",
                &[],
                "fault out_of_addresses/vsw-x: no such vSwitch is configured: name one of vsw-b, vsw-c",
            ),
        ];
        let vswitches: [VSwitchId; 2] = ["vsw-b".into(), "vsw-c".into()];
        for (name, settings, begin) in cases {
            let fault = Fault::parse(name, settings);
            let error = fault.and_then(|fault| fault.check(&vswitches)).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with(begin), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
        let twice = Fault::parse("fail/attach", &["action=create"]).unwrap_err();
        assert_eq!(
            twice.to_string(),
            "fault fail/attach: action is given twice"
        );
    }
}
