//! A store's way out and in (G12): all its connections as one stream, and such a stream as a store. Owns when a store may
//! be filled. Invariant: a stream is read to its end before a byte of a store is changed, and a new store is there whole
//! or not at all; a store that is made of one that was of old is of old.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use super::creation::{self, Filled};
use super::mark::Mark;
use super::{DurableStore, OpenError, Opening};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::error::StoreError;
use crate::store::engine::{Backend, Change, Engine, Fault};
use crate::store::export::{ExportError, ExportHeader, Reader, Seals, Writer};
use crate::store::keyring::KeyRing;
use crate::store::table::{Plain, Table};

/// Records read, or written as one, at a time.
const STRIDE: usize = 200;

/// What was written to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Connections in the stream.
    pub connections: u64,
    /// Connections that are not in it, because they do not open.
    pub unreadable: u64,
    /// What the stream says of itself.
    pub header: ExportHeader,
}

/// What was taken from a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Connections taken in.
    pub connections: u64,
    /// Connections that the store had already, and kept as it had them.
    pub kept: u64,
    /// Whether the store was made for them.
    pub is_new: bool,
    /// What the stream says of itself.
    pub header: ExportHeader,
}

/// How a stream is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taking {
    /// Add what a store lacks that holds connections already. What it has stays: its tokens may be newer.
    pub is_merged: bool,
    /// The stream is of old: its refresh tokens may have been spent since. The new store says so when it is opened. Taken
    /// as given where the stream says of itself that its store was of old.
    pub is_backup: bool,
}

/// Why a stream could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The store cannot be opened or made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The stream, or what is in it.
    #[error(transparent)]
    Export(#[from] ExportError),
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        Self::Export(error.into())
    }
}

impl From<std::io::Error> for ImportError {
    fn from(error: std::io::Error) -> Self {
        Self::Export(error.into())
    }
}

impl DurableStore {
    /// Writes every connection to `into`, sealed under the active key of `keys`. Blocks; nobody else writes meanwhile
    /// that matters, for this is done while no broker runs.
    ///
    /// # Errors
    /// [`ExportError`]; what was written until then is cut off and will be refused.
    pub fn export(
        &self,
        into: &mut dyn Write,
        keys: Arc<KeyRing>,
        entropy: Arc<dyn Entropy>,
        now: Timestamp,
    ) -> Result<Exported, ExportError> {
        let key = keys.active();
        let header = ExportHeader {
            export: uuid::Builder::from_random_bytes(entropy.bytes()).into_uuid(),
            store: self.id,
            engine: self.engine.clone(),
            key: key.id.to_string(),
            key_made_at: key.created_at,
            made_at: now,
            rollback: self.opened.rollback.as_ref().map(|rollback| rollback.why.to_owned()),
            missing: self.opened.missing,
        };
        let mut writer = Writer::begin(into, Seals { keys, entropy }, &header)?;
        let (mut after, mut unreadable) = (None::<Vec<u8>>, 0);
        loop {
            let found =
                self.shared.read(|engine| self.table.connections(engine, after.as_deref(), STRIDE))?;
            let is_last = found.len() < STRIDE;
            for (key, plain) in found {
                after = Some(key[1..].to_vec());
                match plain {
                    Ok(plain) => plain.with_parts(|parts| writer.push(parts))??,
                    Err(_) => unreadable += 1,
                }
            }
            if is_last {
                return Ok(Exported { connections: writer.end()?, unreadable, header });
            }
        }
    }

