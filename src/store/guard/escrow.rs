//! The second place: a directory, meant to be on another volume, for tokens that the store could not take. Owns the
//! files. Does not know when they are needed. Invariant: a file that was acknowledged is whole and durable under its
//! name, and nothing there is removed that does not open.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::claim::{self, MARKER};
use super::disk;
use super::open_error::OpenError;
use crate::connection::{ConnectionId, Intent, IssuedTokens};
use crate::error::StoreError;
use crate::store::table::{FOREIGN, Table};
use crate::store::{EscrowContents, EscrowStore, EscrowedTokens, UnreadableEscrow};

/// How the names of files end that hold tokens, of those that are being written, and of those that were set apart.
const WHOLE: &str = ".escrow";
const UNFINISHED: &str = ".escrow.new";
const APART: &str = ".apart";

/// Why nothing is known of a file.
const UNREAD: &str = "it cannot be read";

/// Why a file is none of ours.
const NO_FILE: &str = "it is no file";

/// Far above any answer of a token endpoint.
const LARGEST: u64 = 1 << 20;

/// Sealed tokens in a directory, for one store.
pub struct EscrowDir {
    path: PathBuf,
    table: Arc<Table>,
    under_way: Arc<UnderWay>,
}

/// The names that are being written, and whether nobody needs them any more. A volume may hang for longer than anybody
/// waits; two at a time would write into one file, and what ends late must not stay.
#[derive(Default)]
struct UnderWay(Mutex<HashMap<String, bool>>);

impl UnderWay {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EscrowDir {
    /// Makes the directory at its first use, knows it again later, and says what is wrong with where it lies. `store` is where the store lies.
    pub(super) fn open(path: PathBuf, store: &Path, table: Arc<Table>) -> Result<Self, OpenError> {
        let failed = |error: io::Error| OpenError::Io { path: path.clone(), why: error.to_string() };
        claim::claim(&path, store, table.store())?;
        fs::read_dir(&path).map_err(failed)?;
        if let Some(filesystem) = disk::throwaway(&path) {
            tracing::warn!(path = %path.display(), filesystem, "the second place outlives the process only");
        } else if let (Ok(place), Ok(store)) = (fs::metadata(&path), fs::metadata(store))
            && place.dev() == store.dev()
        {
            tracing::warn!(path = %path.display(), "the second place is on the store's own volume, and fails with it");
        }
        sweep(&path, &table).map_err(failed)?;
        Ok(Self { path, table, under_way: Arc::default() })
    }

    /// How many answers lie in the directory `path` that the store of `table`, which lies at `store`, has not taken.
    /// What was set apart does not count, nor what another store left. Looks only: nothing is made or claimed.
    pub(super) fn waiting(path: &Path, store: &Path, table: &Table) -> Result<u64, OpenError> {
        let failed = |why: String| OpenError::Io { path: path.to_owned(), why };
        claim::check(path, store, table.store())?;
        let contents = match list(path, table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            contents => contents.map_err(|error| failed(error.to_string()))?,
        };
        // What cannot be read, or does not open, may be what is looked for.
        let unread: Vec<_> = contents.unreadable.iter().filter(|kept| may_wait(kept, table)).collect();
        if !unread.is_empty() {
            let unread: Vec<_> = unread.iter().map(|kept| format!("{}: {}", kept.place, kept.why)).collect();
            return Err(failed(unread.join("; ")));
        }
        Ok(contents.tokens.iter().filter(|held| !held.is_apart).count() as u64)
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
        if self.under_way.lock().insert(name.clone(), false).is_some() {
            return Err(StoreError::Unavailable("an earlier write of the same tokens hangs".to_owned()));
        }
        let under_way = Arc::clone(&self.under_way);
        self.off_thread(move |dir, _| {
            let written = write(dir, &name, &bytes);
            let is_unneeded = under_way.lock().remove(&name) == Some(true);
            if is_unneeded { remove(dir, &name) } else { written }
        })
        .await
    }

