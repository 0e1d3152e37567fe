//! The store while no broker runs: looked at, written to a stream, taken from one. Owns how the configuration leads to
//! a store. Does not know what is printed. Invariant: the store's lock is taken, so a broker that runs is never worked
//! beside of.

use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::StartError;
use crate::clock::Timestamp;
use crate::config::{Config, Engine};
use crate::entropy::{Entropy, OsEntropy};
use crate::store;
use crate::store::guard::{DurableStore, ImportError, OpenError, Opening};
use crate::store::keyring::KeyRing;
use crate::telemetry::Metrics;

pub use crate::store::export::ExportError;
pub use crate::store::guard::{Exported, Imported, Opened, Taking};

/// Why something could not be done with a store.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The store, or its key, cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The stream cannot be written or taken.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// There is none.
    #[error("there is no store at {}", .0.display())]
    NoStore(PathBuf),
    /// The second place holds the successors of tokens that are in the store, and so are spent.
    #[error("{answers} answers of providers lie in {} that the store has not taken", .place.display())]
    Waiting {
        /// The second place.
        place: PathBuf,
        /// How many.
        answers: u64,
    },
    /// It is kept in memory, if at all.
    #[error("a store in memory is in no file")]
    InMemory,
}

impl From<OpenError> for OfflineError {
    fn from(error: OpenError) -> Self {
        Self::Start(error.into())
    }
}

impl From<ImportError> for OfflineError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Open(error) => error.into(),
            ImportError::Export(error) => error.into(),
        }
    }
}

/// How the store of `config` is opened.
pub(super) fn opening(
    config: &Config,
    entropy: &Arc<dyn Entropy>,
    metrics: &Arc<Metrics>,
) -> Result<Opening, StartError> {
    let keys = KeyRing::load(&config.seal.key_file)?;
    Ok(Opening {
        allow_throwaway: config.store.ephemeral,
        ..Opening::new(config.store.path.clone(), keys, entropy.clone(), metrics.clone())
    })
}

/// How a store is.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What is in it.
    pub opened: Opened,
    /// Answers of providers that lie in the second place, and that it has not taken.
    pub waiting: u64,
}

/// Opens the store that is there, and looks at every row of it, and at what waits for it in the second place.
///
/// # Errors
/// [`OfflineError`]; none is made where there is none.
pub fn verify(config: &Config) -> Result<Verified, OfflineError> {
    let store = open(config)?;
    Ok(Verified { opened: store.opened().clone(), waiting: waiting(config, &store)? })
}

/// Writes every connection of the store to `into`, sealed under the active key of `key_file`, or of the store's own.
///
/// # Errors
/// [`OfflineError`]; what was written is then cut off, and no import takes it. [`OfflineError::Waiting`]: nothing was
/// written, for it would hold spent tokens whose successors stay behind.
pub fn export(
    config: &Config,
    key_file: Option<&Path>,
    into: &mut dyn Write,
    now: Timestamp,
) -> Result<Exported, OfflineError> {
    let keys = keys(config, key_file)?;
    let store = open(config)?;
    if let (answers @ 1.., Some(place)) = (waiting(config, &store)?, config.store.escrow_path.clone()) {
        return Err(OfflineError::Waiting { place, answers });
    }
    Ok(store.export(into, keys, Arc::new(OsEntropy), now)?)
}

/// Takes a stream into the store, which is made if there is none.
///
/// # Errors
/// [`OfflineError`]; a stream that cannot be taken changes nothing.
pub async fn import<S: Read + Seek>(
    config: &Config,
    key_file: Option<&Path>,
    stream: S,
    taking: Taking,
) -> Result<Imported, OfflineError> {
    let keys = keys(config, key_file)?;
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    let opening = patient(opening(config, &entropy, &Arc::default())?);
    Ok(match config.store.engine {
        Engine::Sled => store::sled::import(opening, stream, keys, taking).await?,
        Engine::Redb => store::redb::import(opening, stream, keys, taking).await?,
        Engine::Memory => return Err(OfflineError::InMemory),
    })
}

/// A person waits: a broker that runs does not go away by waiting, one that just ends does soon.
fn patient(opening: Opening) -> Opening {
    Opening { lock_patience: Duration::from_secs(1), ..opening }
}

/// How many answers wait in the second place of `config`. Where it names none, the store may know of one.
fn waiting(config: &Config, store: &DurableStore) -> Result<u64, OfflineError> {
    Ok(store.waiting(config.store.escrow_path.as_deref(), &config.store.path)?)
}

fn keys(config: &Config, key_file: Option<&Path>) -> Result<Arc<KeyRing>, StartError> {
    Ok(Arc::new(KeyRing::load(key_file.unwrap_or(&config.seal.key_file))?))
}

fn open(config: &Config) -> Result<DurableStore, OfflineError> {
    let open = match config.store.engine {
        Engine::Sled => store::sled::open,
        Engine::Redb => store::redb::open,
        Engine::Memory => return Err(OfflineError::InMemory),
    };
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    let opening = patient(opening(config, &entropy, &Arc::default())?);
    if !store::guard::exists(&opening.path) {
        return Err(OfflineError::NoStore(opening.path));
    }
    Ok(open(opening)?)
}
