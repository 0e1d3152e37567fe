//! How the command line finds a `dev` broker without being told: a small file in the user's own runtime directory.
//!
//! Invariant: only a file that is this user's alone is believed, and only while the broker that wrote it still runs:
//! it holds a lock on the file, which the kernel drops with the process. A broker that was killed leaves no trap.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::console::Environment;
use super::endpoint::Endpoint;
use super::hold::hold;

const FILE: &str = "dev.endpoint";

/// A pointer that holds as long as this value lives.
#[derive(Debug)]
pub(crate) struct Pointer {
    path: PathBuf,
    file: File,
}

/// The user's runtime directories, the preferred one first: `$XDG_RUNTIME_DIR`, `/run/user/UID`, and where there is
/// neither, a directory of the user's own under the system's temporary one. A shell with an empty environment looks in
/// the last two, so they do not depend on it.
fn runtime_dirs(environment: &Environment) -> Vec<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let named = environment.path("XDG_RUNTIME_DIR").map(|dir| dir.join("token-broker"));
    let login = PathBuf::from(format!("/run/user/{uid}"));
    let of_login = login.is_dir().then(|| login.join("token-broker"));
    let own = PathBuf::from(format!("/tmp/token-broker-{uid}"));
    named.into_iter().chain(of_login).chain([own]).collect()
}

/// The first runtime directory that can be made this user's alone (0700), for the pointer and for what `dev` keeps.
pub(crate) fn runtime_dir(environment: &Environment) -> io::Result<PathBuf> {
    let mut last = io::Error::other("no runtime directory");
    for dir in runtime_dirs(environment) {
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => last = error,
            _ if is_own(&dir) => return Ok(dir),
            _ => last = io::Error::other(format!("{} is not this user's alone", dir.display())),
        }
    }
    Err(last)
}

/// Whether `dir` is a directory of this user's that nobody else may enter: not a link, not shared.
fn is_own(dir: &Path) -> bool {
    let uid = rustix::process::getuid().as_raw();
    fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid && meta.mode() & 0o077 == 0)
}

/// The endpoint of the `dev` broker that runs for this user, if one does.
pub(crate) fn find(environment: &Environment) -> Option<Endpoint> {
    runtime_dirs(environment).iter().filter(|dir| is_own(dir)).find_map(|dir| {
        let mut file = File::open(dir.join(FILE)).ok()?;
        // Nobody holds it: the broker that wrote it is gone.
        if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return None;
        }
        let mut raw = String::new();
        file.read_to_string(&mut raw).ok()?;
        raw.trim().parse().ok()
    })
}

impl Pointer {
    /// Points to `endpoint`. `None` while another `dev` broker of this user runs: the pointer stays its own.
    pub(crate) fn place(dir: &Path, endpoint: &Endpoint) -> io::Result<Option<Self>> {
        let path = dir.join(FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = match hold(&path, || options.open(&path), |file| Ok(file.try_lock()?)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            held => held?,
        };
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{endpoint}")?;
        Ok(Some(Self { path, file }))
    }
}

impl Drop for Pointer {
    fn drop(&mut self) {
        // Best effort: an unlocked pointer is not believed anyway.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn runtime() -> (tempfile::TempDir, Environment) {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment::of([("XDG_RUNTIME_DIR", dir.path().to_str().unwrap())]);
        (dir, environment)
    }

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::Tcp(format!("127.0.0.1:{port}"))
    }

    #[test]
    fn a_pointer_is_found_while_it_is_held_and_gone_afterwards() {
        let (_dir, environment) = runtime();
        let own = runtime_dir(&environment).unwrap();
        let pointer = Pointer::place(&own, &endpoint(1)).unwrap().unwrap();
        assert_eq!(find(&environment), Some(endpoint(1)));
        drop(pointer);
        assert!(!own.join(FILE).exists());
    }

    #[test]
    fn the_second_broker_leaves_the_first_ones_pointer_alone() {
        let (_dir, environment) = runtime();
        let own = runtime_dir(&environment).unwrap();
        let _first = Pointer::place(&own, &endpoint(1)).unwrap().unwrap();
        assert!(Pointer::place(&own, &endpoint(2)).unwrap().is_none());
        assert_eq!(find(&environment), Some(endpoint(1)));
    }

    #[test]
    fn what_a_killed_broker_or_another_user_left_is_not_believed() {
        let (_dir, environment) = runtime();
        let own = runtime_dir(&environment).unwrap();
        fs::write(own.join(FILE), "tcp://127.0.0.1:1\n").unwrap();
        assert_ne!(find(&environment), Some(endpoint(1)));

        let pointer = Pointer::place(&own, &endpoint(3)).unwrap().unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(find(&environment), Some(endpoint(3)));
        assert_ne!(runtime_dir(&environment).ok(), Some(own));
        drop(pointer);
    }
}
