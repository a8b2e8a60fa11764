//! Each test gives a pod and what is known about it, and looks at the pod that comes out.

#![expect(
    clippy::needless_pass_by_value,
    reason = "`json!` literals read better without a reference"
)]

use std::net::Ipv4Addr;

use super::*;
use crate::config::{FailurePolicy, WebhookConfig};

const ZONE: &str = "topology.kubernetes.io/zone";

fn settings() -> WebhookConfig {
    WebhookConfig {
        enabled: true,
        address: Ipv4Addr::LOCALHOST.into(),
        port: 0,
        service: None,
        bind: true,
        zone_pin: true,
        surplus: false,
        failure_policy: FailurePolicy::Fail,
    }
}

fn claim() -> ClaimPlace {
    ClaimPlace {
        zone: "b".into(),
        vswitch: "vsw-b".into(),
    }
}

fn node() -> Candidate {
    Candidate {
        name: "virtual-kubelet-b".to_owned(),
        labels: [("type", "virtual-kubelet"), (ZONE, "b"), ("cores", "16")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        taints: vec![taint()],
        unschedulable: false,
    }
}

fn labelled(key: &str, value: &str, spec: Value) -> Value {
    json!({"metadata": {"name": "web-0", "labels": {key: value}}, "spec": spec})
}

fn fixed(spec: Value) -> Value {
    json!({"metadata": {"name": "web-0", "annotations": {ENABLE_FIXED_IP: "true"}}, "spec": spec})
}

fn fixed_with_terms(terms: Value) -> Value {
    fixed(json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}}))
}

fn zone_is(zone: &str) -> Value {
    json!({"key": ZONE, "operator": "In", "values": [zone]})
}

fn type_is_virtual() -> Value {
    json!({"key": "type", "operator": "In", "values": ["virtual-kubelet"]})
}

fn our_toleration() -> Value {
    json!({
        "key": "virtual-kubelet.io/provider", "operator": "Equal",
        "value": "alibabacloud", "effect": "NoSchedule",
    })
}

#[track_caller]
fn apply(
    pod: &Value,
    claim: Option<&ClaimPlace>,
    nodes: &[Candidate],
    settings: &WebhookConfig,
) -> Value {
    let decoded = serde_json::from_value(pod.clone()).unwrap();
    let patch = mutate(&decoded, claim, nodes, settings);
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch).unwrap();
    let decoded = serde_json::from_value(patched.clone()).unwrap();
    let again = mutate(&decoded, claim, nodes, settings);
    assert_eq!(again, Patch::default(), "a second call changes {patched}");
    patched
}

/// The pod's required node-affinity terms after admission without a claim.
#[track_caller]
fn unclaimed(pod: &Value) -> Value {
    terms(&apply(pod, None, &[], &settings()))
}

/// The pod's required node-affinity terms after admission, its key having a claim in zone b
/// and `node` being the only one there.
#[track_caller]
fn claimed(pod: &Value, node: Candidate) -> Value {
    terms(&apply(pod, Some(&claim()), &[node], &settings()))
}

fn terms(pod: &Value) -> Value {
    pod["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"].clone()
}

fn attracted_terms() -> Value {
    json!([{"matchExpressions": [type_is_virtual()]}])
}

fn pinned_terms() -> Value {
    json!([{"matchExpressions": [type_is_virtual(), zone_is("b")]}])
}

#[test]
fn a_required_size_that_cannot_be_had_is_refused_for_cpu_pods_that_opt_in() {
    let misfit = |class: &str, acs: &str, text: &str| {
        let pod = json!({
            "metadata": {
                "labels": {"alibabacloud.com/acs": acs, COMPUTE_CLASS: class},
                "annotations": {"alibabacloud.com/pod-required-spec": text},
            },
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "3"}}}]},
        });
        let mut pod: PodForAdmission = serde_json::from_value(pod).unwrap();
        if acs != "true" {
            pod.metadata.labels = None;
        }
        super::misfit(&pod)
    };
    assert_eq!(misfit("performance", "true", "4-8Gi"), None);
    assert!(misfit("performance", "true", "2-8Gi").is_some());
    assert!(misfit("general-purpose", "true", "4-8Mi").is_some());
    assert_eq!(misfit("gpu", "true", "4-8Mi"), None);
    assert_eq!(misfit("general-purpose", "false", "4-8Mi"), None);
}

