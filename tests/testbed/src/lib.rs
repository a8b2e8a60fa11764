//! A real Kubernetes control plane on loopback, for tests and demos that must not believe in a mock.
//!
//! Owns: building Go programs once ([`GoProgram`]), running etcd, kube-apiserver,
//! kube-controller-manager and kube-scheduler out of it ([`ControlPlane`]), sharing a few of them between the tests of
//! one process ([`lease`]), running the program under test ([`Holdfast`]), and watching pods the way
//! `kubectl get pod -o wide -w` shows them ([`PodRecorder`]).
//!
//! Promises: no process outlives its owner, whatever ends the owner (see `process`). With `KUBECONFIG` set nothing is
//! started and that cluster is used.
//!
//! Deliberately knows nothing of addresses, claims or how holdfast works: it starts it, signals it and reads its log.

mod command;
mod control_plane;
mod flags;
mod go_program;
mod holdfast;
mod lease;
mod outage;
mod pki;
mod pods;
mod ports;
mod process;
mod proxy;
mod recorder;
mod scrub;
mod skew;
mod state;
mod wait;

pub use command::{build_holdfast, run};
pub use control_plane::{ControlPlane, Options, is_external};
pub use go_program::{
    CONTROL_PLANE, GoProgram, KUBECTL_1_30, KWOK, METRICS_SERVER, VIRTUAL_KUBELET_SUITE,
};
pub use holdfast::Holdfast;
pub use lease::{Leased, PLANES_MAX, lease, lease_alone, lease_with};
pub use pods::{PodRow, status_column};
pub use ports::free_ports_in_a_row;
pub use proxy::Proxy;
pub use recorder::PodRecorder;
pub use skew::Skew;
pub use wait::eventually;
