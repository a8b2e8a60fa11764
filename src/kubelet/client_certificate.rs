//! Client certificates: asked for, not required, and judged when a request comes.
//!
//! A handshake takes any certificate, as a kubelet's does (`tls.RequestClientCert`): only that
//! its holder has the key is proved there. Who it stands for is decided for each request against
//! the cluster's client CA of that moment, so a new CA and the end of a certificate count on
//! connections that are already open.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::auth::User;

/// Takes any certificate whose holder proves to have its key.
#[derive(Debug)]
pub(super) struct Any {
    algorithms: WebPkiSupportedAlgorithms,
}

impl Any {
    pub(super) fn new(provider: &CryptoProvider) -> Self {
        Self {
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ClientCertVerifier for Any {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The authorities whose certificates stand for users of the cluster.
#[derive(Debug)]
pub(super) struct ClientCa {
    verifier: Arc<dyn ClientCertVerifier>,
}

/// The cluster's client CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the client CA is no PEM: {0}")]
    Pem(String),
    #[error("a certificate of the client CA cannot be used")]
    Certificate(#[source] rustls::Error),
    #[error("the client CA has no usable certificate")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

impl ClientCa {
    pub(super) fn parse(pem: &[u8]) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| Error::Pem(error.to_string()))?;
            roots.add(certificate).map_err(Error::Certificate)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(Error::Verifier)?;
        Ok(Self { verifier })
    }

    /// Whom the certificates stand for at `now`; `None` when this CA does not vouch for them.
    pub(super) fn user(&self, shown: &[CertificateDer<'static>], now: Timestamp) -> Option<User> {
        let (own, others) = shown.split_first()?;
        let since_1970 = u64::try_from(now.as_second()).ok()?;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(since_1970));
        self.verifier.verify_client_cert(own, others, now).ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(own).ok()?;
        let subject = parsed.subject();
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().map(str::to_owned).ok()
        };
        // CN is the user, each O a group (Kubernetes, "Authenticating", X.509 client certificates).
        let name = subject.iter_common_name().next().and_then(text)?;
        let mut groups: Vec<String> = subject.iter_organization().filter_map(text).collect();
        groups.push("system:authenticated".to_owned());
        (!name.is_empty()).then(|| User {
            name,
            groups,
            ..User::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair,
    };

    use super::*;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn certificate(
        ca: &CertifiedIssuer<'static, KeyPair>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "alice");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "ops");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        vec![params.signed_by(&key, ca).unwrap().der().clone()]
    }

    #[test]
    fn a_certificate_of_the_client_ca_stands_for_its_user_and_groups() {
        let ca = authority();
        let ours = ClientCa::parse(ca.pem().as_bytes()).unwrap();
        let shown = certificate(&ca, ExtendedKeyUsagePurpose::ClientAuth);
        let user = ours.user(&shown, Timestamp::now()).unwrap();
        assert_eq!(user.name, "alice");
        assert_eq!(user.groups, ["ops", "system:authenticated"]);
    }

    #[test]
    fn no_other_certificate_stands_for_anybody() {
        let ca = authority();
        let ours = ClientCa::parse(ca.pem().as_bytes()).unwrap();
        let now = Timestamp::now();
        assert_eq!(ours.user(&[], now), None);
        let foreign = certificate(&authority(), ExtendedKeyUsagePurpose::ClientAuth);
        assert_eq!(ours.user(&foreign, now), None);
        let server = certificate(&ca, ExtendedKeyUsagePurpose::ServerAuth);
        assert_eq!(ours.user(&server, now), None);
        // rcgen's certificates end in the year 4096.
        let client = certificate(&ca, ExtendedKeyUsagePurpose::ClientAuth);
        let long_after = now + SignedDuration::from_hours(24 * 365 * 3000);
        assert_eq!(ours.user(&client, long_after), None);
    }

    #[test]
    fn an_empty_or_broken_client_ca_is_an_error() {
        assert!(matches!(ClientCa::parse(b""), Err(Error::Verifier(_))));
        let broken = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert!(ClientCa::parse(broken).is_err());
    }
}
