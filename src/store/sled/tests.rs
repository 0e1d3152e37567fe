use super::*;
use crate::entropy::OsEntropy;
use crate::store::TokenStore;
use crate::store::conformance::{Durable, conformance};
use crate::store::keyring::{self, KeyRing};

fn opening(folder: &Path) -> Opening {
    Durable::opening(folder)
}

fn fresh() -> Durable {
    Durable::fresh(open)
}

conformance!(fresh());

/// Every file below `folder` with its content.
fn content(folder: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
            found.insert(path, Vec::new());
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

#[tokio::test]
async fn a_wrong_key_is_refused_by_name_and_changes_no_byte() {
    let Durable { folder, store, .. } = fresh();
    let user = crate::store::conformance::id("", "google", "user-42");
    let connection = crate::store::conformance::connection(user, "1");
    TokenStore::put(&*store, &connection, crate::store::Expected::Absent).await.unwrap();
    drop(store);
    let before = content(&folder.path().join("data"));

    for (id, held) in [("k1", "another key of the name k1"), ("k3", "the file holds k3")] {
        let other = tempfile::tempdir().unwrap();
        let key_file = other.path().join("keys");
        keyring::generate(&key_file, crate::clock::Timestamp::from_millis(0), &OsEntropy).unwrap();
        let text = fs::read_to_string(&key_file).unwrap().replace("k1 ", &format!("{id} "));
        fs::remove_file(&key_file).unwrap();
        fs::write(&key_file, text).unwrap();
        fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        let opening = Opening { keys: KeyRing::load(&key_file).unwrap(), ..opening(folder.path()) };
        let error = open(opening).err().unwrap();
        assert_eq!(
            error.to_string(),
            format!("this key does not open the store at {}", folder.path().join("data").display())
        );
        assert!(error.why().starts_with("the store was sealed with key k1 (made 1970-01-01);"));
        assert!(error.why().contains(held), "{}", error.why());
        assert!(before == content(&folder.path().join("data")), "a byte was changed");
    }
    open(opening(folder.path())).unwrap();
}

/// Rule S1 is load-bearing: a suite that cannot fail proves nothing.
#[test]
fn a_half_written_snapshot_keeps_sled_from_opening_unless_it_is_swept() {
    let Durable { folder, store, .. } = fresh();
    drop(store);
    let dir = folder.path().join("data/store/sled");
    let planted = dir.join("snap.FFFFFFFFFFFFFFFF.generating");
    let backend = |is_swept| SledBackend { metrics: Arc::default(), is_swept };

    fs::write(&planted, b"").unwrap();
    let unswept = std::panic::catch_unwind(|| backend(false).open(&dir).is_ok());
    assert!(!matches!(unswept, Ok(true)), "sled must not open with a half-written snapshot");
    assert!(backend(true).open(&dir).is_ok());
    assert!(!planted.exists());
    open(opening(folder.path())).unwrap();
}

#[tokio::test]
async fn an_orphan_or_missing_piece_is_unreadable_and_the_rest_is_served() {
    let Durable { folder, store, .. } = fresh();
    let user = |name: &str| crate::store::conformance::id("", "google", name);
    let large = crate::store::conformance::connection(user("large"), &"x".repeat(30_000));
    let small = crate::store::conformance::connection(user("small"), "1");
    for connection in [&large, &small] {
        TokenStore::put(&*store, connection, crate::store::Expected::Absent).await.unwrap();
    }
    drop(store);

    let dir = folder.path().join("data/store/sled");
    let db = sled::Config::new().path(&dir).open().unwrap();
    let piece = db.iter().keys().map(Result::unwrap).find(|key| key.last() == Some(&3)).unwrap();
    let lost = db.remove(&piece).unwrap().unwrap();
    db.flush().unwrap();
    drop(db);
    durability::await_release(&dir).unwrap();

    let store = open(opening(folder.path())).unwrap();
    let found = TokenStore::get(&store, &user("large")).await;
    assert!(matches!(found, Err(StoreError::Unreadable(_))));
    assert!(TokenStore::get(&store, &user("small")).await.unwrap().is_some());
    let listed = store.list(&crate::store::Selection::default(), None, 10).await.unwrap();
    let names: Vec<_> = listed.profiles.iter().map(|profile| profile.id.name.as_str()).collect();
    assert_eq!((names.as_slice(), listed.unreadable), (["small"].as_slice(), 1));
    assert_eq!(store.fault(), None, "one record's damage is not the engine's failure");
    drop(store);
    assert!(lost.len() == chunk::MAX_CHUNK);
}
