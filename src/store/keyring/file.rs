//! The key file: one line a key, `ID CREATED base64:VALUE|hex:VALUE [active]`, `#` starts a comment. With one key it
//! is the active one; with several exactly one line says `active`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::{KeyId, KeyInfo, KeyRing, RingKey};
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::secret::Secret;

/// A key file holds a handful of lines; more is not a key file.
const MAX_BYTES: u64 = 64 * 1024;

const HEADER: &str = "\
# token-broker keys. Who holds this file and the store holds every token in it; who loses this file loses them all.
# Keep a copy apart from the store. One line a key: ID CREATED base64:VALUE [active]
";

/// Why a key file could not be read or made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key file {} {fault}", .path.display())]
pub struct KeyFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: KeyFault,
}

/// What is wrong with a key file. Never holds any part of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// There is none.
    #[error("does not exist")]
    Missing,
    /// One is there already, and a key is never overwritten.
    #[error("exists already; a key is never overwritten")]
    Exists,
    /// The operating system refused.
    #[error("cannot be used: {0}")]
    Io(String),
    /// It is a directory, a device or a pipe.
    #[error("is not a regular file")]
    NotAFile,
    /// Its owner is another user than the one the broker runs as.
    #[error(
        "belongs to uid {owner}, but the broker runs as uid {own}; the key must belong to the broker alone"
    )]
    Owner {
        /// Who owns it.
        owner: u32,
        /// Who we are.
        own: u32,
    },
    /// Others may read or write it.
    #[error("has mode {0:04o}; nobody but its owner may have access (chmod 0400)")]
    Mode(u32),
    /// It is too large to be one.
    #[error("is larger than 64 KiB and no key file")]
    TooLarge,
    /// A line is not of the form `ID CREATED base64:VALUE [active]`.
    #[error("has a mistake in line {line}: {why}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// No key in it.
    #[error("holds no key")]
    Empty,
    /// Several keys, and not exactly one is marked `active`.
    #[error("holds several keys; exactly one must be marked active")]
    Active,
}

/// Reads and checks the file.
pub(super) fn load(path: &Path) -> Result<KeyRing, KeyFileError> {
    read(path).and_then(|text| parse(&text)).map_err(|fault| KeyFileError { path: path.to_owned(), fault })
}

/// The keys of a file, without their values: for `keys list`.
///
/// # Errors
/// As [`KeyRing::load`].
pub fn list(path: &Path) -> Result<Vec<KeyInfo>, KeyFileError> {
    load(path).map(|ring| ring.infos())
}

/// Makes a key file with one fresh key `k1`, mode 0400. The file appears whole or not at all, and an existing one is
/// never touched. Directories that are missing on the way to it are made, mode 0700.
///
/// # Errors
/// [`KeyFault::Exists`], or [`KeyFault::Io`] when the file or its directory cannot be made or made durable.
pub fn generate(path: &Path, now: Timestamp, entropy: &dyn Entropy) -> Result<KeyInfo, KeyFileError> {
    make(path, now, entropy).map_err(|fault| KeyFileError { path: path.to_owned(), fault })
}

fn make(path: &Path, now: Timestamp, entropy: &dyn Entropy) -> Result<KeyInfo, KeyFault> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(KeyFault::Exists);
    }
    let value = Secret::new(entropy.bytes::<32>());
    let encoded = Zeroizing::new(STANDARD.encode(value.expose()));
    let id = KeyId("k1".to_owned());
    let line = Zeroizing::new(format!("{id} {now} base64:{} active\n", *encoded));

    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(KeyFault::NotAFile)?.to_string_lossy();
    let with_entries = make_dir(parent).map_err(|error| {
        KeyFault::Io(format!("its directory {} cannot be made: {error}", parent.display()))
    })?;
    let making = parent.join(format!(".{name}.new-{}", entropy.token::<8>()));
    let written = write_new(&making, &line).and_then(|()| {
        // A link, unlike a rename, never replaces what is there.
        fs::hard_link(&making, path)
    });
    let _ = fs::remove_file(&making);
    written.map_err(fault)?;
    for dir in with_entries {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(fault)?;
    }
    Ok(KeyInfo { id, created_at: second(now), is_active: true })
}

/// Makes `dir` and what is missing above it, for its owner alone. Returns the directories that have an entry more once
/// a file is made in `dir`, itself first: until each of them is synced, a power cut may take the file away.
fn make_dir(dir: &Path) -> io::Result<Vec<&Path>> {
    let above = |dir: &Path| !dir.as_os_str().is_empty();
    let missing = dir.ancestors().take_while(|dir| above(dir) && !dir.exists()).count();
    fs::DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
    let changed = dir.ancestors().take(missing + 1);
    Ok(changed.map(|dir| if above(dir) { dir } else { Path::new(".") }).collect())
}

