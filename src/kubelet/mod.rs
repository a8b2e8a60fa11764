//! The kubelet's API for the pods of a virtual node: what kubectl and others reach through it.
//!
//! Owns what clients of a kubelet ask it for. Does not decide what happens to pods.

pub mod container;
pub mod environment;
pub mod fields;
pub mod hosts;
pub mod life;
pub mod objects;
pub mod port;
pub mod scratch;
pub mod shell;
pub mod streaming;
pub mod tree;
pub mod volumes;
