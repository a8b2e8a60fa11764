//! The requests that are made about pods, each with a deadline, and what their refusals mean.
//!
//! Owns the kind of request that writes a status: one PUT or strategic merge patch of the subresource
//! `status`, annotations included, with the UID in the body. Retries nothing; the agent does.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_provider::id::{NodeName, PodKey, PodUid};
use http::{Method, Request, StatusCode, header};
use json_patch::PatchOperation;
use k8s_openapi::api::core::v1::Node;
use kube::core::Status;
use kube::{Api, Client};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::agent::{ForeignNode, ObjectKey, Refused, StatusWrite};
use super::answer::{self, ask};
use super::needs::{Found, Kind};
use super::view::PodView;
use crate::chain::chain;
use crate::node::{VIRTUAL_TYPE_LABEL, VIRTUAL_TYPE_VALUE};

/// Longer than the API server's own limit for most requests would only hold the place.
const DEADLINE: Duration = Duration::from_secs(30);
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Writes a status; the version of the pod that has it.
pub(super) async fn write_status(
    client: &Client,
    key: &PodKey,
    write: StatusWrite,
) -> Result<u64, Refused> {
    let (method, kind, body) = match write {
        StatusWrite::Put(body) => (Method::PUT, answer::PROTOBUF, body),
        StatusWrite::Patch(body) => (
            Method::PATCH,
            "application/strategic-merge-patch+json",
            body,
        ),
    };
    let request = pod_request(method, key, "/status")
        .header(header::CONTENT_TYPE, kind)
        .header(header::ACCEPT, answer::ACCEPT)
        .body(body);
    let request = request.expect("a pod's path is a valid URI");
    judge("write a status", key, async {
        answer::version(&ask(client, request).await?)
    })
    .await
}

/// Deletes the object at once, but no later pod of the same name. What comes of it the watch tells.
pub(super) async fn delete(client: &Client, key: &PodKey, uid: &PodUid) -> Result<(), Refused> {
    let options = serde_json::json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": { "uid": uid.as_str() },
    });
    let request = pod_request(Method::DELETE, key, "")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, answer::ACCEPT)
        .body(options.to_string().into_bytes());
    let request = request.expect("a pod's path is a valid URI");
    judge("delete a pod", key, ask(client, request))
        .await
        .map(drop)
}

/// Adds the toleration to the version that was seen, so that it is not added twice.
pub(super) async fn tolerate(
    client: &Client,
    key: &PodKey,
    uid: &PodUid,
    version: &str,
    patch: PatchOperation,
) -> Result<(), Refused> {
    let fence =
        |path: &str, value: &str| serde_json::json!({ "op": "test", "path": path, "value": value });
    let body = serde_json::json!([
        fence("/metadata/uid", uid.as_str()),
        fence("/metadata/resourceVersion", version),
        patch,
    ]);
    let request = pod_request(Method::PATCH, key, "")
        .header(header::CONTENT_TYPE, "application/json-patch+json")
        .body(body.to_string().into_bytes());
    let request = request.expect("a pod's path is a valid URI");
    let added = async {
        match ask(client, request).await {
            Err(kube::Error::Api(status)) if is_unprocessable(&status) => Ok(Err(status)),
            answer => answer.map(Ok),
        }
    };
    let Err(refusal) = judge("add a toleration", key, added).await? else {
        return Ok(());
    };
    // A test that fails is answered like what the pod may not become: which of the two it was, its version tells.
    let now = look(client, key).await?.ok_or(Refused::Gone)?;
    if now.metadata.resource_version.as_deref() == Some(version) {
        let error = refusal.message;
        tracing::warn!(object = %key, operation = "add a toleration", error, "a request was refused");
        return Err(Refused::Later);
    }
    Err(Refused::Stale)
}

/// The pod of this name, as the API server has it now.
pub(super) async fn look(client: &Client, key: &PodKey) -> Result<Option<Box<PodView>>, Refused> {
    let found = judge("look for a pod", key, async {
        // Unlike the others, it may be about a name that somebody has typed.
        let request = pod_request(Method::GET, key, "")
            .header(header::ACCEPT, answer::ACCEPT)
            .body(Vec::new())
            .map_err(kube::core::request::Error::BuildRequest)
            .map_err(kube::Error::BuildRequest)?;
        answer::pod(&ask(client, request).await?)
    });
    match found.await {
        Ok(pod) => Ok(Some(Box::new(pod))),
        Err(Refused::Gone) => Ok(None),
        Err(refused) => Err(refused),
    }
}

