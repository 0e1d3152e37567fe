//! What readers, writers and the committer share: the engine while it is well, and how far it is durable.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use tokio::sync::watch;

use super::committer::Message;
use crate::error::StoreError;
use crate::store::engine::{Engine, Fault};

/// How a store fares, for whoever follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Reads and writes.
    Well,
    /// The disk is full: reads, and writes of tokens that exist nowhere else. Ends by itself once there is room.
    Full,
    /// It failed and is being reopened, or was closed: neither reads nor writes.
    Failed,
}

/// The engine and its state.
pub(super) struct Shared {
    /// `None` while it is being reopened and after it was closed.
    engine: RwLock<Option<Box<dyn Engine>>>,
    progress: Mutex<Progress>,
    moved: Condvar,
    committer: OnceLock<Sender<Message>>,
    health: watch::Sender<Health>,
}

/// How far the engine is.
#[derive(Default)]
struct Progress {
    /// The last group of which anything may be visible to readers.
    applied: u64,
    /// The last group that a sync covered.
    durable: u64,
    /// How often the engine was reopened. What was seen before may be gone since.
    reopened: u64,
    /// Why the engine cannot be used.
    fault: Option<String>,
    /// Whether that is for want of space.
    is_full: bool,
}

/// What a reader saw, not yet to be told.
struct Seen<T> {
    value: T,
    reopened: u64,
}

impl Shared {
    pub(super) fn new(engine: Box<dyn Engine>, health: Health) -> Self {
        Self {
            engine: RwLock::new(Some(engine)),
            progress: Mutex::default(),
            moved: Condvar::new(),
            committer: OnceLock::new(),
            health: watch::Sender::new(health),
        }
    }

    /// Whom to wake when a reader finds the engine broken.
    pub(super) fn wake_with(&self, committer: Sender<Message>) {
        let _ = self.committer.set(committer);
    }

    pub(super) fn fault(&self) -> Option<String> {
        self.progress().fault.clone()
    }

    /// Answers at once while the engine cannot be used.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.fault().map_or(Ok(()), |why| Err(StoreError::Unavailable(why)))
    }

    /// Runs `look`, then waits until everything it may have seen is durable. Blocks.
    pub(super) fn read<T>(
        &self,
        look: impl FnOnce(&dyn Engine) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        match self.look(look) {
            Ok(seen) => self.once_durable(seen),
            Err(Fault::Refused(error)) => Err(error),
            Err(fault) => {
                let why = self.fail(fault);
                if let Some(committer) = self.committer.get() {
                    let _ = committer.send(Message::Recover);
                }
                Err(StoreError::Unavailable(why))
            }
        }
    }

    /// What `look` sees, and how often the engine had been reopened before it looked.
    fn look<T>(&self, look: impl FnOnce(&dyn Engine) -> Result<T, Fault>) -> Result<Seen<T>, Fault> {
        let reopened = self.progress().reopened;
        Ok(Seen { value: self.with_engine(look)?, reopened })
    }

    /// Runs `work` on the engine. A panic in it is the engine's failure, not the process's end.
    pub(super) fn with_engine<T>(
        &self,
        work: impl FnOnce(&dyn Engine) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.check()?;
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        let Some(engine) = engine.as_deref() else {
            return Err(Fault::Refused(StoreError::Unavailable("the store is being reopened".to_owned())));
        };
        catching(|| work(engine))
    }

    /// Takes the engine out, once nobody uses it any more.
    pub(super) fn take_engine(&self) -> Option<Box<dyn Engine>> {
        self.engine.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Follows how the store fares.
    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Says how the store fares, while no fault says it.
    pub(super) fn fares(&self, health: Health) {
        self.health.send_replace(health);
    }

    /// Whether the fault that holds is for want of space.
    pub(super) fn failed_for_space(&self) -> bool {
        self.progress().is_full
    }

    /// Puts a reopened and verified engine in, and serves again.
    pub(super) fn restore(&self, engine: Box<dyn Engine>, health: Health) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(engine);
        let mut progress = self.progress();
        progress.durable = progress.applied;
        progress.reopened += 1;
        progress.fault = None;
        progress.is_full = false;
        drop(progress);
        self.moved.notify_all();
        self.fares(health);
    }

    /// From here on everybody is told no. The first reason stays; answers this one.
    pub(super) fn fail(&self, fault: Fault) -> String {
        let (is_full, why) = match fault {
            Fault::Full(why) => (true, why),
            Fault::Broken(why) => (false, why),
            Fault::Refused(error) => (false, error.to_string()),
        };
        let mut progress = self.progress();
        progress.fault.get_or_insert_with(|| why.clone());
        progress.is_full |= is_full;
        drop(progress);
        self.moved.notify_all();
        self.fares(Health::Failed);
        why
    }

    /// Says, before the first change is applied, that readers may see more than is durable.
    pub(super) fn begin_group(&self) {
        self.progress().applied += 1;
    }

    /// Says that all that was applied is durable.
    pub(super) fn end_group(&self) {
        let mut progress = self.progress();
        progress.durable = progress.applied;
        self.moved.notify_all();
    }

    /// Gives what was seen once all of it is durable. Where the engine was reopened since the look, nobody knows: what
    /// was seen may have been applied and never synced.
    fn once_durable<T>(&self, seen: Seen<T>) -> Result<T, StoreError> {
        let progress = self.progress();
        let applied = progress.applied;
        let progress = self
            .moved
            .wait_while(progress, |now| {
                now.durable < applied && now.fault.is_none() && now.reopened == seen.reopened
            })
            .unwrap_or_else(PoisonError::into_inner);
        match &progress.fault {
            Some(why) => Err(StoreError::Unavailable(why.clone())),
            None if progress.reopened != seen.reopened => {
                Err(StoreError::Unavailable("the store was reopened during the read".to_owned()))
            }
            None => Ok(seen.value),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns a panic into a fault. What the panic says is left out: it may quote anything.
pub(super) fn catching<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Fault::Broken("the storage engine panicked".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryEngine;

    fn shared() -> Shared {
        Shared::new(Box::new(MemoryEngine::default()), Health::Well)
    }

    #[test]
    fn what_was_seen_before_a_reopening_is_told_to_nobody() {
        let shared = shared();
        shared.begin_group();
        let seen = shared.look(|_| Ok("applied and never synced")).unwrap();
        shared.fail(Fault::Broken("sync failed".to_owned()));
        drop(shared.take_engine());
        shared.restore(Box::new(MemoryEngine::default()), Health::Well);
        let told = shared.once_durable(seen);
        assert!(matches!(told, Err(StoreError::Unavailable(_))), "{told:?}");
    }

    #[test]
    fn what_is_seen_after_a_reopening_is_told() {
        let shared = shared();
        shared.begin_group();
        shared.fail(Fault::Broken("sync failed".to_owned()));
        drop(shared.take_engine());
        shared.restore(Box::new(MemoryEngine::default()), Health::Well);
        assert_eq!(shared.read(|_| Ok("durable")), Ok("durable"));
    }
}
