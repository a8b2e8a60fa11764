//! What decides about a pod that asks for a network: the facts out of the rows, and what follows.
//!
//! Only reads. [`Op::acquire`](crate::ledger::op::Op::acquire) carries a plan out in the same
//! transaction; [`explain`](crate::ledger::explain) shows it.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use rusqlite::Result;

use crate::engine::{Creation, Node};
use crate::id::{NodeType, PodKey, PodUid, VSwitchId};
use crate::ledger::carrier;
use crate::ledger::free::Free;
use crate::ledger::op::{self, PodRow, time};
use crate::ledger::pool::VSwitchRef;
use crate::policy::eni::{State, Target};
use crate::policy::opt_in::{FixedIp, OptIn};
use crate::policy::placement;
use crate::policy::retained::{self, Applicant, Claim, Close, Holder, Lost, Placement, Verdict};
use crate::sql::Tx;

/// The rows as one transaction has them, at a time.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) tx: &'a Tx<'a>,
    pub(crate) now: Timestamp,
    /// The wall clock, by which retentions end.
    pub(crate) wall: Timestamp,
    pub(crate) cluster: &'a str,
    pub(crate) vswitches: &'a [VSwitchRef],
    pub(crate) free: &'a Free,
}

/// Whether anything is still to be decided about a pod.
pub(super) enum Standing {
    /// No: it has its network, or gets none any more.
    Settled(PodRow),
    /// No: it was accepted, is gone and has let go.
    LetGo,
    /// No: it was accepted as a pod of another cluster, whose rows are left as they are.
    OfAnotherCluster(PodRow),
    /// Yes; with its row, when it was accepted and waits.
    Asks(Option<PodRow>),
}

/// A pod that asks.
pub(super) struct Asks<'a> {
    pub(super) key: &'a PodKey,
    pub(super) created: Creation,
    pub(super) node: &'a Node,
    pub(super) fixed_ip: bool,
    /// The vSwitches that it names.
    pub(super) vswitches: &'a [VSwitchId],
    /// It is on an ECS node that is not ours, and asks for no address.
    pub(super) foreign: bool,
}

/// An open claim with what is needed to act on it.
pub(super) struct OpenClaim {
    pub(super) id: i64,
    pub(super) eni: i64,
    pub(super) address: Ipv4Addr,
    pub(super) deleted_ms: Option<i64>,
    pub(super) facts: Claim,
    /// When the holder was made, if it holds on to nothing and was told to.
    idle_holder: Option<Creation>,
}

/// What is to happen, and the facts that it follows from.
pub(super) struct Plan {
    /// The vSwitches that the pod may use, best first.
    pub(super) allowed: Vec<VSwitchId>,
    pub(super) claim: Option<OpenClaim>,
    pub(super) last: Option<Placement>,
    pub(super) step: Planned,
}

/// What is to happen.
pub(super) enum Planned {
    /// Nothing: no configured vSwitch may be used.
    NoVSwitch(String),
    /// The claim's address is given back.
    Keep,
    /// Nothing: the old pod has not let go.
    Wait(String),
    /// An address out of the pool.
    Fresh(Fresh),
}

/// An address out of the pool.
pub(super) struct Fresh {
    /// Which, with the row of its vSwitch. `None`: there is none.
    pub(super) found: Option<(i64, Ipv4Addr)>,
    /// Why the open claim ends.
    pub(super) close: Option<Close>,
    /// Whether it ends although no address was found.
    pub(super) close_first: bool,
    /// Whether the new address is claimed.
    pub(super) claim: bool,
    pub(super) notice: Option<Lost>,
}

impl<'a> Rows<'a> {
    pub(super) fn standing(&self, uid: &PodUid, created_at: Timestamp) -> Result<Standing> {
        Ok(match op::pod(self.tx, uid)? {
            Some(row) if row.cluster.as_str() != self.cluster => Standing::OfAnotherCluster(row),
            Some(row) if row.eni.is_some() || row.deleted || row.is_over() => {
                Standing::Settled(row)
            }
            None if self.has_let_go(uid, created_at)? => Standing::LetGo,
            known => Standing::Asks(known),
        })
    }

    /// Whether the pod was accepted, is gone and has let go: a late view of it changes nothing.
    fn has_let_go(&self, uid: &PodUid, created_at: Timestamp) -> Result<bool> {
        let let_go = self.tx.row(
            "SELECT 1 FROM pod_log WHERE created_ms = ?1 AND uid = ?2 AND let_go_ms IS NOT NULL",
            (created_at.as_millisecond(), uid.as_str()),
            |_| Ok(()),
        )?;
        Ok(let_go.is_some())
    }

    /// Gathers the facts and asks the policy. What the pod's mere existence proves about older
    /// pods of its name need not have been written yet.
    pub(super) fn plan(&self, asks: &Asks<'_>) -> Result<Plan> {
        let zone = &asks.node.zone;
        let allowed = if asks.foreign {
            Ok(Vec::new())
        } else {
            placement::allowed(zone, asks.vswitches, &self.candidates(asks)?)
        };
        let mut claim = self.open_claim(asks.key)?;
        if let Some(claim) = &mut claim
            && claim.idle_holder.is_some_and(|held| held <= asks.created)
        {
            claim.facts.holder = None;
        }
        let last = self.placement(asks.key)?;
        let (allowed, step) = match allowed {
            Err(note) => (Vec::new(), Planned::NoVSwitch(note)),
            Ok(allowed) => {
                let facts = claim.as_ref().map(|claim| &claim.facts);
                let step = self.step(asks, &allowed, facts, last.as_ref())?;
                (allowed, step)
            }
        };
        Ok(Plan {
            allowed,
            claim,
            last,
            step,
        })
    }

