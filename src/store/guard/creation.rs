//! Bringing an engine up: for the first time by building aside and renaming (G2), later in place, and either way
//! with its names made durable (G3) and its header verified (G8) before anything is served.
//!
//! ```text
//! PATH/lock             held while a process has the store
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
use super::identity::{self, Header, Identity};
use super::open_error::OpenError;
use super::shared::catching;
use crate::entropy::Entropy;
use crate::store::engine::{Backend, Change, Engine, Fault};
use crate::store::index::HEADER;
use crate::store::keyring::KeyRing;

/// Where the store of `path` lies once it is whole.
pub(super) fn place(path: &Path) -> PathBuf {
    path.join("store")
}

/// Whether there is a store. One that is there only in part is a store that does not open, not an absent one.
pub(super) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(place(path)).is_ok()
}

/// Makes a store where there is none; answers whether it did. The lock is held.
pub(super) fn make_if_missing(
    path: &Path,
    backend: &dyn Backend,
    keys: &Arc<KeyRing>,
    entropy: &Arc<dyn Entropy>,
) -> Result<bool, OpenError> {
    if exists(path) {
        return Ok(false);
    }
    let making = path.join("store.new");
    let failed = |fault: Fault| OpenError::Io { path: making.clone(), why: said(fault) };
    catching(|| make(path, &making, backend, keys, entropy)).map_err(failed)?;
    Ok(true)
}

fn make(
    path: &Path,
    making: &Path,
    backend: &dyn Backend,
    keys: &Arc<KeyRing>,
    entropy: &Arc<dyn Entropy>,
) -> Result<(), Fault> {
    disk::remove_tree(making).map_err(broken)?;
    let engine_dir = making.join(backend.name());
    disk::make_dir(&engine_dir).map_err(broken)?;
    let identity = Identity::new(backend.name(), keys, entropy);
    let engine = backend.open(&engine_dir)?;
    engine.apply(&[Change { key: HEADER, value: Some(identity::encode(&identity.header())) }])?;
    engine.sync()?;
    drop(engine);
    write_new(&making.join("identity"), &identity::encode(&identity)).map_err(broken)?;
    disk::sync_tree(making).map_err(broken)?;
    fs::rename(making, place(path)).map_err(broken)?;
    disk::sync_dir(path).map_err(broken)
}

/// What it takes to bring the engine up, the first time and after it failed.
pub(super) struct Ground {
    pub(super) path: PathBuf,
    pub(super) backend: Box<dyn Backend>,
    pub(super) identity: Identity,
}

impl Ground {
    /// Opens the engine, makes its names durable, verifies that it is this store's.
    pub(super) fn bring_up(&self) -> Result<Box<dyn Engine>, OpenError> {
        if self.identity.engine != self.backend.name() {
            return Err(OpenError::OtherEngine {
                path: self.path.clone(),
                found: self.identity.engine.clone(),
                asked: self.backend.name(),
            });
        }
        let dir = place(&self.path).join(self.backend.name());
        let unopenable = |fault| OpenError::Unopenable { path: self.path.clone(), why: said(fault) };
        if !dir.is_dir() {
            return Err(unopenable(Fault::Broken("its data is missing".to_owned())));
        }
        let (engine, header) = catching(|| {
            let engine = self.backend.open(&dir)?;
            disk::sync_tree(&place(&self.path)).map_err(broken)?;
            disk::sync_dir(&self.path).map_err(broken)?;
            disk::sync_parent(&self.path).map_err(broken)?;
            let header = engine.get(&HEADER)?;
            Ok((engine, header))
        })
        .map_err(unopenable)?;
        let missing = || unopenable(Fault::Broken("its header record is missing".to_owned()));
        let header: Header =
            identity::decode(&self.path, "its header record is damaged", &header.ok_or_else(missing)?)?;
        if header != self.identity.header() {
            return Err(unopenable(Fault::Broken("its data belongs to another store".to_owned())));
        }
        Ok(engine)
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

fn broken(error: io::Error) -> Fault {
    Fault::of_io(&error, "file")
}

fn said(fault: Fault) -> String {
    match fault {
        Fault::Refused(error) => error.to_string(),
        Fault::Broken(why) | Fault::Full(why) => why,
    }
}
