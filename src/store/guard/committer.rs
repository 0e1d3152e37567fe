//! The one thread that writes (G4): it drains the queue, applies each write, syncs once for all of them, and only
//! then answers. When the engine fails it is this thread that drops it, reopens it and verifies it (G6); no write is
//! ever tried a second time (G5).

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::creation::Ground;
use super::lock::StoreLock;
use super::shared::{Shared, catching};
use super::watchdog::{Stuck, Watchdog};
use crate::error::StoreError;
use crate::failpoint;
use crate::store::engine::{Change, Engine, Fault};
use crate::telemetry::Metrics;

/// Writes that share one sync, at most: bounds how long the first of them waits for the last.
const MAX_GROUP: usize = 256;

/// The first and the longest pause between two attempts to reopen.
const REOPEN_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// What the committer is asked.
pub(super) enum Message {
    /// A write.
    Write(Box<dyn Job>),
    /// A reader found the engine broken.
    Recover,
    /// End, and say so.
    Close(Option<oneshot::Sender<()>>),
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
    pub(super) metrics: Arc<Metrics>,
    pub(super) watchdog: Watchdog,
    /// Let go of after the engine, which the field order sees to.
    pub(super) _lock: StoreLock,
}

impl Committer {
    pub(super) fn run(mut self) {
        let closed = self.serve();
        self.shared.fail("the store is closed");
        self.drop_engine();
        // Only now may another process have it.
        drop(self);
        if let Some(tell) = closed {
            let _ = tell.send(());
        }
    }

    fn serve(&mut self) -> Option<oneshot::Sender<()>> {
        while let Ok(message) = self.messages.recv() {
            let last = match message {
                Message::Write(job) => self.commit(job),
                Message::Recover => None,
                Message::Close(tell) => return tell,
            };
            if self.shared.fault().is_some()
                && let Some(tell) = self.recover()
            {
                return tell;
            }
            if let Some(Message::Close(tell)) = last {
                return tell;
            }
        }
        None
    }

    /// Commits `first` and every write that waits behind it. Answers the message that ended the group, if it was
    /// not a write.
    fn commit(&mut self, first: Box<dyn Job>) -> Option<Message> {
        let mut group = vec![(first, Ok(()))];
        let mut last = None;
        while group.len() < MAX_GROUP && last.is_none() {
            match self.messages.try_recv() {
                Ok(Message::Write(job)) => group.push((job, Ok(()))),
                Ok(other) => last = Some(other),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        let began = Instant::now();
        let shared = &self.shared;
        let outcome = self
            .watchdog
            .watch(Stuck::Commit, || shared.with_engine(|engine| perform(shared, engine, &mut group)));
        let failure = match outcome {
            Ok(()) => None,
            Err(Fault::Refused(error)) => Some(error),
            Err(Fault::Broken(why) | Fault::Full(why)) => {
                self.shared.fail(&why);
                Some(unavailable(&why))
            }
        };
        self.metrics.store_commit_took(began.elapsed());
        for (job, own) in group {
            job.settle(failure.clone().map_or(own, Err));
        }
        last
    }

    /// Drops the engine, reopens and verifies it, for as long as that takes. Answers who asked to close meanwhile.
    fn recover(&mut self) -> Option<Option<oneshot::Sender<()>>> {
        let why = self.shared.fault().unwrap_or_default();
        tracing::error!(reason = "STORE_UNAVAILABLE", "the store failed and is being reopened: {why}");
        self.drop_engine();
        let (mut pause, longest) = REOPEN_PAUSES;
        loop {
            match self.ground.bring_up() {
                Ok(engine) => {
                    self.shared.restore(engine);
                    tracing::warn!("the store is open again and verified");
                    return None;
                }
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

    /// Tells everybody no until `pause` has passed.
    fn refuse_for(&mut self, pause: Duration) -> Option<Option<oneshot::Sender<()>>> {
        let until = Instant::now() + pause;
        loop {
            match self.messages.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Message::Write(job)) => {
                    job.settle(Err(unavailable(&self.shared.fault().unwrap_or_default())));
                }
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
fn perform(shared: &Shared, engine: &dyn Engine, group: &mut [(Box<dyn Job>, Outcome)]) -> Result<(), Fault> {
    let mut has_begun = false;
    for (job, own) in group {
        let mut changes = Vec::new();
        match job.plan(engine, &mut changes) {
            Ok(()) if changes.is_empty() => {}
            // Told to lie: acknowledged below, and never written.
            Ok(()) if failpoint::check("store.commit.lie").is_err() => {}
            Ok(()) => {
                failpoint::check("store.commit.before").map_err(|error| Fault::Broken(error.to_string()))?;
                if !std::mem::replace(&mut has_begun, true) {
                    shared.begin_group();
                }
                match engine.apply(&changes) {
                    Err(Fault::Refused(error)) => *own = Err(error),
                    outcome => outcome?,
                }
            }
            Err(Fault::Refused(error)) => *own = Err(error),
            Err(broken @ (Fault::Broken(_) | Fault::Full(_))) => return Err(broken),
        }
    }
    if has_begun {
        failpoint::check("store.sync.before").map_err(|error| Fault::Broken(error.to_string()))?;
        engine.sync()?;
        failpoint::check("store.sync.after").map_err(|error| Fault::Broken(error.to_string()))?;
        shared.end_group();
    }
    Ok(())
}

fn unavailable(why: &str) -> StoreError {
    StoreError::Unavailable(why.to_owned())
}