#[test]
fn pods_that_opt_in_get_the_toleration() {
    for pod in [
        fixed(json!({})),
        labelled("alibabacloud.com/acs", "true", json!({})),
        labelled("alibabacloud.com/compute-class", "gpu", json!({})),
        labelled("alibabacloud.com/compute-class", "", json!({})),
    ] {
        let admitted = apply(&pod, None, &[], &settings());
        assert_eq!(
            admitted["spec"]["tolerations"],
            json!([our_toleration()]),
            "{pod}"
        );
    }
}

#[test]
fn pods_that_do_not_opt_in_are_left_alone() {
    let annotated =
        |value| json!({"metadata": {"annotations": {ENABLE_FIXED_IP: value}}, "spec": {}});
    for pod in [
        json!({"metadata": {}, "spec": {}}),
        annotated("false"),
        annotated("True"),
        annotated(""),
        labelled("alibabacloud.com/acs", "false", json!({})),
        labelled(ENABLE_FIXED_IP, "true", json!({})),
    ] {
        assert_eq!(apply(&pod, Some(&claim()), &[node()], &settings()), pod);
    }
}

#[test]
fn tolerations_of_the_pod_stay_and_one_that_suffices_is_not_doubled() {
    let other = json!({"key": "other", "operator": "Exists"});
    let admitted = |tolerations: &Value| {
        let pod = fixed(json!({"tolerations": tolerations}));
        apply(&pod, None, &[], &settings())["spec"]["tolerations"].clone()
    };
    assert_eq!(admitted(&json!([other])), json!([other, our_toleration()]));
    assert_eq!(admitted(&json!([])), json!([our_toleration()]));
    assert_eq!(admitted(&Value::Null), json!([our_toleration()]));
    for enough in [
        json!([{"operator": "Exists"}]),
        json!([{"key": "virtual-kubelet.io/provider", "operator": "Exists"}]),
        json!([our_toleration()]),
    ] {
        assert_eq!(admitted(&enough), enough);
    }
    for too_little in [
        json!({"key": "virtual-kubelet.io/provider", "operator": "Exists", "effect": "NoExecute"}),
        json!({"key": "virtual-kubelet.io/provider", "value": "azure"}),
    ] {
        assert_eq!(
            admitted(&json!([too_little])),
            json!([too_little, our_toleration()])
        );
    }
}

#[test]
fn a_pod_that_says_nothing_about_nodes_is_attracted_to_virtual_ones() {
    let preferred = json!([{"weight": 1, "preference": {"matchExpressions": [zone_is("c")]}}]);
    let preferring = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
    for spec in [
        json!({}),
        json!({"affinity": null}),
        json!({"affinity": {"podAntiAffinity": {}}}),
        json!({"affinity": {"nodeAffinity": null}}),
        json!({"affinity": {"nodeAffinity": preferring}}),
        json!({"affinity": {"nodeAffinity": {REQUIRED: null}}}),
        json!({"nodeSelector": {}}),
        json!({"nodeName": ""}),
    ] {
        let pod = fixed(spec.clone());
        assert_eq!(unclaimed(&pod), attracted_terms(), "{spec}");
    }
    let pod = fixed(json!({"affinity": {"nodeAffinity": preferring, "podAntiAffinity": {"a": 1}}}));
    let affinity = &apply(&pod, None, &[], &settings())["spec"]["affinity"];
    assert_eq!(
        affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"],
        preferred
    );
    assert_eq!(affinity["podAntiAffinity"], json!({"a": 1}));
}

