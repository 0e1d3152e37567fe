//! One process only (G1): a lock file beside the store, held by `flock` until the engine is closed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::disk;
use super::open_error::OpenError;

const NAME: &str = "lock";

/// Held as long as it lives. The file stays: removing it would let two processes lock two files of one name.
pub(super) struct StoreLock {
    _file: File,
}

/// Takes the lock of the store at `path`, waiting `patience` for another process to let go. Makes the directory.
pub(super) fn acquire(path: &Path, patience: Duration) -> Result<StoreLock, OpenError> {
    let io_error = |error: io::Error| OpenError::Io { path: path.to_owned(), why: error.to_string() };
    disk::make_dir(path).map_err(io_error)?;
    let name = path.join(NAME);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(io_error)?;
    let mut pauses = Pauses::new(patience);
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if pauses.wait() => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = fs::read_to_string(&name).ok().and_then(|text| text.trim().parse().ok());
                return Err(OpenError::Locked { path: path.to_owned(), holder });
            }
            Err(error) => return Err(io_error(error.into())),
        }
    }
    // Who holds it, for the message another process prints. Not what the lock rests on.
    let own = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    own.map_err(io_error)?;
    Ok(StoreLock { _file: file })
}

/// Ever longer pauses that add up to a given patience.
pub(crate) struct Pauses {
    left: Duration,
    next: Duration,
}

impl Pauses {
    pub(crate) const fn new(patience: Duration) -> Self {
        Self { left: patience, next: Duration::from_millis(5) }
    }

    /// Pauses, unless patience is at its end.
    #[expect(
        clippy::disallowed_methods,
        reason = "a lock gives no event to wait for, and no runtime runs here"
    )]
    pub(crate) fn wait(&mut self) -> bool {
        let pause = self.next.min(self.left);
        if pause.is_zero() {
            return false;
        }
        std::thread::sleep(pause);
        self.left -= pause;
        self.next = (self.next * 2).min(Duration::from_millis(250));
        true
    }
}
