//! What would happen to a pod if it asked for a network now, and the facts that decide it.
//!
//! Shows the very plan that a running process would carry out. Reads on a connection that can only
//! read; what is asked for need not exist. Knows no words for people but those of the policy.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use rusqlite::Result;
use serde::Serialize;

use crate::engine::{Creation, Node, Reason};
use crate::id::{ClusterId, EniId, NodeType, PodKey, PodUid, VSwitchId, Zone};
use crate::ledger::free::Free;
use crate::ledger::history;
use crate::ledger::op::{self, PodRow, time};
use crate::ledger::plan::{
    Asks, Fresh, Plan, Planned, Rows, Standing, accepted_hours, accepted_vswitches,
};
use crate::ledger::query::{self, ClaimRow};
use crate::ledger::{Error, Reader, pool};
use crate::policy::opt_in::{FixedIp, OptIn};
use crate::policy::pool::Counts;
use crate::policy::retained::{Close, Placement};

/// A pod that is asked about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its UID; `None` for one that is not made yet.
    pub uid: Option<PodUid>,
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.creationTimestamp`; `None`: now.
    pub created_at: Option<Timestamp>,
    /// What its annotations and class ask for.
    pub opt_in: OptIn,
}

/// A node that it is on, or could be.
#[derive(Clone, Debug)]
pub struct Place {
    /// The node.
    pub node: Node,
    /// Whether it is an ECS node that holdfast does not serve.
    pub foreign: bool,
}

/// A pod as the ledger has it.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The pod; its annotations are those that counted.
    pub subject: Subject,
    /// Its node.
    pub place: Place,
}

/// The facts, and what follows from them at each place.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The time that deadlines are compared with: ledger time never runs backwards.
    pub now: Timestamp,
    /// The open claim of the key.
    pub claim: Option<ClaimRow>,
    /// Where the last fixed-IP pod of the key was.
    pub last: Option<Placement>,
    /// One per place, in their order.
    pub outlooks: Vec<Outlook>,
}

impl Explanation {
    /// Whether the ledger has anything of this key.
    pub fn knows_key(&self) -> bool {
        self.claim.is_some() || self.last.is_some()
    }
}

/// What happens at one place.
#[derive(Clone, Debug, Serialize)]
pub struct Outlook {
    /// The node.
    pub node: String,
    /// Its type.
    pub node_type: NodeType,
    /// Its zone.
    pub zone: Zone,
    /// The configured vSwitches: first the allowed ones, best first.
    pub vswitches: Vec<VSwitchFact>,
    /// What it gets.
    #[serde(flatten)]
    pub answer: Answer,
    /// What the next pod like it gets, made once the holder of the claim is gone and detached,
    /// and before the claim's deadline.
    pub next: Option<Answer>,
}

/// A configured vSwitch.
#[derive(Clone, Debug, Serialize)]
pub struct VSwitchFact {
    /// Its id.
    pub id: VSwitchId,
    /// Its zone.
    pub zone: Zone,
    /// Whether the pod may use it.
    pub allowed: bool,
    /// What its addresses do.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What a pod gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// In one word.
    pub verdict: Kind,
    /// The address.
    pub address: Option<Ipv4Addr>,
    /// The vSwitch of that.
    pub vswitch: Option<VSwitchId>,
    /// The ENI of an address that it has or gets back.
    pub eni: Option<EniId>,
    /// Why the open claim of the key ends thereby.
    pub closes: Option<&'static str>,
    /// Reason of the event that is sent, or of the wait.
    pub reason: Option<&'static str>,
    /// The words of that.
    pub note: Option<String>,
}

/// What a pod gets, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The address it has.
    Has,
    /// Nothing more: it is being deleted, and lets go of what it has.
    Leaving,
    /// Nothing more: it has ended or is gone.
    Ended,
    /// The retained address, ENI and MAC.
    Keep,
    /// Nothing yet.
    Wait,
    /// A new address, claimed.
    New,
    /// An ordinary address.
    Ordinary,
    /// Nothing: its compute class offers no fixed address.
    Refused,
    /// The address of its node.
    HostNetwork,
    /// Nothing: its node is not holdfast's.
    Elsewhere,
}

impl Answer {
    /// An answer without an address.
    pub fn bare(verdict: Kind) -> Self {
        Self {
            verdict,
            address: None,
            vswitch: None,
            eni: None,
            closes: None,
            reason: None,
            note: None,
        }
    }

    fn wait(reason: Reason, note: String) -> Self {
        Self {
            reason: Some(reason.as_str()),
            note: Some(note),
            ..Self::bare(Kind::Wait)
        }
    }
}

impl Reader {
    /// What happens to the pod at each of `places`, by the rows of this moment. `wall` is the wall
    /// clock.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn explain(
        &self,
        cluster: &ClusterId,
        subject: &Subject,
        places: &[Place],
        wall: Timestamp,
    ) -> std::result::Result<Explanation, Error> {
        self.read("read what decides about a pod", |tx| {
            let now = history::now(tx, wall)?;
            let vswitches = pool::active(tx)?;
            let free = Free::default();
            let rows = Rows {
                tx,
                now,
                wall,
                cluster: cluster.as_str(),
                vswitches: &vswitches,
                free: &free,
            };
            let outlook = |place| outlook(&rows, subject, place);
            Ok(Explanation {
                now,
                claim: query::claim(tx, cluster, &subject.key, now)?,
                last: rows.placement(&subject.key)?,
                outlooks: places.iter().map(outlook).collect::<Result<_>>()?,
            })
        })
    }

    /// The newest pod of this name that was accepted and has not let go.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn accepted(
        &self,
        cluster: &ClusterId,
        key: &PodKey,
    ) -> std::result::Result<Option<Accepted>, Error> {
        self.read("read a pod", |tx| {
            tx.row(
                "SELECT uid, created_ms, hours, vswitches, node, zone, node_type FROM pod \
                 WHERE cluster = ?1 AND namespace = ?2 AND name = ?3 \
                 ORDER BY gone_ms IS NOT NULL, created_ms DESC, revision DESC LIMIT 1",
                (cluster.as_str(), &*key.namespace, &*key.name),
                |row| {
                    let hours = row.get::<_, Option<u32>>(2)?;
                    let vswitches = op::ids(row, 3)?;
                    let node = Node {
                        name: row.get::<_, String>(4)?.into(),
                        zone: row.get::<_, String>(5)?.into(),
                        node_type: NodeType::parse(&row.get::<_, String>(6)?),
                    };
                    Ok(Accepted {
                        subject: Subject {
                            uid: Some(row.get::<_, String>(0)?.into()),
                            key: key.clone(),
                            created_at: Some(time(row.get(1)?)),
                            opt_in: OptIn {
                                fixed_ip: hours.map_or(FixedIp::Off, |hours| FixedIp::On { hours }),
                                vswitches,
                                // They decide nothing.
                                security_groups: Vec::new(),
                            },
                        },
                        place: Place {
                            node,
                            foreign: false,
                        },
                    })
                },
            )
        })
    }

    /// The clusters whose pods are or were in this ledger.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn clusters(&self) -> std::result::Result<Vec<ClusterId>, Error> {
        self.read("list clusters", |tx| {
            tx.rows(
                "SELECT cluster FROM pod UNION SELECT cluster FROM claim \
                 UNION SELECT cluster FROM placement ORDER BY 1",
                [],
                |row| Ok(row.get::<_, String>(0)?.into()),
            )
        })
    }
}

fn outlook(rows: &Rows<'_>, subject: &Subject, place: &Place) -> Result<Outlook> {
    let standing = match &subject.uid {
        Some(uid) => rows.standing(uid, subject.created_at.unwrap_or(rows.now))?,
        None => Standing::Asks(None),
    };
    let row = match &standing {
        Standing::Settled(row) | Standing::OfAnotherCluster(row) | Standing::Asks(Some(row)) => {
            Some(row)
        }
        Standing::LetGo | Standing::Asks(None) => None,
    };
    let asks = Asks {
        key: &subject.key,
        created: Creation {
            at: match &standing {
                Standing::Asks(_) => subject.created_at.unwrap_or(rows.now),
                // What is planned is for the next one.
                Standing::Settled(_) | Standing::OfAnotherCluster(_) | Standing::LetGo => rows.now,
            },
            // No pod of its name is newer than the one that is asked about.
            revision: i64::MAX.cast_unsigned(),
        },
        node: &place.node,
        fixed_ip: accepted_hours(&subject.opt_in, row).is_some(),
        vswitches: accepted_vswitches(&subject.opt_in, row),
        foreign: place.foreign,
    };
    let plan = rows.plan(&asks)?;
    let refused = row.is_none() && matches!(subject.opt_in.fixed_ip, FixedIp::Unsupported { .. });
    let answer = match &standing {
        Standing::Settled(row) | Standing::OfAnotherCluster(row) => settled(rows, row)?,
        Standing::LetGo => Answer::bare(Kind::Ended),
        // Only pods with fixed IP on matter there.
        Standing::Asks(_) if place.foreign && !asks.fixed_ip => Answer::bare(Kind::Elsewhere),
        Standing::Asks(_) if refused => Answer {
            reason: Some(Reason::FixedIPUnsupported.as_str()),
            ..Answer::bare(Kind::Refused)
        },
        Standing::Asks(_) => planned(rows, &plan, &plan.step, place.foreign)?,
    };
    Ok(Outlook {
        node: place.node.name.to_string(),
        node_type: place.node.node_type,
        zone: place.node.zone.clone(),
        vswitches: vswitches(rows, &plan.allowed)?,
        answer,
        next: next(rows, &asks, &plan)?,
    })
}

/// What the next pod gets, when there is a holder that it would wait for.
fn next(rows: &Rows<'_>, asks: &Asks<'_>, plan: &Plan) -> Result<Option<Answer>> {
    let claim = plan.claim.as_ref().map(|claim| &claim.facts);
    let Some(held) = claim.filter(|claim| claim.holder.is_some() && asks.fixed_ip) else {
        return Ok(None);
    };
    if matches!(plan.step, Planned::NoVSwitch(_)) {
        return Ok(None);
    }
    let mut free = held.clone();
    free.holder = None;
    let step = rows.step(asks, &plan.allowed, Some(&free), plan.last.as_ref())?;
    planned(rows, plan, &step, asks.foreign).map(Some)
}

/// What a pod has for which nothing is to be decided any more.
fn settled(rows: &Rows<'_>, pod: &PodRow) -> Result<Answer> {
    let kind = if pod.is_over() {
        Kind::Ended
    } else if pod.deleted {
        Kind::Leaving
    } else {
        Kind::Has
    };
    let Some(eni) = pod.eni.map(|eni| eni_of(rows, eni)).transpose()?.flatten() else {
        return Ok(Answer::bare(kind));
    };
    let (address, vswitch, eni) = eni;
    Ok(Answer {
        address: Some(address),
        vswitch: Some(rows.vswitch(vswitch).id.clone()),
        eni,
        ..Answer::bare(kind)
    })
}

fn eni_of(rows: &Rows<'_>, eni: i64) -> Result<Option<(Ipv4Addr, i64, Option<EniId>)>> {
    let sql = "SELECT addr, vswitch, eni_id FROM eni WHERE id = ?1";
    rows.tx.row(sql, [eni], |row| {
        let address = Ipv4Addr::from(row.get::<_, u32>(0)?);
        let eni = row.get::<_, Option<String>>(2)?.map(Into::into);
        Ok((address, row.get(1)?, eni))
    })
}

fn planned(rows: &Rows<'_>, plan: &Plan, step: &Planned, foreign: bool) -> Result<Answer> {
    match step {
        Planned::NoVSwitch(note) => Ok(Answer::wait(Reason::NoAllowedVSwitch, note.clone())),
        Planned::Wait(note) => Ok(Answer::wait(Reason::FixedIPWaiting, note.clone())),
        Planned::Keep => {
            let claim = plan.claim.as_ref().map(|claim| (claim, claim.eni));
            let (claim, eni) = claim.expect("only what is claimed is kept");
            Ok(Answer {
                address: Some(claim.address),
                vswitch: Some(claim.facts.vswitch.clone()),
                eni: eni_of(rows, eni)?.and_then(|(_, _, eni)| eni),
                reason: Some(Reason::FixedIPReused.as_str()),
                ..Answer::bare(Kind::Keep)
            })
        }
        Planned::Fresh(new) => fresh(rows, plan, new, foreign),
    }
}

fn fresh(rows: &Rows<'_>, plan: &Plan, fresh: &Fresh, foreign: bool) -> Result<Answer> {
    let closes = fresh.close.map(Close::as_str);
    let lost = fresh.notice.clone().map(Reason::of_loss);
    let (reason, note) = lost.map_or((None, None), |(reason, note)| {
        (Some(reason.as_str()), Some(note))
    });
    let given = match fresh.found {
        _ if foreign => Answer::bare(Kind::Elsewhere),
        None => {
            let (note, _) = rows.exhausted(&plan.allowed)?;
            return Ok(Answer {
                closes: closes.filter(|_| fresh.close_first),
                ..Answer::wait(Reason::IPPoolExhausted, note)
            });
        }
        Some((vswitch, address)) => Answer {
            address: Some(address),
            vswitch: Some(rows.vswitch(vswitch).id.clone()),
            ..Answer::bare(if fresh.claim {
                Kind::New
            } else {
                Kind::Ordinary
            })
        },
    };
    Ok(Answer {
        closes,
        reason,
        note,
        ..given
    })
}

/// All vSwitches with fresh counts, the allowed ones in front.
fn vswitches(rows: &Rows<'_>, allowed: &[VSwitchId]) -> Result<Vec<VSwitchFact>> {
    let mut facts: Vec<VSwitchFact> = rows
        .vswitches
        .iter()
        .map(|vswitch| {
            Ok(VSwitchFact {
                id: vswitch.id.clone(),
                zone: vswitch.zone.clone(),
                allowed: allowed.contains(&vswitch.id),
                counts: pool::counts(rows.tx, vswitch.row)?,
            })
        })
        .collect::<Result<_>>()?;
    facts.sort_by_key(|fact| {
        let rank = allowed.iter().position(|id| *id == fact.id);
        rank.unwrap_or(allowed.len())
    });
    Ok(facts)
}
