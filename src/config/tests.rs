//! Every refusal by its sentence, and the whole file by its values.

mod examples;
mod places;

use std::net::IpAddr;
use std::path::Path;

use holdfast_provider::cloud::sim::Fault;
use holdfast_provider::id::NodeType;
use jiff::SignedDuration;

use super::{Config, Environment, FailurePolicy, Profile};
use holdfast_provider::policy::opt_in::UnsupportedClass;

const WHOLE: &str = "\
cluster: c1a2b3
region: cn-wulanchabu
vpc: vpc-0jl1234567890abcdefgh
ledger: ./holdfast.db
profile: acs
vswitches:
- {id: vsw-b, zone: cn-wulanchabu-b, cidr: 192.168.1.0/24}
- {id: vsw-c, zone: cn-wulanchabu-c, cidr: 192.168.2.0/24, exclude: [192.168.2.10-192.168.2.20]}
nodes:
- {zone: cn-wulanchabu-b}                                    # name: virtual-kubelet-<zone>
- {zone: cn-wulanchabu-c}
- {name: ecs-1, zone: cn-wulanchabu-b, type: ecs}
- {name: load-%d, zone: cn-wulanchabu-b, count: 1000}
retention: {hours: 48, hour: 1h}
fixedIP: {unsupportedClass: refuse}
capacity: {cpu: 10000, memory: 40Ti, pods: 10000}
delays: {creating: 3s, running: 1s, stop: 1s}
cloud: {attach: 1s, detach: 1s, calls_per_s: 0, enis_max: 0, faults: []}
history: {days: 30}
kubelet: {address: 127.0.0.1, port: 10250, anonymous: []}
webhook: {address: 127.0.0.1, port: 0, bind: true, zonePin: true, failurePolicy: Fail}
";

/// What every file needs; the tests put their lines in.
const BASE: &str = "\
region: cn-wulanchabu
vswitches:
- {id: vsw-b, zone: cn-wulanchabu-b, cidr: 192.168.1.0/24}
nodes:
- {zone: cn-wulanchabu-b}
# end
";

/// The variables of a test's environment.
fn variable(name: &str) -> Option<String> {
    let value = match name {
        "POD_IP" => "10.1.2.3",
        "NO_IP" => "web-0",
        "ANY_IP" => "0.0.0.0",
        _ => return None,
    };
    Some(value.to_owned())
}

fn parse(text: &str) -> Result<Config, String> {
    parse_with(text, Environment::Given(&variable))
}

fn parse_with(text: &str, environment: Environment<'_>) -> Result<Config, String> {
    Config::parse(text, Path::new("holdfast.yaml"), environment).map_err(|error| error.to_string())
}

#[track_caller]
fn accepted(text: &str) -> Config {
    parse(text).unwrap_or_else(|refused| panic!("refused:\n{refused}\nin\n{text}"))
}

/// Expects `reason` alone, at the first place where `token` stands.
#[track_caller]
fn refused(text: &str, token: &str, reason: &str) {
    let (line, column) = text
        .lines()
        .zip(1..)
        .find_map(|(line, number)| line.find(token).map(|column| (number, column + 1)))
        .unwrap();
    let want = format!("holdfast.yaml:{line}:{column}: {reason}");
    assert_eq!(parse(text).map(|_| "accepted"), Err(want), "for\n{text}");
}

#[test]
fn a_file_with_everything_is_read_whole() {
    let config = accepted(WHOLE);

    assert_eq!(config.cluster.as_ref().unwrap().as_str(), "c1a2b3");
    assert_eq!(config.vpc, "vpc-0jl1234567890abcdefgh");
    assert_eq!(config.profile, Profile::Acs);
    assert_eq!(config.unsupported_class, UnsupportedClass::Refuse);
    assert_eq!(config.vswitches[1].cidr.to_string(), "192.168.2.0/24");
    assert!(config.vswitches[1].excludes("192.168.2.20".parse().unwrap()));
    assert_eq!(config.retention.hour, SignedDuration::from_hours(1));
    assert_eq!(config.capacity.memory, "40Ti");
    assert_eq!(config.delays.creating, SignedDuration::from_secs(3));
    assert_eq!(config.webhook.failure_policy, FailurePolicy::Fail);
    assert_eq!(config.settings("c1a2b3".into()).history_days, 30);

    assert_eq!(config.nodes.len(), 1003);
    let [first, .., last] = config.nodes.as_slice() else {
        panic!("there are 1003")
    };
    assert_eq!(first.name.as_str(), "virtual-kubelet-cn-wulanchabu-b");
    assert_eq!((first.kubelet_port, first.shared_port), (10250, false));
    assert_eq!(config.nodes[2].node_type, NodeType::Ecs);
    assert_eq!(last.name.as_str(), "load-999");
    assert_eq!(
        (last.kubelet_port, last.shared_port, last.entry),
        (10253, true, 3)
    );
}

