use holdfast_provider::id::PodKey;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(2_000_000_000 + seconds).unwrap()
}

fn pod(cpu_request_milli: u64) -> RunningPod {
    RunningPod {
        key: PodKey::new("shop", "web-0"),
        uid: "u".into(),
        started_at: at(0),
        containers: vec![RunningContainer {
            name: "c".to_owned(),
            image: "i".to_owned(),
            started_at: at(0),
            cpu_request_milli,
            memory_request_bytes: 1 << 20,
            cpu_milli: None,
            memory_bytes: None,
        }],
    }
}

fn counters() -> Counters {
    Counters {
        since: at(-100),
        nodes: Mutex::default(),
    }
}

#[test]
fn the_text_is_what_metrics_server_reads_with_the_pod_second_among_the_labels() {
    let sample = counters().sample(&"n".into(), vec![pod(500)], at(10));
    let text = resource_metrics(&sample);
    let values: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        values,
        [
            "container_cpu_usage_seconds_total{container=\"c\",pod=\"web-0\",namespace=\"shop\"} 0.500000000 2000000010000",
            "container_memory_working_set_bytes{container=\"c\",pod=\"web-0\",namespace=\"shop\"} 524288 2000000010000",
            "container_start_time_seconds{container=\"c\",pod=\"web-0\",namespace=\"shop\"} 2000000000",
            "node_cpu_usage_seconds_total 16.500000000 2000000010000",
            "node_memory_working_set_bytes 268959744 2000000010000",
            "pod_cpu_usage_seconds_total{namespace=\"shop\",pod=\"web-0\"} 0.500000000 2000000010000",
            "pod_memory_working_set_bytes{namespace=\"shop\",pod=\"web-0\"} 524288 2000000010000",
            "resource_scrape_error 0",
        ]
    );
    let helped = text
        .lines()
        .filter(|line| line.starts_with("# HELP"))
        .count();
    assert_eq!(helped, values.len());
}

#[test]
fn cadvisors_text_has_its_families_and_labels_with_any_image() {
    let mut pod = pod(500);
    pod.containers[0].image = "a\\b\"c\nd".to_owned();
    let sample = counters().sample(&"n".into(), vec![pod], at(10));
    let text = cadvisor_metrics(&sample);
    let values: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let labels = r#"container="c",image="a\\b\"c\nd",namespace="shop",pod="web-0""#;
    let want = [
        format!(
            "container_cpu_usage_seconds_total{{{labels},cpu=\"total\"}} 0.500000000 2000000010000"
        ),
        format!("container_memory_working_set_bytes{{{labels}}} 524288 2000000010000"),
        format!("container_start_time_seconds{{{labels}}} 2000000000"),
    ];
    assert_eq!(values, want);
}

#[test]
fn counters_rise_strictly_also_when_pods_go_and_a_restart_only_resets_the_nodes() {
    let ours = counters();
    let node = NodeName::from("n");
    let mut before = 0;
    for (second, pods) in [(1, vec![pod(4000)]), (2, vec![]), (3, vec![pod(0)])] {
        let sample = ours.sample(&node, pods, at(second));
        assert!(sample.node.cpu_core_nanoseconds > before, "{second}");
        before = sample.node.cpu_core_nanoseconds;
    }
    let one = |counters: &Counters| {
        let sample = counters.sample(&node, vec![pod(0)], at(60));
        sample.pods[0].total.cpu_core_nanoseconds
    };
    assert_eq!(one(&ours), one(&counters()));
    assert!(one(&ours) > 0);
}

/// A pod whose annotations say what its container uses.
fn using(cpu_milli: u64) -> RunningPod {
    let mut pod = pod(0);
    pod.containers[0].cpu_milli = Some(cpu_milli);
    pod
}

#[test]
fn a_counter_rises_by_what_is_used_since_the_sample_before_whatever_was_used_then() {
    let counters = counters();
    let counter = |second, cpu_milli| {
        let sample = counters.sample(&"n".into(), vec![using(cpu_milli)], at(second));
        let container = sample.pods[0].containers[0].cpu_core_nanoseconds;
        assert_eq!(sample.pods[0].total.cpu_core_nanoseconds, container);
        container
    };
    let millis = [(0, 100), (3600, 100), (3615, 500), (3630, 50), (3620, 50)];
    let millis = millis.map(|(second, cpu_milli)| counter(second, cpu_milli) / 1_000_000);
    assert_eq!(millis, [0, 360_000, 367_500, 368_250, 368_250]);
}

#[test]
fn a_pods_counter_keeps_what_its_ended_containers_and_earlier_runs_have_used() {
    let counters = counters();
    let seconds = |second, pod: &RunningPod| {
        let sample = counters.sample(&"n".into(), vec![pod.clone()], at(second));
        sample.pods[0].total.cpu_core_nanoseconds / 1_000_000_000
    };
    let mut pod = using(1000);
    let mut other = pod.containers[0].clone();
    other.name = "d".to_owned();
    pod.containers.push(other);
    assert_eq!(seconds(10, &pod), 20);
    pod.containers[1].started_at = at(15);
    assert_eq!(seconds(20, &pod), 35, "one was started again");
    let ended = pod.containers.pop().unwrap();
    assert_eq!(seconds(30, &pod), 45, "one has ended");
    // A pod of which nothing runs shows nothing, and goes on from there when it is started again.
    let waiting = RunningPod {
        containers: Vec::new(),
        ..pod
    };
    let sample = counters.sample(&"n".into(), vec![waiting.clone()], at(40));
    assert_eq!(sample.pods.len(), 0);
    let again = RunningPod {
        containers: vec![RunningContainer {
            started_at: at(45),
            ..ended
        }],
        ..waiting
    };
    assert_eq!(seconds(50, &again), 50);
}

#[test]
fn only_what_is_in_the_last_sample_of_a_node_is_remembered() {
    let counters = counters();
    counters.sample(&"n".into(), vec![using(1)], at(1));
    counters.sample(&"n".into(), vec![], at(2));
    let nodes = counters.nodes.lock().unwrap();
    assert!(nodes.values().all(|node| node.pods.is_empty()));
}

#[test]
fn no_figure_is_zero_and_none_overflows() {
    for milli in [0, 1, u64::MAX] {
        let usage = usage(&pod(milli).containers[0]);
        assert!(usage.cpu_nanocores > 0 && usage.memory_bytes > 0, "{milli}");
        let used = used(usage, at(0), at(i64::from(u32::MAX)));
        assert!(used > 0, "{milli}");
    }
}

#[test]
fn figures_of_annotations_count_instead_of_those_of_requests() {
    let mut pod = pod(500);
    pod.containers[0].cpu_milli = Some(900);
    pod.containers[0].memory_bytes = Some(0);
    let usage = usage(&pod.containers[0]);
    assert_eq!((usage.cpu_nanocores, usage.memory_bytes), (900_000_000, 1));
}

#[test]
fn the_summary_names_the_node_and_each_container() {
    let sample = counters().sample(&"n".into(), vec![pod(500)], at(10));
    let summary = summary("n", &sample);
    assert_eq!(summary["node"]["nodeName"], "n");
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"]["uid"], "u");
    assert_eq!(pod["containers"][0]["cpu"]["usageNanoCores"], 50_000_000);
    assert_eq!(pod["cpu"]["usageCoreNanoSeconds"], 500_000_000);
}
