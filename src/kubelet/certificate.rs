//! The serving certificate of a listener: signed by the cluster where the cluster signs it,
//! self-signed until then.
//!
//! Owns the keys, which are never written down, and the requests to sign them
//! (`kubernetes.io/kubelet-serving`, Kubernetes, "Certificate Signing Requests"). It approves
//! nothing: the signer wants the subject `system:node:NAME` in the group `system:nodes`, which a
//! request may name whoever makes it, and the approval is up to an operator or a controller.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::time::{sleep, timeout};

use super::client_certificate::Any;
use crate::chain::chain;
use crate::https::Tls;

const SIGNER: &str = "kubernetes.io/kubelet-serving";
/// A self-signed certificate is replaced by the next start or by a signed one.
const SELF_SIGNED_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How far a client's clock may be behind ours.
const SKEW: SignedDuration = SignedDuration::from_hours(24);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// An approval by hand is not awaited by the second.
const LOOK_FIRST: Duration = Duration::from_secs(1);
const LOOK_MOST: Duration = Duration::from_secs(30);
/// After a refusal: long enough to be no burden, short enough that a change of mind counts.
const AFTER_REFUSAL: Duration = Duration::from_mins(15);

/// A certificate could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// rcgen made no key, certificate or request.
    #[error("cannot make a key or certificate for {node}")]
    Make {
        /// Whom it is for.
        node: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// rustls does not take the certificate.
    #[error("cannot serve with the certificate for {node}")]
    Use {
        /// Whom it is for.
        node: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The signed certificate cannot be read.
    #[error("the signed certificate for {node} cannot be read: {why}")]
    Unreadable {
        /// Whom it is for.
        node: String,
        /// Why.
        why: String,
    },
    /// The API server refused or was not reached.
    #[error("cannot {action} the certificate signing request for {node}")]
    Request {
        /// What was asked of it.
        action: &'static str,
        /// Whom it is for.
        node: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("no answer within {} s to the certificate signing request for {node}", REQUEST_TIMEOUT.as_secs())]
    TimedOut {
        /// Whom it is for.
        node: String,
    },
    /// It was denied, or the signer failed.
    #[error("the certificate signing request {request} for {node} was refused: {why}")]
    Refused {
        /// Whom it is for.
        node: String,
        /// Name of the request.
        request: String,
        /// In the words of who refused it.
        why: String,
    },
}

/// What one listener serves with.
#[derive(Debug)]
pub(super) struct Identity {
    node: String,
    address: String,
    current: Mutex<Arc<ServerConfig>>,
}

/// A certificate that the cluster signed.
struct Signed {
    config: Arc<ServerConfig>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// How a request to sign stands.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Waiting,
    Signed(Vec<u8>),
    Refused(String),
}

impl Tls for Identity {
    fn server_config(
        &self,
        _now: Timestamp,
    ) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(&current))
    }
}

