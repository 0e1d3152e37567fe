//! Directories, and what a file system promises. Owns the calls that make names durable.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes `path` and what is missing above it, for its owner alone, and makes the new names durable.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let missing: Vec<&Path> = path.ancestors().take_while(|above| !above.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    missing.into_iter().filter_map(Path::parent).try_for_each(sync_dir)
}

/// Makes the name of `path` itself durable. A parent that we may not read is a mount's or the system's, and its names
/// are not ours to make.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match std::path::absolute(path)?.parent().map_or(Ok(()), sync_dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        outcome => outcome,
    }
}

/// Makes one directory durable: which names are in it.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes `whole` by way of `aside`, in the same directory: it is there whole or not at all, for its owner alone, and
/// on the device when this returns. What fails leaves nothing aside.
pub(super) fn write_whole(aside: &Path, whole: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(aside, whole)
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(aside);
        return Err(error);
    }
    whole.parent().map_or(Ok(()), sync_dir)
}

/// Makes every file and directory below `path`, and `path` itself, durable.
pub(super) fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(path)
}

/// Removes a directory and what is in it; one that is missing is fine.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Whether the file system of `path` has less than 1 MiB left for us: too little for an engine to work in.
pub(super) fn is_nearly_full(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) < 1 << 20)
}

/// The kind of throwaway file system that `path` is or would be on: memory, a container's own layer, or a volume
/// that lives as long as its pod. `None` for anything else, and where it cannot be told.
pub fn throwaway(path: &Path) -> Option<&'static str> {
    let path = std::path::absolute(path).ok()?;
    let existing = path.ancestors().find_map(|above| fs::canonicalize(above).ok())?;
    let kind = rustix::fs::statfs(&existing).ok()?.f_type;
    // linux/magic.h, and linux/ramfs.h for the second.
    match u64::try_from(kind).ok()? & 0xffff_ffff {
        0x0102_1994 => return Some("tmpfs (memory)"),
        0x8584_58f6 => return Some("ramfs (memory)"),
        0x794c_7630 => return Some("overlay (a container's own layer)"),
        _ => {}
    }
    let device = fs::metadata(&existing).ok()?.dev();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let is_pods = mount_root(&mounts, &existing, device)?.contains("/kubernetes.io~empty-dir/");
    is_pods.then_some("an emptyDir (it dies with its pod)")
}

/// The directory of its file system that the mount under `path` shows: proc(5), fields 3 (device), 4 (root) and 5
/// (mount point). The kubelet binds an emptyDir from a folder of that name.
fn mount_root<'a>(mounts: &'a str, path: &Path, device: u64) -> Option<&'a str> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let device = format!("{major}:{minor}");
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(2);
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
        .filter(|(on, _, point)| *on == device && path.starts_with(point))
        .max_by_key(|(_, _, point)| point.len())
        .map(|(_, root, _)| root)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
36 35 8:1 / / rw,noatime - ext4 /dev/sda1 rw
40 36 8:1 /var/lib/kubelet/pods/5b/volumes/kubernetes.io~empty-dir/data /data rw - ext4 /dev/sda1 rw
41 36 8:2 / /data/claim rw - ext4 /dev/sdb rw
";

    #[test]
    fn the_innermost_mount_of_the_same_device_decides() {
        let (root, claim) = (rustix::fs::makedev(8, 1), rustix::fs::makedev(8, 2));
        let of = |path: &str, device| mount_root(MOUNTS, Path::new(path), device);
        assert!(of("/data/store", root).unwrap().contains("empty-dir"));
        assert_eq!(of("/database", root), Some("/"));
        assert_eq!(of("/data/claim/store", claim), Some("/"));
        assert_eq!(of("/data/claim/store", rustix::fs::makedev(9, 9)), None);
    }

    #[test]
    fn missing_directories_are_made_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("a/b/c");
        make_dir(&made).unwrap();
        make_dir(&made).unwrap();
        sync_parent(&made).unwrap();
        for dir in [&made, &folder.path().join("a")] {
            assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn memory_is_throwaway() {
        if Path::new("/dev/shm").is_dir() {
            assert_eq!(throwaway(Path::new("/dev/shm/not/made/yet")), Some("tmpfs (memory)"));
        }
        assert_eq!(throwaway(Path::new("/proc/self")), None);
    }
}
