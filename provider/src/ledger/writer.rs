//! The one thread that writes: a bounded queue in, group commits, results out.
//!
//! Owns the [`Ledger`] and the batching. A result leaves only after its COMMIT. Knows nothing of
//! what the results are for. A fatal error ends the thread, and the caller is told why.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use jiff::Timestamp;

use crate::cloud::{self, Request, Response, sim};
use crate::ledger::gathering::Gathering;
use crate::ledger::{Error, Job, Ledger, Note, Outcome, Turn, checkpoint};
use crate::settings::Settings;

/// Work that waits for the thread: enough for a burst, and a bound on memory.
const QUEUE: usize = 4096;
/// Jobs per COMMIT: past this the sync is a small part of the cost, and a batch delays its first.
const BATCH: usize = 256;

/// Something for the thread to do. The number comes back with the result.
#[derive(Debug)]
pub enum Work {
    /// A ledger operation.
    Job(u64, Job),
    /// A call to the cloud.
    Call(u64, Request),
    /// Has another process written to the file?
    Look,
    /// Changed settings.
    Reconfigure(Box<Settings>),
}

/// What was done.
#[derive(Debug)]
pub enum Done {
    /// An operation is committed, or failed.
    Job(u64, Result<Outcome, Error>),
    /// The cloud answered.
    Call(u64, Result<Response, cloud::Error>),
    /// Another process has written to the file. The simulated cloud is now this, with the faults
    /// that were set there.
    Changed(Box<sim::Config>),
    /// When the next retention ends.
    NextDeadline(Option<Timestamp>),
    /// Settings were taken over, or refused. Their cloud has the faults that are set in the file.
    Reconfigured(Result<Box<Settings>, Error>),
    /// A turn of the thread is through, and its results are out.
    Turn(Turn),
    /// The thread has ended, and nothing more will be done.
    Fatal(Error),
}

/// The thread has ended.
#[derive(Debug, thiserror::Error)]
#[error("the ledger's writer has ended")]
pub struct Gone;

/// A handle on the thread.
pub struct Writer {
    queue: SyncSender<Work>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the thread. `clock` is the wall clock; `done` gets every result, in order.
    ///
    /// # Errors
    /// When the system refuses a thread, or the file cannot be opened once more to checkpoint it.
    pub fn start(
        mut ledger: Ledger,
        clock: impl Fn() -> Timestamp + Send + 'static,
        done: impl Fn(Done) + Send + 'static,
    ) -> std::io::Result<Self> {
        ledger.checkpoint_aside(checkpoint::LIMITS)?;
        let (queue, work) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || run(ledger, &work, &clock, &done))?;
        Ok(Self { queue, thread })
    }

    /// Queues work, or gives it back when the queue is full.
    ///
    /// # Errors
    /// When the thread has ended.
    pub fn submit(&self, work: Work) -> Result<Option<Work>, Gone> {
        match self.queue.try_send(work) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(work)) => Ok(Some(work)),
            Err(TrySendError::Disconnected(_)) => Err(Gone),
        }
    }

    /// Lets the queued work finish and closes the file.
    pub fn stop(self) {
        drop(self.queue);
        if self.thread.join().is_err() {
            tracing::error!("the ledger's writer panicked");
        }
    }
}

fn run(
    mut ledger: Ledger,
    queue: &Receiver<Work>,
    clock: &impl Fn() -> Timestamp,
    done: &impl Fn(Done),
) {
    let mut deadline = None;
    let mut gathering = Gathering::new(Instant::now());
    while let Ok(first) = queue.recv() {
        let batch = gather(first, queue, &gathering);
        let began = Instant::now();
        let jobs = batch.len();
        if let Err(error) = serve(&mut ledger, batch, clock, done, &mut deadline) {
            done(Done::Fatal(error));
            return;
        }
        gathering.served(jobs, jobs == BATCH, began, Instant::now());
    }
    let now = clock();
    if let Err(error) = ledger.commit(now, &[Job::Note(now, Note::Stopped)]) {
        tracing::error!(%error, "the end of the process could not be written down");
    }
}

/// The jobs that share a COMMIT with this one.
fn gather(first: Work, queue: &Receiver<Work>, gathering: &Gathering) -> Vec<Work> {
    let mut batch = vec![first];
    let mut known = 0;
    let mut pause = Some(gathering.pause(Instant::now()));
    while let Some(wait) = pause {
        // Asleep and not at the queue, where each job would wake it.
        std::thread::sleep(wait);
        batch.extend(queue.try_iter().take(BATCH - batch.len()));
        pause = gathering.more(batch.len(), batch.len() - known, Instant::now());
        known = batch.len();
    }
    batch
}

/// Waits for another process that holds the file, as long as it takes: nothing was written, and
/// SQLite has waited for a while each time.
fn patiently<T>(mut write: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match write() {
            Err(error) if error.is_busy() => tracing::warn!(
                %error,
                "another process holds the ledger, and pods wait until it lets go: end its transaction"
            ),
            done => return done,
        }
    }
}

fn serve(
    ledger: &mut Ledger,
    batch: Vec<Work>,
    clock: &impl Fn() -> Timestamp,
    done: &impl Fn(Done),
    deadline: &mut Option<Timestamp>,
) -> Result<(), Error> {
    let (mut ids, mut jobs) = (Vec::new(), Vec::new());
    let (mut call_ids, mut requests) = (Vec::new(), Vec::new());
    let mut look = false;
    for work in batch {
        match work {
            Work::Job(id, job) => {
                ids.push(id);
                jobs.push(job);
            }
            Work::Call(id, request) => {
                call_ids.push(id);
                requests.push(request);
            }
            Work::Look => look = true,
            Work::Reconfigure(settings) => {
                let taken = ledger.reconfigure(Settings::clone(&settings), clock());
                let in_force = taken.map(|()| Settings {
                    cloud: ledger.cloud().clone(),
                    ..*settings
                });
                done(Done::Reconfigured(in_force.map(Box::new)));
            }
        }
    }
    let mut turn = Turn::default();
    if !jobs.is_empty() {
        let begin = Instant::now();
        let batch = patiently(|| ledger.commit(clock(), &jobs))?;
        turn.committed(begin.elapsed(), &jobs, &batch.results);
        if std::mem::replace(deadline, batch.next_deadline) != batch.next_deadline {
            done(Done::NextDeadline(batch.next_deadline));
        }
        for (id, result) in ids.into_iter().zip(batch.results) {
            done(Done::Job(id, result));
        }
    }
    if !requests.is_empty() {
        let results = patiently(|| ledger.call(clock(), &requests))?;
        for (id, result) in call_ids.into_iter().zip(results) {
            done(Done::Call(id, result));
        }
    }
    turn.calls = ledger.take_calls();
    if !turn.is_empty() {
        done(Done::Turn(turn));
    }
    if look && ledger.changed()? {
        done(Done::Changed(Box::new(ledger.cloud().clone())));
    }
    Ok(())
}