fn write_new(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(HEADER.as_bytes())?;
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

fn read(path: &Path) -> Result<Zeroizing<String>, KeyFault> {
    // Not blocking: opening a pipe that nobody writes would wait for ever.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(fault)?;
    // Of the open file, not of the name: the name may be given to another file in between.
    let meta = file.metadata().map_err(fault)?;
    let own = rustix::process::geteuid().as_raw();
    if !meta.is_file() {
        return Err(KeyFault::NotAFile);
    }
    if meta.uid() != own {
        return Err(KeyFault::Owner { owner: meta.uid(), own });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(KeyFault::Mode(meta.mode() & 0o7777));
    }
    if meta.len() > MAX_BYTES {
        return Err(KeyFault::TooLarge);
    }
    // Room for all of it at once: a buffer that grows leaves copies of the key behind.
    let capacity = usize::try_from(meta.len()).unwrap_or(0) + 1;
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(fault)?;
    Ok(text)
}

fn fault(error: io::Error) -> KeyFault {
    match error.kind() {
        io::ErrorKind::NotFound => KeyFault::Missing,
        io::ErrorKind::AlreadyExists => KeyFault::Exists,
        _ => KeyFault::Io(error.to_string()),
    }
}

pub(super) fn parse(text: &str) -> Result<KeyRing, KeyFault> {
    let mut keys: Vec<RingKey> = Vec::new();
    let mut active = Vec::new();
    for (place, raw) in text.lines().enumerate() {
        let line = raw.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, is_active) = parse_line(line).map_err(|why| KeyFault::Line { line: place + 1, why })?;
        if keys.iter().any(|other| other.id == key.id) {
            return Err(KeyFault::Line { line: place + 1, why: "this id is used in a line above" });
        }
        if keys.iter().any(|other| other.enc == key.enc) {
            return Err(KeyFault::Line { line: place + 1, why: "this value is used in a line above" });
        }
        if is_active {
            active.push(keys.len());
        }
        keys.push(key);
    }
    match (keys.len(), active.as_slice()) {
        (0, _) => Err(KeyFault::Empty),
        (1, _) => Ok(KeyRing { keys, active: 0 }),
        (_, &[active]) => Ok(KeyRing { keys, active }),
        (_, _) => Err(KeyFault::Active),
    }
}

fn parse_line(line: &str) -> Result<(RingKey, bool), &'static str> {
    let mut words = line.split_ascii_whitespace();
    let id = words.next().and_then(KeyId::parse).ok_or("the id must be k and a number, like k1")?;
    let created_at = words.next().and_then(parse_date).ok_or("the date must be like 2026-11-21T14:00:00Z")?;
    let value = words.next().ok_or("the value is missing")?;
    let root = decode(value)?;
    let is_active = match (words.next(), words.next()) {
        (None, _) => false,
        (Some("active"), None) => true,
        _ => return Err("after the value only the word active may stand"),
    };
    if let Some(why) = weakness(root.expose()) {
        return Err(why);
    }
    Ok((RingKey::new(id, created_at, &root), is_active))
}

fn parse_date(raw: &str) -> Option<Timestamp> {
    let instant: jiff::Timestamp = raw.parse().ok()?;
    Some(Timestamp::from_millis(instant.as_millisecond()))
}

pub(super) fn decode(value: &str) -> Result<Secret<[u8; 32]>, &'static str> {
    let bytes = match value.split_once(':') {
        Some(("base64", text)) => [STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD]
            .iter()
            .find_map(|form| form.decode(text).ok())
            .map(Zeroizing::new)
            .ok_or("the value is not base64")?,
        Some(("hex", text)) => decode_hex(text).ok_or("the value is not hexadecimal")?,
        _ => return Err("the value must start with base64: or hex:"),
    };
    let exact = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| "a key is exactly 32 bytes")?;
    Ok(Secret::new(exact))
}

fn decode_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits.chunks_exact(2) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
    }
    Some(bytes)
}

/// Why 32 bytes are surely not random. A random key fails any of these with a probability below 2^-40.
fn weakness(bytes: &[u8; 32]) -> Option<&'static str> {
    let mut seen = [false; 256];
    bytes.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    let step = bytes[1].wrapping_sub(bytes[0]);
    if seen.iter().filter(|seen| **seen).count() < 16 {
        Some("the key repeats itself; make one with: token-broker keys generate")
    } else if bytes.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step) {
        Some("the key counts; make one with: token-broker keys generate")
    } else if bytes.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        Some("the key is text, not random bytes; make one with: token-broker keys generate")
    } else {
        None
    }
}

fn second(instant: Timestamp) -> Timestamp {
    Timestamp::from_millis(instant.as_millis().div_euclid(1000) * 1000)
}
