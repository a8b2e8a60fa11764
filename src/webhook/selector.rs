//! Which nodes a pod may be scheduled onto: node selectors, taints and tolerations as the
//! Kubernetes scheduler reads them.
//!
//! The semantics are those of `k8s.io/component-helpers/scheduling/corev1` (`nodeaffinity` and
//! `TolerationsTolerateTaint`), which the scheduler's filters call. What the API server refuses
//! anyway, such as `In` without values, matches nothing here. Resources, ports, volumes and pod
//! affinity are not looked at.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

/// Whether a node with these labels satisfies `spec.nodeSelector`.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether the node satisfies at least one term of a required node affinity.
pub fn any_term_matches(
    terms: &[NodeSelectorTerm],
    node: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    terms.iter().any(|term| term_matches(term, node, labels))
}

/// A term without expressions and fields matches no node, not every node.
pub fn is_empty(term: &NodeSelectorTerm) -> bool {
    expressions(term).is_empty() && fields(term).is_empty()
}

/// Whether one of `tolerations` tolerates `taint`.
pub fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations
        .iter()
        .any(|toleration| tolerates(toleration, taint))
}

fn expressions(term: &NodeSelectorTerm) -> &[NodeSelectorRequirement] {
    term.match_expressions.as_deref().unwrap_or_default()
}

fn fields(term: &NodeSelectorTerm) -> &[NodeSelectorRequirement] {
    term.match_fields.as_deref().unwrap_or_default()
}

fn term_matches(term: &NodeSelectorTerm, node: &str, labels: &BTreeMap<String, String>) -> bool {
    !is_empty(term)
        && expressions(term)
            .iter()
            .all(|expression| expression_matches(expression, labels))
        && fields(term).iter().all(|field| field_matches(field, node))
}

fn expression_matches(
    expression: &NodeSelectorRequirement,
    labels: &BTreeMap<String, String>,
) -> bool {
    let label = labels.get(&expression.key);
    let values = expression.values.as_deref().unwrap_or_default();
    match expression.operator.as_str() {
        "In" => label.is_some_and(|label| values.contains(label)),
        "NotIn" => !values.is_empty() && label.is_none_or(|label| !values.contains(label)),
        "Exists" => values.is_empty() && label.is_some(),
        "DoesNotExist" => values.is_empty() && label.is_none(),
        "Gt" => compare(label, values).is_some_and(|(label, bound)| label > bound),
        "Lt" => compare(label, values).is_some_and(|(label, bound)| label < bound),
        _ => false,
    }
}

fn compare(label: Option<&String>, values: &[String]) -> Option<(i64, i64)> {
    let [bound] = values else { return None };
    Some((label?.parse().ok()?, bound.parse().ok()?))
}

/// Kubernetes knows one field, `metadata.name`, two operators, and takes exactly one value.
fn field_matches(field: &NodeSelectorRequirement, node: &str) -> bool {
    let [value] = field.values.as_deref().unwrap_or_default() else {
        return false;
    };
    field.key == "metadata.name"
        && match field.operator.as_str() {
            "In" => value == node,
            "NotIn" => value != node,
            _ => false,
        }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let covers = |wanted: &Option<String>, actual: &str| {
        let wanted = wanted.as_deref().unwrap_or_default();
        wanted.is_empty() || wanted == actual
    };
    if !covers(&toleration.effect, &taint.effect) || !covers(&toleration.key, &taint.key) {
        return false;
    }
    let value = toleration.value.as_deref().unwrap_or_default();
    let tainted = taint.value.as_deref().unwrap_or_default();
    let numbers = || decimal(tainted).zip(decimal(value));
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => value == tainted,
        "Exists" => true,
        // Behind the feature gate TaintTolerationComparisonOperators; without it the API server
        // lets no pod with these operators through.
        "Gt" => numbers().is_some_and(|(tainted, value)| tainted > value),
        "Lt" => numbers().is_some_and(|(tainted, value)| tainted < value),
        _ => false,
    }
}

