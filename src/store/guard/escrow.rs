//! The second place: a directory, meant to be on another volume, for tokens that the store could not take. Owns the
//! files. Does not know when they are needed. Invariant: a file that was acknowledged is whole and durable under its
//! name, and none is removed that does not open.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::disk;
use super::open_error::OpenError;
use crate::connection::{ConnectionId, Intent, IssuedTokens};
use crate::error::StoreError;
use crate::store::table::Table;
use crate::store::{EscrowContents, EscrowStore, UnreadableEscrow};

/// How the names of files end that hold tokens, and of those that are being written.
const WHOLE: &str = ".escrow";
const UNFINISHED: &str = ".escrow.new";

/// Far above any answer of a token endpoint.
const LARGEST: u64 = 1 << 20;

/// Sealed tokens in a directory, for one store.
pub struct EscrowDir {
    path: PathBuf,
    table: Arc<Table>,
}

impl EscrowDir {
    /// Makes the directory if it is missing, and says what is wrong with where it lies. `store` is where the store lies.
    pub(super) fn open(path: PathBuf, store: &Path, table: Arc<Table>) -> Result<Self, OpenError> {
        let failed = |error: io::Error| OpenError::Io { path: path.clone(), why: error.to_string() };
        disk::make_dir(&path).map_err(failed)?;
        fs::read_dir(&path).map_err(failed)?;
        if let Some(filesystem) = disk::throwaway(&path) {
            tracing::warn!(path = %path.display(), filesystem, "the second place outlives the process only");
        } else if let (Ok(place), Ok(store)) = (fs::metadata(&path), fs::metadata(store))
            && place.dev() == store.dev()
        {
            tracing::warn!(path = %path.display(), "the second place is on the store's own volume, and fails with it");
        }
        Ok(Self { path, table })
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path, &Table) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (path, table) = (self.path.clone(), Arc::clone(&self.table));
        let done = tokio::task::spawn_blocking(move || {
            work(&path, &table)
                .map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))
        });
        done.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the process is ending".to_owned())))
    }
}

#[async_trait]
impl EscrowStore for EscrowDir {
    async fn put(
        &self,
        id: &ConnectionId,
        attempt: &Intent,
        issued: &IssuedTokens,
    ) -> Result<(), StoreError> {
        let name = self.table.escrow_name(id, attempt);
        let bytes = self.table.seal_escrow(&name, id, attempt, issued)?;
        self.off_thread(move |dir, _| write(dir, &name, &bytes)).await
    }

    async fn list(&self) -> Result<EscrowContents, StoreError> {
        self.off_thread(list).await
    }

    async fn remove(&self, id: &ConnectionId, attempt: &Intent) -> Result<(), StoreError> {
        let name = self.table.escrow_name(id, attempt);
        self.off_thread(move |dir, _| {
            for end in [UNFINISHED, WHOLE] {
                match fs::remove_file(dir.join(format!("{name}{end}"))) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            disk::sync_dir(dir)
        })
        .await
    }
}

/// Whole or not at all under its name, and on the device when this returns.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (aside, whole) = (dir.join(format!("{name}{UNFINISHED}")), dir.join(format!("{name}{WHOLE}")));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, &whole)?;
    disk::sync_dir(dir)
}

/// A file that was whole and not yet renamed when the process ended opens as well as any other.
fn list(dir: &Path, table: &Table) -> io::Result<EscrowContents> {
    let mut contents = EscrowContents::default();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A volume has directories of its own (`lost+found`).
        if entry.file_type()?.is_dir() {
            continue;
        }
        match open(&entry.path(), table) {
            Ok(held) => contents.tokens.push(held),
            Err(why) => {
                let place = entry.path().display().to_string();
                contents.unreadable.push(UnreadableEscrow { place, why });
            }
        }
    }
    Ok(contents)
}

fn open(path: &Path, table: &Table) -> Result<crate::store::EscrowedTokens, &'static str> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name =
        name.strip_suffix(UNFINISHED).or_else(|| name.strip_suffix(WHOLE)).ok_or("it is none of ours")?;
    // Not followed: a link is none of ours.
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
        return Err("it is no file");
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|_| "it cannot be read")?;
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|_| "it cannot be read")?;
    table.open_escrow(name, &bytes)
}

#[cfg(test)]
mod tests;
