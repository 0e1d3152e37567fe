//! Keeps the mark in the engine and the high-water file in step with what is written (G9). Invariant: the file never
//! says less than was acknowledged, but for the moment between an acknowledgement and the sync that follows it, and
//! while a rollback is not settled it says what it said before.

use std::io;
use std::path::Path;

use uuid::Uuid;

use super::ground::{Findings, of_file};
use super::high_water::{HighWater, UNSETTLED};
use super::mark::Mark;
use crate::store::engine::{Change, Engine, Fault};

/// How far the store is, in the engine and in the file.
pub(super) struct Tally {
    /// As applied.
    mark: Mark,
    /// As acknowledged, or as found at opening.
    acknowledged: Mark,
    /// How far the store ever was.
    high: u64,
    /// `None` while a rollback is not settled: its trace must outlast every crash until then.
    file: Option<HighWater>,
    is_stale: bool,
}

impl Tally {
    /// For the store at `path` as it was found.
    pub(super) fn new(path: &Path, store: Uuid, findings: &Findings) -> io::Result<Self> {
        let mark = findings.mark;
        let file = match findings.rollback {
            Some(_) => {
                let sequence = findings.high | UNSETTLED;
                HighWater::create(path, store, Mark { sequence, ..mark })?;
                None
            }
            None if HighWater::place(path).exists() => Some(HighWater::open(path, store)?),
            None => Some(HighWater::create(path, store, mark)?),
        };
        Ok(Self { mark, acknowledged: mark, high: findings.high, file, is_stale: false })
    }

    /// Applies `changes` and the mark they lead to as one.
    pub(super) fn apply(&mut self, engine: &dyn Engine, mut changes: Vec<Change>) -> Result<(), Fault> {
        let mark = self.mark.after(engine, &changes)?;
        changes.push(mark.change());
        engine.apply(&changes)?;
        self.mark = mark;
        Ok(())
    }

    /// Notes that all that was applied is durable. What is noted here survives this process at once, and the machine
    /// after [`Tally::sync`].
    pub(super) fn synced(&mut self) -> Result<(), Fault> {
        self.acknowledged = self.mark;
        if let Some(file) = &mut self.file {
            file.write(self.mark).map_err(of_file)?;
            self.is_stale = true;
        }
        Ok(())
    }

    /// Makes the file durable. Writers have been answered already: the sync of the engine is what their writes rest on,
    /// and this one only what a later loss of them is found out by.
    pub(super) fn sync(&mut self) -> Result<(), Fault> {
        match &self.file {
            Some(file) if std::mem::take(&mut self.is_stale) => file.sync().map_err(of_file),
            _ => Ok(()),
        }
    }

    /// Goes on from a reopened engine; answers whether it holds all that was acknowledged. It may hold more: a write that
    /// nobody was told of.
    pub(super) fn resume(&mut self, findings: &Findings) -> bool {
        let is_further = findings.mark.sequence > self.acknowledged.sequence && !findings.is_other;
        if !is_further && findings.mark != self.acknowledged {
            return false;
        }
        self.mark = findings.mark;
        true
    }

    /// Takes the state as it is for the newest there is.
    pub(super) fn settle(&mut self, engine: &dyn Engine, path: &Path, store: Uuid) -> Result<(), Fault> {
        if self.file.is_some() {
            return Ok(());
        }
        // Above every number that the file ever held: the state that was lost must not pass for this one.
        let mark = Mark { sequence: self.mark.sequence.max(self.high) + 1, ..self.mark };
        engine.apply(&[mark.change()])?;
        engine.sync()?;
        self.file = Some(HighWater::create(path, store, mark).map_err(of_file)?);
        self.mark = mark;
        self.acknowledged = mark;
        Ok(())
    }
}
