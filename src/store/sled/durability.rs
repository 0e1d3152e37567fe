//! S2 and S3: what reaches the device. sled's flush writes and stops there, so we keep handles of our own on its
//! files and sync them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::store::engine::Fault;
use crate::store::guard::Pauses;
use crate::telemetry::Metrics;

/// Makes durable what sled wrote.
pub(super) struct Durability {
    /// sled's log, opened a second time.
    log: File,
    blobs: PathBuf,
    /// The files in `blobs` that are durable already. Expected to stay empty: no value is large enough (S4).
    known: Mutex<HashSet<OsString>>,
    metrics: Arc<Metrics>,
}

impl Durability {
    /// For the engine in `dir`, which is open.
    pub(super) fn new(dir: &Path, metrics: Arc<Metrics>) -> Result<Self, Fault> {
        let log = File::open(dir.join("db")).map_err(broken)?;
        Ok(Self { log, blobs: dir.join("blobs"), known: Mutex::default(), metrics })
    }

    /// Blobs first: the log points to them.
    pub(super) fn sync(&self) -> Result<(), Fault> {
        self.sync_blobs().and_then(|()| self.log.sync_data()).map_err(broken)
    }

    fn sync_blobs(&self) -> io::Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present = HashSet::new();
        let mut is_dir_stale = false;
        for entry in fs::read_dir(&self.blobs)? {
            let name = entry?.file_name();
            if !known.contains(&name) {
                // One that vanished in between is not pointed to any more.
                match File::open(self.blobs.join(&name)) {
                    Ok(file) => file.sync_all()?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
                is_dir_stale = true;
            }
            present.insert(name);
        }
        if is_dir_stale {
            File::open(&self.blobs)?.sync_all()?;
        }
        self.metrics.set_store_blob_files(present.len() as u64);
        *known = present;
        Ok(())
    }
}

/// Waits until no thread of an engine that was just dropped holds sled's own lock any more: sled lets go of it only
/// when the last of its threads ends, and opening does not wait.
pub(super) fn await_release(dir: &Path) -> Result<(), Fault> {
    let log = match File::open(dir.join("db")) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(broken(error)),
    };
    let mut pauses = Pauses::new(Duration::from_secs(5));
    while let Err(error) = flock(&log, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK || !pauses.wait() {
            return Err(broken(error.into()));
        }
    }
    flock(&log, FlockOperation::Unlock).map_err(|error| broken(error.into()))
}

fn broken(error: io::Error) -> Fault {
    Fault::of_io(&error, "sync")
}
