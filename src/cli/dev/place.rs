//! Where a development broker keeps what it writes: a directory of its own (0700) that goes with it.
//!
//! Invariant: below a runtime directory, directories come and go only under a lock on it, so that none is swept away
//! between being made and being locked.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::super::hold::hold;
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
        let _turn = turn(runtime_dir)?;
        sweep(runtime_dir)?;
        let entropy: &dyn Entropy = &OsEntropy;
        let dir = match keep {
            Some(dir) => std::path::absolute(dir)?,
            None => runtime_dir.join(format!("{PREFIX}{}", entropy.token::<6>())),
        };
        fs::DirBuilder::new().mode(0o700).recursive(keep.is_some()).create(&dir)?;
        let path = dir.join(LOCK);
        let lock = match hold(&path, || File::create(&path), |file| Ok(file.try_lock()?)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::other(format!("{} is in use by another broker", dir.display())));
            }
            held => held?,
        };
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
        let Some(runtime_dir) = self.dir.parent() else { return };
        let _turn = turn(runtime_dir);
        // Best effort: what is left is swept away by the next one.
        let _ = fs::remove_dir_all(&self.dir);
        // Refused where another broker uses it.
        let _ = fs::remove_dir(runtime_dir);
    }
}

/// Waits until nobody else makes or removes directories below `runtime_dir`, which is made anew if it just went.
fn turn(runtime_dir: &Path) -> io::Result<File> {
    let open = || match fs::DirBuilder::new().mode(0o700).create(runtime_dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(runtime_dir),
    };
    // It may also go between being made and being opened.
    let may_return = || runtime_dir.parent().is_some_and(Path::exists) && !runtime_dir.is_symlink();
    loop {
        match hold(runtime_dir, open, File::lock) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_return() => {}
            held => return held,
        }
    }
}

fn sweep(runtime_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(runtime_dir)? {
        let dir = entry?.path();
        let is_ours = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        // One without a lock is just being made, or was never more.
        let left = if is_ours { File::open(dir.join(LOCK)).ok() } else { None };
        if left.is_some_and(|lock| lock.try_lock().is_ok()) {
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
    fn brokers_that_come_and_go_at_once_take_nothing_from_each_other() {
        let runtime = tempfile::tempdir().unwrap();
        let runtime_dir = runtime.path().join("token-broker");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let place = Place::make(None, &runtime_dir).unwrap();
                        assert!(place.dir().join(LOCK).exists());
                    }
                });
            }
        });
        assert!(!runtime_dir.exists());
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
