//! `/metrics`: what is there now, put together for one answer.
//!
//! Owns where the figures are looked up, and that callers together cost one look at the ledger and
//! the process in a while. Names and texts are in [`crate::metrics`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_provider::id::NodeName;
use holdfast_provider::ledger::{self, Reader, Totals};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::chain::chain;
use crate::clock;
use crate::metrics::{Metrics, Moment, Process};
use crate::node::NodeTable;
use crate::pod::run::{Asker, NoAnswer};

/// How long the numbers of the ledger and the process count: with a thousand nodes there are a thousand callers.
const FRESH: Duration = Duration::from_secs(1);

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot count what the ledger holds")]
    Ledger(#[from] ledger::Error),
    #[error("looking at the ledger failed")]
    Look(#[from] tokio::task::JoinError),
    #[error("cannot count pods")]
    Pods(#[from] NoAnswer),
    #[error("cannot write the text")]
    Text(#[from] std::fmt::Error),
}

/// Puts the figures together.
pub(super) struct Scraper {
    metrics: Metrics,
    ledger: PathBuf,
    nodes: NodeTable,
    pods: Asker,
    /// Held while somebody looks, so that the others get the same answer.
    known: Mutex<Option<(Instant, Look)>>,
}

/// What is looked up for all callers together.
#[derive(Clone)]
struct Look {
    totals: Arc<Totals>,
    process: Option<Process>,
}

impl Scraper {
    pub(super) fn new(metrics: Metrics, ledger: PathBuf, nodes: NodeTable, pods: Asker) -> Self {
        Self {
            metrics,
            ledger,
            nodes,
            pods,
            known: Mutex::new(None),
        }
    }

    /// The text for a caller that asks this node.
    pub(super) async fn text(&self, node: &NodeName) -> Result<String, Error> {
        let Look { totals, process } = self.look().await?;
        let moment = Moment {
            now: clock::wall(),
            node: node.clone(),
            figures: self.pods.figures(node).await?,
            totals,
            nodes: self.nodes.clone(),
            process,
        };
        Ok(self.metrics.text(&moment)?)
    }

    async fn look(&self) -> Result<Look, Error> {
        let mut known = self.known.lock().await;
        if let Some((at, look)) = &*known
            && at.elapsed() < FRESH
        {
            return Ok(look.clone());
        }
        let ledger = self.ledger.clone();
        let look = move || {
            let totals = Reader::open(&ledger)?.totals(clock::wall())?;
            // What holdfast is for is told even so.
            let process = Process::own().unwrap_or_else(|error| {
                tracing::warn!(error = %chain(&error), "metrics of the process are left out");
                None
            });
            let totals = Arc::new(totals);
            Ok::<_, ledger::Error>(Look { totals, process })
        };
        let look = tokio::task::spawn_blocking(look).await??;
        *known = Some((Instant::now(), look.clone()));
        Ok(look)
    }
}
