//! A store's files, and what somebody else may do to them. The crash suite and the torture kit do it alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every file of a store that has content, with its length; not the ballast and the lock, which hold none.
pub(crate) fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "ballast" && name != "lock") {
            let len = fs::metadata(&path).unwrap().len();
            found.extend((len > 0).then_some((path, len)));
        }
    }
    found.sort();
    found
}

/// Flips one bit of the byte at `at`; says what was done.
pub(crate) fn flip(path: &Path, at: u64, draw: u64) -> String {
    let mut content = fs::read(path).unwrap();
    content[usize::try_from(at).unwrap()] ^= 1 << (draw % 8);
    fs::write(path, content).unwrap();
    format!("a bit flipped at {at} of {}", path.display())
}

/// Cuts a file short; says what was done.
pub(crate) fn cut(path: &Path, left: u64) -> String {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(left).unwrap();
    format!("{} cut from {len} to {left}", path.display())
}

/// Copies a directory, whole and as it is, in the place of any other.
pub(crate) fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}
