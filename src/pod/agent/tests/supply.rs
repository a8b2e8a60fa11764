//! Pods whose ConfigMaps and Secrets are missing, and pods whose annotations say nonsense.

use serde_json::{Value, json};

use super::api_server::{Trouble, Verb, fixed, ordinary};
use super::on;
use super::world::{SECOND, World};

fn with_volume(name: &str, map: &str) -> Value {
    let mut pod = on("acs-b", ordinary(name));
    pod["spec"]["volumes"] = json!([{"name": "cfg", "configMap": {"name": map}}]);
    pod
}

fn with_env(name: &str, optional: bool) -> Value {
    let mut pod = on("acs-b", ordinary(name));
    let from = json!({"name": "s", "key": "k", "optional": optional});
    pod["spec"]["containers"][0]["env"] =
        json!([{"name": "K", "valueFrom": {"secretKeyRef": from}}]);
    pod
}

fn looks(world: &World) -> usize {
    let of = |line: &&String| line.starts_with("GET configmap") || line.starts_with("GET secret");
    world.api.requests.iter().filter(of).count()
}

#[test]
fn a_pod_whose_volume_is_missing_says_so_and_recovers_however_late() {
    let mut world = World::fast();
    world.create(with_volume("web", "cm"));
    world.pass(SECOND * 3600);
    assert!(world.shown("web").starts_with("0/1 ContainerCreating"));
    let note = "MountVolume.SetUp failed for volume \"cfg\" : configmap \"cm\" not found";
    assert_eq!(world.said_of("FailedMount"), [note]);
    let asked = looks(&world);
    assert!((50..=70).contains(&asked), "{asked} requests in an hour");

    world.api.objects.insert("configmap default/cm", &[]);
    world.pass(SECOND * 60);
    assert!(world.shown("web").starts_with("1/1 Running"));
    let asked = looks(&world);
    world.pass(SECOND * 3600);
    assert_eq!(looks(&world), asked, "nothing is asked for a pod that runs");
    world.restart();
    world.pass(SECOND * 60);
    assert_eq!(looks(&world), asked, "nor after a restart");
}

#[test]
fn a_pod_whose_variable_is_missing_waits_in_the_kubelet_s_state() {
    let mut world = World::fast();
    world.create(with_env("web", false));
    assert!(
        world
            .shown("web")
            .starts_with("0/1 CreateContainerConfigError")
    );
    assert_eq!(
        world.said_of("MandatorySecretNotFound"),
        ["secret \"s\" not found"]
    );
    assert_eq!(world.said_of("Failed"), ["Error: secret \"s\" not found"]);

    world.api.objects.insert("secret default/s", &["other"]);
    world.pass(SECOND * 30);
    let status = &world.api.pod("web").unwrap()["status"]["containerStatuses"][0];
    let message = &status["state"]["waiting"]["message"];
    assert_eq!(message, "couldn't find key k in Secret default/s");

    world.api.objects.insert("secret default/s", &["k"]);
    world.pass(SECOND * 60);
    assert!(world.shown("web").starts_with("1/1 Running"));
}

#[test]
fn what_is_optional_holds_nothing_up() {
    let mut world = World::fast();
    world.create(with_env("web", true));
    assert!(world.shown("web").starts_with("1/1 Running"));
    assert_eq!(world.said_of("OptionalSecretNotFound").len(), 1);
}

#[test]
fn pods_that_name_the_same_object_share_one_request() {
    let mut world = World::fast();
    world.api.objects.insert("configmap default/cm", &[]);
    for n in 0..20 {
        world.api.create(with_volume(&format!("web-{n}"), "cm"));
    }
    world.settle();
    assert!(world.shown("web-19").starts_with("1/1 Running"));
    assert_eq!(looks(&world), 1);
}

#[test]
fn a_pod_whose_volume_cannot_be_read_says_why_and_asks_again() {
    let mut world = World::fast();
    world
        .api
        .troubles
        .push_back((Verb::GetObject, Trouble::Code(500)));
    world.create(with_volume("web", "cm"));
    assert!(world.shown("web").starts_with("0/1 ContainerCreating"));
    let refused = "MountVolume.SetUp failed for volume \"cfg\" : cannot read configmap \"cm\": configmaps is forbidden";
    assert_eq!(world.said_of("FailedMount"), [refused]);
    world.pass(SECOND * 10);
    let absent = "MountVolume.SetUp failed for volume \"cfg\" : configmap \"cm\" not found";
    assert_eq!(world.said_of("FailedMount"), [refused, absent]);
    world.api.objects.insert("configmap default/cm", &[]);
    world.pass(SECOND * 30);
    assert!(world.shown("web").starts_with("1/1 Running"));
}

#[test]
fn a_waiting_pod_that_is_deleted_goes_and_is_forgotten() {
    let mut world = World::fast();
    world.create(with_volume("web", "cm"));
    world.delete("web");
    world.pass(SECOND * 60);
    assert!(world.is_gone("web"));
    let asked = looks(&world);
    world.pass(SECOND * 600);
    assert_eq!(looks(&world), asked);
}

#[test]
fn an_annotation_that_cannot_be_read_is_told_once_and_counts_as_absent() {
    let mut world = World::fast();
    let mut pod = fixed("web-0");
    pod["metadata"]["annotations"]["holdfast.dev/run-for"] = "soon".into();
    world.create(pod);
    world.pass(SECOND * 60);
    assert_eq!(world.shown("web-0"), "1/1 Running 192.168.1.1");
    let notes = world.said_of("InvalidBehaviour");
    assert!(
        notes.len() == 1 && notes[0].contains("\"soon\""),
        "{notes:?}"
    );
    world.said.clear();
    world.restart();
    assert!(world.said.is_empty(), "{:?}", world.said);
}

#[test]
fn an_ordinary_pod_that_ends_by_itself_frees_its_address() {
    let mut world = World::fast();
    let mut pod = on("acs-b", ordinary("work"));
    pod["metadata"]["annotations"]["holdfast.dev/run-for"] = "10s".into();
    pod["spec"]["restartPolicy"] = "Never".into();
    world.create(pod);
    world.pass(SECOND * 5);
    assert_eq!(
        (world.shown("work"), world.count("in_use")),
        ("1/1 Running 192.168.1.1".into(), 1)
    );
    world.pass(SECOND * 10);
    assert_eq!(
        (world.shown("work"), world.count("in_use")),
        ("0/1 Completed 192.168.1.1".into(), 0)
    );
    assert_eq!(world.api.requests.len(), 2, "{:?}", world.api.requests);
}
