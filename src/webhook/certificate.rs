//! The webhook's certificate: a CA that lives as long as the process, and a leaf that it signs
//! anew before the old one ends.
//!
//! Nothing is written to disk. The CA has no end of its own (the API server gets it anew at
//! every start), so that a new leaf needs no new registration.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::https::Tls;

/// How long a leaf lives. It is replaced after half of that.
const LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How far the API server's clock may be behind ours.
const SKEW: SignedDuration = SignedDuration::from_hours(24);

/// No certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// rcgen made no key or certificate.
    #[error("cannot make a certificate for {names:?}")]
    Make {
        /// The names it was for.
        names: Vec<String>,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// rustls does not take what rcgen made.
    #[error("cannot serve with the certificate for {names:?}")]
    Use {
        /// The names it was for.
        names: Vec<String>,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// Who the webhook is to the API server.
pub(super) struct Identity {
    names: Vec<String>,
    ca: CertifiedIssuer<'static, KeyPair>,
    leaf: Mutex<Leaf>,
}

struct Leaf {
    config: Arc<ServerConfig>,
    issued: Timestamp,
}

impl Identity {
    /// An identity for the host names and addresses in `names`.
    pub(super) fn new(names: Vec<String>, now: Timestamp) -> Result<Self, Error> {
        let made = authority().and_then(|ca| Ok((sign(&ca, &names, now)?, ca)));
        let (signed, ca) = match made {
            Ok(made) => made,
            Err(source) => return Err(Error::Make { names, source }),
        };
        let leaf = Mutex::new(Leaf::new(signed, &names, now)?);
        Ok(Self { names, ca, leaf })
    }

    /// The CA certificate, in PEM, for the registration.
    pub(super) fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    /// What to serve with at `now`. Signs a new leaf when the present one is half through its
    /// life, or comes from the future because the clock was set back.
    fn leaf_config(&self, now: Timestamp) -> Result<Arc<ServerConfig>, Error> {
        let mut leaf = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
        if !(leaf.issued..leaf.issued + LIFE / 2).contains(&now) {
            let signed = sign(&self.ca, &self.names, now).map_err(|source| Error::Make {
                names: self.names.clone(),
                source,
            })?;
            *leaf = Leaf::new(signed, &self.names, now)?;
        }
        Ok(leaf.config.clone())
    }
}

impl Tls for Identity {
    fn server_config(
        &self,
        now: Timestamp,
    ) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.leaf_config(now)?)
    }
}

impl Leaf {
    fn new(
        (certificate, key): (rcgen::Certificate, KeyPair),
        names: &[String],
        issued: Timestamp,
    ) -> Result<Self, Error> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_no_client_auth()
                    .with_single_cert(vec![certificate.der().clone()], key)
            })
            .map_err(|source| Error::Use {
                names: names.to_owned(),
                source,
            })?;
        Ok(Self {
            config: Arc::new(config),
            issued,
        })
    }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(DnType::CommonName, "holdfast webhook CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(ca, KeyPair::generate()?)
}

fn sign(
    ca: &CertifiedIssuer<'static, KeyPair>,
    names: &[String],
    now: Timestamp,
) -> Result<(rcgen::Certificate, KeyPair), rcgen::Error> {
    let date = |at: Timestamp| {
        let since_1970 = Duration::from_secs(at.as_second().try_into().unwrap_or(0));
        rcgen::date_time_ymd(1970, 1, 1) + since_1970
    };
    let mut leaf = CertificateParams::new(names)?;
    leaf.distinguished_name
        .push(DnType::CommonName, "holdfast webhook");
    leaf.not_before = date(now - SKEW);
    leaf.not_after = date(now + LIFE);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok((leaf.signed_by(&key, ca)?, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(now: Timestamp) -> Identity {
        Identity::new(vec!["127.0.0.1".to_owned()], now).unwrap()
    }

    #[test]
    fn a_leaf_serves_half_its_life_and_is_then_signed_anew_by_the_same_ca() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let identity = identity(start);
        let ca = identity.ca_pem();
        let first = identity.leaf_config(start).unwrap();
        let before = identity
            .leaf_config(start + SignedDuration::from_hours(182 * 24))
            .unwrap();
        assert!(Arc::ptr_eq(&first, &before));
        let after = identity
            .leaf_config(start + SignedDuration::from_hours(183 * 24))
            .unwrap();
        assert!(!Arc::ptr_eq(&first, &after));
        assert_eq!(identity.ca_pem(), ca);
    }

    #[test]
    fn a_clock_set_back_gets_a_leaf_that_is_valid_then() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let identity = identity(start);
        let first = identity.leaf_config(start).unwrap();
        let back = identity
            .leaf_config(start - SignedDuration::from_hours(48))
            .unwrap();
        assert!(!Arc::ptr_eq(&first, &back));
    }

    #[test]
    fn a_name_that_no_certificate_can_carry_is_an_error() {
        let refused = Identity::new(vec!["naïve.svc".to_owned()], Timestamp::UNIX_EPOCH);
        assert!(matches!(refused, Err(Error::Make { .. })));
    }
}