#[test]
fn everything_but_region_vswitches_and_nodes_has_a_default() {
    let config = accepted(BASE);

    assert!(config.cluster.is_none());
    assert_eq!(config.vpc, "vpc-holdfast");
    assert_eq!(config.ledger, Path::new("./holdfast.db"));
    assert_eq!(config.retention.default_hours, 48);
    assert_eq!(config.capacity.pods, 10_000);
    assert_eq!(config.history_days, 30);
    assert_eq!(config.kubelet.address.to_string(), "127.0.0.1");
    assert_eq!(config.kubelet.port, 10250);
    assert!(config.webhook.enabled && config.webhook.bind && config.webhook.zone_pin);
    assert!(config.webhook.service.is_none());
}

#[test]
fn the_profile_sets_the_delays_that_the_file_leaves_out() {
    let acs = accepted(BASE);
    let fast = accepted(&format!("{BASE}profile: fast\ndelays: {{stop: 1m30s}}\n"));

    assert_eq!(acs.delays.running, SignedDuration::from_secs(1));
    assert_eq!(acs.cloud.attach, SignedDuration::from_secs(1));
    assert_eq!(fast.delays.creating, SignedDuration::ZERO);
    assert_eq!(fast.delays.stop, SignedDuration::from_secs(90));
    assert_eq!(fast.cloud.detach, SignedDuration::ZERO);
}

#[test]
fn an_exclusion_is_an_address_a_range_or_a_cidr() {
    let config = accepted(&BASE.replace(
        "192.168.1.0/24}",
        "192.168.1.0/24, exclude: [192.168.1.1, 192.168.1.8/31, 192.168.1.20-192.168.1.21]}",
    ));

    let excluded: Vec<_> = config.vswitches[0]
        .usable()
        .filter(|address| config.vswitches[0].excludes(*address))
        .map(|address| address.octets()[3])
        .collect();
    assert_eq!(excluded, [1, 8, 9, 20, 21]);
}

#[test]
fn the_webhook_can_be_reached_by_service_or_turned_off() {
    let on = accepted(&format!(
        "{BASE}webhook: {{address: 0.0.0.0, port: 8443, \
         service: {{namespace: kube-system, name: h}}}}"
    ));
    let off = accepted(&format!("{BASE}webhook: {{enabled: false}}"));

    assert_eq!(on.webhook.service.unwrap().port, 443);
    assert!(!off.webhook.enabled);
}

#[test]
fn at_sighup_no_zone_of_a_node_that_goes_only_at_a_start_is_left_without_a_vswitch() {
    let zone_b = "region: r\nvswitches: [{id: v-b, zone: z-b, cidr: 10.0.0.0/24}, MORE]\nnodes: [{zone: z-b}, MORE]";
    let with = |vswitches: &str, nodes: &str| {
        let text = zone_b.replacen("MORE", vswitches, 1);
        accepted(&text.replacen("MORE", nodes, 1))
    };
    let running = with(
        "{id: v-c, zone: z-c, cidr: 10.0.1.0/24}",
        "{name: load-%d, zone: z-c, count: 2}",
    );
    let changed = with(
        "{id: v-b2, zone: z-b, cidr: 10.0.1.0/24}",
        "{name: other, zone: z-b}",
    );
    let node = changed.without_vswitch(&running);
    assert_eq!(node.map(|node| node.name.as_str()), Some("load-0"));
    assert_eq!(running.without_vswitch(&changed), None);
    assert_eq!(running.without_vswitch(&running), None);
}

#[test]
fn what_only_a_start_takes_over_is_named_by_its_key() {
    let running = accepted(BASE);
    let check = |more: &str, want: &[&str]| {
        let changed = accepted(&format!("{BASE}{more}"));
        assert_eq!(changed.left_for_a_start(&running), want, "{more}");
    };
    check("", &[]);
    check(
        "retention: {hours: 1, hour: 1s}\ncloud: {calls_per_s: 9}\nhistory: {days: 1}",
        &[],
    );
    check("vpc: vpc-2", &["vpc"]);
    check("ledger: other.db\ncluster: c", &["cluster", "ledger"]);
    check(
        "delays: {stop: 7s}\ncapacity: {pods: 7}",
        &["capacity", "delays"],
    );
    check(
        "fixedIP: {unsupportedClass: ignore}",
        &["fixedIP.unsupportedClass"],
    );
    check(
        "kubelet: {anonymous: [/metrics]}\nwebhook: {bind: false}",
        &["kubelet", "webhook"],
    );
    check("profile: fast", &["profile", "delays"]);
}