/// The keys of a ConfigMap or Secret. Its values are skipped by the parser.
pub(super) async fn look_object(client: &Client, key: &ObjectKey) -> Found {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    #[expect(
        clippy::zero_sized_map_values,
        reason = "a parser that skips the values of a map"
    )]
    struct Data {
        data: HashMap<Box<str>, IgnoredAny>,
        binary_data: HashMap<Box<str>, IgnoredAny>,
    }
    let kinds = match key.object.kind {
        Kind::ConfigMap => "configmaps",
        Kind::Secret => "secrets",
    };
    let (namespace, name) = (&key.namespace, &key.object.name);
    // A volume may name what no object can be called: the API server does not look at it.
    if !is_object_name(name) {
        return Found::Nothing;
    }
    let uri = format!("/api/v1/namespaces/{namespace}/{kinds}/{name}");
    let request = Request::get(uri).body(Vec::new());
    let request = request.expect("the path of an object with such a name is a valid URI");
    match attempt("look for an object", key, client.request::<Data>(request)).await {
        Ok(found) => Found::Keys(
            found
                .data
                .into_keys()
                .chain(found.binary_data.into_keys())
                .collect(),
        ),
        Err((Refused::Gone, _)) => Found::Nothing,
        Err((_, why)) => Found::Refused(why.into()),
    }
}

/// Whether an object can have this name: a DNS subdomain (RFC 1123).
pub(crate) fn is_object_name(name: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    name.len() <= 253
        && name.split('.').all(|label| {
            !(label.is_empty() || label.starts_with('-') || label.ends_with('-'))
                && label.bytes().all(inner)
        })
}

/// The node of this name, as far as it tells its type.
pub(super) async fn look_node(
    client: &Client,
    name: &NodeName,
) -> Result<Option<ForeignNode>, Refused> {
    let api: Api<Node> = Api::all(client.clone());
    let found = judge("look at a node", name, api.get_metadata_opt(name.as_str())).await?;
    Ok(found.map(|node| {
        let labels = node.metadata.labels.unwrap_or_default();
        ForeignNode {
            is_virtual: labels.get(VIRTUAL_TYPE_LABEL).map(String::as_str)
                == Some(VIRTUAL_TYPE_VALUE),
            zone: labels.get(ZONE_LABEL).map_or("", String::as_str).into(),
        }
    }))
}

fn pod_request(method: Method, key: &PodKey, subresource: &str) -> http::request::Builder {
    let uri = format!(
        "/api/v1/namespaces/{}/pods/{}{subresource}",
        key.namespace, key.name
    );
    Request::builder().method(method).uri(uri)
}

