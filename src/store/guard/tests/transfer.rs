//! G12: a store goes over into another engine and back, whole; what is not whole changes nothing.

use std::io::Cursor;

use super::*;
use crate::connection::history::Happening;
use crate::store::export::ExportError;
use crate::store::guard::high_water::HighWater;
use crate::store::guard::{ImportError, Imported, Taking};

/// Enough for several frames and several writes.
const RECORDS: u64 = 60;

fn backend(inner: Inner) -> Box<dyn Backend> {
    inner.backend().unwrap()
}

async fn filled(folder: &Path, inner: Inner) -> Vec<u8> {
    let store = DurableStore::open(opening(folder), backend(inner)).unwrap();
    for at in 0..RECORDS {
        // Some of them in several pieces.
        let mark = format!("{at}-{}", "x".repeat(usize::try_from(at).unwrap() % 7 * 2000));
        let record = connection(id("acme", "google", &format!("user-{at}")), &mark);
        TokenStore::put(&store, &record, Expected::Absent).await.unwrap();
    }
    exported(&store, folder)
}

fn exported(store: &DurableStore, folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let exported =
        store.export(&mut bytes, ring(folder), Arc::new(OsEntropy), Timestamp::from_millis(5)).unwrap();
    assert_eq!(exported.unreadable, 0);
    bytes
}

fn ring(folder: &Path) -> Arc<KeyRing> {
    Arc::new(KeyRing::load(&folder.join("keys")).unwrap())
}

/// How the store of `name` beside the first one is opened.
fn beside(folder: &Path, name: &str) -> Opening {
    Opening { path: folder.join(name), ..opening(folder) }
}

async fn import(
    folder: &Path,
    name: &str,
    inner: Inner,
    bytes: &[u8],
    taking: Taking,
) -> Result<Imported, ImportError> {
    DurableStore::import(beside(folder, name), backend(inner), Cursor::new(bytes), ring(folder), taking).await
}

#[tokio::test]
async fn what_is_remembered_of_connections_goes_over_too() {
    for (from, to) in [(Inner::Sled, Inner::Redb), (Inner::Redb, Inner::Sled)] {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableStore::open(opening(folder.path()), backend(from)).unwrap();
        let living = connection(id("acme", "google", "user-42"), "1");
        let past = living.ended(Happening::Revoked, Timestamp::from_millis(9));
        TokenStore::put(&store, &past, Expected::Absent).await.unwrap();
        let bytes = exported(&store, folder.path());
        let there = import(folder.path(), "there", to, &bytes, Taking::default()).await.unwrap();
        assert_eq!(there.connections, 1);
        let store = DurableStore::open(beside(folder.path(), "there"), backend(to)).unwrap();
        let found = TokenStore::get(&store, &living.profile.id.ended()).await.unwrap().unwrap().value;
        assert_eq!((found.profile, found.history), (past.profile, past.history));
    }
}

#[tokio::test]
async fn every_connection_goes_over_to_the_other_engine_and_back() {
    for (from, to) in [(Inner::Sled, Inner::Redb), (Inner::Redb, Inner::Sled)] {
        let folder = tempfile::tempdir().unwrap();
        let bytes = filled(folder.path(), from).await;
        let there = import(folder.path(), "there", to, &bytes, Taking::default()).await.unwrap();
        assert_eq!((there.connections, there.kept, there.is_new), (RECORDS, 0, true));
        let store = DurableStore::open(beside(folder.path(), "there"), backend(to)).unwrap();
        let opened = store.opened();
        assert_eq!((opened.connections, opened.unreadable, opened.missing), (RECORDS, 0, 0));
        assert_eq!(opened.rollback, None);
        let again = exported(&store, folder.path());
        drop(store);
        import(folder.path(), "back", from, &again, Taking::default()).await.unwrap();

        let first = DurableStore::open(opening(folder.path()), backend(from)).unwrap();
        let back = DurableStore::open(beside(folder.path(), "back"), backend(from)).unwrap();
        for at in 0..RECORDS {
            let id = id("acme", "google", &format!("user-{at}"));
            let one = TokenStore::get(&first, &id).await.unwrap().unwrap().value;
            let other = TokenStore::get(&back, &id).await.unwrap().unwrap().value;
            assert_eq!((one.profile, one.tokens, one.history), (other.profile, other.tokens, other.history));
        }
    }
}

