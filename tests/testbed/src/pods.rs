//! The row that kubectl shows for a pod in `kubectl get pod -o wide -w`.
//!
//! The API server computes those columns (`printPod` in `pkg/printers/internalversion/printers.go` of Kubernetes 1.36);
//! a watch delivers objects, so the same rules stand here. A test compares them with kubectl's own output.

use std::fmt::{self, Display, Formatter};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus,
};
use kube::ResourceExt;

/// What kubectl shows for one pod at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRow {
    /// When the watch delivered it.
    pub at: Timestamp,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod, which kubectl does not show: it tells a pod from its successor of the same name.
    pub uid: String,
    /// Column READY, such as `0/1`.
    pub ready: String,
    /// Column STATUS; see [`status_column`].
    pub status: String,
    /// Column RESTARTS, without the time of the last one.
    pub restarts: i32,
    /// When the pod was created; column AGE counts from it.
    pub created: Option<Timestamp>,
    /// Column IP: the first of `status.podIPs`.
    pub ip: Option<String>,
    /// Column NODE.
    pub node: Option<String>,
    /// Column NOMINATED NODE.
    pub nominated_node: Option<String>,
    /// Column READINESS GATES, such as `0/1`.
    pub readiness_gates: Option<String>,
    /// The pod is no longer in the API; the other fields are its last ones.
    pub gone: bool,
}

impl PodRow {
    /// The head of the table whose lines are the rows' `Display`.
    pub const HEADER: &'static str = concat!(
        "NAME         READY   STATUS              RESTARTS   AGE   IP              ",
        "NODE                              NOMINATED NODE   READINESS GATES"
    );

    /// The row of `pod` as delivered at `at`.
    pub fn new(pod: &Pod, at: Timestamp) -> Self {
        let columns = columns(pod);
        let status = pod.status.as_ref();
        let spec = pod.spec.as_ref();
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Self {
            at,
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            ready: format!("{}/{}", columns.ready, columns.containers),
            status: columns.status,
            restarts: columns.restarts,
            created: pod.creation_timestamp().map(|time| time.0),
            ip: status
                .and_then(|it| it.pod_ips.as_ref()?.first())
                .and_then(|it| some(&it.ip)),
            node: spec.and_then(|it| it.node_name.as_ref()).and_then(some),
            nominated_node: status
                .and_then(|it| it.nominated_node_name.as_ref())
                .and_then(some),
            readiness_gates: readiness_gates(pod),
            gone: false,
        }
    }

    /// Whether the rows differ in more than the moment.
    pub(crate) fn differs_from(&self, other: &Self) -> bool {
        Self {
            at: other.at,
            ..self.clone()
        } != *other
    }
}

/// One line of the table under [`PodRow::HEADER`].
impl Display for PodRow {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let or_none =
            |column: &Option<String>| column.clone().unwrap_or_else(|| "<none>".to_owned());
        let age = self.created.map_or_else(
            || "<unknown>".to_owned(),
            |created| age_column(self.at.duration_since(created).as_secs()),
        );
        write!(
            f,
            "{:<12} {:<7} {:<19} {:<10} {:<5} {:<15} {:<33} {:<16} {}",
            self.name,
            self.ready,
            self.status,
            self.restarts,
            age,
            or_none(&self.ip),
            or_none(&self.node),
            or_none(&self.nominated_node),
            or_none(&self.readiness_gates),
        )
    }
}

/// Column STATUS: what the pod is doing or why it does not, in one word.
pub fn status_column(pod: &Pod) -> String {
    columns(pod).status
}

struct Columns {
    ready: usize,
    containers: usize,
    status: String,
    restarts: i32,
}

fn columns(pod: &Pod) -> Columns {
    let empty = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&empty);
    let sidecars = sidecars(pod);
    let mut columns = Columns {
        ready: 0,
        containers: pod.spec.as_ref().map_or(0, |spec| spec.containers.len()) + sidecars.len(),
        status: own_reason(status),
        restarts: 0,
    };
    let initialised = read_init_containers(&mut columns, pod, status, &sidecars);
    if initialised || condition(status, "Initialized") {
        read_containers(&mut columns, status);
    }

    let phase = status.phase.as_deref().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            "Unknown".clone_into(&mut columns.status);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut columns.status);
        }
    }
    columns
}

/// What the pod says of itself, before its containers are asked.
fn own_reason(status: &PodStatus) -> String {
    const GATED: &str = "SchedulingGated";
    let gated = status
        .conditions
        .iter()
        .flatten()
        .any(|it| it.type_ == "PodScheduled" && it.reason.as_deref() == Some(GATED));
    if gated {
        return GATED.to_owned();
    }
    let reason = status.reason.as_ref().filter(|reason| !reason.is_empty());
    reason
        .or(status.phase.as_ref())
        .cloned()
        .unwrap_or_default()
}