async fn judge<T>(
    operation: &'static str,
    object: &impl std::fmt::Display,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Refused> {
    let attempted = attempt(operation, object, request).await;
    attempted.map_err(|(refused, _)| refused)
}

/// Makes a request; what its refusal means, and how it is put into words.
async fn attempt<T>(
    operation: &'static str,
    object: &impl std::fmt::Display,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, (Refused, String)> {
    let error = match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error,
        Err(_) => {
            tracing::warn!(%object, operation, "the API server did not answer in time");
            let why = "the API server did not answer in time".to_owned();
            return Err((Refused::Later, why));
        }
    };
    let kube::Error::Api(status) = &error else {
        let why = chain(&error).to_string();
        tracing::warn!(%object, operation, error = why, "a request failed");
        return Err((Refused::Later, why));
    };
    let refused = if is_gone(status) {
        Refused::Gone
    } else if is_stale(status) {
        tracing::debug!(%object, operation, "the object has changed meanwhile");
        Refused::Stale
    } else {
        tracing::warn!(%object, operation, error = %chain(&error), "a request was refused");
        Refused::Later
    };
    Err((refused, status.message.clone()))
}

/// Whether the API server says that the object is gone or that another one has its name. A status
/// with another UID in it is answered 422 "field is immutable".
pub(super) fn is_gone(status: &Status) -> bool {
    match StatusCode::from_u16(status.code) {
        // A proxy that has lost its API server says 404 of everything, and gives no reason.
        Ok(StatusCode::NOT_FOUND) => status.reason == "NotFound",
        // "UID in precondition: ..." of the storage, "the UID in the precondition (...)" of the registry.
        Ok(StatusCode::CONFLICT) => {
            let says = |words| status.message.contains(words);
            says("UID in precondition") || says("UID in the precondition")
        }
        Ok(StatusCode::UNPROCESSABLE_ENTITY) => status.message.contains("metadata.uid"),
        _ => false,
    }
}

fn is_unprocessable(status: &Status) -> bool {
    status.code == StatusCode::UNPROCESSABLE_ENTITY.as_u16()
}

/// Whether the object has another version than the request.
pub(super) fn is_stale(status: &Status) -> bool {
    status.code == StatusCode::CONFLICT.as_u16() && !is_gone(status)
}

#[cfg(test)]
mod tests {
    use kube::client::Body;

    use super::*;
    use crate::pod::needs::Object;

    /// A client whose requests are all answered like this.
    fn answering(code: u16, body: &'static str) -> Client {
        let service = tower::service_fn(move |_: Request<Body>| async move {
            let answer = http::Response::builder().status(code);
            Ok::<_, std::convert::Infallible>(
                answer.body(Body::from(body.as_bytes().to_vec())).unwrap(),
            )
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_refusal_is_told_from_an_answer_whatever_its_body() {
        let (key, uid) = (PodKey::new("default", "web-0"), PodUid::from("u"));
        let check = async |code, body, want| {
            let answer = delete(&answering(code, body), &key, &uid).await;
            assert_eq!(answer, want, "{code} {body}");
        };
        let metadata = r#"{"kind": "PartialObjectMetadata", "metadata": {"uid": "u"}}"#;
        check(200, metadata, Ok(())).await;
        let not_found = r#"{"kind": "Status", "reason": "NotFound", "code": 404}"#;
        check(404, not_found, Err(Refused::Gone)).await;
        check(503, "<html>", Err(Refused::Later)).await;
    }

    #[tokio::test]
    async fn only_the_api_server_says_that_a_pod_is_gone_and_no_proxy_before_it() {
        let (key, uid) = (PodKey::new("default", "web-0"), PodUid::from("u"));
        let told = r#"{"kind": "Status", "reason": "NotFound", "code": 404}"#;
        assert!(matches!(look(&answering(404, told), &key).await, Ok(None)));
        for page in [
            "404 page not found",
            "<html>",
            "",
            r#"{"error": "no such backend"}"#,
            r#"{"kind": "Status", "code": 404}"#,
        ] {
            let client = answering(404, page);
            let looked = look(&client, &key).await.map(drop);
            let deleted = delete(&client, &key, &uid).await;
            let later = Err(Refused::Later);
            assert_eq!((looked, deleted), (later, later), "{page}");
        }
    }

    #[tokio::test]
    async fn a_toleration_for_a_pod_that_has_changed_was_late_and_not_wrong() {
        let (key, uid) = (PodKey::new("default", "web-0"), PodUid::from("u"));
        let patch = crate::webhook::toleration_patch(&[]).unwrap();
        // With the version that the pod has.
        let check = async |code: u16, reason: &str, version: &str, want| {
            let status = format!(r#"{{"kind": "Status", "reason": "{reason}", "code": {code}}}"#);
            let pod =
                serde_json::json!({"metadata": {"name": "web-0", "resourceVersion": version}});
            let pod = pod.to_string();
            let service = tower::service_fn(move |request: Request<Body>| {
                let (code, body) = match *request.method() {
                    Method::PATCH => (code, status.clone()),
                    _ => (200, pod.clone()),
                };
                let answer = http::Response::builder().status(code);
                let answer = answer.header(header::CONTENT_TYPE, "application/json");
                let answer = answer.body(Body::from(body.into_bytes())).unwrap();
                std::future::ready(Ok::<_, std::convert::Infallible>(answer))
            });
            let client = Client::new(service, "default");
            let answer = tolerate(&client, &key, &uid, "1", patch.clone()).await;
            assert_eq!(answer, want, "{code} {version}");
        };
        check(200, "", "2", Ok(())).await;
        check(422, "Invalid", "2", Err(Refused::Stale)).await;
        check(422, "Invalid", "1", Err(Refused::Later)).await;
        check(403, "Forbidden", "1", Err(Refused::Later)).await;
        check(404, "NotFound", "1", Err(Refused::Gone)).await;
    }

    #[tokio::test]
    async fn an_object_that_can_have_no_such_name_is_not_there_and_a_refusal_says_why() {
        let check = async |name: &str, code, body, want: Found| {
            let key = ObjectKey {
                namespace: "default".into(),
                object: Object {
                    kind: Kind::Secret,
                    name: name.into(),
                },
            };
            let found = look_object(&answering(code, body), &key).await;
            assert_eq!(found, want, "{name:?} {code} {body}");
        };
        let here = r#"{"kind": "Secret", "data": {"k": "dg=="}}"#;
        check("app.v1-2", 200, here, Found::Keys(["k".into()].into())).await;
        let long = "a".repeat(254);
        for name in [
            "{{ .Values.cm }}",
            "my secret",
            "a?b",
            "a#b",
            "a/b",
            "..",
            "a..b",
            "-a",
            "A",
            &long,
        ] {
            check(name, 200, here, Found::Nothing).await;
        }
        check(
            "s",
            404,
            r#"{"kind": "Status", "reason": "NotFound", "code": 404}"#,
            Found::Nothing,
        )
        .await;
        let forbidden =
            r#"{"kind": "Status", "code": 403, "message": "secrets \"s\" is forbidden"}"#;
        check(
            "s",
            403,
            forbidden,
            Found::Refused("secrets \"s\" is forbidden".into()),
        )
        .await;
    }

    #[test]
    fn another_uid_under_the_name_means_gone_and_all_else_is_tried_again() {
        let check = |code: u16, message: &str, want: bool| {
            let status = Status {
                code,
                message: message.into(),
                ..Status::default()
            };
            assert_eq!(is_gone(&status), want, "{code} {message}");
        };
        check(
            409,
            "Precondition failed: UID in precondition: a, UID in object meta: b",
            true,
        );
        check(
            409,
            "Operation cannot be fulfilled on pods \"web-0\": the UID in the precondition (a) does not match the UID in record (b). The object might have been deleted and then recreated",
            true,
        );
        check(409, "the object has been modified", false);
        check(
            422,
            "metadata.uid: Invalid value: \"a\": field is immutable",
            true,
        );
        check(422, "status.podIPs: Invalid value", false);
        check(500, "", false);
        check(429, "", false);
    }
}