#[test]
fn a_pod_that_chose_its_nodes_is_not_attracted() {
    let chosen = json!([{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]);
    assert_eq!(unclaimed(&fixed_with_terms(chosen.clone())), chosen);
    assert_eq!(
        unclaimed(&fixed(json!({"nodeSelector": {"disk": "ssd"}}))),
        Value::Null
    );
    assert_eq!(unclaimed(&fixed(json!({"nodeName": "ecs-1"}))), Value::Null);
}

#[test]
fn bind_off_leaves_attraction_to_the_pod_but_pins_in_a_term_of_its_own() {
    let settings = WebhookConfig {
        bind: false,
        ..settings()
    };
    let pod = fixed(json!({}));
    assert_eq!(terms(&apply(&pod, None, &[], &settings)), Value::Null);
    assert_eq!(
        terms(&apply(&pod, Some(&claim()), &[node()], &settings)),
        json!([{"matchExpressions": [zone_is("b")]}])
    );
}

#[test]
fn a_pod_with_an_address_to_come_back_to_is_pinned_to_its_zone() {
    assert_eq!(claimed(&fixed(json!({})), node()), pinned_terms());
}

#[test]
fn the_zone_goes_into_every_required_term() {
    let disk = json!({"key": "disk", "operator": "DoesNotExist"});
    let name = json!({"key": "metadata.name", "operator": "In", "values": ["virtual-kubelet-b"]});
    let before = json!([
        {"matchExpressions": [disk]},
        {"matchFields": [name]},
        {"matchExpressions": [zone_is("c")]},
    ]);
    assert_eq!(
        claimed(&fixed_with_terms(before), node()),
        json!([
            {"matchExpressions": [disk, zone_is("b")]},
            {"matchFields": [name], "matchExpressions": [zone_is("b")]},
            {"matchExpressions": [zone_is("c"), zone_is("b")]},
        ])
    );
}

#[test]
fn a_term_that_names_the_zone_already_is_not_changed() {
    let before = json!([{"matchExpressions": [zone_is("b")]}]);
    assert_eq!(claimed(&fixed_with_terms(before.clone()), node()), before);
}

#[test]
fn an_empty_term_goes_on_matching_nothing() {
    let only_empty = json!([{}]);
    assert_eq!(
        claimed(&fixed_with_terms(only_empty.clone()), node()),
        only_empty
    );
    let beside = json!([{"matchExpressions": []}, {"matchExpressions": [type_is_virtual()]}]);
    assert_eq!(
        claimed(&fixed_with_terms(beside), node()),
        json!([{"matchExpressions": []}, {"matchExpressions": [type_is_virtual(), zone_is("b")]}])
    );
}

#[test]
fn a_pod_without_fixed_ip_is_not_pinned() {
    let pod = labelled("alibabacloud.com/acs", "true", json!({}));
    assert_eq!(claimed(&pod, node()), attracted_terms());
}

#[test]
fn a_pod_without_a_claim_is_not_pinned() {
    assert_eq!(
        terms(&apply(&fixed(json!({})), None, &[node()], &settings())),
        attracted_terms()
    );
}

#[test]
fn zone_pin_off_pins_nothing() {
    let settings = WebhookConfig {
        zone_pin: false,
        ..settings()
    };
    let admitted = apply(&fixed(json!({})), Some(&claim()), &[node()], &settings);
    assert_eq!(terms(&admitted), attracted_terms());
}

#[test]
fn pods_of_a_daemon_set_with_a_node_or_with_the_hosts_network_are_not_pinned() {
    let mut owned = fixed(json!({}));
    owned["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "1", "controller": true,
    }]);
    assert_eq!(claimed(&owned, node()), attracted_terms());
    owned["metadata"]["ownerReferences"][0]["kind"] = json!("StatefulSet");
    assert_eq!(claimed(&owned, node()), pinned_terms());
    assert_eq!(
        claimed(&fixed(json!({"hostNetwork": true})), node()),
        attracted_terms()
    );
    assert_eq!(
        claimed(&fixed(json!({"nodeName": "virtual-kubelet-c"})), node()),
        Value::Null
    );
}

#[test]
fn the_claims_vswitch_must_be_among_those_the_pod_names() {
    let naming = |vswitches: &str| {
        let mut pod = fixed(json!({}));
        pod["metadata"]["annotations"]["network.alibabacloud.com/vswitch-ids"] = json!(vswitches);
        claimed(&pod, node())
    };
    assert_eq!(naming("vsw-b"), pinned_terms());
    assert_eq!(naming("vsw-a, vsw-b"), pinned_terms());
    assert_eq!(naming(""), pinned_terms());
    assert_eq!(naming("vsw-a"), attracted_terms());
    assert_eq!(naming("vsw-bb"), attracted_terms());
}

#[test]
fn a_node_that_the_pod_does_not_select_is_no_reason_to_pin() {
    let selecting = |selector: Value| claimed(&fixed(json!({"nodeSelector": selector})), node());
    let pinned = json!([{"matchExpressions": [zone_is("b")]}]);
    assert_eq!(selecting(json!({"cores": "16"})), pinned);
    assert_eq!(selecting(json!({"cores": "32"})), Value::Null);
    assert_eq!(selecting(json!({ZONE: "c"})), Value::Null);

    for unmet in [
        json!([{"matchExpressions": [zone_is("c")]}]),
        json!([{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["16"]}]}]),
        json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["ecs-1"]}]}]),
    ] {
        assert_eq!(claimed(&fixed_with_terms(unmet.clone()), node()), unmet);
    }
}

#[test]
fn a_node_in_another_zone_by_its_label_is_no_reason_to_pin() {
    let mut moved = node();
    moved.labels.insert(ZONE.to_owned(), "c".to_owned());
    assert_eq!(claimed(&fixed(json!({})), moved), attracted_terms());
}

