//! The one thread that writes: a bounded queue in, group commits, results out.
//!
//! Owns the [`Ledger`] and the batching. A result leaves only after its COMMIT. Knows nothing of
//! what the results are for; it is told when those of pods that leave can wait. A fatal error ends the
//! thread, and the caller is told why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

impl Work {
    /// Whether nobody waits for it while the caller is backed up.
    fn can_wait(&self) -> bool {
        match self {
            Self::Job(_, job) => job.is_of_a_leaving_pod(),
            Self::Look | Self::Call(..) | Self::Reconfigure(_) => false,
        }
    }
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
    is_backed_up: Arc<AtomicBool>,
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
        let is_backed_up = Arc::<AtomicBool>::default();
        let inbox = Inbox {
            work,
            is_backed_up: Arc::clone(&is_backed_up),
        };
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || run(ledger, &inbox, &clock, &done))?;
        Ok(Self {
            queue,
            is_backed_up,
            thread,
        })
    }

    /// Tells whether nobody can make use now of the result for a pod that leaves. Where the cloud is instant
    /// and jobs come in numbers, such pods then wait for each other and share a COMMIT: until 0.12 s after the one
    /// before began, or until anything else is to be done, which waits no longer than it ever does.
    pub fn backed_up(&self, is_backed_up: bool) {
        self.is_backed_up.store(is_backed_up, Ordering::Relaxed);
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
        self.backed_up(false);
        drop(self.queue);
        if self.thread.join().is_err() {
            tracing::error!("the ledger's writer panicked");
        }
    }
}

/// What the thread is told.
struct Inbox {
    work: Receiver<Work>,
    is_backed_up: Arc<AtomicBool>,
}

fn run(mut ledger: Ledger, inbox: &Inbox, clock: &impl Fn() -> Timestamp, done: &impl Fn(Done)) {
    let mut deadline = None;
    let mut gathering = Gathering::new(Instant::now());
    while let Ok(first) = inbox.work.recv() {
        let batch = inbox.gather(first, ledger.cloud(), &gathering);
        let began = Instant::now();
        let jobs = batch.len();
        if let Err(error) = serve(&mut ledger, batch, clock, done, &mut deadline) {
            done(Done::Fatal(ledger.cannot_go_on(error)));
            return;
        }
        gathering.served(jobs, jobs == BATCH, began, Instant::now());
    }
    let now = clock();
    if let Err(error) = ledger.commit(now, &[Job::Note(now, Note::Stopped)]) {
        tracing::error!(%error, "the end of the process could not be written down");
    }
}

impl Inbox {
    /// The jobs that share a COMMIT with this one.
    fn gather(&self, first: Work, cloud: &sim::Config, gathering: &Gathering) -> Vec<Work> {
        // The calls that let go of an ENI come after the COMMIT, and take their own time.
        let mut batch = Batch::of(first, cloud.is_instant());
        let mut known = 0;
        let mut pause = Some(gathering.pause(Instant::now()));
        while let Some(wait) = pause {
            // Asleep and not at the queue, where each job would wake it.
            std::thread::sleep(wait);
            batch.take(&self.work);
            let (jobs, hurried) = (batch.work.len(), batch.is_hurried(&self.is_backed_up));
            pause = gathering.more(jobs, jobs - known, hurried, Instant::now());
            known = jobs;
        }
        batch.work
    }
}

/// What shares a COMMIT.
struct Batch {
    work: Vec<Work>,
    /// Whether all of it can wait while the caller is backed up.
    can_wait: bool,
}

impl Batch {
    fn of(first: Work, can_wait: bool) -> Self {
        Self {
            can_wait: can_wait && first.can_wait(),
            work: vec![first],
        }
    }

    /// Takes what is in the queue, as far as there is room.
    fn take(&mut self, queue: &Receiver<Work>) {
        let known = self.work.len();
        self.work.extend(queue.try_iter().take(BATCH - known));
        self.can_wait &= self.work[known..].iter().all(Work::can_wait);
    }

    fn is_hurried(&self, is_backed_up: &AtomicBool) -> bool {
        !(self.can_wait && is_backed_up.load(Ordering::Relaxed))
    }
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
                let take = || ledger.reconfigure(Settings::clone(&settings), clock());
                let taken = match patiently(take) {
                    // Not of the settings: nothing else can be written either.
                    Err(error @ Error::Sql { .. }) if error.is_fatal() => return Err(error),
                    taken => taken,
                };
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
    if look && ledger.changed()? {
        done(Done::Changed(Box::new(ledger.cloud().clone())));
    }
    turn.released(ledger.take_released());
    turn.calls = ledger.take_calls();
    if !turn.is_empty() {
        done(Done::Turn(turn));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Portion;

    fn gone() -> Work {
        Work::Job(1, Job::Gone("uid".into()))
    }

    fn prune() -> Work {
        Work::Job(2, Job::Prune(Portion::FIRST))
    }

    #[test]
    fn pods_that_leave_can_wait_only_while_the_caller_is_backed_up() {
        let (queue, inbox) = sync_channel(QUEUE);
        let is_backed_up = AtomicBool::new(true);
        let mut batch = Batch::of(gone(), true);
        queue.send(gone()).unwrap();
        batch.take(&inbox);
        assert_eq!(batch.work.len(), 2);
        assert!(!batch.is_hurried(&is_backed_up));
        is_backed_up.store(false, Ordering::Relaxed);
        assert!(batch.is_hurried(&is_backed_up));
    }

    #[test]
    fn whatever_else_comes_hurries_those_that_could_wait() {
        let (queue, inbox) = sync_channel(QUEUE);
        let is_backed_up = AtomicBool::new(true);
        assert!(Batch::of(gone(), false).is_hurried(&is_backed_up));
        assert!(Batch::of(prune(), true).is_hurried(&is_backed_up));
        assert!(Batch::of(Work::Look, true).is_hurried(&is_backed_up));
        let mut batch = Batch::of(gone(), true);
        for (work, hurried) in [(gone(), false), (prune(), true), (gone(), true)] {
            queue.send(work).unwrap();
            batch.take(&inbox);
            assert_eq!(batch.is_hurried(&is_backed_up), hurried);
        }
    }

    #[test]
    fn a_batch_is_bounded() {
        let (queue, inbox) = sync_channel(QUEUE);
        let mut batch = Batch::of(gone(), true);
        (0..2 * BATCH).for_each(|_| queue.send(gone()).unwrap());
        batch.take(&inbox);
        assert_eq!(batch.work.len(), BATCH);
    }
}
