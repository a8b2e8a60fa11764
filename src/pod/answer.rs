//! What the API server answers about a pod, as far as it is read: to a write the version that it led to, or why not.
//!
//! Owns the encoding of these answers. Protobuf costs the API server less than JSON, and of the answer to a write all but
//! one field is skipped here by its length. What an object looks like after a write the watch tells.

use bytes::Bytes;
use http::Request;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use prost::Message;
use serde::Deserialize;
use serde::de::Error as _;

use super::protobuf;
use super::view::PodView;

/// For the header `Accept`.
pub(super) const ACCEPT: &str = "application/vnd.kubernetes.protobuf, application/json";
/// The same where JSON cannot be read.
pub(super) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Any object, of which only the metadata is read.
#[derive(Message, Deserialize)]
struct Object {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
}

/// `ObjectMeta` of k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto.
#[derive(Message, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[prost(string, tag = "6")]
    resource_version: String,
}

/// `Status` of the same file.
#[derive(Message)]
struct Refusal {
    #[prost(string, tag = "3")]
    message: String,
    #[prost(string, tag = "4")]
    reason: String,
    #[prost(int32, tag = "6")]
    code: i32,
}

/// Sends a request and returns the body of its answer as it comes.
///
/// # Errors
/// The request was refused, or there was no answer.
pub(super) async fn send(client: &Client, request: Request<Vec<u8>>) -> kube::Result<Body> {
    // kube's own requests copy the body, and decode that of a DELETE twice.
    let answer = client.send(request.map(Body::from)).await?;
    let code = answer.status();
    let body = answer.into_body();
    if code.is_client_error() || code.is_server_error() {
        let body = body.collect_bytes().await?;
        return Err(kube::Error::Api(Box::new(refusal(
            Some(code.as_u16()),
            &body,
        ))));
    }
    Ok(body)
}

/// Sends a request and returns the body of its answer.
///
/// # Errors
/// As [`send`].
pub(super) async fn ask(client: &Client, request: Request<Vec<u8>>) -> kube::Result<Bytes> {
    send(client, request).await?.collect_bytes().await
}

/// `metadata.resourceVersion` of the object in a body.
///
/// # Errors
/// There is none.
pub(super) fn version(body: &Bytes) -> kube::Result<u64> {
    let object = if protobuf::is_protobuf(body) {
        decoded(body).map_err(serde_json::Error::custom)
    } else {
        serde_json::from_slice(body)
    };
    object
        .and_then(|object: Object| {
            let version = object.metadata.unwrap_or_default().resource_version;
            version.parse().map_err(|_| {
                serde_json::Error::custom(format!("`{version}` is no resource version"))
            })
        })
        .map_err(kube::Error::SerdeError)
}

/// The pod in a body.
///
/// # Errors
/// There is none.
pub(super) fn pod(body: &Bytes) -> kube::Result<PodView> {
    let pod = if protobuf::is_protobuf(body) {
        let object = protobuf::enclosed(body);
        object
            .and_then(PodView::decode)
            .map_err(serde_json::Error::custom)
    } else {
        serde_json::from_slice(body)
    };
    pod.map_err(kube::Error::SerdeError)
}

/// What a body says that refuses. A watch refuses without a `code` of HTTP.
pub(super) fn refusal(code: Option<u16>, body: &Bytes) -> Status {
    if let Ok(told) = decoded::<Refusal>(body) {
        let code = code.unwrap_or_else(|| u16::try_from(told.code).unwrap_or_default());
        return Status::failure(&told.message, &told.reason).with_code(code);
    }
    // What stands before the API server answers in its own words.
    let code = code.unwrap_or_default();
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(body);
        Status::failure(text.trim(), "Failed to parse error data").with_code(code)
    })
}

/// The message in a body's envelope.
///
/// # Errors
/// There is no envelope, or it holds something else.
pub(super) fn decoded<T: Message + Default>(body: &Bytes) -> Result<T, protobuf::Error> {
    Ok(T::decode(protobuf::enclosed(body)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body as the API server writes it: the envelope names the type first.
    fn protobuf(object: &impl Message) -> Bytes {
        protobuf::envelope("v1", "Pod", &object.encode_to_vec()).into()
    }

    #[test]
    fn the_version_is_read_out_of_protobuf_and_json() {
        let metadata = Some(Metadata {
            resource_version: "4711".to_owned(),
        });
        assert_eq!(version(&protobuf(&Object { metadata })).unwrap(), 4711);
        let json = br#"{"kind": "Pod", "metadata": {"name": "web-0", "resourceVersion": "12"}}"#;
        assert_eq!(version(&Bytes::from_static(json)).unwrap(), 12);
    }

    #[test]
    fn an_answer_without_a_version_is_an_error() {
        let bodies = [
            protobuf(&Object { metadata: None }),
            Bytes::from_static(b"k8s\0\xff\xff"),
            Bytes::from_static(b"{}"),
            Bytes::from_static(br#"{"metadata": {"resourceVersion": "new"}}"#),
            Bytes::from_static(b"<html>"),
            Bytes::new(),
        ];
        for body in bodies {
            assert!(version(&body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn a_refusal_keeps_its_code_and_its_words() {
        let told = protobuf(&Refusal {
            message: "pods \"web-0\" not found".to_owned(),
            reason: "NotFound".to_owned(),
            code: 404,
        });
        assert_eq!(refusal(None, &told).code, 404);
        let read = refusal(Some(404), &told);
        assert_eq!(
            (read.code, &*read.message, &*read.reason),
            (404, "pods \"web-0\" not found", "NotFound")
        );
        let read = refusal(Some(502), &Bytes::from_static(b"<html> no upstream\n"));
        assert_eq!((read.code, &*read.message), (502, "<html> no upstream"));
        let json = br#"{"kind": "Status", "code": 409, "message": "UID in precondition: a"}"#;
        let read = refusal(Some(409), &Bytes::from_static(json));
        assert_eq!((read.code, &*read.message), (409, "UID in precondition: a"));
    }
}