impl Identity {
    /// A self-signed identity of the node, reached at `address`.
    pub(super) fn new(node: &str, address: &str, now: Timestamp) -> Result<Self, Error> {
        let make = |source| Error::Make {
            node: node.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(make)?;
        let mut params = params(node, address).map_err(make)?;
        let date = |at: Timestamp| {
            let since_1970 = Duration::from_secs(at.as_second().try_into().unwrap_or(0));
            rcgen::date_time_ymd(1970, 1, 1) + since_1970
        };
        params.not_before = date(now - SKEW);
        params.not_after = date(now + SELF_SIGNED_LIFE);
        let certificate = params.self_signed(&key).map_err(make)?;
        let config = config(node, vec![certificate.der().clone()], key)?;
        Ok(Self {
            node: node.to_owned(),
            address: address.to_owned(),
            current: Mutex::new(config),
        })
    }

    /// Has the cluster sign, takes over what it signed, and begins anew in time. Never returns.
    pub(super) async fn keep_signed(&self, client: Client) {
        let api: Api<CertificateSigningRequest> = Api::all(client);
        loop {
            let pause = match self.sign(&api).await {
                Ok(signed) => {
                    let pause =
                        until_renewal(signed.not_before, signed.not_after, Timestamp::now());
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = signed.config;
                    tracing::info!(node = %self.node, "the cluster signed the kubelet API's certificate");
                    pause
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error),
                        "the kubelet API goes on with the certificate that it has");
                    AFTER_REFUSAL
                }
            };
            sleep(pause).await;
        }
    }

    async fn sign(&self, api: &Api<CertificateSigningRequest>) -> Result<Signed, Error> {
        let (name, key) = self.create(api).await?;
        let mut pause = LOOK_FIRST;
        loop {
            sleep(pause).await;
            pause = LOOK_MOST.min(pause * 2);
            let Ok(Ok(found)) = timeout(REQUEST_TIMEOUT, api.get_opt(&name)).await else {
                // The API server is away: the request is still there when it comes back.
                continue;
            };
            // Cleaned up unanswered, which Kubernetes does after a day.
            let Some(found) = found else {
                return Err(self.refused(name, "it is gone".to_owned()));
            };
            match verdict(&found) {
                Verdict::Waiting => {}
                Verdict::Refused(why) => return Err(self.refused(name, why)),
                Verdict::Signed(pem) => return self.signed(&pem, key),
            }
        }
    }

    fn refused(&self, request: String, why: String) -> Error {
        Error::Refused {
            node: self.node.clone(),
            request,
            why,
        }
    }

    /// Creates the request and gives its name, and the key that it is for.
    async fn create(
        &self,
        api: &Api<CertificateSigningRequest>,
    ) -> Result<(String, KeyPair), Error> {
        let make = |source| Error::Make {
            node: self.node.clone(),
            source,
        };
        let key = KeyPair::generate().map_err(make)?;
        let pem = params(&self.node, &self.address)
            .and_then(|params| params.serialize_request(&key))
            .and_then(|request| request.pem())
            .map_err(make)?;
        let request = CertificateSigningRequest {
            metadata: ObjectMeta {
                generate_name: Some("holdfast-".to_owned()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: SIGNER.to_owned(),
                usages: Some(vec![
                    "digital signature".to_owned(),
                    "server auth".to_owned(),
                ]),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        let params = PostParams::default();
        let created = timeout(REQUEST_TIMEOUT, api.create(&params, &request)).await;
        let created = created.map_err(|_| Error::TimedOut {
            node: self.node.clone(),
        })?;
        let created = created.map_err(|source| Error::Request {
            action: "create",
            node: self.node.clone(),
            source: Box::new(source),
        })?;
        let name = created.metadata.name.unwrap_or_default();
        tracing::info!(node = %self.node, request = %name,
            "asked the cluster to sign the kubelet API's certificate; \
             `kubectl certificate approve` lets it");
        Ok((name, key))
    }

    fn signed(&self, pem: &[u8], key: KeyPair) -> Result<Signed, Error> {
        let unreadable = |why: String| Error::Unreadable {
            node: self.node.clone(),
            why,
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(error.to_string()))?;
        let first = chain
            .first()
            .ok_or_else(|| unreadable("it is empty".to_owned()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(first)
            .map_err(|error| unreadable(error.to_string()))?;
        let time = |at: x509_parser::time::ASN1Time| {
            Timestamp::from_second(at.timestamp()).map_err(|error| unreadable(error.to_string()))
        };
        let validity = parsed.validity();
        let (not_before, not_after) = (time(validity.not_before)?, time(validity.not_after)?);
        Ok(Signed {
            config: config(&self.node, chain, key)?,
            not_before,
            not_after,
        })
    }
}

/// When three quarters of its life are over, as a kubelet begins between 70 and 90 per cent.
fn until_renewal(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> Duration {
    let renew = not_before + not_after.duration_since(not_before) * 3 / 4;
    let left = renew.duration_since(now);
    // A signer with a very short life must not be asked without pause.
    left.max(SignedDuration::from_secs(10)).unsigned_abs()
}

fn verdict(request: &CertificateSigningRequest) -> Verdict {
    let Some(status) = &request.status else {
        return Verdict::Waiting;
    };
    if let Some(ByteString(pem)) = status.certificate.as_ref().filter(|one| !one.0.is_empty()) {
        return Verdict::Signed(pem.clone());
    }
    let conditions = status.conditions.iter().flatten();
    let refusal = conditions
        .filter(|one| matches!(&*one.type_, "Denied" | "Failed"))
        .map(|one| {
            let said = one.message.as_deref().or(one.reason.as_deref());
            format!("{}: {}", one.type_, said.unwrap_or("no reason given"))
        })
        .next();
    refusal.map_or(Verdict::Waiting, Verdict::Refused)
}

fn params(node: &str, address: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new([node.to_owned(), address.to_owned()])?;
    let name = &mut params.distinguished_name;
    name.push(DnType::OrganizationName, "system:nodes");
    name.push(DnType::CommonName, format!("system:node:{node}"));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn config(
    node: &str,
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
) -> Result<Arc<ServerConfig>, Error> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Any::new(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, key)
        })
        .map_err(|source| Error::Use {
            node: node.to_owned(),
            source,
        })?;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with_status(status: &serde_json::Value) -> CertificateSigningRequest {
        let request = json!({
            "metadata": {}, "spec": { "request": "", "signerName": SIGNER }, "status": status,
        });
        serde_json::from_value(request).unwrap()
    }

    #[test]
    fn a_request_waits_until_there_is_a_certificate_or_a_refusal() {
        let approved = json!({ "conditions": [{ "type": "Approved", "status": "True" }] });
        assert_eq!(verdict(&with_status(&approved)), Verdict::Waiting);
        let denied = json!({ "conditions": [
            { "type": "Denied", "status": "True", "message": "not here" },
        ] });
        assert_eq!(
            verdict(&with_status(&denied)),
            Verdict::Refused("Denied: not here".to_owned())
        );
        let signed = json!({ "certificate": "eA==" });
        assert_eq!(
            verdict(&with_status(&signed)),
            Verdict::Signed(b"x".to_vec())
        );
    }

    #[test]
    fn a_certificate_is_renewed_after_three_quarters_of_its_life() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (from, to) = (at("2026-01-01T00:00:00Z"), at("2026-01-05T00:00:00Z"));
        assert_eq!(
            until_renewal(from, to, at("2026-01-02T00:00:00Z")),
            Duration::from_hours(48)
        );
        assert_eq!(
            until_renewal(from, to, at("2026-01-04T12:00:00Z")),
            Duration::from_secs(10)
        );
    }

    #[test]
    fn a_certificate_for_another_key_is_not_served() {
        let identity = Identity::new("node-1", "127.0.0.1", Timestamp::now()).unwrap();
        let other = KeyPair::generate().unwrap();
        let signed = params("node-1", "127.0.0.1").unwrap().self_signed(&other);
        let pem = signed.unwrap().pem();
        let refused = identity.signed(pem.as_bytes(), KeyPair::generate().unwrap());
        assert!(matches!(refused, Err(Error::Use { .. })));
        assert!(identity.signed(pem.as_bytes(), other).is_ok());
    }
}
