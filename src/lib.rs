//! Virtual Kubernetes nodes whose pods keep their address: the part that knows Kubernetes and HTTP.

pub mod chain;
pub mod cli;
pub mod clock;
pub mod cluster_lease;
pub mod config;
pub mod descriptors;
mod https;
pub mod kube_client;
pub mod kubelet;
pub mod metrics;
pub mod node;
mod pause;
pub mod pod;
pub mod serve;
pub mod webhook;