#[tokio::test]
async fn a_store_that_holds_connections_takes_only_what_it_lacks_and_only_when_asked() {
    for inner in [Inner::Sled, Inner::Redb] {
        let folder = tempfile::tempdir().unwrap();
        let bytes = filled(folder.path(), inner).await;
        let store = DurableStore::open(beside(folder.path(), "other"), backend(inner)).unwrap();
        let newer = connection(id("acme", "google", "user-7"), "newer");
        TokenStore::put(&store, &newer, Expected::Absent).await.unwrap();
        drop(store);

        let refused = import(folder.path(), "other", inner, &bytes, Taking::default()).await.unwrap_err();
        assert!(
            matches!(&refused, ImportError::Export(ExportError::NotEmpty { connections: 1 })),
            "{refused}"
        );
        let taking = Taking { is_merged: true, is_backup: false };
        let merged = import(folder.path(), "other", inner, &bytes, taking).await.unwrap();
        assert_eq!((merged.connections, merged.kept, merged.is_new), (RECORDS - 1, 1, false));
        let store = DurableStore::open(beside(folder.path(), "other"), backend(inner)).unwrap();
        let kept = TokenStore::get(&store, &newer.profile.id).await.unwrap().unwrap();
        assert_eq!(kept.value.tokens, newer.tokens);
        assert_eq!((store.opened().connections, store.opened().rollback.clone()), (RECORDS, None));
    }
}

#[tokio::test]
async fn what_is_cut_off_damaged_or_under_another_key_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = filled(folder.path(), Inner::Sled).await;
    let place = folder.path().join("new");
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    for broken in [&bytes[..bytes.len() - 1], &bytes[..bytes.len() / 3], &damaged, b"nothing"] {
        let error = import(folder.path(), "new", Inner::Redb, broken, Taking::default()).await.unwrap_err();
        assert!(matches!(error, ImportError::Export(_)), "{error}");
        assert!(!place.exists(), "nothing was made");
    }
    let stranger = Arc::new(KeyRing::ephemeral(&OsEntropy));
    let (how, stream) = (beside(folder.path(), "new"), Cursor::new(&bytes));
    let error = DurableStore::import(how, backend(Inner::Redb), stream, stranger, Taking::default()).await;
    assert!(matches!(error, Err(ImportError::Export(error)) if error.is_wrong_key()));
    assert!(!place.exists());
}

#[tokio::test]
async fn a_store_made_of_a_backup_says_that_it_is_of_old() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = filled(folder.path(), Inner::Sled).await;
    let taking = Taking { is_merged: false, is_backup: true };
    import(folder.path(), "restored", Inner::Redb, &bytes, taking).await.unwrap();
    let open = || DurableStore::open(beside(folder.path(), "restored"), backend(Inner::Redb)).unwrap();
    let store = open();
    assert!(store.opened().rollback.is_some());
    store.settle_rollback().await.unwrap();
    drop(store);
    assert_eq!(open().opened().rollback, None);
    let error = import(folder.path(), "restored", Inner::Redb, &bytes, taking).await.unwrap_err();
    assert!(matches!(error, ImportError::Export(ExportError::NotNew)));
}

/// The way out and in is the way over to the other engine, so it must not wash off what the store says of itself.
#[tokio::test]
async fn an_export_of_a_store_of_old_makes_a_store_of_old() {
    for (from, to) in [(Inner::Sled, Inner::Redb), (Inner::Redb, Inner::Sled)] {
        let folder = tempfile::tempdir().unwrap();
        let sound = filled(folder.path(), from).await;
        fs::remove_file(HighWater::place(&folder.path().join("data"))).unwrap();
        let store = DurableStore::open(opening(folder.path()), backend(from)).unwrap();
        let bytes = exported(&store, folder.path());
        drop(store);

        import(folder.path(), "taken", to, &bytes, Taking::default()).await.unwrap();
        let store = DurableStore::open(beside(folder.path(), "taken"), backend(to)).unwrap();
        assert_eq!(store.opened().connections, RECORDS);
        assert!(store.opened().rollback.is_some(), "its tokens may be spent");
        drop(store);
        // As with a backup, and for its reason: nobody could tell afterwards which of them are of old.
        import(folder.path(), "other", to, &sound, Taking::default()).await.unwrap();
        let taking = Taking { is_merged: true, is_backup: false };
        let refused = import(folder.path(), "other", to, &bytes, taking).await;
        assert!(matches!(refused, Err(ImportError::Export(ExportError::NotNew))), "{refused:?}");
    }
}
