//! Lends control planes to the tests of one process, one test at a time each, clean.
//!
//! Starting one takes seconds and half a gigabyte, so the tests of a process share [`PLANES_MAX`] of them. What is kept
//! between tests belongs to no async runtime, because each test has a runtime of its own.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{ControlPlane, Options, control_plane::is_external, scrub::scrub};

/// How many control planes the tests of one process share: 630 MB and half a core each, for machines with two cores.
pub const PLANES_MAX: u32 = 2;

/// Who writes what, without bodies: enough to count a program's writes, cheap enough to be always on.
const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, verbs: [create, update, patch, delete, deletecollection]}
- {level: None}
";

static SLOTS: Semaphore = Semaphore::const_new(PLANES_MAX as usize);
static IDLE: Mutex<Vec<ControlPlane>> = Mutex::new(Vec::new());

/// A control plane that is one test's alone until it is dropped.
#[derive(Debug)]
pub struct Leased {
    // Always there; taken out only by drop.
    plane: Option<ControlPlane>,
    /// Whether the next test may have it.
    is_shared: bool,
    _slot: SemaphorePermit<'static>,
}

/// Waits for a control plane, starts one if fewer than [`PLANES_MAX`] run, and cleans it of what the last test left:
/// workloads, pods, nodes, leases, webhooks, events, namespaces. It logs writes ([`ControlPlane::audit_log`]).
///
/// The cluster of `KUBECONFIG` is lent to one test at a time, logs nothing, and is cleaned only of namespaces that
/// [`ControlPlane::create_namespace`] made and of what carries a `holdfast.dev/` mark.
///
/// # Errors
/// It cannot be started ([`ControlPlane::start`]) or is not clean within a minute.
pub async fn lease() -> Result<Leased> {
    take(if is_external() { PLANES_MAX } else { 1 }).await
}

/// The same, with no other test on a control plane meanwhile: for what is measured in seconds.
///
/// # Errors
/// As for [`lease`].
pub async fn lease_alone() -> Result<Leased> {
    take(PLANES_MAX).await
}

async fn take(slots: u32) -> Result<Leased> {
    let external = is_external();
    let slot = SLOTS
        .acquire_many(slots)
        .await
        .context("the semaphore is never closed")?;
    let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let plane = match idle {
        Some(plane) => match scrub(&plane).await {
            Ok(()) => plane,
            Err(e) if external => return Err(e),
            Err(e) => {
                eprintln!("testbed: a control plane is replaced, it cannot be cleaned: {e:#}");
                drop(plane);
                start().await?
            }
        },
        None => start().await?,
    };
    Ok(Leased {
        plane: Some(plane),
        is_shared: true,
        _slot: slot,
    })
}

/// A control plane with `options` of its own, stopped when it is dropped.
///
/// # Errors
/// As for [`ControlPlane::start`].
pub async fn lease_with(options: Options) -> Result<Leased> {
    let slot = SLOTS
        .acquire()
        .await
        .context("the semaphore is never closed")?;
    Ok(Leased {
        plane: Some(ControlPlane::start(options).await?),
        is_shared: false,
        _slot: slot,
    })
}

async fn start() -> Result<ControlPlane> {
    if is_external() {
        let plane = ControlPlane::start(Options::default()).await?;
        // What an earlier run left there, if it was killed.
        scrub(&plane).await?;
        return Ok(plane);
    }
    ControlPlane::start(Options {
        audit_policy: Some(AUDIT_POLICY.to_owned()),
        ..Options::default()
    })
    .await
}

impl Deref for Leased {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        self.plane.as_ref().expect("it is there until drop")
    }
}

impl DerefMut for Leased {
    fn deref_mut(&mut self) -> &mut ControlPlane {
        self.plane.as_mut().expect("it is there until drop")
    }
}

impl Drop for Leased {
    /// Gives it back as it is: the next test cleans it, on a runtime that still runs.
    fn drop(&mut self) {
        if !self.is_shared {
            return;
        }
        // The body runs before the slot is given back, so whoever gets the slot finds this plane.
        IDLE.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(self.plane.take());
    }
}
