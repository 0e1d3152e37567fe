//! Room kept for the moment when the disk is full (G7): a file that is given up so that tokens that exist nowhere else
//! can still be written. Owns that file. Does not know the store. Invariant: while it is there, so much space is ours.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::disk;

/// More than the ballast itself must be free before it is made: else the next write would give it up again.
const MARGIN: u64 = 2 * 1024 * 1024;

/// The file, there or not.
pub(super) struct Ballast {
    folder: PathBuf,
    bytes: u64,
}

impl Ballast {
    /// Of the store at `path`. Makes nothing.
    pub(super) fn new(path: &Path, bytes: u64) -> Self {
        Self { folder: path.to_owned(), bytes }
    }

    fn place(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Makes it unless it is there; fails while there is no room for it and a margin.
    pub(super) fn ensure(&self) -> io::Result<()> {
        if fs::metadata(self.place()).is_ok_and(|found| found.len() >= self.bytes) {
            return Ok(());
        }
        let aside = self.folder.join("ballast.new");
        let made = self.make(&aside);
        if made.is_err() {
            // Room must not be taken by what is not yet a ballast.
            let _ = fs::remove_file(&aside);
        }
        made
    }

    fn make(&self, aside: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(aside)?;
        occupy(&file, self.bytes + MARGIN)?;
        file.set_len(self.bytes)?;
        file.sync_all()?;
        fs::rename(aside, self.place())?;
        disk::sync_dir(&self.folder)
    }

    /// Gives its room up; answers whether there was any to give.
    pub(super) fn release(&self) -> io::Result<bool> {
        match fs::remove_file(self.place()) {
            Ok(()) => disk::sync_dir(&self.folder).map(|()| self.bytes > 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Takes room for `file`: by asking for it, or where a file system cannot be asked, by writing.
fn occupy(mut file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        outcome => return Ok(outcome?),
    }
    let block = [0xA5; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        file.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_its_room_once_and_gives_it_back_once() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(folder.path(), 1 << 20);
        ballast.ensure().unwrap();
        let made = fs::metadata(ballast.place()).unwrap();
        assert!(made.len() == 1 << 20 && made.blocks() * 512 >= 1 << 20);
        ballast.ensure().unwrap();
        assert_eq!(fs::metadata(ballast.place()).unwrap().ino(), made.ino(), "left as it was");
        assert!(ballast.release().unwrap());
        assert!(!ballast.release().unwrap());
        assert!(!folder.path().join("ballast.new").exists());
    }
}