    /// Takes the connections of `stream` into the store of `opening`, which is made if there is none. The stream, sealed
    /// under a key of `keys`, is read twice: to its end first, before anything is changed.
    pub(crate) async fn import<S: Read + Seek>(
        opening: Opening,
        backend: Box<dyn Backend>,
        mut stream: S,
        keys: Arc<KeyRing>,
        taking: Taking,
    ) -> Result<Imported, ImportError> {
        let seals = Seals { keys, entropy: Arc::clone(&opening.entropy) };
        let start = stream.stream_position()?;
        let mut reader = Reader::begin(std::io::BufReader::new(&mut stream), seals.clone())?;
        let header = reader.header.clone();
        let mut connections = 0;
        while let Some(records) = reader.next_frame()? {
            for parts in records {
                Plain::of_parts(parts)?;
                connections += 1;
            }
        }
        drop(reader);
        stream.seek(SeekFrom::Start(start))?;
        // What is of old stays so on its way: else the new store would pass for sound, and spent tokens be sent.
        let is_old = taking.is_backup || header.rollback.is_some();
        if creation::exists(&opening.path) {
            if is_old {
                return Err(ExportError::NotNew.into());
            }
            let store = Self::open(opening, backend)?;
            let merged = store.merge(stream, seals, taking.is_merged).await;
            store.close().await;
            let (connections, kept) = merged?;
            return Ok(Imported { connections, kept, is_new: false, header });
        }
        let mut failure = None;
        let store = Self::open_filled(opening, backend, &mut |engine, table| {
            fill(engine, table, &mut stream, &seals).map(|mark| Filled { mark, is_old }).map_err(|error| {
                let why = error.to_string();
                failure = Some(error);
                Fault::Broken(why)
            })
        });
        let store = match (store, failure) {
            (_, Some(failure)) => return Err(failure.into()),
            (store, None) => store?,
        };
        store.close().await;
        Ok(Imported { connections, kept: 0, is_new: true, header })
    }

    /// Adds what the store lacks. Answers how many connections were added, and how many it had.
    async fn merge<S: Read>(
        &self,
        stream: S,
        seals: Seals,
        is_merged: bool,
    ) -> Result<(u64, u64), ExportError> {
        let connections = self.opened.connections;
        if connections > 0 && !is_merged {
            return Err(ExportError::NotEmpty { connections });
        }
        let mut reader = Reader::begin(std::io::BufReader::new(stream), seals)?;
        let (mut added, mut kept) = (0, 0);
        while let Some(records) = reader.next_frame()? {
            let mut plains = records.into_iter().map(Plain::of_parts).collect::<Result<Vec<_>, _>>()?;
            while !plains.is_empty() {
                let batch: Vec<Plain> = plains.drain(..plains.len().min(STRIDE)).collect();
                let (new, old) = self
                    .write(super::Weight::Ordinary, move |table, engine, changes| {
                        add(engine, table, &batch, changes)
                    })
                    .await?;
                added += new;
                kept += old;
            }
        }
        Ok((added, kept))
    }
}

/// Writes a stream into an engine that holds nothing yet.
fn fill<S: Read>(engine: &dyn Engine, table: &Table, stream: S, seals: &Seals) -> Result<Mark, ExportError> {
    let refused = |fault: Fault| match fault {
        Fault::Refused(error) => error,
        Fault::Broken(why) | Fault::Full(why) => StoreError::Unavailable(why),
    };
    let mut reader = Reader::begin(std::io::BufReader::new(stream), seals.clone())?;
    let mut mark = Mark::default();
    while let Some(records) = reader.next_frame()? {
        let plains = records.into_iter().map(Plain::of_parts).collect::<Result<Vec<_>, _>>()?;
        let mut changes = Vec::new();
        add(engine, table, &plains, &mut changes).map_err(refused)?;
        mark = mark.after(engine, &changes).map_err(refused)?;
        engine.apply(&changes).and_then(|()| engine.sync()).map_err(refused)?;
    }
    Ok(mark)
}

/// The changes that add those of `plains` that are not there; answers how many those are, and how many are there.
fn add(
    engine: &dyn Engine,
    table: &Table,
    plains: &[Plain],
    changes: &mut Vec<Change>,
) -> Result<(u64, u64), Fault> {
    let (mut added, mut kept) = (0, 0);
    for plain in plains {
        match table.put(engine, plain, crate::store::Expected::Absent, changes) {
            Ok(_) => added += 1,
            Err(Fault::Refused(StoreError::Conflict)) => kept += 1,
            Err(fault) => return Err(fault),
        }
    }
    Ok((added, kept))
}