/// An integer in canonical form; the scheduler refuses `+5` and `05` here.
fn decimal(text: &str) -> Option<i64> {
    text.parse()
        .ok()
        .filter(|number: &i64| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::needless_pass_by_value,
        reason = "`json!` literals read better without a reference"
    )]

    use serde_json::{Value, json};

    use super::*;

    fn labels() -> BTreeMap<String, String> {
        [("zone", "b"), ("cores", "16"), ("empty", "")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[track_caller]
    fn check_term(term: Value, want: bool) {
        let parsed: NodeSelectorTerm = serde_json::from_value(term.clone()).unwrap();
        assert_eq!(
            any_term_matches(&[parsed], "node-1", &labels()),
            want,
            "{term}"
        );
    }

    #[track_caller]
    fn check_expression(key: &str, operator: &str, values: &[&str], want: bool) {
        check_term(
            json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
            want,
        );
    }

    #[test]
    fn expressions_match_as_the_scheduler_reads_them() {
        check_expression("zone", "In", &["a", "b"], true);
        check_expression("zone", "In", &["a"], false);
        check_expression("none", "In", &["a"], false);
        check_expression("empty", "In", &[""], true);
        check_expression("zone", "NotIn", &["a"], true);
        check_expression("zone", "NotIn", &["a", "b"], false);
        check_expression("none", "NotIn", &["a"], true);
        check_expression("zone", "Exists", &[], true);
        check_expression("none", "Exists", &[], false);
        check_expression("none", "DoesNotExist", &[], true);
        check_expression("zone", "DoesNotExist", &[], false);
        check_expression("cores", "Gt", &["15"], true);
        check_expression("cores", "Gt", &["16"], false);
        check_expression("cores", "Lt", &["17"], true);
        check_expression("cores", "Lt", &["16"], false);
        check_expression("none", "Lt", &["16"], false);
        check_expression("zone", "Gt", &["1"], false);
    }

    #[test]
    fn what_the_api_server_refuses_matches_nothing() {
        check_expression("zone", "In", &[], false);
        check_expression("zone", "NotIn", &[], false);
        check_expression("zone", "Exists", &["b"], false);
        check_expression("none", "DoesNotExist", &["b"], false);
        check_expression("cores", "Gt", &["1", "2"], false);
        check_expression("cores", "Gt", &["many"], false);
        check_expression("zone", "Equals", &["b"], false);
    }

    #[test]
    fn the_only_field_is_the_name_and_takes_one_value() {
        let field = |key: &str, operator: &str, values: &[&str]| json!({"matchFields": [{"key": key, "operator": operator, "values": values}]});
        check_term(field("metadata.name", "In", &["node-1"]), true);
        check_term(field("metadata.name", "In", &["node-2"]), false);
        check_term(field("metadata.name", "NotIn", &["node-2"]), true);
        check_term(field("metadata.name", "NotIn", &["node-1"]), false);
        check_term(field("metadata.name", "In", &["node-1", "node-2"]), false);
        check_term(field("metadata.name", "Exists", &[]), false);
        check_term(field("metadata.namespace", "In", &["node-1"]), false);
    }

    #[test]
    fn a_term_wants_all_its_requirements_and_an_empty_one_matches_nothing() {
        let name = json!({"key": "metadata.name", "operator": "In", "values": ["node-1"]});
        let zone = |zone| json!({"key": "zone", "operator": "In", "values": [zone]});
        check_term(
            json!({"matchExpressions": [zone("b")], "matchFields": [name]}),
            true,
        );
        check_term(
            json!({"matchExpressions": [zone("c")], "matchFields": [name]}),
            false,
        );
        check_term(json!({"matchExpressions": [zone("b"), zone("c")]}), false);
        check_term(json!({}), false);
        check_term(json!({"matchExpressions": [], "matchFields": []}), false);
        assert!(!any_term_matches(&[], "node-1", &labels()));
    }

    #[test]
    fn one_matching_term_is_enough() {
        let terms: Vec<NodeSelectorTerm> = serde_json::from_value(json!([
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["c"]}]},
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]},
        ]))
        .unwrap();
        assert!(any_term_matches(&terms, "node-1", &labels()));
    }

    #[track_caller]
    fn check_toleration(toleration: Value, want: bool) {
        let taint = Taint {
            key: "size".to_owned(),
            value: Some("5".to_owned()),
            effect: "NoSchedule".to_owned(),
            time_added: None,
        };
        let parsed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
        assert_eq!(tolerated(&taint, &[parsed]), want, "{toleration}");
    }

    #[test]
    fn tolerations_match_as_the_scheduler_reads_them() {
        check_toleration(json!({"operator": "Exists"}), true);
        check_toleration(json!({"key": "size", "operator": "Exists"}), true);
        check_toleration(json!({"key": "other", "operator": "Exists"}), false);
        check_toleration(json!({"key": "size", "value": "5"}), true);
        check_toleration(
            json!({"key": "size", "operator": "Equal", "value": "6"}),
            false,
        );
        check_toleration(json!({"key": "size", "operator": "Equal"}), false);
        check_toleration(
            json!({"key": "size", "value": "5", "effect": "NoSchedule"}),
            true,
        );
        check_toleration(
            json!({"key": "size", "value": "5", "effect": "NoExecute"}),
            false,
        );
        check_toleration(json!({"key": "size", "operator": "Gt", "value": "4"}), true);
        check_toleration(
            json!({"key": "size", "operator": "Gt", "value": "5"}),
            false,
        );
        check_toleration(
            json!({"key": "size", "operator": "Gt", "value": "x"}),
            false,
        );
        check_toleration(json!({"key": "size", "operator": "Lt", "value": "6"}), true);
        check_toleration(
            json!({"key": "size", "operator": "Lt", "value": "5"}),
            false,
        );
        check_toleration(
            json!({"key": "size", "operator": "Lt", "value": "06"}),
            false,
        );
        check_toleration(
            json!({"key": "size", "operator": "Near", "value": "5"}),
            false,
        );
    }
}
