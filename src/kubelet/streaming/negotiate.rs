//! The upgrade: which transport and which protocol, and the answer to it.

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use thiserror::Error;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";
/// RFC 6455 section 1.3.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Protocols of one path by name, each with what it means there.
pub(super) type Protocols<P> = [(&'static str, P)];

/// Why nothing was agreed on. The answers are the kubelet's.
#[derive(Debug, Error)]
pub(super) enum Refused {
    #[error("unable to upgrade: name a protocol in header {STREAM_PROTOCOL}")]
    NoProtocol,
    #[error("unable to upgrade: send Connection: Upgrade and Upgrade: {SPDY}")]
    NoUpgrade,
    #[error("unable to upgrade: client supports {offered:?}, server accepts {ours:?}")]
    NothingInCommon {
        offered: Vec<String>,
        ours: Vec<&'static str>,
    },
    #[error("unable to upgrade: a WebSocket is opened with GET")]
    Method,
    #[error("unable to upgrade: send Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key")]
    Handshake,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NoProtocol | Self::NoUpgrade | Self::Handshake => StatusCode::BAD_REQUEST,
            Self::NothingInCommon { .. } => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        };
        let mut answer = (status, self.to_string()).into_response();
        let headers = answer.headers_mut();
        match self {
            Self::NothingInCommon { ours, .. } => {
                for name in ours {
                    headers.append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
                }
            }
            Self::Handshake => {
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        answer
    }
}

/// What was agreed on, and the answer that says so.
pub(super) struct Agreed<P> {
    pub(super) protocol: P,
    pub(super) answer: Response,
}

/// Whether a request wants to be upgraded to WebSocket; everything else is taken for SPDY.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE).map(HeaderValue::as_bytes);
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(b"websocket"))
        && has_token(headers, &CONNECTION, "upgrade")
}

/// Agrees on SPDY, with the first protocol of the client's that there is.
pub(super) fn spdy<P: Copy>(
    request: &Request,
    protocols: &Protocols<P>,
) -> Result<Agreed<P>, Refused> {
    let headers = request.headers();
    let offered = list(headers, &STREAM_PROTOCOL);
    if offered.is_empty() {
        return Err(Refused::NoProtocol);
    }
    let (name, protocol) = choose(offered, protocols)?;
    if !has_token(headers, &CONNECTION, "upgrade") || !has_token(headers, &UPGRADE, SPDY) {
        return Err(Refused::NoUpgrade);
    }
    let answer = switch(&[
        (UPGRADE, HeaderValue::from_static(SPDY)),
        (STREAM_PROTOCOL, HeaderValue::from_static(name)),
    ]);
    Ok(Agreed { protocol, answer })
}

/// Agrees on a WebSocket subprotocol; a client that names none has the one named "" here.
pub(super) fn websocket<P: Copy>(
    request: &Request,
    protocols: &Protocols<P>,
) -> Result<Agreed<P>, Refused> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Refused::Method);
    }
    let version = headers.get(SEC_WEBSOCKET_VERSION);
    let (Some(b"13"), Some(key)) = (
        version.map(HeaderValue::as_bytes),
        headers.get(SEC_WEBSOCKET_KEY),
    ) else {
        return Err(Refused::Handshake);
    };
    let mut offered = list(headers, &SEC_WEBSOCKET_PROTOCOL);
    if offered.is_empty() {
        offered.push(String::new());
    }
    let (name, protocol) = choose(offered, protocols)?;
    let mut agreed = vec![
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accept_key(key)),
    ];
    if !name.is_empty() {
        agreed.push((SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name)));
    }
    let answer = switch(&agreed);
    Ok(Agreed { protocol, answer })
}

fn switch(headers: &[(HeaderName, HeaderValue)]) -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = HeaderValue::from_static("Upgrade");
    answer.headers_mut().insert(CONNECTION, upgrade);
    answer.headers_mut().extend(headers.iter().cloned());
    answer
}

fn accept_key(key: &HeaderValue) -> HeaderValue {
    // SHA-1 is what RFC 6455 asks for; it protects nothing here.
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(WEBSOCKET_GUID);
    let accept = STANDARD.encode(digest.finish());
    HeaderValue::from_str(&accept).expect("base64 is valid in a header")
}

fn choose<P: Copy>(
    offered: Vec<String>,
    protocols: &Protocols<P>,
) -> Result<(&'static str, P), Refused> {
    let ours = |name: &String| protocols.iter().find(|(own, _)| own == name).copied();
    offered.iter().find_map(ours).ok_or_else(|| {
        let ours = protocols.iter().map(|(name, _)| *name).collect();
        Refused::NothingInCommon { offered, ours }
    })
}

/// The values of a header, one line each or with commas: kubectl sends the one, kube-rs the other.
fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).into_iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    let values = lines.flat_map(|line| line.split(',')).map(str::trim);
    let values = values.filter(|value| !value.is_empty());
    values.map(str::to_owned).collect()
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut tokens = list(headers, name).into_iter();
    tokens.any(|own| own.eq_ignore_ascii_case(token))
}
