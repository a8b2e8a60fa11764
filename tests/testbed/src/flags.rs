//! The flags of the components of a control plane. Files are named without a path: components run in its directory.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::Options;

pub(crate) fn etcd(client_port: u16, peer_port: u16) -> Vec<String> {
    vec![
        "--data-dir=etcd".to_owned(),
        format!("--listen-client-urls=http://127.0.0.1:{client_port}"),
        format!("--advertise-client-urls=http://127.0.0.1:{client_port}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
        "--quota-backend-bytes=8589934592".to_owned(),
        // Nothing here survives the process anyway, and a disk shared with a compiler syncs slowly: an API server whose
        // writes wait for it times out in places that have nothing to do with the test.
        "--unsafe-no-fsync".to_owned(),
    ]
}

pub(crate) fn apiserver(
    dir: &Path,
    etcd_port: u16,
    secure_port: u16,
    options: &Options,
) -> Result<Vec<String>> {
    let mut flags = vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        format!("--secure-port={secure_port}"),
    ];
    flags.extend(
        [
            "--bind-address=127.0.0.1",
            // Without it a machine that has no default route cannot start; nobody looks for the Service `kubernetes`.
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--tls-cert-file=apiserver.crt",
            "--tls-private-key-file=apiserver.key",
            "--client-ca-file=ca.crt",
            "--service-account-key-file=service-account.pub",
            "--service-account-signing-key-file=service-account.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged",
            "--kubelet-client-certificate=kubelet-client.crt",
            "--kubelet-client-key=kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP,Hostname",
            "--requestheader-client-ca-file=ca.crt",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--proxy-client-cert-file=front-proxy.crt",
            "--proxy-client-key-file=front-proxy.key",
            "--enable-aggregator-routing",
        ]
        .map(str::to_owned),
    );
    if let Some(policy) = &options.audit_policy {
        fs::write(dir.join("audit-policy.yaml"), policy)
            .context("cannot write the audit policy")?;
        flags.extend(
            [
                "--audit-policy-file=audit-policy.yaml",
                "--audit-log-path=audit.log",
            ]
            .map(str::to_owned),
        );
    }
    flags.extend_from_slice(&options.apiserver_flags);
    Ok(flags)
}

/// What the controller manager and the scheduler have in common.
pub(crate) fn client(user: &str) -> Vec<String> {
    let kubeconfig = format!("{user}.kubeconfig");
    let mut flags = [
        "--kubeconfig",
        "--authentication-kubeconfig",
        "--authorization-kubeconfig",
    ]
    .map(|flag| format!("{flag}={kubeconfig}"))
    .to_vec();
    flags.extend(
        [
            // One of each: an election would cost its lease duration after every start.
            "--leader-elect=false",
            // No HTTPS of their own, so no port to lose a race for.
            "--secure-port=0",
            // The defaults, 20 to 50 requests/s, are what a test of hundreds of pods would measure.
            "--kube-api-qps=5000",
            "--kube-api-burst=10000",
        ]
        .map(str::to_owned),
    );
    flags
}