    /// What follows from the facts.
    pub(super) fn step(
        &self,
        asks: &Asks<'_>,
        allowed: &[VSwitchId],
        claim: Option<&Claim>,
        last: Option<&Placement>,
    ) -> Result<Planned> {
        let applicant = Applicant {
            key: asks.key,
            created_at: asks.created.at,
            node: &asks.node.name,
            node_type: asks.node.node_type,
            zone: &asks.node.zone,
            fixed_ip: asks.fixed_ip,
            allowed,
        };
        let verdict = retained::decide(&applicant, claim, last, self.now);
        let (close, claimed, notice) = match verdict {
            Verdict::Keep => return Ok(Planned::Keep),
            Verdict::Wait(note) => return Ok(Planned::Wait(note)),
            Verdict::Fresh {
                close,
                claim,
                notice,
            } => (close, claim, notice),
        };
        let found = self.first_free(allowed)?;
        // An expired claim ends in any case. One that stands in the way of the only addresses
        // that the pod may use ends too: it would be waited for in vain.
        let close_first = found.is_none()
            && close.zip(claim).is_some_and(|(why, claim)| {
                why == Close::Expired || allowed.contains(&claim.vswitch)
            });
        Ok(Planned::Fresh(Fresh {
            found,
            close,
            close_first,
            claim: claimed,
            notice,
        }))
    }

    pub(super) fn open_claim(&self, key: &PodKey) -> Result<Option<OpenClaim>> {
        self.tx.row(
            "SELECT c.id, a.eni, a.addr, c.deleted_ms, c.expires_ms, c.node, c.holder, e.eni_id, \
             a.vswitch, e.state, e.target, p.created_ms, p.revision \
             FROM claim c JOIN address a ON a.claim = c.id JOIN eni e ON e.id = a.eni \
             LEFT JOIN pod p ON p.uid = c.holder \
             WHERE c.cluster = ?1 AND c.namespace = ?2 AND c.name = ?3 AND c.closed_ms IS NULL",
            (self.cluster, &*key.namespace, &*key.name),
            |row| {
                let address = Ipv4Addr::from(row.get::<_, u32>(2)?);
                let eni_id = row.get::<_, Option<String>>(7)?.map(Into::into);
                let holder = row.get::<_, Option<String>>(6)?.map(|uid| Holder {
                    uid: uid.into(),
                    eni: carrier(eni_id.as_ref(), address),
                });
                let vswitch = self.vswitch(row.get(8)?);
                let state = State::parse(row.get::<_, Option<String>>(9)?.as_deref());
                let target = Target::parse(&row.get::<_, String>(10)?);
                let idle = target != Target::InUse && !state.is_attached();
                let created_ms = row.get::<_, Option<i64>>(11)?;
                let revision = row.get::<_, Option<i64>>(12)?;
                Ok(OpenClaim {
                    id: row.get(0)?,
                    eni: row.get(1)?,
                    address,
                    deleted_ms: row.get(3)?,
                    facts: Claim {
                        vswitch: vswitch.id.clone(),
                        zone: vswitch.zone.clone(),
                        node: row.get::<_, String>(5)?.into(),
                        holder,
                        expires_at: row.get::<_, Option<i64>>(4)?.map(time),
                    },
                    idle_holder: created_ms
                        .zip(revision)
                        .filter(|_| idle)
                        .map(|(ms, revision)| Creation {
                            at: time(ms),
                            revision: revision.cast_unsigned(),
                        }),
                })
            },
        )
    }

    pub(super) fn placement(&self, key: &PodKey) -> Result<Option<Placement>> {
        self.tx.row(
            "SELECT node, node_type FROM placement \
             WHERE cluster = ?1 AND namespace = ?2 AND name = ?3",
            (self.cluster, &*key.namespace, &*key.name),
            |row| {
                let node_type: String = row.get(1)?;
                Ok(Placement {
                    node: row.get::<_, String>(0)?.into(),
                    node_type: NodeType::parse(&node_type),
                })
            },
        )
    }

    pub(super) fn vswitch(&self, row: i64) -> &'a VSwitchRef {
        self.vswitches
            .iter()
            .find(|vswitch| vswitch.row == row)
            .expect("an address that is held belongs to a configured vSwitch: opening checks it")
    }
}

/// The hours a pod asked for when it was accepted, or asks for now if it was not yet.
pub(super) fn accepted_hours(opt_in: &OptIn, known: Option<&PodRow>) -> Option<u32> {
    match (known, &opt_in.fixed_ip) {
        (Some(row), _) => row.hours,
        (None, FixedIp::On { hours }) => Some(*hours),
        (None, FixedIp::Off | FixedIp::Unsupported { .. }) => None,
    }
}

/// The vSwitches that a pod named when it was accepted, or names now if it was not yet.
pub(super) fn accepted_vswitches<'p>(
    opt_in: &'p OptIn,
    known: Option<&'p PodRow>,
) -> &'p [VSwitchId] {
    known.map_or(&opt_in.vswitches, |row| &row.vswitches)
}
