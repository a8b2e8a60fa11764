//! The control plane's certificates: one authority, one key pair per part, as PEM files.
//!
//! Made anew for every control plane; nothing here is fit for a cluster that outlives its test.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// One client certificate: file name, user and group, as Kubernetes reads CN and O.
const CLIENTS: [(&str, &str, Option<&str>); 5] = [
    ("admin", "admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    // The API server shows this one to kubelets.
    (
        "kubelet-client",
        "kube-apiserver-kubelet-client",
        Some("system:masters"),
    ),
    // The API server shows this one to aggregated API servers.
    ("front-proxy", "front-proxy", None),
];

/// The names under which clients and pods reach the API server; the last address is the Service `kubernetes`.
const SERVER_NAMES: [&str; 6] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "127.0.0.1",
    "10.96.0.1",
];

/// Writes `ca`, `apiserver` and each client as `NAME.crt` and `NAME.key`, and the key pair that signs service account
/// tokens as `service-account.key` and `.pub`.
pub(crate) fn write(dir: &Path) -> Result<()> {
    let authority = authority(dir)?;

    let mut server = CertificateParams::new(SERVER_NAMES.map(str::to_owned))
        .context("a server name is no name")?;
    server
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    issue(dir, "apiserver", &server, &authority)?;

    for (name, user, group) in CLIENTS {
        let mut client = CertificateParams::default();
        client.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            client
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        issue(dir, name, &client, &authority)?;
    }

    let tokens = KeyPair::generate().context("cannot make the service account key")?;
    put(dir, "service-account.key", &tokens.serialize_pem())?;
    put(dir, "service-account.pub", &tokens.public_key_pem())
}

fn authority(dir: &Path) -> Result<Issuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "testbed");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let key = KeyPair::generate().context("cannot make the authority's key")?;
    put(
        dir,
        "ca.crt",
        &params
            .self_signed(&key)
            .context("cannot sign the authority")?
            .pem(),
    )?;
    put(dir, "ca.key", &key.serialize_pem())?;
    Ok(Issuer::new(params, key))
}

fn issue(
    dir: &Path,
    name: &str,
    params: &CertificateParams,
    authority: &Issuer<'_, KeyPair>,
) -> Result<()> {
    let key = KeyPair::generate().with_context(|| format!("cannot make the key of {name}"))?;
    let certificate = params
        .signed_by(&key, authority)
        .with_context(|| format!("cannot sign the certificate of {name}"))?;
    put(dir, &format!("{name}.crt"), &certificate.pem())?;
    put(dir, &format!("{name}.key"), &key.serialize_pem())
}

fn put(dir: &Path, name: &str, pem: &str) -> Result<()> {
    fs::write(dir.join(name), pem).with_context(|| format!("cannot write {name}"))
}
