//! A small volume for a store: a file system in memory that the kit fills and frees, as somebody else on the machine does.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for a store with its ballast of 8 MiB and what an engine needs beside it.
const BYTES: u64 = 40 << 20;

/// A mounted file system, as long as it lives.
#[derive(Debug)]
pub(crate) struct Volume(PathBuf);

impl Volume {
    /// `None` where nothing may be mounted.
    pub(crate) fn mount(place: &Path) -> Option<Self> {
        fs::create_dir_all(place).unwrap();
        let size = format!("size={BYTES}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(place.to_owned()))
    }

    /// Takes every byte that is left.
    pub(crate) fn fill(&self) {
        let mut others = fs::OpenOptions::new().create(true).append(true).open(self.others()).unwrap();
        let mut chunk = vec![1; 1 << 20];
        while !chunk.is_empty() {
            if others.write_all(&chunk).is_err() {
                chunk.truncate(chunk.len() / 2);
            }
        }
    }

    /// Gives back all that was taken, if anything was.
    pub(crate) fn free(&self) {
        let _ = fs::remove_file(self.others());
    }

    fn others(&self) -> PathBuf {
        self.0.join("others")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
