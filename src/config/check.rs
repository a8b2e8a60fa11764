//! From the file as written to a [`Config`]: defaults, values, and what they must not be.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use holdfast_provider::cloud::sim::{self, Fault};
use holdfast_provider::settings::{Retention, VSwitch};
use jiff::SignedDuration;
use serde_saphyr::{Location, Spanned};

use super::raw::{self, Profile, Raw, Text};
use super::{
    Capacity, Config, Delays, Environment, KubeletConfig, Refusal, ServiceRef, WebhookConfig,
    network, nodes,
};

/// Retention periods of ACS: 48 hours by default; a year is this project's limit.
const HOURS_DEFAULT: u32 = 48;
const HOURS_MAX: u32 = 8760;
/// No simulated delay needs more; keeps every deadline far from the end of time.
const DELAY_MAX: SignedDuration = SignedDuration::from_hours(24);

/// The whole file. All refusals, in the order of the file.
pub(super) fn config(raw: &Raw, environment: Environment<'_>) -> Result<Config, Vec<Refusal>> {
    let mut checks = Checks {
        refusals: Vec::new(),
        environment,
    };
    let second = |seconds| match raw.profile {
        Profile::Acs => SignedDuration::from_secs(seconds),
        Profile::Fast => SignedDuration::ZERO,
    };

    let region = checks.region(raw.region.as_ref());
    let vswitches = network::vswitches(&raw.vswitches, &mut checks);
    let cloud = checks.cloud(&raw.cloud, second(1), &vswitches);
    let kubelet = checks.kubelet(&raw.kubelet);
    let nodes = nodes::nodes(&raw.nodes, &raw.vswitches, kubelet.port, &mut checks);
    let config = Config {
        cluster: raw
            .cluster
            .as_ref()
            .map(|id| checks.not_empty(id, "cluster").into()),
        region,
        vpc: raw
            .vpc
            .as_ref()
            .map_or("vpc-holdfast", |id| checks.not_empty(id, "vpc"))
            .to_owned(),
        ledger: raw
            .ledger
            .as_ref()
            .map_or("./holdfast.db", |path| checks.not_empty(path, "ledger"))
            .into(),
        profile: raw.profile,
        vswitches,
        nodes,
        retention: checks.retention(&raw.retention),
        unsupported_class: raw.fixed_ip.unsupported_class,
        capacity: checks.capacity(&raw.capacity),
        delays: Delays {
            creating: checks.delay(raw.delays.creating.as_ref(), "delays.creating", second(3)),
            running: checks.delay(raw.delays.running.as_ref(), "delays.running", second(1)),
            stop: checks.delay(raw.delays.stop.as_ref(), "delays.stop", second(1)),
        },
        cloud,
        history_days: checks.number(raw.history.days.as_ref(), "history.days", 1..=3650, 30),
        kubelet,
        webhook: checks.webhook(&raw.webhook),
    };

    if checks.refusals.is_empty() {
        Ok(config)
    } else {
        checks.refusals.sort();
        Err(checks.refusals)
    }
}

/// Collects refusals; every check gives a usable value back, so that the next one can go on.
pub(super) struct Checks<'e> {
    refusals: Vec<Refusal>,
    environment: Environment<'e>,
}

