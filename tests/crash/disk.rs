//! A disk that forgets: from a log of what was written and synced, the states that a power cut could have left. Creations,
//! renames and removals count as durable at once, and `sync_file_range` as nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use super::script::mix;

const PAGE: usize = 4096;

/// The file that says what was acknowledged.
const ACKS: &str = "acks";

/// One call of the recorded process.
#[derive(Debug)]
pub(crate) struct Record {
    op: u8,
    inode: u64,
    at: u64,
    first: Vec<u8>,
    second: Vec<u8>,
}

/// Reads a log; a record that was cut off by a kill is left out.
pub(crate) fn read_log(path: &Path) -> Vec<Record> {
    let log = fs::read(path).unwrap();
    let mut records = Vec::new();
    let mut rest = log.as_slice();
    while let Some((head, tail)) = rest.split_first_chunk::<25>() {
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let length = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap()) as usize;
        let (a, b) = (length(17), length(21));
        let Some((bytes, tail)) = tail.split_at_checked(a + b) else { break };
        let (first, second) = (bytes[..a].to_vec(), bytes[a..].to_vec());
        records.push(Record { op: head[0], inode: number(1), at: number(9), first, second });
        rest = tail;
    }
    records
}

/// What survives of what was written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing.
    Nothing,
    /// What lies within the length that was synced; growth does not.
    InPlace,
    /// Each page of 4 KiB with even odds.
    Random(u64),
}

/// A file: as it is, and as it would be after a power cut.
#[derive(Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

/// The disk at one point of the log.
#[derive(Default)]
pub(crate) struct Disk {
    names: BTreeMap<String, u64>,
    folders: BTreeSet<String>,
    inodes: HashMap<u64, Inode>,
    /// A file whose `fdatasync` is taken for nothing: the negative control.
    deaf: Option<&'static str>,
    debt: Debt,
}

/// How the deaf file stands to those who were promised that it keeps what they wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Debt {
    /// All that was promised is kept. sled has this at each new segment too, whose `fsync` counts.
    #[default]
    Nothing,
    /// A sync was taken for nothing, and nobody has built on it yet.
    Unheard,
    /// Something was acknowledged since.
    Owed,
}

impl Disk {
    /// An empty one that is deaf to the syncs of a file.
    pub(crate) fn deaf_to(deaf: Option<&'static str>) -> Self {
        Self { deaf, ..Self::default() }
    }

    /// Does what a record says.
    pub(crate) fn play(&mut self, record: &Record) {
        let name = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match record.op {
            b'O' => {
                self.names.insert(name(&record.first), record.inode);
                self.inodes.entry(record.inode).or_default();
            }
            b'C' => {
                self.names.insert(name(&record.first), record.inode);
                self.inodes.insert(record.inode, Inode::default());
            }
            b'W' => {
                if self.debt == Debt::Unheard && self.is_named(record.inode, ACKS) {
                    self.debt = Debt::Owed;
                }
                self.inode(record).write(usize::try_from(record.at).unwrap(), &record.first);
            }
            b'T' => self.inode(record).truncate(usize::try_from(record.at).unwrap()),
            b'F' => {
                if self.is_deaf_to(record.inode) {
                    self.debt = Debt::Nothing;
                }
                self.inode(record).sync();
            }
            b'D' if self.is_deaf_to(record.inode) => {
                if self.debt == Debt::Nothing && !self.inode(record).dirty.is_empty() {
                    self.debt = Debt::Unheard;
                }
            }
            b'D' => self.inode(record).sync(),
            b'R' => self.rename(&name(&record.first), &name(&record.second)),
            b'U' => {
                self.names.remove(&name(&record.first));
                self.folders.remove(&name(&record.first));
            }
            b'M' => drop(self.folders.insert(name(&record.first))),
            other => panic!("no record of kind {other}"),
        }
    }

    /// Whether something was acknowledged that only a sync would keep which was taken for nothing.
    pub(crate) fn owes(&self) -> bool {
        self.debt == Debt::Owed
    }

    fn is_deaf_to(&self, inode: u64) -> bool {
        self.deaf.is_some_and(|deaf| self.is_named(inode, deaf))
    }

    fn is_named(&self, inode: u64, end: &str) -> bool {
        self.names.iter().any(|(name, named)| *named == inode && name.ends_with(end))
    }

    fn inode(&mut self, record: &Record) -> &mut Inode {
        self.inodes.entry(record.inode).or_default()
    }

    fn rename(&mut self, from: &str, to: &str) {
        let moved = |name: &str| match name.strip_prefix(from) {
            Some("") => Some(to.to_owned()),
            Some(rest) if rest.starts_with('/') => Some(format!("{to}{rest}")),
            _ => None,
        };
        let names: Vec<(String, u64)> =
            self.names.iter().map(|(name, inode)| (name.clone(), *inode)).collect();
        for (name, inode) in names {
            if let Some(new) = moved(&name) {
                self.names.remove(&name);
                self.names.insert(new, inode);
            }
        }
        self.folders = self.folders.iter().map(|name| moved(name).unwrap_or_else(|| name.clone())).collect();
    }

    /// Makes the state that a power cut would leave, below `folder`. What says what was acknowledged by then is no part of
    /// the disk.
    pub(crate) fn cut(&self, mode: Mode, folder: &Path) {
        for name in &self.folders {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        for (name, inode) in &self.names {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let inode = &self.inodes[inode];
            let content = if name == ACKS { inode.now.clone() } else { inode.after(mode) };
            fs::write(file, content).unwrap();
        }
    }
}

impl Inode {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[at..end].copy_from_slice(bytes);
        self.dirty.extend(at / PAGE..=(end - 1) / PAGE);
    }

    fn truncate(&mut self, len: usize) {
        let (shorter, longer) = (self.now.len().min(len), self.now.len().max(len));
        self.now.resize(len, 0);
        self.dirty.extend(shorter / PAGE..longer.div_ceil(PAGE));
    }

    fn sync(&mut self) {
        let len = self.now.len();
        self.durable.resize(len, 0);
        for page in std::mem::take(&mut self.dirty) {
            let range = (page * PAGE).min(len)..((page + 1) * PAGE).min(len);
            self.durable[range.clone()].copy_from_slice(&self.now[range]);
        }
    }

    fn after(&self, mode: Mode) -> Vec<u8> {
        let mut left = self.durable.clone();
        for page in &self.dirty {
            let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(self.now.len()));
            let survives = match mode {
                Mode::Nothing => false,
                Mode::InPlace => true,
                Mode::Random(seed) => mix(seed ^ mix(*page as u64)).is_multiple_of(2),
            };
            if !survives || start >= end {
                continue;
            }
            if mode != Mode::InPlace && left.len() < end {
                left.resize(end, 0);
            }
            let end = end.min(left.len());
            if start < end {
                left[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
        left
    }
}
