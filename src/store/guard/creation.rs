//! Making a store where there is none: built aside, made durable and renamed into place (G2), so that a crash leaves a
//! whole store or none.
//!
//! ```text
//! PATH/lock             held while a process has the store
//! PATH/highwater        how far the store ever was
//! PATH/ballast          room that is given up when the disk is full
//! PATH/second-place     where tokens lie that the store could not take, if a place for them was ever used
//! PATH/store/identity   who the store is, and the canary of its key
//! PATH/store/ENGINE/    the engine's own files
//! PATH/store.new/       a store being made; removed if it was left behind
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk;
use super::ground::of_file;
use super::high_water::{HighWater, UNSETTLED};
use super::identity::{self, Identity};
use super::mark::Mark;
use super::open_error::OpenError;
use super::shared::catching;
use crate::entropy::Entropy;
use crate::store::engine::{Backend, Change, Engine, Fault};
use crate::store::index::HEADER;
use crate::store::keyring::KeyRing;
use crate::store::table::Table;

/// Fills a store that is being made.
pub(super) type Fill<'a> = &'a mut dyn FnMut(&dyn Engine, &Table) -> Result<Filled, Fault>;

/// How a store that was made is.
#[derive(Default)]
pub(super) struct Filled {
    /// How far.
    pub(super) mark: Mark,
    /// Whether what it was filled with is of old.
    pub(super) is_old: bool,
}

/// Where the store of `path` lies once it is whole.
pub(super) fn place(path: &Path) -> PathBuf {
    path.join("store")
}

/// Whether there is a store at `path`. One that is there only in part is a store that does not open, not an absent one.
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(place(path)).is_ok()
}

/// Makes a store where there is none, filled by `fill`; answers whether it did. The lock is held.
pub(super) fn make_if_missing(
    path: &Path,
    backend: &dyn Backend,
    keys: &Arc<KeyRing>,
    entropy: &Arc<dyn Entropy>,
    fill: Fill<'_>,
) -> Result<bool, OpenError> {
    if exists(path) {
        return Ok(false);
    }
    let making = path.join("store.new");
    let failed = |fault: Fault| OpenError::Io { path: making.clone(), why: said(fault) };
    catching(|| make(path, &making, backend, keys, entropy, fill)).map_err(failed)?;
    Ok(true)
}

fn make(
    path: &Path,
    making: &Path,
    backend: &dyn Backend,
    keys: &Arc<KeyRing>,
    entropy: &Arc<dyn Entropy>,
    fill: Fill<'_>,
) -> Result<(), Fault> {
    disk::remove_tree(making).map_err(of_file)?;
    let engine_dir = making.join(backend.name());
    disk::make_dir(&engine_dir).map_err(of_file)?;
    let identity = Identity::new(backend.name(), keys, entropy);
    let (sealer, index) = identity
        .open(path, keys, entropy)
        .map_err(|error| Fault::Broken(format!("{error}: {}", error.why())))?;
    let engine = backend.make(&engine_dir)?;
    let Filled { mark, is_old } = fill(&*engine, &Table::new(sealer, index))?;
    let header = Change { key: HEADER, value: Some(identity::encode(&identity.header())) };
    engine.apply(&[header, mark.change()])?;
    engine.sync()?;
    drop(engine);
    write_new(&making.join("identity"), &identity::encode(&identity)).map_err(of_file)?;
    disk::sync_tree(making).map_err(of_file)?;
    // Before the store is there: one without its high-water file is one that was put back.
    let sequence = mark.sequence | if is_old { UNSETTLED } else { 0 };
    HighWater::create(path, identity.store, Mark { sequence, ..mark }).map_err(of_file)?;
    fs::rename(making, place(path)).map_err(of_file)?;
    disk::sync_dir(path).map_err(of_file)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

fn said(fault: Fault) -> String {
    match fault {
        Fault::Refused(error) => error.to_string(),
        Fault::Broken(why) | Fault::Full(why) => why,
    }
}
