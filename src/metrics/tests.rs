//! The text is what Prometheus reads, and what README promises.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_provider::cloud::sim::Called;
use holdfast_provider::ledger::{Allocated, ClaimState, Totals, Turn, VSwitchRow};
use holdfast_provider::policy::pool::{Counts, NextRelease};
use http::{Request, Response};
use jiff::Timestamp;
use kube::client::Body;
use tower::{Layer as _, Service as _};

use super::*;
use crate::config::{Config, Environment};
use crate::node::NodeTable;
use crate::pod::agent::Figures;
use crate::pod::core::Topic;

const CONFIG: &str = "
region: r
vswitches:
- {id: vsw-b, zone: b, cidr: 192.168.1.0/24}
nodes:
- {name: one, zone: b}
- {name: two, zone: b}
";

fn moment() -> Moment {
    let config = Config::parse(CONFIG, Path::new("holdfast.yaml"), Environment::Unused).unwrap();
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let row = VSwitchRow {
        id: "vsw-b".into(),
        zone: "b".into(),
        cidr: "192.168.1.0/24".into(),
        usable: 252,
        counts: Counts {
            free: 240,
            in_use: 7,
            retained: 5,
            ..Counts::default()
        },
        next_release: Some(NextRelease {
            address: "192.168.1.8".parse().unwrap(),
            key: holdfast_provider::id::PodKey::new("shop", "web-3"),
            at: Timestamp::from_millisecond(1_800_003_600_500).unwrap(),
        }),
    };
    Moment {
        now,
        node: "one".into(),
        figures: Figures {
            phases: [("Running", 7)].into(),
            waiting: [("IPPoolExhausted", 2)].into(),
            waiting_since: Some(now - jiff::SignedDuration::from_millis(1500)),
            running_pods: 3,
            running_containers: 4,
            exited_containers: 1,
        },
        totals: Arc::new(Totals {
            vswitches: vec![row],
            claims: [(ClaimState::Held, 6), (ClaimState::Over, 0)].into(),
            enis: [("InUse", 7)].into(),
        }),
        nodes: NodeTable::new(&config),
        process: Some(Process {
            cpu_s: 12.25,
            resident_bytes: 40 << 20,
            virtual_bytes: 1 << 40,
            open_fds: 17,
            max_fds: Some(1024),
            threads: 5,
            started_s: 1_799_999_000.5,
        }),
    }
}

/// Metrics of which each was raised.
async fn raised() -> Metrics {
    let requests = Requests::default();
    let answered = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, std::convert::Infallible>(Response::new(()))
    });
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/one";
    let renewal = Request::put(lease).body(Body::empty()).unwrap();
    requests.layer(answered).call(renewal).await.unwrap();
    let metrics = Metrics::new(&requests);
    metrics.ledger.count(&Turn {
        jobs: [(("acquire", true), 3), (("gone", false), 1)].into(),
        commit: Some(Duration::from_millis(3)),
        calls: BTreeMap::from([
            (
                Called {
                    action: "CreateNetworkInterface",
                    code: "".into(),
                },
                2,
            ),
            (
                Called {
                    action: "CreateNetworkInterface",
                    code: "Throttling.User".into(),
                },
                1,
            ),
        ]),
        allocated: BTreeMap::from([(
            Allocated {
                vswitch: "vsw-b".into(),
                fixed: true,
                how: "reused",
            },
            1,
        )]),
        closed: [("expired", 1)].into(),
    });
    metrics.pods.started(Duration::from_millis(40));
    metrics.pods.said(Topic::warning("IPPoolExhausted"));
    metrics.watches.broke("pods");
    metrics
}

/// Every sample by its name with labels, read as the format is defined (Prometheus, "Text-based
/// format"); panics at what does not belong there.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut kinds = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name, kind).is_none(), "twice: {line}");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(
                rest.split_once(' ')
                    .is_some_and(|(_, help)| !help.is_empty())
            );
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|family| kinds.get(family) == Some(&"histogram"))
                .unwrap_or(name);
            let kind = kinds
                .get(family)
                .unwrap_or_else(|| panic!("no type: {line}"));
            assert_eq!(*kind == "counter", name.ends_with("_total"), "{line}");
            let value = value.parse().unwrap();
            assert!(samples.insert(sample.to_owned(), value).is_none(), "{line}");
        }
    }
    samples
}

