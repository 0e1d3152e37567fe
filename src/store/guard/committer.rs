//! The one thread that writes (G4): it drains the queue, applies each write, syncs once for all of them, and only
//! then answers. When the engine fails it is this thread that drops it, reopens it and verifies it (G6); no write is
//! ever tried a second time (G5). While the disk is full it writes what exists nowhere else and refuses the rest (G7).

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::disk;
use super::ground::Ground;
use super::lock::StoreLock;
use super::shared::{Health, Shared, catching};
use super::tally::Tally;
use super::watchdog::{Stuck, Watchdog};
use crate::error::StoreError;
use crate::failpoint;
use crate::store::engine::{Change, Engine, Fault};
use crate::telemetry::Metrics;

/// Writes that share one sync, at most: bounds how long the first of them waits for the last.
const MAX_GROUP: usize = 256;

/// The first and the longest pause between two attempts to reopen.
const REOPEN_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// How often it is looked whether there is room again.
const ROOM_PAUSE: Duration = Duration::from_millis(250);

/// What the committer is asked.
pub(super) enum Message {
    /// A write.
    Write(Box<dyn Job>, Weight),
    /// Take the state as it is for the newest there is, and say so.
    Settle(oneshot::Sender<Result<(), StoreError>>),
    /// A reader found the engine broken.
    Recover,
    /// End, and say so.
    Close(Option<oneshot::Sender<()>>),
}

/// What would be lost with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Work that can be done again.
    Ordinary,
    /// Tokens that exist nowhere else.
    Rescue,
}

/// A write whose answer somebody waits for.
pub(super) trait Job: Send {
    /// Decides what to change, looking at the engine. Changes nothing itself.
    fn plan(&mut self, engine: &dyn Engine, changes: &mut Vec<Change>) -> Result<(), Fault>;

    /// Answers: with what was planned if that is durable, else with the error.
    fn settle(self: Box<Self>, durable: Result<(), StoreError>);
}

/// A write that answers a `T`.
pub(super) struct Write<T, F> {
    plan: Option<F>,
    planned: Option<T>,
    tell: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Write<T, F>
where
    F: FnOnce(&dyn Engine, &mut Vec<Change>) -> Result<T, Fault>,
{
    pub(super) fn new(plan: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (tell, told) = oneshot::channel();
        (Self { plan: Some(plan), planned: None, tell }, told)
    }
}

impl<T, F> Job for Write<T, F>
where
    T: Send,
    F: FnOnce(&dyn Engine, &mut Vec<Change>) -> Result<T, Fault> + Send,
{
    fn plan(&mut self, engine: &dyn Engine, changes: &mut Vec<Change>) -> Result<(), Fault> {
        if let Some(plan) = self.plan.take() {
            self.planned = Some(plan(engine, changes)?);
        }
        Ok(())
    }

    fn settle(self: Box<Self>, durable: Result<(), StoreError>) {
        let Self { planned, tell, .. } = *self;
        let answer = durable.and_then(|()| planned.ok_or_else(|| unavailable("the write was not made")));
        // Where nobody waits any more, the write stands all the same.
        let _ = tell.send(answer);
    }
}

/// The thread's own state.
pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) messages: Receiver<Message>,
    pub(super) ground: Ground,
    pub(super) tally: Tally,
    /// Whether only what exists nowhere else is written.
    pub(super) is_full: bool,
    /// When it is next looked whether there is room again.
    pub(super) next_look: Instant,
    pub(super) metrics: Arc<Metrics>,
    pub(super) watchdog: Watchdog,
    /// Let go of after the engine, which the field order sees to.
    pub(super) _lock: StoreLock,
}

/// Who asked the store to close, if anybody waits for it.
type Closing = Option<oneshot::Sender<()>>;

impl Committer {
    pub(super) fn run(mut self) {
        let closed = self.serve();
        self.shared.fail(Fault::Broken("the store is closed".to_owned()));
        self.drop_engine();
        // Only now may another process have it.
        drop(self);
        if let Some(tell) = closed {
            let _ = tell.send(());
        }
    }