impl Checks<'_> {
    pub(super) fn refuse(&mut self, at: Location, reason: impl Into<String>) {
        let (line, column) = (at.line(), at.column());
        self.refusals.push(Refusal {
            line,
            column,
            reason: reason.into(),
        });
    }

    /// Refuses the lack of something, which has no place.
    pub(super) fn missing(&mut self, reason: &str) {
        self.refusals.push(Refusal {
            line: 1,
            column: 1,
            reason: reason.to_owned(),
        });
    }

    /// A value that ends up in a label, an annotation or a URL.
    pub(super) fn id<'a>(&mut self, text: &'a Text, what: &str) -> &'a str {
        if !is_label_value(&text.value) {
            self.refuse(
                text.referenced,
                format!(
                    "{what} `{}` is no valid id: use 1 to 63 letters, digits, `-`, `_` and `.`, \
                     with a letter or digit at both ends",
                    text.value
                ),
            );
        }
        &text.value
    }

    /// A DNS-1123 name short enough for the label `kubernetes.io/hostname`.
    pub(super) fn dns_name(&mut self, at: Location, name: &str, what: &str) {
        let valid = (1..=63).contains(&name.len())
            && name.split('.').all(|label| {
                let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                !label.is_empty()
                    && label.chars().all(inner)
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            });
        if !valid {
            self.refuse(
                at,
                format!(
                    "{what} `{name}` is no valid name: use 1 to 63 lower-case letters, digits, \
                     `-` and `.`, with a letter or digit at both ends of each part"
                ),
            );
        }
    }

    /// A whole number within `allowed`.
    pub(super) fn number(
        &mut self,
        text: Option<&Text>,
        key: &str,
        allowed: RangeInclusive<u32>,
        default: u32,
    ) -> u32 {
        let Some(text) = text else { return default };
        match text.value.parse() {
            Ok(number) if allowed.contains(&number) => number,
            _ => {
                let (least, most) = (allowed.start(), allowed.end());
                self.refuse(
                    text.referenced,
                    format!(
                        "{key} is `{}`: give a whole number from {least} to {most}",
                        text.value
                    ),
                );
                default
            }
        }
    }

    fn port(&mut self, text: Option<&Text>, key: &str, least: u16, default: u16) -> u16 {
        let allowed = u32::from(least)..=u32::from(u16::MAX);
        let port = self.number(text, key, allowed, default.into());
        u16::try_from(port).expect("within the range of a port")
    }

    fn delay(&mut self, text: Option<&Text>, key: &str, default: SignedDuration) -> SignedDuration {
        self.duration(text, key, SignedDuration::ZERO, default)
    }

    fn duration(
        &mut self,
        text: Option<&Text>,
        key: &str,
        least: SignedDuration,
        default: SignedDuration,
    ) -> SignedDuration {
        let Some(text) = text else { return default };
        // A bare zero needs no unit.
        let parsed = if text.value == "0" {
            Ok(SignedDuration::ZERO)
        } else {
            text.value.parse()
        };
        match parsed {
            Ok(duration) if (least..=DELAY_MAX).contains(&duration) => duration,
            Ok(_) => {
                self.refuse(
                    text.referenced,
                    format!("{key} is `{}`: give {least:#} to {DELAY_MAX:#}", text.value),
                );
                default
            }
            Err(_) => {
                self.refuse(
                    text.referenced,
                    format!(
                        "{key} is `{}`, which is no duration: write it like 3s, 500ms or 1m30s",
                        text.value
                    ),
                );
                default
            }
        }
    }

    /// Anything that [`FromStr`] reads.
    fn parse<T: FromStr<Err: Display>>(
        &mut self,
        text: Option<&Text>,
        key: &str,
        what: &str,
        default: T,
    ) -> T {
        let Some(text) = text else { return default };
        text.value.parse().unwrap_or_else(|_| {
            self.refuse(
                text.referenced,
                format!("{key} is `{}`: give {what}", text.value),
            );
            default
        })
    }

    fn not_empty<'a>(&mut self, text: &'a Text, key: &str) -> &'a str {
        if text.value.is_empty() {
            self.refuse(
                text.referenced,
                format!("{key} is empty: give a value or leave it out"),
            );
        }
        &text.value
    }

    fn region(&mut self, region: Option<&Text>) -> String {
        if let Some(region) = region {
            return self.id(region, "region").to_owned();
        }
        self.missing("region is missing: name the region of the zones, such as cn-wulanchabu");
        String::new()
    }

    fn retention(&mut self, raw: &raw::Retention) -> Retention {
        let hours = raw.hours.as_ref();
        let millisecond = SignedDuration::from_millis(1);
        Retention {
            default_hours: self.number(hours, "retention.hours", 1..=HOURS_MAX, HOURS_DEFAULT),
            hour: self.duration(
                raw.hour.as_ref(),
                "retention.hour",
                millisecond,
                SignedDuration::from_hours(1),
            ),
        }
    }

    fn capacity(&mut self, raw: &raw::Capacity) -> Capacity {
        Capacity {
            cpu: self.quantity(raw.cpu.as_ref(), "capacity.cpu", "10000"),
            memory: self.quantity(raw.memory.as_ref(), "capacity.memory", "40Ti"),
            pods: self.number(raw.pods.as_ref(), "capacity.pods", 0..=1_000_000, 10_000),
        }
    }

    fn quantity(&mut self, text: Option<&Text>, key: &str, default: &str) -> String {
        let Some(text) = text else {
            return default.to_owned();
        };
        if !is_quantity(&text.value) {
            self.refuse(
                text.referenced,
                format!(
                    "{key} is `{}`: give a quantity like 32, 500m or 64Gi",
                    text.value
                ),
            );
        }
        text.value.clone()
    }

    fn cloud(
        &mut self,
        raw: &raw::Cloud,
        latency: SignedDuration,
        vswitches: &[VSwitch],
    ) -> sim::Config {
        let calls_per_s = raw.calls_per_s.as_ref();
        let enis_max = raw.enis_max.as_ref();
        sim::Config {
            attach: self.delay(raw.attach.as_ref(), "cloud.attach", latency),
            detach: self.delay(raw.detach.as_ref(), "cloud.detach", latency),
            calls_per_s: self.number(calls_per_s, "cloud.calls_per_s", 0..=1_000_000, 0),
            enis_max: self.number(enis_max, "cloud.enis_max", 0..=u32::MAX, 0),
            faults: self.faults(&raw.faults, vswitches),
        }
    }

    fn faults(&mut self, raw: &[Spanned<Fault>], vswitches: &[VSwitch]) -> Vec<Fault> {
        let mut names = BTreeSet::new();
        for fault in raw {
            if let Err(error) = fault
                .value
                .check(vswitches.iter().map(|vswitch| &vswitch.id))
            {
                self.refuse(fault.referenced, format!("cloud.faults: {error}"));
            }
            let name = fault.value.name();
            if !names.insert(name.clone()) {
                let reason = format!("cloud.faults has {name} twice: keep one of them");
                self.refuse(fault.referenced, reason);
            }
        }
        raw.iter().map(|fault| fault.value.clone()).collect()
    }

    fn kubelet(&mut self, raw: &raw::Kubelet) -> KubeletConfig {
        let address = self.address(raw.address.as_ref(), "kubelet.address");
        if let (true, Some(text)) = (address.is_unspecified(), &raw.address) {
            self.refuse(
                text.referenced,
                format!(
                    "kubelet.address is `{address}`, but the nodes publish it as theirs: give an \
                     address of this host"
                ),
            );
        }
        for path in raw
            .anonymous
            .iter()
            .filter(|path| !path.value.starts_with('/'))
        {
            self.refuse(
                path.referenced,
                format!(
                    "kubelet.anonymous has `{}`: a path begins with `/`",
                    path.value
                ),
            );
        }
        KubeletConfig {
            address,
            port: self.port(raw.port.as_ref(), "kubelet.port", 1, 10250),
            anonymous: raw
                .anonymous
                .iter()
                .map(|path| path.value.clone())
                .collect(),
        }
    }

    /// An address, or `$(NAME)`: what the environment variable says, written as in the command of a
    /// container (Kubernetes, "Define a Command and Arguments for a Container").
    fn address(&mut self, text: Option<&Text>, key: &str) -> IpAddr {
        let default = Ipv4Addr::LOCALHOST.into();
        let Some((text, name)) = text.and_then(|text| Some((text, variable(&text.value)?))) else {
            return self.parse(
                text,
                key,
                "an IP address of this host, or an environment variable such as $(POD_IP)",
                default,
            );
        };
        let Environment::Given(variables) = self.environment else {
            return default;
        };
        let Some(value) = variables(name) else {
            let reason = format!(
                "{key} is `{}`, but the environment variable {name} is not set: set it to an IP \
                 address of this host, in a pod from its field status.podIP",
                text.value
            );
            self.refuse(text.referenced, reason);
            return default;
        };
        value.trim().parse().unwrap_or_else(|_| {
            let reason = format!(
                "{key} is `{}`, and the environment variable {name} is `{value}`: set it to an IP \
                 address of this host",
                text.value
            );
            self.refuse(text.referenced, reason);
            default
        })
    }

    fn webhook(&mut self, raw: &raw::Webhook) -> WebhookConfig {
        let enabled = raw.enabled.unwrap_or(true);
        let address = self.address(raw.address.as_ref(), "webhook.address");
        let port = self.port(raw.port.as_ref(), "webhook.port", 0, 0);
        match (&raw.service, &raw.address) {
            (None, Some(text)) if enabled && address.is_unspecified() => {
                let reason = format!(
                    "webhook.address is `{address}`, which the API server cannot call: give an \
                     address of this host, or set webhook.service"
                );
                self.refuse(text.referenced, reason);
            }
            (Some(service), text) if enabled => self.behind(service, text.as_ref(), address, port),
            _ => {}
        }
        WebhookConfig {
            enabled,
            address,
            port,
            bind: raw.bind.unwrap_or(true),
            zone_pin: raw.zone_pin.unwrap_or(true),
            surplus: raw.surplus.unwrap_or(true),
            failure_policy: raw.failure_policy,
            service: raw.service.as_ref().map(|service| self.service(service)),
        }
    }

    /// A webhook behind a Service has to listen where that can lead.
    fn behind(&mut self, service: &raw::Service, text: Option<&Text>, address: IpAddr, port: u16) {
        // The default also stands for a variable that this command does not read, and for what was
        // refused already.
        let is_written = text.is_none_or(|text| text.value.parse::<IpAddr>().is_ok());
        if is_written && address.is_loopback() {
            let at = text.map_or(service.name.referenced, |text| text.referenced);
            let reason = format!(
                "webhook.service needs another webhook.address: `{address}` is loopback, and no \
                 Service can lead there; set it to 0.0.0.0"
            );
            self.refuse(at, reason);
        }
        if port == 0 {
            let reason = "webhook.service needs webhook.port: without it the port is another \
                 one at each start, and no Service can lead there";
            self.refuse(service.name.referenced, reason);
        }
    }

    fn service(&mut self, raw: &raw::Service) -> ServiceRef {
        for (text, what) in [(&raw.namespace, "namespace"), (&raw.name, "Service")] {
            self.dns_name(text.referenced, &text.value, what);
            if text.value.contains('.') {
                let reason = format!("{what} `{}` is no valid name: it has no dots", text.value);
                self.refuse(text.referenced, reason);
            }
        }
        ServiceRef {
            namespace: raw.namespace.value.clone(),
            name: raw.name.value.clone(),
            port: self.port(raw.port.as_ref(), "webhook.service.port", 1, 443),
        }
    }
}

/// The name in `$(NAME)`.
fn variable(text: &str) -> Option<&str> {
    text.strip_prefix("$(")?.strip_suffix(')')
}

/// A label value of Kubernetes that is not empty.
fn is_label_value(text: &str) -> bool {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && end(text.chars().next())
        && end(text.chars().last())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A quantity of Kubernetes that is not negative and has no exponent.
fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 14] = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi",
    ];
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    number.parse::<f64>().is_ok() && SUFFIXES.contains(&suffix)
}