/// Init containers that keep running beside the others.
fn sidecars(pod: &Pod) -> Vec<&str> {
    let init = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    init.filter(|it| it.restart_policy.as_deref() == Some("Always"))
        .map(|it| it.name.as_str())
        .collect()
}

/// Reads the init containers up to the first that is not done and returns whether all are.
fn read_init_containers(
    columns: &mut Columns,
    pod: &Pod,
    status: &PodStatus,
    sidecars: &[&str],
) -> bool {
    let total = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.init_containers.as_ref())
        .map_or(0, Vec::len);
    let mut sidecar_restarts = 0;
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        columns.restarts += container.restart_count;
        let is_sidecar = sidecars.contains(&container.name.as_str());
        if is_sidecar {
            sidecar_restarts += container.restart_count;
        }
        let (waiting, terminated) = state(container);
        if terminated.is_some_and(|it| it.exit_code == 0) {
            continue;
        }
        if is_sidecar && container.started == Some(true) {
            columns.ready += usize::from(container.ready);
            continue;
        }
        columns.status = if let Some(terminated) = terminated {
            format!("Init:{}", ended(terminated))
        } else if let Some(reason) = waiting.filter(|reason| *reason != "PodInitializing") {
            format!("Init:{reason}")
        } else {
            format!("Init:{index}/{total}")
        };
        return false;
    }
    // Those of init containers that are done stop counting.
    columns.restarts = sidecar_restarts;
    true
}

/// Reads the containers from the last to the first, so that the first one's trouble is what shows.
fn read_containers(columns: &mut Columns, status: &PodStatus) {
    let mut running = false;
    let mut failure = None;
    for container in status.container_statuses.iter().flatten().rev() {
        columns.restarts += container.restart_count;
        let (waiting, terminated) = state(container);
        if let Some(reason) = waiting {
            reason.clone_into(&mut columns.status);
        } else if let Some(terminated) = terminated {
            columns.status = ended(terminated);
            if terminated.exit_code != 0 {
                failure = Some(columns.status.clone());
            }
        } else if container.ready
            && container
                .state
                .as_ref()
                .is_some_and(|it| it.running.is_some())
        {
            running = true;
            columns.ready += 1;
        }
    }
    if columns.status == "Completed" {
        // One container is done; the pod is not while another runs, or has failed.
        if running && condition(status, "Ready") {
            "Running".clone_into(&mut columns.status);
        } else if let Some(failure) = failure {
            columns.status = failure;
        } else if running {
            "NotReady".clone_into(&mut columns.status);
        }
    }
}

/// The reason a container waits, if it gives one, and how it ended, if it has.
fn state(container: &ContainerStatus) -> (Option<&str>, Option<&ContainerStateTerminated>) {
    let Some(ContainerState {
        waiting,
        terminated,
        ..
    }) = &container.state
    else {
        return (None, None);
    };
    let reason = waiting
        .as_ref()
        .and_then(|it| it.reason.as_deref())
        .filter(|reason| !reason.is_empty());
    (reason, terminated.as_ref())
}

fn ended(terminated: &ContainerStateTerminated) -> String {
    match (terminated.reason.as_deref(), terminated.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", terminated.exit_code),
    }
}

fn condition(status: &PodStatus, name: &str) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|it| it.type_ == name && it.status == "True")
}

fn readiness_gates(pod: &Pod) -> Option<String> {
    let gates = pod
        .spec
        .as_ref()?
        .readiness_gates
        .as_ref()
        .filter(|gates| !gates.is_empty())?;
    let status = pod.status.as_ref();
    let passed = gates
        .iter()
        .filter(|gate| status.is_some_and(|it| condition(it, &gate.condition_type)));
    Some(format!("{}/{}", passed.count(), gates.len()))
}