    fn serve(&mut self) -> Closing {
        let mut pending = None;
        while let Some(message) = pending.take().or_else(|| self.next_message()) {
            pending = match message {
                Message::Write(job, weight) => self.commit(job, weight),
                Message::Settle(tell) => {
                    let _ = tell.send(self.settle());
                    None
                }
                Message::Recover => None,
                Message::Close(tell) => return tell,
            };
            // After each of them: once a fault is told nobody queues what would have it looked at again.
            if self.shared.fault().is_some()
                && let Some(tell) = self.recover()
            {
                return tell;
            }
        }
        None
    }

    /// Waits for a message; while the disk is full, looks for room in between, however many messages there are.
    fn next_message(&mut self) -> Option<Message> {
        while self.is_full {
            let left = self.next_look.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.look_for_room();
                self.next_look = Instant::now() + ROOM_PAUSE;
                continue;
            }
            match self.messages.recv_timeout(left) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        self.messages.recv().ok()
    }

    /// Takes every write again if the ballast can be made.
    fn look_for_room(&mut self) {
        if self.ground.ballast.ensure().is_ok() {
            self.is_full = false;
            self.metrics.set_store_full(false);
            self.shared.fares(Health::Well);
            tracing::warn!("there is room on the disk again; the store takes every write");
        }
    }