    async fn list(&self) -> Result<EscrowContents, StoreError> {
        self.off_thread(list).await
    }

    async fn set_apart(&self, id: &ConnectionId, attempt: &Intent) -> Result<(), StoreError> {
        let name = self.table.escrow_name(id, attempt);
        self.off_thread(move |dir, _| {
            let at = |end: &str| dir.join(format!("{name}{end}"));
            if at(APART).try_exists()? {
                return Ok(());
            }
            let from = if at(WHOLE).try_exists()? { WHOLE } else { UNFINISHED };
            fs::rename(at(from), at(APART))?;
            disk::sync_dir(dir)
        })
        .await
    }

    async fn remove(&self, id: &ConnectionId, attempt: &Intent) -> Result<(), StoreError> {
        let name = self.table.escrow_name(id, attempt);
        if let Some(is_unneeded) = self.under_way.lock().get_mut(&name) {
            *is_unneeded = true;
            return Ok(());
        }
        self.off_thread(move |dir, _| remove(dir, &name)).await
    }
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let at = |end: &str| dir.join(format!("{name}{end}"));
    disk::write_whole(&at(UNFINISHED), &at(WHOLE), bytes)
}

fn remove(dir: &Path, name: &str) -> io::Result<()> {
    for end in [UNFINISHED, WHOLE, APART] {
        match fs::remove_file(dir.join(format!("{name}{end}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    disk::sync_dir(dir)
}

/// Removes what a process left that ended, or ran out of room, in the middle of a write: never acknowledged, of no use,
/// and else told as kept at every start.
fn sweep(dir: &Path, table: &Table) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let (path, name) = {
            let entry = entry?;
            (entry.path(), entry.file_name().to_string_lossy().into_owned())
        };
        let Some(name) = name.strip_suffix(UNFINISHED).filter(|name| is_ours(name)) else { continue };
        if bytes_of(&path).is_ok_and(|bytes| table.is_cut_short(name, &bytes)) {
            tracing::warn!(path = %path.display(), "a write that was cut short is removed from the second place");
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Whether a file that does not open may hold an answer that the store of `table` has not taken.
fn may_wait(kept: &UnreadableEscrow, table: &Table) -> bool {
    let path = Path::new(&kept.place);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(name) = [UNFINISHED, WHOLE].into_iter().find_map(|end| name.strip_suffix(end)) else {
        return false;
    };
    if !is_ours(name) || kept.why == FOREIGN || kept.why == NO_FILE {
        return false;
    }
    // A write that was cut short was never acknowledged.
    let is_unfinished = kept.place.ends_with(UNFINISHED);
    !(is_unfinished && bytes_of(path).is_ok_and(|bytes| table.is_cut_short(name, &bytes)))
}

/// Whether a file of ours could have that name: see [`Table::escrow_name`].
fn is_ours(name: &str) -> bool {
    let is_hex = |digits: &str, len| digits.len() == len && digits.bytes().all(|b| b.is_ascii_hexdigit());
    name.split_once('-').is_some_and(|(row, attempt)| is_hex(row, 32) && is_hex(attempt, 16))
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
        if entry.file_name().to_string_lossy().ends_with(MARKER) {
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

fn open(path: &Path, table: &Table) -> Result<EscrowedTokens, &'static str> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (name, end) = [UNFINISHED, WHOLE, APART]
        .into_iter()
        .find_map(|end| Some((name.strip_suffix(end)?, end)))
        .ok_or("it is none of ours")?;
    let bytes = bytes_of(path)?;
    let held = table.open_escrow(name, &bytes)?;
    Ok(EscrowedTokens { is_apart: end == APART, ..held })
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, &'static str> {
    // Not followed: a link is none of ours.
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
        return Err(NO_FILE);
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|_| UNREAD)?;
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|_| UNREAD)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