#[test]
fn what_is_missing_is_named() {
    let want = "\
holdfast.yaml:1:1: nodes is missing: give at least one, such as {zone: cn-wulanchabu-b}
holdfast.yaml:1:1: region is missing: name the region of the zones, such as cn-wulanchabu
holdfast.yaml:1:1: vswitches is missing: give at least one, with id, zone and cidr";
    assert_eq!(parse("profile: fast").unwrap_err(), want);
}

#[test]
fn every_refusal_of_the_file_is_told_at_once() {
    let want = "\
holdfast.yaml:7:17: history.days is `0`: give a whole number from 1 to 3650
holdfast.yaml:8:16: delays.stop is `-1s`: give 0s to 24h";
    let text = format!("{BASE}history: {{days: 0}}\ndelays: {{stop: -1s}}\n");
    assert_eq!(parse(&text).unwrap_err(), want);
}

#[test]
fn an_unknown_key_is_refused_where_it_stands() {
    refused(
        &BASE.replace(
            "zone: cn-wulanchabu-b}",
            "zone: cn-wulanchabu-b, colour: red}",
        ),
        "colour",
        "unknown field `colour`, expected one of name, zone, type, count",
    );
}

#[test]
fn a_wrong_value_is_refused_with_its_place_and_the_way_out() {
    let name = "use 1 to 63 lower-case letters, digits, `-` and `.`, with a letter or digit at \
                both ends of each part";
    let no_name = format!("namespace `A` is no valid name: {name}");
    for (line, token, reason) in [
        (
            "profile: slow",
            "slow",
            "unknown variant `slow`, expected one of acs, fast",
        ),
        (
            "ledger: ''",
            "''",
            "ledger is empty: give a value or leave it out",
        ),
        (
            "cloud: {attach: soon}",
            "soon",
            "cloud.attach is `soon`, which is no duration: write it like 3s, 500ms or 1m30s",
        ),
        (
            "cloud: {faults: [{slow: {action: detach, latency: 25h}}]}",
            "{slow:",
            "cloud.faults: fault slow/detach: latency is `25h`: give 0s to 24h",
        ),
        (
            "cloud: {faults: [{out_of_addresses: {vswitch: vsw-x}}]}",
            "{out_of_addresses:",
            "cloud.faults: fault out_of_addresses/vsw-x: no such vSwitch is configured: name one of vsw-b",
        ),
        (
            "cloud: {faults: [{throttle: {calls_per_s: 20}}, {throttle: {calls_per_s: 5}}]}",
            "{throttle: {calls_per_s: 5",
            "cloud.faults has throttle twice: keep one of them",
        ),
        (
            "retention: {hour: 0s}",
            "0s",
            "retention.hour is `0s`: give 1ms to 24h",
        ),
        (
            "retention: {hours: 8761}",
            "8761",
            "retention.hours is `8761`: give a whole number from 1 to 8760",
        ),
        (
            "retention: {hours: two}",
            "two",
            "retention.hours is `two`: give a whole number from 1 to 8760",
        ),
        (
            "capacity: {memory: lots}",
            "lots",
            "capacity.memory is `lots`: give a quantity like 32, 500m or 64Gi",
        ),
        (
            "capacity: {pods: 1.5}",
            "1.5",
            "capacity.pods is `1.5`: give a whole number from 0 to 1000000",
        ),
        (
            "kubelet: {address: here}",
            "here",
            "kubelet.address is `here`: give an IP address of this host, or an environment variable \
             such as $(POD_IP)",
        ),
        (
            "kubelet: {address: 0.0.0.0}",
            "0.0.0.0",
            "kubelet.address is `0.0.0.0`, but the nodes publish it as theirs: give an address \
             of this host",
        ),
        (
            "kubelet: {port: 65536}",
            "65536",
            "kubelet.port is `65536`: give a whole number from 1 to 65535",
        ),
        (
            "kubelet: {anonymous: [healthz]}",
            "healthz",
            "kubelet.anonymous has `healthz`: a path begins with `/`",
        ),
        (
            "webhook: {address: 0.0.0.0, port: 8443, service: {namespace: A, name: h}}",
            "A,",
            &no_name,
        ),
        (
            "webhook: {address: 0.0.0.0, port: 8443, service: {namespace: a, name: h.b}}",
            "h.b",
            "Service `h.b` is no valid name: it has no dots",
        ),
        (
            "webhook: {address: 0.0.0.0, service: {namespace: a, name: h}}",
            "h}",
            "webhook.service needs webhook.port: without it the port is another one at each start, \
             and no Service can lead there",
        ),
        (
            "webhook: {port: 8443, service: {namespace: a, name: h}}",
            "h}",
            "webhook.service needs another webhook.address: `127.0.0.1` is loopback, and no Service \
             can lead there; set it to 0.0.0.0",
        ),
        (
            "webhook: {address: '::1', port: 8443, service: {namespace: a, name: h}}",
            "'::1'",
            "webhook.service needs another webhook.address: `::1` is loopback, and no Service can \
             lead there; set it to 0.0.0.0",
        ),
        (
            "webhook: {address: 0.0.0.0}",
            "0.0.0.0",
            "webhook.address is `0.0.0.0`, which the API server cannot call: give an address of \
             this host, or set webhook.service",
        ),
    ] {
        refused(&format!("{BASE}{line}"), token, reason);
    }
}

