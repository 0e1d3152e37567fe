//! A lock on a file or directory that its last holder may have removed.
//!
//! Invariant: what is held lies at its path. Whoever opens before the removal and locks after it would otherwise hold
//! something that nobody can find, beside the one who made it anew.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What `open` finds or makes at `path`, locked by `lock`; again as often as it was removed in between.
///
/// # Errors
/// Those of `open` and `lock`.
pub(super) fn hold(
    path: &Path,
    open: impl Fn() -> io::Result<File>,
    lock: impl Fn(&File) -> io::Result<()>,
) -> io::Result<File> {
    loop {
        let file = open()?;
        lock(&file)?;
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_was_removed_before_it_was_locked_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let opened = Cell::new(0);
        let open = || {
            let file = File::create(&path)?;
            opened.set(opened.get() + 1);
            match opened.get() {
                1 => fs::remove_file(&path)?,
                2 => {
                    // The next one has made it anew. The first is still open, so the number is not used again.
                    fs::remove_file(&path)?;
                    File::create(&path)?;
                }
                _ => {}
            }
            Ok(file)
        };
        let held = hold(&path, open, |file| Ok(file.try_lock()?)).unwrap();
        assert_eq!(opened.get(), 3);
        assert!(File::open(&path).unwrap().try_lock().is_err());
        drop(held);
        assert!(File::open(&path).unwrap().try_lock().is_ok());
    }
}
