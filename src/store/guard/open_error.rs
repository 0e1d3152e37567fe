//! Why a store cannot be opened: what, why, and what to do next, as the command line prints them.

use std::path::PathBuf;

use crate::clock::Timestamp;
use crate::store::keyring::KeyId;
use crate::store::remedy::{Remedy, look_at};

/// Why a store cannot be opened. `Display` says what; [`OpenError::why`] and [`OpenError::remedy`] the rest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store at {} is in use by another process", .path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// The other process, if it left its number.
        holder: Option<u32>,
    },
    /// The key file does not hold the key that the store was sealed with. Nothing was changed.
    #[error("this key does not open the store at {}", .path.display())]
    WrongKey {
        /// The store's directory.
        path: PathBuf,
        /// The key it wants.
        wants: KeyId,
        /// When that key was made.
        wants_made_at: Timestamp,
        /// The keys of the key file.
        holds: Vec<KeyId>,
    },
    /// Made by another version, or no store of ours.
    #[error("the store at {} is of a form this version does not know", .path.display())]
    UnknownFormat {
        /// The store's directory.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// The store holds another engine's data.
    #[error("the store at {} belongs to the engine {found}", .path.display())]
    OtherEngine {
        /// The store's directory.
        path: PathBuf,
        /// The engine that made it.
        found: String,
        /// The engine that was asked to open it.
        asked: &'static str,
    },
    /// It is there and does not open. It is kept as it is: never deleted, never made anew in silence.
    #[error("the store at {} does not open", .path.display())]
    Unopenable {
        /// The store's directory.
        path: PathBuf,
        /// What stands in the way.
        why: String,
    },
    /// The file system forgets.
    #[error("{} is on {filesystem} and would not keep the store", .path.display())]
    Throwaway {
        /// The store's directory.
        path: PathBuf,
        /// What kind it is.
        filesystem: &'static str,
    },
    /// The second place is not the one that the store has used: tokens may lie there without which those in the store
    /// are spent.
    #[error("the second place {} is not the one that this store has used", .path.display())]
    OtherPlace {
        /// The directory that is configured.
        path: PathBuf,
        /// The file in the store's directory that knows of another.
        note: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No second place is configured, and the store has used one: tokens may lie there without which those in the store
    /// are spent.
    #[error("the store at {} has used a second place, and none is configured", .path.display())]
    NoPlace {
        /// The store's directory.
        path: PathBuf,
        /// The file in it that knows of the place.
        note: PathBuf,
        /// Where the place was last; empty where that is not known.
        last: String,
    },
    /// The operating system refused.
    #[error("{} cannot be used", .path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}

impl OpenError {
    /// Whether another key than the one at hand would open it.
    pub fn is_wrong_key(&self) -> bool {
        matches!(self, Self::WrongKey { .. })
    }

    /// What is known about the cause, in one line.
    pub fn why(&self) -> String {
        match self {
            Self::Locked { holder: Some(holder), .. } => format!("process {holder} holds its lock"),
            Self::Locked { holder: None, .. } => "its lock is held".to_owned(),
            Self::WrongKey { wants, wants_made_at, holds, .. } => {
                let sealed = format!("the store was sealed with key {wants} (made {})", day(*wants_made_at));
                let held = if holds.contains(wants) {
                    format!("the file holds another key of the name {wants}")
                } else {
                    format!("the file holds {}", join(holds))
                };
                format!("{sealed}; {held}. Nothing was changed")
            }
            Self::UnknownFormat { found, .. } => {
                format!("it says {found}, this version writes form {}", super::identity::FORMAT)
            }
            Self::OtherEngine { asked, .. } => format!("the configuration asks for {asked}"),
            Self::Unopenable { why, .. } | Self::OtherPlace { why, .. } | Self::Io { why, .. } => why.clone(),
            Self::NoPlace { last, .. } if last.is_empty() => {
                "tokens that the store has not taken may lie there".to_owned()
            }
            Self::NoPlace { last, .. } => {
                format!("tokens that the store has not taken may lie there. It was {last}")
            }
            Self::Throwaway { .. } => {
                "every connection would be lost with the pod or at the next restart".to_owned()
            }
        }
    }

    /// What helps.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Locked { holder: Some(holder), .. } => {
                Remedy::run(["ps", "-p", &holder.to_string()], "shows which process that is")
            }
            Self::Locked { holder: None, .. } => {
                Remedy::Change("end the process that has it open; one broker owns a store".to_owned())
            }
            Self::WrongKey { wants, .. } => {
                Remedy::Change(format!("point seal.key_file to the file that holds {wants}"))
            }
            Self::UnknownFormat { .. } => {
                Remedy::Change("run the version of token-broker that wrote it".to_owned())
            }
            Self::OtherEngine { found, .. } => Remedy::Change(format!(
                "set store.engine to {found}, or move it: `store export` with that engine, `store import` with the new one"
            )),
            Self::Unopenable { path, .. } => {
                let (store, aside) = (path.join("store"), path.join("store.aside"));
                Remedy::run(
                    ["mv", &store.to_string_lossy(), &aside.to_string_lossy()],
                    "keeps it for repair; the next start makes a new one",
                )
            }
            Self::Throwaway { .. } => Remedy::Change(
                "set store.path to a persistent volume, or store.ephemeral to true if you mean it".to_owned(),
            ),
            Self::OtherPlace { note, .. } => Remedy::Change(format!(
                "mount its volume, or point store.escrow_path to it; if it is lost for good, remove {}: spent tokens may then be presented",
                note.display()
            )),
            Self::NoPlace { note, .. } => Remedy::Change(format!(
                "set store.escrow_path to it; if it was given up and nothing is left there, remove {}",
                note.display()
            )),
            Self::Io { path, .. } => {
                Remedy::Run { words: look_at(path), remark: "as the user that runs the broker".to_owned() }
            }
        }
    }
}

fn join(ids: &[KeyId]) -> String {
    ids.iter().map(KeyId::as_str).collect::<Vec<_>>().join(", ")
}

fn day(instant: Timestamp) -> String {
    instant.to_string().chars().take(10).collect()
}
