//! Addresses, claims and ENIs for virtual Kubernetes nodes, and what became of each of them.
//!
//! Knows no Kubernetes: pods arrive here as plain facts. Layers, each using only those below:
//! [`engine`] (order of things), `ledger` (durable truth) and [`cloud`] (simulated ECS),
//! [`policy`] (pure decisions). [`check`] stands beside them and judges what they recorded.

pub mod check;
pub mod cloud;
pub mod engine;
#[cfg(test)]
mod failpoint;
pub mod id;
pub mod ledger;
pub mod policy;
pub mod settings;
mod sql;
