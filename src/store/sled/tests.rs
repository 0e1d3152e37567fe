use super::*;
use crate::entropy::OsEntropy;
use crate::store::conformance::{Subject, conformance};
use crate::store::keyring::{self, KeyRing};
use crate::store::{SessionStore, TokenStore};

/// A sled store in a folder of its own.
struct Sled {
    folder: tempfile::TempDir,
    store: Arc<DurableStore>,
}

fn opening(folder: &Path) -> Opening {
    let key_file = folder.join("keys");
    if !key_file.exists() {
        keyring::generate(&key_file, crate::clock::Timestamp::from_millis(0), &OsEntropy).unwrap();
    }
    let keys = KeyRing::load(&key_file).unwrap();
    let mut opening =
        Opening::new(folder.join("data"), keys, Arc::new(OsEntropy), Arc::new(Metrics::default()));
    // The tests' folder may be in memory or in a container's layer.
    opening.allow_throwaway = true;
    opening
}

fn fresh() -> Sled {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(opening(folder.path())).unwrap());
    Sled { folder, store }
}

impl Subject for Sled {
    fn tokens(&self) -> Arc<dyn TokenStore> {
        Arc::clone(&self.store) as Arc<dyn TokenStore>
    }
    fn sessions(&self) -> Arc<dyn SessionStore> {
        Arc::clone(&self.store) as Arc<dyn SessionStore>
    }
    fn reopened(self) -> Option<Self> {
        let Self { folder, store } = self;
        drop(Arc::into_inner(store).unwrap());
        let store = Arc::new(open(opening(folder.path())).unwrap());
        assert!(!store.is_new());
        Some(Self { folder, store })
    }
}

conformance!(fresh());
