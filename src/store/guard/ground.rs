//! Where an engine is brought up, the first time and after it failed: opened in place, its names made durable (G3), its
//! header verified (G8), every row looked at (G10) and all of it held against the high-water file (G9). Invariant: what
//! leaves here has been verified, or is said not to be.

use std::path::PathBuf;
use std::sync::Arc;

use super::Opened;
use super::ballast::Ballast;
use super::census::{self, Census};
use super::committer::NO_ROOM;
use super::creation::place;
use super::disk;
use super::high_water::{HighWater, Reading, UNSETTLED};
use super::identity::{self, Header, Identity};
use super::mark::Mark;
use super::open_error::OpenError;
use super::shared::catching;
use crate::connection::ConnectionId;
use crate::store::engine::{Backend, Engine, Fault, is_full};
use crate::store::index::HEADER;
use crate::store::table::Table;
use crate::telemetry::Metrics;

/// What it takes to bring the engine up.
pub(super) struct Ground {
    pub(super) path: PathBuf,
    pub(super) backend: Box<dyn Backend>,
    pub(super) identity: Identity,
    pub(super) table: Arc<Table>,
    pub(super) ballast: Ballast,
}

/// An engine that was brought up, and what was found in it.
pub(super) struct Brought {
    pub(super) engine: Box<dyn Engine>,
    pub(super) findings: Findings,
}

/// What a look at the whole store found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// How far the store is, counted anew.
    pub(super) mark: Mark,
    /// How far it ever was, as far as that is known.
    pub(super) high: u64,
    /// Rows that do not open.
    pub(super) unreadable: u64,
    /// Rows that were written and are not there.
    pub(super) missing: u64,
    /// Whether the rows are others than the mark beside them says.
    pub(super) is_other: bool,
    /// Connections with a refresh that was begun and whose outcome is not written down.
    pub(super) unfinished: Vec<ConnectionId>,
    /// What speaks for an older state of the store than it had.
    pub(super) rollback: Option<Rollback>,
}

/// The store is in an older state than it was: a copy was put back, or writes were lost by the disk. Every refresh token
/// in it may be spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// The last write that the store holds.
    pub stored: u64,
    /// The last write that is known to have been made; `None`: not known.
    pub expected: Option<u64>,
    /// How it was found out.
    pub why: &'static str,
}

impl Ground {
    /// Opens and verifies the engine. Blocks for as long as it takes to read and open every row.
    pub(super) fn bring_up(&self) -> Result<Brought, OpenError> {
        if self.identity.engine != self.backend.name() {
            return Err(OpenError::OtherEngine {
                path: self.path.clone(),
                found: self.identity.engine.clone(),
                asked: self.backend.name(),
            });
        }
        let dir = place(&self.path).join(self.backend.name());
        if !dir.is_dir() {
            return Err(self.unopenable(Fault::no_data()));
        }
        let (engine, header) = catching(|| {
            let engine = self.backend.open(&dir)?;
            disk::sync_tree(&place(&self.path)).map_err(of_file)?;
            disk::sync_dir(&self.path).map_err(of_file)?;
            disk::sync_parent(&self.path).map_err(of_file)?;
            let header = engine.get(&HEADER)?;
            Ok((engine, header))
        })
        .map_err(|fault| self.unopenable(fault))?;
        let missing = || self.unopenable(Fault::Broken("its header record is missing".to_owned()));
        let header: Header =
            identity::decode(&self.path, "its header record is damaged", &header.ok_or_else(missing)?)?;
        if header != self.identity.header() {
            return Err(self.unopenable(Fault::Broken("its data belongs to another store".to_owned())));
        }
        let findings = catching(|| self.look(&*engine)).map_err(|fault| self.unopenable(fault))?;
        Ok(Brought { engine, findings })
    }

    /// The same, once more with the ballast given up if the disk is full; answers whether it is.
    pub(super) fn bring_up_with_room(&self) -> Result<(Brought, bool), OpenError> {
        let brought = match self.bring_up() {
            Err(error) if disk::is_nearly_full(&self.path) => match self.ballast.release() {
                Ok(true) => self.bring_up()?,
                Ok(false) | Err(_) => return Err(error),
            },
            outcome => outcome?,
        };
        let is_full = match self.ballast.ensure() {
            Ok(()) => false,
            Err(error) if is_full(&error) => {
                tracing::error!(reason = "STORE_UNAVAILABLE", "{NO_ROOM}");
                true
            }
            Err(error) => {
                tracing::error!(reason = "STORE_UNAVAILABLE", "there is no ballast for a full disk: {error}");
                false
            }
        };
        Ok((brought, is_full))
    }

