//! Where a development broker keeps what it writes: a directory of its own (0700) that goes with it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::entropy::{Entropy, OsEntropy};

const PREFIX: &str = "dev-";
const LOCK: &str = "lock";

/// The directory. Dropping it removes it, unless it is to be kept.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    is_kept: bool,
    /// Held as long as the directory is in use: what nobody holds may be swept away.
    _lock: File,
}

impl Place {
    /// `keep`, or a new directory below `runtime_dir`. Sweeps away what killed brokers left there.
    pub(super) fn make(keep: Option<&Path>, runtime_dir: &Path) -> io::Result<Self> {
        sweep(runtime_dir)?;
        let entropy: &dyn Entropy = &OsEntropy;
        let dir = match keep {
            Some(dir) => std::path::absolute(dir)?,
            None => runtime_dir.join(format!("{PREFIX}{}", entropy.token::<6>())),
        };
        fs::DirBuilder::new().mode(0o700).recursive(keep.is_some()).create(&dir)?;
        let lock = File::create(dir.join(LOCK))?;
        lock.try_lock()
            .map_err(|_| io::Error::other(format!("{} is in use by another broker", dir.display())))?;
        Ok(Self { dir, is_kept: keep.is_some(), _lock: lock })
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it stays.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_kept {
            let _ = fs::remove_file(self.dir.join(LOCK));
            return;
        }
        // Best effort: what is left is swept away by the next one.
        let _ = fs::remove_dir_all(&self.dir);
        if let Some(runtime_dir) = self.dir.parent() {
            // Refused where another broker uses it.
            let _ = fs::remove_dir(runtime_dir);
        }
    }
}

fn sweep(runtime_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(runtime_dir)? {
        let dir = entry?.path();
        let is_ours = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        // One without a lock is just being made, or was never more.
        let is_left = is_ours && File::open(dir.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if is_left {
            fs::remove_dir_all(&dir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_is_private_and_goes_with_its_broker() {
        let runtime = tempfile::tempdir().unwrap();
        let runtime_dir = runtime.path().join("token-broker");
        fs::create_dir(&runtime_dir).unwrap();
        let place = Place::make(None, &runtime_dir).unwrap();
        assert_eq!(fs::metadata(place.dir()).unwrap().permissions().mode() & 0o777, 0o700);
        drop(place);
        assert!(!runtime_dir.exists());
    }

    #[test]
    fn what_a_killed_broker_left_is_swept_away_and_a_living_ones_is_not() {
        let runtime = tempfile::tempdir().unwrap();
        let left = runtime.path().join("dev-left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        let living = Place::make(None, runtime.path()).unwrap();
        let _second = Place::make(None, runtime.path()).unwrap();
        assert!(!left.exists() && living.dir().exists());
    }

    #[test]
    fn what_is_to_be_kept_stays() {
        let runtime = tempfile::tempdir().unwrap();
        let keep = runtime.path().join("data");
        let place = Place::make(Some(&keep), runtime.path()).unwrap();
        assert!(Place::make(Some(&keep), runtime.path()).is_err());
        drop(place);
        assert!(keep.exists());
    }
}
