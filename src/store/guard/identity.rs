//! What a store says of itself, in a file that is read before the engine is opened: opening an engine writes, and a
//! wrong key must not change a byte. Owns the file's form and the proof of the key. The seed of the row keys, sealed
//! in it, is the canary: who opens it has the right key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::creation;
use super::open_error::OpenError;
use crate::clock::Timestamp;
use crate::entropy::Entropy;
use crate::secret::Secret;
use crate::store::index::Index;
use crate::store::keyring::{KeyId, KeyRing};
use crate::store::seal::{Field, Place, Sealer};

/// The one form there is.
pub(super) const FORMAT: u32 = 1;
const MAGIC: &str = "token-broker store";

/// Where the seed is sealed: it belongs to the store and to nobody in it.
const SEED: Place<'static> =
    Place { tenant: "", provider: "", connection: b"", field: Field::Identity, generation: 1 };

/// What a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The store's own id.
    pub(super) store: Uuid,
    /// The engine that holds its rows.
    pub(super) engine: String,
    /// The key that its seed is sealed with.
    key: String,
    /// When that key was made.
    key_made_at: Timestamp,
    /// The seed, sealed, in base64.
    seed: String,
}

/// What every version can read of every other.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    magic: String,
    format: u32,
    #[serde(flatten)]
    body: T,
}

/// The row in the engine that says to which store its data belongs (G8).
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The store's own id, as in the identity.
    pub(super) store: Uuid,
    /// The engine's name.
    pub(super) engine: String,
}

#[derive(Serialize, Deserialize)]
struct Nothing {}

impl Identity {
    /// A new store's identity.
    pub(super) fn new(engine: &str, keys: &Arc<KeyRing>, entropy: &Arc<dyn Entropy>) -> Self {
        let store = uuid::Builder::from_random_bytes(entropy.bytes()).into_uuid();
        let sealer = Sealer::new(Arc::clone(keys), store, Arc::clone(entropy));
        let seed = Secret::new(entropy.bytes::<32>());
        let key = keys.active();
        Self {
            store,
            engine: engine.to_owned(),
            key: key.id.as_str().to_owned(),
            key_made_at: key.created_at,
            seed: STANDARD.encode(sealer.seal(SEED, seed.expose())),
        }
    }

    pub(super) fn header(&self) -> Header {
        Header { store: self.store, engine: self.engine.clone() }
    }
}

/// Proves the key if there is a store at `path` already. Changes nothing.
pub(super) fn prove_if_any(
    path: &Path,
    keys: &Arc<KeyRing>,
    entropy: &Arc<dyn Entropy>,
) -> Result<(), OpenError> {
    if creation::exists(path) { prove(path, keys, entropy).map(drop) } else { Ok(()) }
}

/// Reads the identity of the store at `path` and opens its seed. Changes nothing.
pub(super) fn prove(
    path: &Path,
    keys: &Arc<KeyRing>,
    entropy: &Arc<dyn Entropy>,
) -> Result<(Identity, Sealer, Index), OpenError> {
    let bytes = fs::read(file(path)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => unopenable(path, "its identity file is missing"),
        _ => OpenError::Io { path: file(path), why: error.to_string() },
    })?;
    let identity: Identity = decode(path, "its identity file is damaged", &bytes)?;
    let (sealer, index) = identity.open(path, keys, entropy)?;
    Ok((identity, sealer, index))
}

impl Identity {
    /// Opens the seed.
    pub(super) fn open(
        &self,
        path: &Path,
        keys: &Arc<KeyRing>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<(Sealer, Index), OpenError> {
        let damaged = || unopenable(path, "its identity file is damaged");
        let wants = KeyId::parse(&self.key).ok_or_else(damaged)?;
        let sealed = STANDARD.decode(&self.seed).map_err(|_| damaged())?;
        let sealer = Sealer::new(Arc::clone(keys), self.store, Arc::clone(entropy));
        let seed = sealer.open(SEED, &sealed).map_err(|_| OpenError::WrongKey {
            path: path.to_owned(),
            wants,
            wants_made_at: self.key_made_at,
            holds: keys.infos().into_iter().map(|key| key.id).collect(),
        })?;
        let seed = <[u8; 32]>::try_from(seed.as_slice()).map_err(|_| damaged())?;
        Ok((sealer, Index::new(Secret::new(seed))))
    }
}

/// Where the identity of the store at `path` lies.
pub(super) fn file(path: &Path) -> PathBuf {
    creation::place(path).join("identity")
}

/// The bytes of an identity or a header.
pub(super) fn encode(body: &impl Serialize) -> Vec<u8> {
    let envelope = Envelope { magic: MAGIC.to_owned(), format: FORMAT, body };
    // Strings and numbers: there is nothing in it that JSON cannot say.
    serde_json::to_vec(&envelope).unwrap_or_default()
}

/// Reads what [`encode`] wrote; a form of another version is said to be one.
pub(super) fn decode<T: for<'a> Deserialize<'a>>(
    path: &Path,
    damaged: &str,
    bytes: &[u8],
) -> Result<T, OpenError> {
    let envelope: Envelope<Nothing> = serde_json::from_slice(bytes).map_err(|_| unopenable(path, damaged))?;
    if envelope.magic != MAGIC || envelope.format != FORMAT {
        let found = format!("{:?} form {}", envelope.magic, envelope.format);
        return Err(OpenError::UnknownFormat { path: path.to_owned(), found });
    }
    let envelope: Envelope<T> = serde_json::from_slice(bytes).map_err(|_| unopenable(path, damaged))?;
    Ok(envelope.body)
}

fn unopenable(path: &Path, why: &str) -> OpenError {
    OpenError::Unopenable { path: path.to_owned(), why: why.to_owned() }
}
