//! Virtual Kubernetes nodes whose pods keep their address: the part that knows Kubernetes and HTTP.

pub mod chain;
pub mod clock;
pub mod config;
pub mod node;
pub mod pod;
pub mod webhook;