    fn look(&self, engine: &dyn Engine) -> Result<Findings, Fault> {
        let stored = Mark::of(engine)?;
        let reading = HighWater::read(&self.path, self.identity.store).map_err(of_file)?;
        let census = census::take(engine, &self.table)?;
        Ok(Findings::new(stored, reading, census))
    }

    fn unopenable(&self, fault: Fault) -> OpenError {
        let (Fault::Broken(why) | Fault::Full(why)) = fault else {
            let why = "a row of the store's own cannot be read".to_owned();
            return OpenError::Unopenable { path: self.path.clone(), why };
        };
        OpenError::Unopenable { path: self.path.clone(), why }
    }
}

impl Findings {
    /// Raises the alarms that what was found deserves, and says it.
    pub(super) fn tell(&self, is_new: bool, metrics: &Metrics) -> Opened {
        metrics.set_store_losses(self.missing, self.unreadable);
        metrics.set_store_rolled_back(self.rollback.is_some());
        if self.missing > 0 {
            let (missing, reason) = (self.missing, "RECORD_UNREADABLE");
            tracing::error!(reason, missing, "the store lacks records that were written to it");
        }
        if let Some(Rollback { stored, expected, why }) = &self.rollback {
            let expected = expected.map_or("unknown".to_owned(), |expected| expected.to_string());
            tracing::error!(
                reason = "CONNECTION_AMBIGUOUS",
                "the store is in an older state than it had ({why}; it holds write {stored}, the last one was {expected}): refresh tokens in it may be spent"
            );
        }
        Opened {
            is_new,
            connections: self.mark.connections,
            sessions: self.mark.sessions,
            unreadable: self.unreadable,
            missing: self.missing,
            unfinished: self.unfinished.clone(),
            rollback: self.rollback.clone(),
        }
    }

    /// Holds what is there against what was written, by the mark in the engine and the file beside it.
    fn new(stored: Option<Mark>, reading: Reading, census: Census) -> Self {
        let known = stored.unwrap_or_default();
        let high = match reading {
            Reading::At(high) => Some(high.sequence & !UNSETTLED),
            Reading::Missing | Reading::Damaged | Reading::OfAnother => None,
        };
        let is_other = stored.is_some() && !known.is_of(&census.mark, &census.unknown);
        let why = match (reading, stored) {
            // Written by a version that kept neither.
            (Reading::Missing, None) => None,
            (Reading::Missing, Some(_)) => Some("its high-water file is missing"),
            (Reading::Damaged, _) => Some("its high-water file is damaged"),
            (Reading::OfAnother, _) => Some("its high-water file belongs to another store"),
            (Reading::At(_), None) => Some("its commit mark is missing"),
            (Reading::At(high), Some(_)) if high.sequence & UNSETTLED != 0 => {
                Some("that was found before and is not dealt with yet")
            }
            (Reading::At(high), Some(mark)) if high.sequence > mark.sequence => {
                Some("it is behind its high-water file")
            }
            // The file is written after the engine, with the engine's own mark.
            (Reading::At(high), Some(mark)) if high.sequence == mark.sequence && high != mark => {
                Some("it went another way than its high-water file says")
            }
            (Reading::At(_), Some(_)) => is_other.then_some("its records are not the ones last written"),
        };
        let rows = |mark: Mark| mark.connections + mark.sessions;
        Self {
            mark: Mark { sequence: known.sequence, ..census.mark },
            high: high.unwrap_or_default().max(known.sequence),
            unreadable: census.unreadable,
            missing: rows(known).saturating_sub(rows(census.mark)),
            is_other,
            unfinished: census.unfinished,
            rollback: why.map(|why| Rollback { stored: known.sequence, expected: high, why }),
        }
    }
}

pub(super) fn of_file(error: std::io::Error) -> Fault {
    Fault::of_io(&error, "file")
}