#[test]
fn one_fitting_node_among_several_is_enough_and_none_is_not() {
    let cordoned = Candidate {
        unschedulable: true,
        ..node()
    };
    let pin = |nodes: &[Candidate]| {
        terms(&apply(
            &fixed(json!({})),
            Some(&claim()),
            nodes,
            &settings(),
        ))
    };
    assert_eq!(pin(&[]), attracted_terms());
    assert_eq!(pin(std::slice::from_ref(&cordoned)), attracted_terms());
    assert_eq!(pin(&[cordoned, node()]), pinned_terms());
}

#[test]
fn a_cordoned_node_takes_only_pods_that_tolerate_that() {
    let cordoned = Candidate {
        unschedulable: true,
        ..node()
    };
    let tolerating = fixed(json!({"tolerations": [
        {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
    ]}));
    assert_eq!(
        claimed(&fixed(json!({})), cordoned.clone()),
        attracted_terms()
    );
    assert_eq!(claimed(&tolerating, cordoned), pinned_terms());
}

#[track_caller]
fn check_taint(key: &str, effect: &str, tolerations: Value, want: Value) {
    let mut tainted = node();
    tainted.taints.push(Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        ..Taint::default()
    });
    let pod = fixed(json!({"tolerations": tolerations}));
    assert_eq!(claimed(&pod, tainted), want, "{key}:{effect}");
}

#[test]
fn a_taint_that_repels_the_pod_is_respected() {
    let tolerating = json!([{"key": "zone-closed", "operator": "Exists"}]);
    for effect in ["NoSchedule", "NoExecute"] {
        check_taint("zone-closed", effect, json!([]), attracted_terms());
        check_taint("zone-closed", effect, tolerating.clone(), pinned_terms());
    }
    check_taint("zone-closed", "PreferNoSchedule", json!([]), pinned_terms());
}

#[test]
fn taints_left_from_a_restart_do_not_cost_a_pod_its_zone() {
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        check_taint(key, "NoSchedule", json!([]), pinned_terms());
        check_taint(key, "NoExecute", json!([]), pinned_terms());
    }
}

#[test]
fn the_claim_of_a_pod_that_cannot_be_pinned_is_not_read() {
    let key = |pod: &Value| {
        let pod = serde_json::from_value(pod.clone()).unwrap();
        pin::key(&pod, Some("shop"), &settings()).map(|key| key.to_string())
    };
    assert_eq!(key(&fixed(json!({}))), Some("shop/web-0".to_owned()));
    assert_eq!(key(&fixed(json!({"nodeName": "ecs-1"}))), None);
    assert_eq!(
        key(&labelled("alibabacloud.com/acs", "true", json!({}))),
        None
    );
    for unnamed in [json!(null), json!("")] {
        let mut pod = fixed(json!({}));
        pod["metadata"]["generateName"] = json!("web-");
        pod["metadata"]["name"] = unnamed;
        assert_eq!(key(&pod), None);
    }
}

#[test]
fn the_toleration_of_a_pod_that_exists_is_one_step() {
    let step = toleration_patch(&[]).unwrap();
    assert_eq!(
        json!(step),
        json!({"op": "add", "path": "/spec/tolerations", "value": [our_toleration()]})
    );
    let other = Toleration {
        key: Some("other".to_owned()),
        ..Toleration::default()
    };
    let step = toleration_patch(&[other]).unwrap();
    assert_eq!(
        json!(step),
        json!({"op": "add", "path": "/spec/tolerations/-", "value": our_toleration()})
    );
    assert_eq!(toleration_patch(&[toleration()]), None);
}

#[test]
fn a_pod_without_containers_is_left_to_the_api_server_to_refuse() {
    for containers in [Value::Null, json!([])] {
        let pod = fixed(json!({"containers": containers}));
        let surplus = WebhookConfig {
            surplus: true,
            ..settings()
        };
        let patched = apply(&pod, None, &[], &surplus);
        assert_eq!(patched["spec"]["containers"], containers);
        assert_eq!(patched["spec"]["tolerations"], json!([our_toleration()]));
    }
}

#[test]
fn no_surplus_is_written_over_what_the_api_server_has_to_refuse() {
    let surplus = WebhookConfig {
        surplus: true,
        ..settings()
    };
    for resources in [
        json!({"requests": {"cpu": "-1"}}),
        json!({"limits": {"cpu": "much"}}),
        json!({"requests": {"cpu": "1"}, "limits": {"cpu": ""}}),
    ] {
        let pod = fixed(json!({"containers": [{"name": "main", "resources": resources}]}));
        let patched = apply(&pod, None, &[], &surplus);
        let now = &patched["spec"]["containers"][0]["resources"];
        assert_eq!(*now, resources);
    }
}
