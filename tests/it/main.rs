//! End-to-end tests: the built program on a real control plane.
//!
//! Each test tells one rule as a user sees it. Tests share two control planes at most and take
//! turns on them; every wait is for a condition and has an end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod check;
mod churn;
mod cli;
mod cluster_lease;
mod crossing;
mod encoding;
mod explain;
mod faults;
mod healing;
mod hostile;
mod keeping;
mod kubectl;
mod kubelet;
mod life;
mod nodes;
mod opt_in;
mod peers;
mod pool;
mod restart;
mod rights;
mod run;
mod shutdown;
mod soak;
mod streams;
mod support;
mod terminal;
mod test_pod;
mod webhook;
mod workloads;