#[tokio::test]
async fn every_figure_stands_in_the_text_once_and_with_its_value() {
    let metrics = raised().await;
    let text = metrics.text(&moment()).unwrap();
    let samples = parse(&text);
    let check = |sample: &str, value: f64| {
        assert_eq!(samples.get(sample), Some(&value), "{sample} in:\n{text}");
    };
    check("kubelet_node_name{node=\"one\"}", 1.0);
    check("kubelet_running_pods", 3.0);
    check(
        "kubelet_running_containers{container_state=\"exited\"}",
        1.0,
    );
    check(
        "holdfast_addresses{vswitch=\"vsw-b\",zone=\"b\",state=\"free\"}",
        240.0,
    );
    check(
        "holdfast_addresses{vswitch=\"vsw-b\",zone=\"b\",state=\"excluded\"}",
        0.0,
    );
    check(
        "holdfast_next_release_timestamp_seconds{vswitch=\"vsw-b\"}",
        1_800_003_600.5,
    );
    check("holdfast_claims{state=\"held\"}", 6.0);
    check("holdfast_enis{state=\"InUse\"}", 7.0);
    check("holdfast_waiting_pods{reason=\"IPPoolExhausted\"}", 2.0);
    check("holdfast_oldest_wait_seconds", 1.5);
    check("holdfast_nodes{state=\"unregistered\"}", 2.0);
    check(
        "holdfast_ledger_jobs_total{job=\"acquire\",outcome=\"ok\"}",
        3.0,
    );
    check(
        "holdfast_ledger_commit_duration_seconds_bucket{le=\"0.0025\"}",
        0.0,
    );
    check(
        "holdfast_ledger_commit_duration_seconds_bucket{le=\"0.005\"}",
        1.0,
    );
    check(
        "holdfast_cloud_calls_total{action=\"CreateNetworkInterface\",outcome=\"ok\"}",
        2.0,
    );
    check(
        "holdfast_cloud_calls_total{action=\"CreateNetworkInterface\",outcome=\"Throttling.User\"}",
        1.0,
    );
    check(
        "holdfast_allocations_total{vswitch=\"vsw-b\",kind=\"fixed\",how=\"reused\"}",
        1.0,
    );
    check(
        "holdfast_lease_renewals_total{lease=\"node\",outcome=\"ok\"}",
        1.0,
    );
    check(
        "holdfast_api_writes_total{verb=\"update\",resource=\"leases\",outcome=\"ok\"}",
        1.0,
    );
    check(
        "rest_client_requests_total{code=\"200\",method=\"PUT\"}",
        1.0,
    );
    check("holdfast_watch_restarts_total{resource=\"nodes\"}", 0.0);
    check("process_cpu_seconds_total", 12.25);
    check("process_resident_memory_bytes", 41_943_040.0);
    check("process_virtual_memory_bytes", 1_099_511_627_776.0);
    check("process_open_fds", 17.0);
    check("process_max_fds", 1024.0);
    check("process_threads", 5.0);
    check("process_start_time_seconds", 1_799_999_000.5);
}

/// Two figures that the system tells in another way as well; the others are held against a process that nobody else
/// uses, from outside.
#[cfg(target_os = "linux")]
#[test]
fn what_this_process_takes_is_what_the_system_says() {
    let own = Process::own().unwrap().unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(own.max_fds, limit.current);
    let begun = Timestamp::now().as_duration().as_secs_f64() - own.started_s;
    // A day: no test runs longer, and minutes and hours or an epoch mixed up give more.
    assert!((0.0..86_400.0).contains(&begun), "{own:?}");
}

#[test]
fn a_limit_that_is_none_is_a_very_large_number() {
    let mut moment = moment();
    let process = moment.process.as_mut().unwrap();
    process.max_fds = None;
    let text = Metrics::new(&Requests::default()).text(&moment).unwrap();
    assert!(parse(&text)["process_max_fds"] > 1e18, "{text}");
}

#[tokio::test]
async fn readme_names_every_metric_and_none_that_is_not_there() {
    let text = raised().await.text(&moment()).unwrap();
    let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let told: BTreeSet<_> = told.filter_map(|rest| rest.split(' ').next()).collect();
    let readme = include_str!("../../README.md");
    let words = readme.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let prefixes = ["holdfast_", "kubelet_", "rest_client_", "process_"];
    let named: BTreeSet<_> = words
        .filter(|word| !word.ends_with('_'))
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
        .collect();
    assert_eq!(named, told);
}
