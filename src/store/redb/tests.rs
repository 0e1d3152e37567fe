use std::fs;

use super::*;
use crate::store::conformance::{Durable, conformance, connection, id};
use crate::store::remedy::Remedy;
use crate::store::{Expected, TokenStore};

fn fresh() -> Durable {
    Durable::fresh(open)
}

conformance!(fresh());

/// What is applied and not yet committed is seen as if it were: in single reads and in scans, wherever those begin.
#[test]
fn what_is_pending_and_what_is_committed_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let engine = RedbBackend.make(folder.path()).unwrap();
    let key = |at: u8| {
        let mut key = [at; 33];
        key[0] = Kind::Connection.byte();
        key
    };
    let put = |at: u8, value: u8| Change { key: key(at), value: Some(vec![value]) };
    let gone = |at: u8| Change { key: key(at), value: None };
    engine.apply(&(1..=9).map(|at| put(at, at)).collect::<Vec<_>>()).unwrap();
    engine.sync().unwrap();
    engine.apply(&[gone(1), gone(2), put(4, 44), put(10, 10), put(0, 0)]).unwrap();

    let firsts = |after: Option<&[u8]>, limit| {
        let rows = engine.scan(Kind::Connection, after, limit).unwrap();
        rows.into_iter().map(|(key, value)| (key[1], value.unwrap()[0])).collect::<Vec<_>>()
    };
    for _ in ["pending", "committed"] {
        assert_eq!(engine.get(&key(1)).unwrap(), None);
        assert_eq!(engine.get(&key(4)).unwrap(), Some(vec![44]));
        assert_eq!(firsts(None, 3), [(0, 0), (3, 3), (4, 44)]);
        assert_eq!(firsts(Some(&key(4)[1..]), 3), [(5, 5), (6, 6), (7, 7)]);
        assert_eq!(firsts(Some(&[9]), 9), [(9, 9), (10, 10)]);
        assert_eq!(firsts(Some(&[&key(9)[1..], &[0]].concat()), 9), [(10, 10)]);
        assert!(engine.scan(Kind::Session, None, 9).unwrap().is_empty());
        engine.sync().unwrap();
    }
}

/// A bit flips in each place at which a key stands that stands in a branch of the tree as well as in a leaf.
#[test]
fn a_damaged_key_hides_no_row_in_silence() {
    const ROWS: u16 = 300;
    let folder = tempfile::tempdir().unwrap();
    let key = |at: u16| {
        let mut key = [0xA5; 33];
        key[0] = Kind::Connection.byte();
        key[1..3].copy_from_slice(&at.to_be_bytes());
        key
    };
    let engine = RedbBackend.make(folder.path()).unwrap();
    let row = |at: u16| Change { key: key(at), value: Some(vec![1]) };
    engine.apply(&(0..ROWS).map(row).collect::<Vec<_>>()).unwrap();
    engine.sync().unwrap();
    drop(engine);
    let file = folder.path().join(FILE);
    let good = fs::read(&file).unwrap();
    let mut places: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (from, found) in good.windows(33).enumerate() {
        if found[0] == Kind::Connection.byte() && found[3..] == [0xA5; 30] {
            places.entry(found).or_default().push(from);
        }
    }
    let (mut damages, mut refused) = (0, 0);
    for from in places.into_values().filter(|places| places.len() > 1).flatten() {
        damages += 1;
        let mut bad = good.clone();
        bad[from + 1] ^= 0x40;
        fs::write(&file, bad).unwrap();
        let Ok(engine) = RedbBackend.open(folder.path()) else {
            refused += 1;
            continue;
        };
        let found = (0..ROWS).filter(|at| engine.get(&key(*at)).unwrap().is_some()).count();
        let listed = engine.scan(Kind::Connection, None, usize::MAX).unwrap().len();
        // All of them, or what was there before they were written.
        assert!(found == listed && (found == 0 || found == usize::from(ROWS)), "{from}: {found} of {listed}");
    }
    assert!(damages > 0, "there is no branch");
    println!("{damages} damages, {refused} refused");
}

#[test]
fn a_row_that_is_too_large_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let engine = RedbBackend.make(folder.path()).unwrap();
    let key = [Kind::Connection.byte(); 33];
    let change = |bytes| Change { key, value: Some(vec![0; bytes]) };
    assert!(matches!(engine.apply(&[change(MAX_ROW + 1)]), Err(Fault::Refused(_))));
    assert_eq!(engine.get(&key).unwrap(), None);
    engine.apply(&[change(MAX_ROW)]).unwrap();
    engine.sync().unwrap();
    assert_eq!(engine.get(&key).unwrap().unwrap().len(), MAX_ROW);
}

/// Each engine opens its own stores alone, and says which way leads over.
#[tokio::test]
async fn a_store_of_the_other_engine_is_refused_by_name() {
    type Open = fn(Opening) -> Result<DurableStore, OpenError>;
    let engines: [(&str, Open); 2] = [("sled", crate::store::sled::open), ("redb", open)];
    for ((own, make), (other, wrong)) in [(engines[0], engines[1]), (engines[1], engines[0])] {
        let made = Durable::fresh(make);
        let user = connection(id("", "google", "user-42"), "1");
        TokenStore::put(&*made.store, &user, Expected::Absent).await.unwrap();
        let folder = made.close();
        let before = fs::read_dir(folder.path().join("data/store")).unwrap().count();
        let error = wrong(Durable::opening(folder.path())).err().unwrap();
        assert!(
            matches!(&error, OpenError::OtherEngine { found, asked, .. } if found == own && *asked == other)
        );
        assert_eq!(error.why(), format!("the configuration asks for {other}"));
        let Remedy::Change(fix) = error.remedy() else { panic!("{:?}", error.remedy()) };
        assert!(fix.contains(&format!("store.engine to {own}")), "{fix}");
        assert!(fix.contains("store export"), "{fix}");
        assert_eq!(before, fs::read_dir(folder.path().join("data/store")).unwrap().count());
        make(Durable::opening(folder.path())).unwrap();
    }
}

/// What is left may be all there is to bring the store back by: an empty engine in its place would only look like one.
#[test]
fn an_engine_file_that_is_gone_is_not_made_anew() {
    type Open = fn(Opening) -> Result<DurableStore, OpenError>;
    let engines: [(&str, Open, &str); 2] = [("sled", crate::store::sled::open, "db"), ("redb", open, FILE)];
    for (engine, open, file) in engines {
        let folder = Durable::fresh(open).close();
        let dir = folder.path().join("data/store").join(engine);
        let aside = folder.path().join("aside");
        let names = || {
            let entries = fs::read_dir(&dir).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
        };
        fs::rename(dir.join(file), &aside).unwrap();
        for left in ["nothing", "an empty file"] {
            let before = names();
            let error = open(Durable::opening(folder.path())).err().unwrap();
            assert!(matches!(&error, OpenError::Unopenable { .. }), "{engine}: {error:?}");
            assert_eq!(names(), before, "{engine}, {left}: {}", error.why());
            fs::write(dir.join(file), b"").unwrap();
        }
        assert_eq!(fs::metadata(dir.join(file)).unwrap().len(), 0, "{engine}");
        fs::rename(&aside, dir.join(file)).unwrap();
        open(Durable::opening(folder.path())).unwrap();
    }
}
