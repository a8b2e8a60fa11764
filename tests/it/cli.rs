//! What the command line answers and refuses.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::*;

/// Runs a command that needs no cluster; KUBECONFIG names none.
pub(crate) async fn holdfast(args: &[&str]) -> Output {
    let run = tokio::process::Command::new(program())
        .args(args)
        .env("KUBECONFIG", "/nonexistent")
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap()
}

pub(crate) fn errors(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Standard output of a successful command of the scene.
async fn said(scene: &Scene, args: &[&str]) -> String {
    let output = scene.command(args).await;
    assert!(output.status.success(), "{}", errors(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The cells of the line of a table in which `cell` stands.
fn row<'a>(table: &'a str, cell: &str) -> Vec<&'a str> {
    let mut rows = table.lines().map(|line| cells(line));
    rows.find(|row| row.contains(&cell))
        .unwrap_or_else(|| panic!("{cell} is not in\n{table}"))
}

/// Cells are at least three spaces apart and have at most one space inside.
fn cells(line: &str) -> Vec<&str> {
    line.split("   ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect()
}

const LISTS: [&[&str]; 4] = [
    &["vswitches"],
    &["addresses"],
    &["addresses", "--all"],
    &["claims"],
];

/// Every list, as JSON.
async fn lists(scene: &Scene) -> Vec<Value> {
    let mut all = Vec::new();
    for list in LISTS {
        let args = [list, &["-o", "json"]].concat();
        all.push(scene.ask(&args).await);
    }
    all
}

#[tokio::test]
async fn lists_tell_the_same_in_every_format_while_holdfast_runs_and_after_it_ended() {
    let mut scene = Scene::start(&two_zones("profile: fast\nwebhook: {enabled: false}")).await;
    for name in ["web-0", "web-1"] {
        scene.create(&TestPod::fixed(name).on_node(NODE_B)).await;
    }
    scene
        .create(&TestPod::ordinary("job").on_node(NODE_B))
        .await;
    let held = identity(&scene.running("web-0").await);
    let retained = identity(&scene.running("web-1").await);
    let ordinary = identity(&scene.running("job").await);
    scene.delete("web-1").await;
    scene.has_counts(&[("retained", 1)]).await;
    let running = lists(&scene).await;
    tables(&scene, &held, &retained, &ordinary).await;
    documents(&scene, &running, &held).await;

    scene.kill9().await;
    assert_eq!(lists(&scene).await, running, "after a kill");
    scene.spawn(&[]).await;
    scene.is_serving().await;
    scene.stop().await;
    assert_eq!(lists(&scene).await, running, "after a clean exit");
    tables(&scene, &held, &retained, &ordinary).await;
}

async fn tables(scene: &Scene, held: &Identity, retained: &Identity, ordinary: &Identity) {
    let table = said(scene, &["vswitches"]).await;
    let header = "VSWITCH ZONE CIDR USABLE FREE IN USE RETAINED DETACHING";
    assert_eq!(cells(table.lines().next().unwrap()).join(" "), header);
    let counts = [
        "vsw-b",
        ZONE_B,
        "192.168.1.0/24",
        "252",
        "249",
        "2",
        "1",
        "0",
    ];
    assert_eq!(row(&table, "vsw-b"), counts);

    let table = said(scene, &["addresses"]).await;
    assert_eq!(table.lines().count(), 4, "{table}");
    let job = format!("{}/job", scene.namespace);
    let cells = row(&table, &job);
    assert_eq!(
        cells[..5],
        [&ordinary.address, "vsw-b", "in_use", &job, &ordinary.eni]
    );
    assert_eq!(row(&table, &retained.address)[2], "retained");

    let table = said(scene, &["claims"]).await;
    let namespace = scene.namespace.as_str();
    let Identity { address, eni, .. } = held;
    let line = [namespace, "web-0", address, eni, ZONE_B, "held", "<none>"];
    assert_eq!(row(&table, "web-0"), line);
    let cells = row(&table, "web-1");
    assert_eq!(
        (cells[2], cells[5]),
        (retained.address.as_str(), "retained")
    );
    assert!(["47h59m", "48h0m"].contains(&cells[6]), "{table}");
    let wide = said(scene, &["claims", "-o", "wide"]).await;
    assert!(wide.contains("HOLDER") && wide.contains(NODE_B), "{wide}");
    let other = said(scene, &["claims", "-n", "elsewhere"]).await;
    assert_eq!(other.lines().count(), 1, "only the header: {other}");
}

async fn documents(scene: &Scene, lists: &[Value], held: &Identity) {
    let [vswitches, addresses, all, claims] = lists else {
        panic!("{lists:?}")
    };
    assert_eq!(vswitches[0]["id"], "vsw-b");
    assert_eq!(vswitches[0]["retained"], 1);
    assert_eq!(addresses.as_array().unwrap().len(), 3);
    assert_eq!(all.as_array().unwrap().len(), 2 * 252);
    assert_eq!(claims[0]["name"], "web-0");
    assert_eq!(claims[0]["address"], held.address.as_str());
    assert_eq!(claims[0]["eni"], held.eni.as_str());
    assert_eq!(claims[0]["expires_at"], json!(null));
    assert_eq!(claims[1]["state"], "retained");
    for (list, json) in LISTS.iter().zip(lists) {
        let yaml = said(scene, &[list, &["-o", "yaml"][..]].concat()).await;
        let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(yaml, *json, "{list:?}");
    }
    let ledger = scene.ledger();
    let direct = ["claims", "--ledger", ledger.to_str().unwrap(), "-o", "json"];
    let direct = holdfast(&direct).await;
    let direct: Value = serde_json::from_slice(&direct.stdout).unwrap();
    assert_eq!(direct, *claims, "the ledger alone is enough");
}

/// Writes a configuration and gives what each command that reads one says to it.
async fn refusals(dir: &Path, config: &str) -> (String, Vec<Output>) {
    let path = dir.join("holdfast.yaml");
    std::fs::write(&path, config).unwrap();
    let path = path.to_str().unwrap();
    let mut outputs = Vec::new();
    for command in ["run", "uninstall", "vswitches"] {
        outputs.push(holdfast(&[command, "-c", path]).await);
    }
    (path.to_owned(), outputs)
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_every_mistake_and_its_place() {
    let dir = TempDir::new().unwrap();
    let config = "region: cn-wulanchabu\n\
                  vswitches:\n\
                  - {id: vsw-b, zone: cn-wulanchabu-b, cidr: 192.168.1.0/24}\n\
                  - {id: vsw-c, zone: cn-wulanchabu-c, cidr: 192.168.1.128/25}\n\
                  nodes:\n\
                  - {zone: cn-wulanchabu-x}\n\
                  retention: {hours: soon}\n";
    let (path, outputs) = refusals(dir.path(), config).await;
    for output in &outputs {
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        let lines: Vec<_> = errors(output).lines().collect();
        let begins = [
            format!("holdfast: {path}:4:44: vSwitch vsw-c overlaps vsw-b"),
            format!("{path}:6:10: zone cn-wulanchabu-x has no vSwitch"),
            format!("{path}:7:20: retention.hours is `soon`"),
        ];
        assert_eq!(lines.len(), begins.len(), "{lines:?}");
        for (line, begin) in lines.iter().zip(&begins) {
            assert!(
                line.starts_with(begin),
                "{line} does not begin with {begin}"
            );
        }
    }
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no ledger"
    );
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_its_place() {
    let dir = TempDir::new().unwrap();
    let (path, outputs) = refusals(dir.path(), &two_zones("profil: fast")).await;
    for output in &outputs {
        assert_eq!(output.status.code(), Some(2));
        let begin = format!("holdfast: {path}:9:1: ");
        assert!(errors(output).starts_with(&begin), "{}", errors(output));
        assert!(errors(output).contains("profil"), "{}", errors(output));
    }
}

#[tokio::test]
async fn what_is_missing_is_one_clear_sentence() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("holdfast.yaml");
    let config = config.to_str().unwrap();
    let output = holdfast(&["claims", "-c", config]).await;
    assert_eq!(output.status.code(), Some(2), "there is no configuration");
    let sentence = format!("holdfast: cannot read the configuration {config}: ");
    assert!(
        errors(&output).starts_with(&sentence),
        "{}",
        errors(&output)
    );
    assert_eq!(errors(&output).lines().count(), 1);

    let ledger = dir.path().join("holdfast.db");
    let ledger = ledger.to_str().unwrap();
    std::fs::write(config, two_zones(&format!("ledger: {ledger}"))).unwrap();
    for command in ["claims", "addresses", "vswitches", "check"] {
        let output = holdfast(&[command, "-c", config]).await;
        assert_eq!(output.status.code(), Some(1), "there is no ledger");
        let sentence = format!(
            "holdfast: could not open the ledger {ledger}: there is no such file; `holdfast run` makes it"
        );
        assert!(
            errors(&output).starts_with(&sentence),
            "{}",
            errors(&output)
        );
        assert_eq!(errors(&output).lines().count(), 1);
    }

    let absent = "kubelet: {address: $(HOLDFAST_ABSENT)}";
    std::fs::write(config, two_zones(&format!("ledger: {ledger}\n{absent}"))).unwrap();
    let output = holdfast(&["run", "-c", config]).await;
    assert_eq!(output.status.code(), Some(2), "there is no variable");
    let sentence = "kubelet.address is `$(HOLDFAST_ABSENT)`, but the environment variable \
         HOLDFAST_ABSENT is not set: set it to an IP address of this host, in a pod from its field \
         status.podIP\n";
    assert!(errors(&output).ends_with(sentence), "{}", errors(&output));
    let elsewhere = holdfast(&["vswitches", "-c", config]).await;
    assert_eq!(elsewhere.status.code(), Some(1), "it needs a ledger only");
    std::fs::write(config, two_zones(&format!("ledger: {ledger}"))).unwrap();

    let kubeconfig = dir.path().join("kubeconfig");
    let nobody = format!("https://{}", nobody_listens());
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        "clusters": [{ "name": "c", "cluster": { "server": nobody } }],
        "users": [{ "name": "u", "user": {} }],
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let kubeconfig = kubeconfig.to_str().unwrap();
    let output = holdfast(&["run", "-c", config, "--kubeconfig", kubeconfig]).await;
    assert_eq!(output.status.code(), Some(1), "there is no cluster");
    let sentence = "holdfast: could not reach the cluster: ServiceError: client error (Connect): tcp connect error";
    assert!(errors(&output).starts_with(sentence), "{}", errors(&output));
    assert_eq!(errors(&output).lines().count(), 1);
}

/// An address on which nobody listens: it was free a moment ago.
fn nobody_listens() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn a_start_that_gets_no_answer_from_the_api_server_says_so() {
    let dir = TempDir::new().unwrap();
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "mute",
        "contexts": [{"name": "mute", "context": {"cluster": "mute", "user": "nobody"}}],
        "clusters": [{"name": "mute", "cluster": {
            "server": format!("http://{}", mute.local_addr().unwrap()),
        }}],
        "users": [{"name": "nobody", "user": {}}],
    });
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let kubeconfig = write("kubeconfig", kubeconfig.to_string());
    let config = write("holdfast.yaml", two_zones("ledger: mute.db"));
    let output = holdfast(&["run", "-c", &config, "--kubeconfig", &kubeconfig]).await;
    assert_eq!(output.status.code(), Some(1));
    let words = "holdfast: the API server takes connections and gives no answer within 30 s";
    assert!(errors(&output).contains(words), "{}", errors(&output));
}