/// Column AGE as kubectl rounds it, for pods younger than eight hours; older ones show hours.
fn age_column(seconds: i64) -> String {
    let (hours, minutes) = (seconds / 3600, seconds / 60);
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 == 0 => format!("{minutes}m"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 if minutes % 60 != 0 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{hours}h"),
    }
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "the arguments are literals")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(init: usize, status: Value) -> Pod {
        let container = |name: String| json!({"name": name});
        let init: Vec<_> = (0..init).map(|i| container(format!("init-{i}"))).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "web-0", "uid": "u"},
            "spec": {"initContainers": init, "containers": [container("a".to_owned())]},
            "status": status,
        }))
        .unwrap()
    }

    fn container(state: Value, ready: bool) -> Value {
        json!({"name": "a", "image": "i", "imageID": "", "restartCount": 0, "ready": ready, "state": state})
    }

    #[track_caller]
    fn check(status: Value, deleted: bool, want: &str) {
        let mut pod = pod(0, status);
        if deleted {
            pod.metadata.deletion_timestamp =
                serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        }
        assert_eq!(status_column(&pod), want);
    }

    #[test]
    fn status_is_the_phase_until_a_container_says_more() {
        check(json!({"phase": "Pending"}), false, "Pending");
        check(
            json!({"phase": "Failed", "reason": "Evicted"}),
            false,
            "Evicted",
        );
        let gated =
            json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]);
        check(
            json!({"phase": "Pending", "conditions": gated}),
            false,
            "SchedulingGated",
        );
        let creating = container(json!({"waiting": {"reason": "ContainerCreating"}}), false);
        check(
            json!({"phase": "Pending", "containerStatuses": [creating]}),
            false,
            "ContainerCreating",
        );
        let running = container(json!({"running": {}}), true);
        check(
            json!({"phase": "Running", "containerStatuses": [running]}),
            false,
            "Running",
        );
    }

    #[test]
    fn status_of_an_ended_container_is_its_reason_or_signal_or_exit_code() {
        for (terminated, want) in [
            (json!({"exitCode": 0, "reason": "Completed"}), "Completed"),
            (json!({"exitCode": 143, "reason": "Error"}), "Error"),
            (json!({"exitCode": 137, "signal": 9}), "Signal:9"),
            (json!({"exitCode": 3}), "ExitCode:3"),
        ] {
            let ended = container(json!({"terminated": terminated}), false);
            check(
                json!({"phase": "Succeeded", "containerStatuses": [ended]}),
                false,
                want,
            );
        }
    }

    #[test]
    fn a_completed_container_beside_others_does_not_complete_the_pod() {
        let done = container(
            json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
            false,
        );
        let failed = container(
            json!({"terminated": {"exitCode": 1, "reason": "Error"}}),
            false,
        );
        let runs = container(json!({"running": {}}), true);
        let ready = json!([{"type": "Ready", "status": "True"}]);
        check(
            json!({"phase": "Running", "containerStatuses": [done, runs]}),
            false,
            "NotReady",
        );
        check(
            json!({"phase": "Running", "containerStatuses": [done, runs], "conditions": ready}),
            false,
            "Running",
        );
        check(
            json!({"phase": "Failed", "containerStatuses": [done, failed]}),
            false,
            "Error",
        );
    }

    #[test]
    fn a_deleted_pod_is_terminating_until_its_phase_is_terminal() {
        let done = container(
            json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
            false,
        );
        check(
            json!({"phase": "Running", "containerStatuses": [container(json!({"running": {}}), true)]}),
            true,
            "Terminating",
        );
        check(
            json!({"phase": "Succeeded", "containerStatuses": [done]}),
            true,
            "Completed",
        );
        check(
            json!({"phase": "Running", "reason": "NodeLost"}),
            true,
            "Unknown",
        );
    }

    #[test]
    fn status_of_an_initialising_pod_counts_init_containers() {
        let wait = container(json!({"waiting": {"reason": "PodInitializing"}}), false);
        let done = container(
            json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
            false,
        );
        let failed = container(json!({"terminated": {"exitCode": 2}}), false);
        for (init, want) in [
            (json!([wait, wait]), "Init:0/2"),
            (json!([done, wait]), "Init:1/2"),
            (json!([failed, wait]), "Init:ExitCode:2"),
            (json!([done, done]), "PodInitializing"),
        ] {
            let status = json!({"phase": "Pending", "initContainerStatuses": init, "containerStatuses": [wait]});
            assert_eq!(status_column(&pod(2, status)), want);
        }
    }

    #[test]
    fn a_row_stands_under_its_header() {
        let status = json!({"phase": "Running", "podIPs": [{"ip": "192.168.1.8"}],
            "containerStatuses": [container(json!({"running": {}}), true)]});
        let mut pod = pod(0, status);
        pod.metadata.creation_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        pod.spec.as_mut().unwrap().node_name = Some("virtual-kubelet-cn-wulanchabu-b".to_owned());
        let line = PodRow::new(&pod, "2026-01-01T00:00:25Z".parse().unwrap()).to_string();
        for (head, cell) in [
            ("READY", "1/1"),
            ("STATUS", "Running"),
            ("AGE", "25s"),
            ("IP ", "192.168.1.8"),
            ("NODE ", "virtual-kubelet-cn-wulanchabu-b"),
            ("READINESS", "<none>"),
        ] {
            assert_eq!(
                PodRow::HEADER.find(head),
                line.rfind(cell),
                "{head}\n{}\n{line}",
                PodRow::HEADER
            );
        }
    }

    #[test]
    fn age_is_rounded_as_kubectl_does() {
        for (seconds, want) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (660, "11m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (90_000, "25h"),
        ] {
            assert_eq!(age_column(seconds), want);
        }
    }
}