#[test]
fn faults_are_written_by_kind_as_the_command_sets_them() {
    let config = accepted(&format!(
        "{BASE}cloud:\n  faults:\n  - slow: {{action: detach, latency: 90s}}\n  \
         - {{fail: {{action: attach, every: 10, code: InternalError}}}}\n  \
         - {{out_of_addresses: {{vswitch: vsw-b}}}}\n  - {{eni_quota: {{enis_max: 3}}}}\n  \
         - {{stuck: {{action: attach}}}}\n"
    ));
    let set = [
        ("slow/detach", &["latency=90s"][..]),
        ("fail/attach", &["every=10"]),
        ("out_of_addresses/vsw-b", &[]),
        ("eni_quota", &["enis_max=3"]),
        ("stuck/attach", &[]),
    ];
    let set = set.map(|(name, settings)| Fault::parse(name, settings).unwrap());
    assert_eq!(config.cloud.faults, set);
}

#[test]
fn a_fault_that_there_is_not_is_refused_with_its_place() {
    for (fault, begin) in [
        (
            "{explode: {}}",
            "7:19: unknown variant `explode`, expected one of fail, throttle",
        ),
        ("{slow: {action: detach}}", "7:26: missing field `latency`"),
        (
            "{slow: {action: detach, latency: soon}}",
            "7:51: latency is `soon`, which is no duration: write it like 90s",
        ),
        (
            "{stuck: {action: create}}",
            "7:35: unknown variant `create`",
        ),
        (
            "{fail: {action: create, often: 3}}",
            "7:42: unknown field `often`",
        ),
        (
            "{fail: {action: create, every: 0}}",
            "7:42: invalid value: integer `0`",
        ),
    ] {
        let refused = parse(&format!("{BASE}cloud: {{faults: [{fault}]}}")).unwrap_err();
        let begin = format!("holdfast.yaml:{begin}");
        assert!(refused.starts_with(&begin), "{refused}\nis not\n{begin}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
}

#[test]
fn an_address_may_come_from_an_environment_variable() {
    let text = BASE.replace(
        "# end",
        "kubelet: {address: $(POD_IP)}\n\
         webhook: {address: $(POD_IP), port: 8443, service: {namespace: a, name: h}}",
    );
    let config = accepted(&text);
    let address: IpAddr = "10.1.2.3".parse().unwrap();
    assert_eq!(
        (config.kubelet.address, config.webhook.address),
        (address, address)
    );
    // A command on another machine listens nowhere.
    let elsewhere = parse_with(&text, Environment::Unused).unwrap();
    assert!(elsewhere.kubelet.address.is_loopback());
}

#[test]
fn a_variable_that_gives_no_address_is_refused_by_its_name() {
    let with =
        |key: &str, value: &str| BASE.replace("# end", &format!("{key}: {{address: {value}}}"));
    refused(
        &with("kubelet", "$(ABSENT)"),
        "$(ABSENT)",
        "kubelet.address is `$(ABSENT)`, but the environment variable ABSENT is not set: set it to \
         an IP address of this host, in a pod from its field status.podIP",
    );
    refused(
        &with("webhook", "$(NO_IP)"),
        "$(NO_IP)",
        "webhook.address is `$(NO_IP)`, and the environment variable NO_IP is `web-0`: set it to an \
         IP address of this host",
    );
    refused(
        &with("kubelet", "$(ANY_IP)"),
        "$(ANY_IP)",
        "kubelet.address is `0.0.0.0`, but the nodes publish it as theirs: give an address of this \
         host",
    );
    refused(
        &with("webhook", "$(ANY_IP)"),
        "$(ANY_IP)",
        "webhook.address is `0.0.0.0`, which the API server cannot call: give an address of this \
         host, or set webhook.service",
    );
    refused(
        &with("kubelet", "$POD_IP"),
        "$POD_IP",
        "kubelet.address is `$POD_IP`: give an IP address of this host, or an environment variable \
         such as $(POD_IP)",
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Path::new("/nowhere/holdfast.yaml")).unwrap_err();

    assert_eq!(
        error.to_string(),
        "cannot read the configuration /nowhere/holdfast.yaml"
    );
}