    /// Commits `first` and every write that waits behind it. Answers the message that ended the group, if it was
    /// not a write.
    fn commit(&mut self, first: Box<dyn Job>, weight: Weight) -> Option<Message> {
        let mut group = Vec::new();
        let mut last = None;
        let mut next = Some((first, weight));
        while let Some((job, weight)) = next.take() {
            if self.is_full && weight == Weight::Ordinary {
                job.settle(Err(no_room()));
            } else {
                group.push((job, Ok(())));
            }
            if group.len() == MAX_GROUP {
                break;
            }
            match self.messages.try_recv() {
                Ok(Message::Write(job, weight)) => next = Some((job, weight)),
                Ok(other) => last = Some(other),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
        }
        let began = Instant::now();
        let (shared, tally) = (&self.shared, &mut self.tally);
        let outcome = self
            .watchdog
            .watch(Stuck::Commit, || shared.with_engine(|engine| perform(shared, engine, tally, &mut group)));
        let failure = match outcome {
            Ok(()) => None,
            Err(Fault::Refused(error)) => Some(error),
            Err(fault) => Some(StoreError::Unavailable(self.shared.fail(fault))),
        };
        self.metrics.store_commit_took(began.elapsed());
        for (job, own) in group {
            job.settle(failure.clone().map_or(own, Err));
        }
        if failure.is_none()
            && let Err(fault) = self.watchdog.watch(Stuck::Commit, || self.tally.sync())
        {
            self.shared.fail(fault);
        }
        last
    }

    /// Forgets that the store was behind: what it holds now is the newest there is.
    fn settle(&mut self) -> Result<(), StoreError> {
        let (shared, tally, ground) = (&self.shared, &mut self.tally, &self.ground);
        let outcome = shared.with_engine(|engine| tally.settle(engine, &ground.path, ground.identity.store));
        match outcome {
            // The alert stays up: it is settled before any door is open, and nobody would ever see it.
            Ok(()) => Ok(()),
            Err(Fault::Refused(error)) => Err(error),
            Err(fault) => Err(StoreError::Unavailable(self.shared.fail(fault))),
        }
    }

    /// Drops the engine, reopens and verifies it, for as long as that takes. Answers who asked to close meanwhile.
    fn recover(&mut self) -> Option<Closing> {
        let why = self.shared.fault().unwrap_or_default();
        tracing::error!(reason = "STORE_UNAVAILABLE", "the store failed and is being reopened: {why}");
        self.drop_engine();
        let (mut pause, longest) = REOPEN_PAUSES;
        loop {
            self.make_room();
            match self.ground.bring_up() {
                Ok(brought) if self.tally.resume(&brought.findings) => {
                    let health = if self.is_full { Health::Full } else { Health::Well };
                    self.shared.restore(brought.engine, health);
                    tracing::warn!("the store is open again and verified");
                    return None;
                }
                Ok(_) => tracing::error!(
                    reason = "STORE_UNAVAILABLE",
                    "the reopened store lacks what it had acknowledged; it is not served from. Restart the broker: grants whose tokens may be spent are then found out"
                ),
                Err(error) => {
                    tracing::error!(reason = "STORE_UNAVAILABLE", "{error}: {}", error.why());
                }
            }
            if let Some(closed) = self.refuse_for(pause) {
                return Some(closed);
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// Gives the ballast up if the disk is full.
    fn make_room(&mut self) {
        if !self.shared.failed_for_space() && !disk::is_nearly_full(&self.ground.path) {
            return;
        }
        if let Err(error) = self.ground.ballast.release() {
            tracing::error!(reason = "STORE_UNAVAILABLE", "the ballast cannot be given up: {error}");
        }
        if !self.is_full {
            self.is_full = true;
            self.metrics.set_store_full(true);
            tracing::error!(reason = "STORE_UNAVAILABLE", "{NO_ROOM}");
        }
    }

    /// Tells everybody no until `pause` has passed.
    fn refuse_for(&mut self, pause: Duration) -> Option<Closing> {
        let until = Instant::now() + pause;
        let no = || Err(unavailable(&self.shared.fault().unwrap_or_default()));
        loop {
            match self.messages.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Message::Write(job, _)) => job.settle(no()),
                Ok(Message::Settle(tell)) => drop(tell.send(no())),
                Ok(Message::Recover) => {}
                Ok(Message::Close(tell)) => return Some(tell),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => return Some(None),
            }
        }
    }

    fn drop_engine(&mut self) {
        let shared = &self.shared;
        let dropped = self.watchdog.watch(Stuck::Drop, || {
            catching(|| {
                drop(shared.take_engine());
                Ok(())
            })
        });
        if dropped.is_err() {
            tracing::error!(reason = "STORE_UNAVAILABLE", "the storage engine panicked while it was closed");
        }
    }
}

type Outcome = Result<(), StoreError>;

/// Plans and applies each write in turn, so that each sees what the one before it did; then syncs once.
fn perform(
    shared: &Shared,
    engine: &dyn Engine,
    tally: &mut Tally,
    group: &mut [(Box<dyn Job>, Outcome)],
) -> Result<(), Fault> {
    let mut has_begun = false;
    for (job, own) in group {
        let mut changes = Vec::new();
        match job.plan(engine, &mut changes) {
            Ok(()) if changes.is_empty() => {}
            // Told to lie: acknowledged below, and never written.
            Ok(()) if failpoint::check("store.commit.lie").is_err() => {}
            Ok(()) => {
                failpoint::check("store.commit.before").map_err(|error| Fault::of_io(&error, "failpoint"))?;
                if !std::mem::replace(&mut has_begun, true) {
                    shared.begin_group();
                }
                match tally.apply(engine, changes) {
                    Err(Fault::Refused(error)) => *own = Err(error),
                    outcome => outcome?,
                }
            }
            Err(Fault::Refused(error)) => *own = Err(error),
            Err(broken @ (Fault::Broken(_) | Fault::Full(_))) => return Err(broken),
        }
    }
    if has_begun {
        failpoint::check("store.sync.before").map_err(|error| Fault::of_io(&error, "failpoint"))?;
        engine.sync()?;
        failpoint::check("store.sync.after").map_err(|error| Fault::of_io(&error, "failpoint"))?;
        tally.synced()?;
        shared.end_group();
    }
    Ok(())
}

/// What is said of a full disk.
pub(super) const NO_ROOM: &str =
    "the disk is full: only tokens that exist nowhere else are written until there is room again";

fn no_room() -> StoreError {
    unavailable(NO_ROOM)
}

fn unavailable(why: &str) -> StoreError {
    StoreError::Unavailable(why.to_owned())
}
