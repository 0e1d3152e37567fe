//! G9 and G10: an older state, a missing record and an unreadable one are found when the store is opened.

use futures_util::poll;

use super::*;
use crate::connection::reuse::ReuseProfile;
use crate::connection::{Holder, Moment, Others};
use crate::error::{ProviderError, Unsent};
use crate::store::conformance::T0;
use crate::store::guard::high_water::HighWater;
use crate::store::index::Kind;

on_every_engine!(
    a_store_that_only_grew_is_not_taken_for_an_older_one,
    a_copy_that_is_put_back_is_told_at_every_opening_until_it_is_settled,
    a_fork_that_made_as_many_writes_is_told,
    a_store_ahead_of_its_file_is_well,
    a_file_that_is_lost_or_damaged_counts_as_an_older_state,
    a_record_that_vanished_is_missed_and_one_that_is_old_is_noticed,
    a_record_that_does_not_open_is_counted_and_the_others_are_served,
    a_refresh_that_was_left_unfinished_is_told_when_the_store_is_opened,
);

/// Without another process: one that is being started holds our locks for a moment.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let to = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &to);
        } else {
            fs::copy(&entry, &to).unwrap();
        }
    }
}

async fn fill(store: &DurableStore, names: &[&str]) {
    for name in names {
        TokenStore::put(store, &connection(id("", "google", name), "1"), Expected::Absent).await.unwrap();
    }
}

async fn a_store_that_only_grew_is_not_taken_for_an_older_one(inner: Inner) {
    let Fixture { script, store, folder } = fixture_on(inner);
    let mut expected = Opened { is_new: true, ..Opened::default() };
    assert_eq!(*store.opened(), expected);
    fill(&store, &["a", "b", "c"]).await;
    let found = TokenStore::get(&*store, &id("", "google", "b")).await.unwrap().unwrap();
    store.remove(&id("", "google", "b"), Expected::At(found.revision)).await.unwrap();
    store.settle_rollback().await.unwrap();
    drop(Arc::into_inner(store).unwrap());
    expected = Opened { is_new: false, connections: 2, ..expected };
    for _ in 0..2 {
        assert_eq!(*open_on(folder.path(), &script, inner).unwrap().opened(), expected);
    }
}

async fn a_copy_that_is_put_back_is_told_at_every_opening_until_it_is_settled(inner: Inner) {
    let Fixture { script, store, folder } = fixture_on(inner);
    let (data, aside) = (folder.path().join("data/store"), folder.path().join("aside"));
    let reopen = || open_on(folder.path(), &script, inner).unwrap();
    fill(&store, &["a"]).await;
    drop(Arc::into_inner(store).unwrap());
    if matches!(inner, Inner::Memory) {
        // Its rows lie in no file that could be put back.
        return;
    }
    copy(&data, &aside);
    let store = reopen();
    // One single write suffices, and an overwrite changes no count.
    let found = TokenStore::get(&store, &id("", "google", "a")).await.unwrap().unwrap();
    TokenStore::put(&store, &connection(id("", "google", "a"), "2"), Expected::At(found.revision))
        .await
        .unwrap();
    drop(store);
    copy(&aside, &data);

    for round in 0..2 {
        let store = reopen();
        let rollback = store.opened().rollback.clone().unwrap();
        assert_eq!((rollback.stored, rollback.expected), (1 + round, Some(2)), "{rollback:?}");
        // Whoever marks the grants may be killed while it does.
        fill(&store, &[["b", "c"][usize::try_from(round).unwrap()]]).await;
        if round == 0 {
            continue;
        }
        store.settle_rollback().await.unwrap();
        fill(&store, &["d"]).await;
    }
    assert_eq!(reopen().opened().rollback, None);
    // The state that was lost does not pass for the newest, though it once was.
    copy(&aside, &data);
    assert!(reopen().opened().rollback.is_some());
}

async fn a_fork_that_made_as_many_writes_is_told(inner: Inner) {
    let Fixture { script, store, folder } = fixture_on(inner);
    let (data, aside) = (folder.path().join("data/store"), folder.path().join("aside"));
    let file = HighWater::place(&folder.path().join("data"));
    let reopen = || open_on(folder.path(), &script, inner).unwrap();
    fill(&store, &["a"]).await;
    drop(Arc::into_inner(store).unwrap());
    if matches!(inner, Inner::Memory) {
        // Its rows lie in no file that could be put back.
        return;
    }
    copy(&data, &aside);
    let early = fs::read(&file).unwrap();
    let store = reopen();
    fill(&store, &["b"]).await;
    drop(store);
    let late = fs::read(&file).unwrap();

    // A copy lives on elsewhere, with the file as it was then, and comes back after as many writes of its own.
    copy(&aside, &data);
    fs::write(&file, early).unwrap();
    let store = reopen();
    assert_eq!(store.opened().rollback, None);
    fill(&store, &["c"]).await;
    drop(store);
    fs::write(&file, late).unwrap();
    for _ in 0..2 {
        let rollback = reopen().opened().rollback.clone().unwrap();
        assert_eq!((rollback.stored, rollback.expected), (2, Some(2)), "{rollback:?}");
    }
}

async fn a_store_ahead_of_its_file_is_well(inner: Inner) {
    let Fixture { script, store, folder } = fixture_on(inner);
    let file = HighWater::place(&folder.path().join("data"));
    fill(&store, &["a"]).await;
    store.close().await;
    let early = fs::read(&file).unwrap();
    let store = open_on(folder.path(), &script, inner).unwrap();
    fill(&store, &["b"]).await;
    drop(store);
    fs::write(&file, early).unwrap();
    assert_eq!(open_on(folder.path(), &script, inner).unwrap().opened().rollback, None);
}

async fn a_file_that_is_lost_or_damaged_counts_as_an_older_state(inner: Inner) {
    let Fixture { script, store, folder } = fixture_on(inner);
    let file = HighWater::place(&folder.path().join("data"));
    let other = fixture_on(inner);
    fill(&store, &["a"]).await;
    store.close().await;
    let others = fs::read(HighWater::place(&other.folder.path().join("data"))).unwrap();
    let why = || open_on(folder.path(), &script, inner).unwrap().opened().rollback.clone().unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(why(), Rollback { stored: 1, expected: None, why: "its high-water file is missing" });
    fs::write(&file, b"TBHW and nothing else").unwrap();
    assert_eq!(why().why, "its high-water file is damaged");
    fs::write(&file, others).unwrap();
    assert_eq!(why().why, "its high-water file belongs to another store");
    let store = open_on(folder.path(), &script, inner).unwrap();
    store.settle_rollback().await.unwrap();
    drop(store);
    assert_eq!(open_on(folder.path(), &script, inner).unwrap().opened().rollback, None);
}

/// Changes a row behind the guard layer's back.
fn behind(folder: &Path, script: &Script, inner: Inner, change: impl FnOnce(&dyn Engine)) {
    match inner.backend() {
        None => change(&script.rows),
        Some(backend) => {
            let engine = backend.open(&folder.join("data/store/scripted")).unwrap();
            change(&*engine);
            engine.sync().unwrap();
        }
    }
}

async fn a_record_that_vanished_is_missed_and_one_that_is_old_is_noticed(inner: Inner) {
    let Fixture { script, store, folder } = fixture_on(inner);
    fill(&store, &["a", "b"]).await;
    drop(Arc::into_inner(store).unwrap());
    let mut rows = Vec::new();
    behind(folder.path(), &script, inner, |engine| {
        rows = engine.scan(Kind::Connection, None, 9).unwrap();
    });
    let [(key, Ok(old)), _] = &rows[..] else { panic!("two rows") };
    let found = async || {
        let store = open_on(folder.path(), &script, inner).unwrap();
        let opened = store.opened().clone();
        store.settle_rollback().await.unwrap();
        (opened.connections, opened.missing, opened.rollback.map(|rollback| rollback.why))
    };
    let put = |row: Option<Vec<u8>>| {
        let change = Change { key: *key, value: row };
        behind(folder.path(), &script, inner, |engine| engine.apply(&[change]).unwrap());
    };
    let other = Some("its records are not the ones last written");
    put(None);
    assert_eq!(found().await, (1, 1, other));
    assert_eq!(found().await, (1, 0, None));
    put(Some(old.clone()));
    assert_eq!(found().await, (2, 0, other), "nor may one come back");
    let mut older = old.clone();
    older[8] ^= 2;
    put(Some(older));
    assert_eq!(found().await, (2, 0, other));
    put(None);
    put(Some(old.clone()));
    assert_eq!(found().await, (2, 0, other));
    assert_eq!(found().await, (2, 0, None));
}

async fn a_record_that_does_not_open_is_counted_and_the_others_are_served(inner: Inner) {
    let Fixture { script, store, folder } = fixture_on(inner);
    fill(&store, &["a", "b", "c"]).await;
    drop(Arc::into_inner(store).unwrap());
    behind(folder.path(), &script, inner, |engine| {
        let (key, row) = engine.scan(Kind::Connection, None, 1).unwrap().remove(0);
        let mut row = row.unwrap();
        let last = row.len() - 1;
        row[last] ^= 1;
        engine.apply(&[Change { key, value: Some(row) }]).unwrap();
    });
    let store = open_on(folder.path(), &script, inner).unwrap();
    let opened = store.opened();
    assert_eq!((opened.connections, opened.unreadable, opened.missing), (3, 1, 0));
    assert_eq!(opened.rollback, None, "the damage of one record makes no other one old");
    let mut served = 0;
    for name in ["a", "b", "c"] {
        served += usize::from(TokenStore::get(&store, &id("", "google", name)).await.is_ok());
    }
    assert_eq!(served, 2);
}

async fn a_refresh_that_was_left_unfinished_is_told_when_the_store_is_opened(inner: Inner) {
    let Fixture { script, store, folder } = fixture_on(inner);
    fill(&store, &["well"]).await;
    let reuse = ReuseProfile::default();
    let moment = Moment { now: T0, holder: Holder(1), others: Others::Gone, reuse: &reuse };
    let mut left: Vec<ConnectionId> = Vec::new();
    for name in ["a", "b", "answered"] {
        let begun = connection(id("", "google", name), "1").begun(7, &moment);
        assert!(begun.profile.intent.is_some());
        left.push(begun.profile.id.clone());
        TokenStore::put(&*store, &begun, Expected::Absent).await.unwrap();
    }
    let answered = TokenStore::get(&*store, left.last().unwrap()).await.unwrap().unwrap();
    let attempt = answered.value.profile.intent.clone().unwrap();
    let refused = Err(ProviderError::Unavailable { cause: Unsent::Connect, retry_after: None });
    let landed = answered.value.landed(&attempt, &refused, &moment, 0).connection;
    TokenStore::put(&*store, &landed, Expected::At(answered.revision)).await.unwrap();
    left.pop();
    assert_eq!(store.opened().unfinished, []);
    drop(Arc::into_inner(store).unwrap());
    let store = open_on(folder.path(), &script, inner).unwrap();
    let mut told = store.opened().unfinished.clone();
    told.sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
    assert_eq!(told, left);
}

/// What the store cannot do while it runs: tell the broker that it is of old. So it is not served from.
#[tokio::test]
async fn an_engine_that_reopens_without_what_was_acknowledged_is_not_served_from() {
    let Fixture { script, store, folder: _folder } = fixture_on(Inner::Memory);
    fill(&store, &["a", "b"]).await;
    let (reached, at_open) = channel::channel();
    let (go, gate) = channel::channel();
    let (second, at_second) = channel::channel();
    let (go_on, second_gate) = channel::channel();
    script.syncs.lock().unwrap().push_back(Act::Fail);
    script.opens.lock().unwrap().extend([Act::Gate(reached, gate), Act::Gate(second, second_gate)]);
    TokenStore::put(&*store, &connection(id("", "google", "c"), "1"), Expected::Absent).await.unwrap_err();
    tokio::task::spawn_blocking(move || at_open.recv().unwrap()).await.unwrap();
    let lost: Vec<_> = script.rows.scan(Kind::Connection, None, 9).unwrap();
    let remove = |(key, _): &(Key, _)| Change { key: *key, value: None };
    let changes: Vec<Change> = lost.iter().map(remove).collect();
    script.rows.apply(&changes).unwrap();
    go.send(()).unwrap();
    // It was looked at, not served from, and is being opened once more.
    tokio::task::spawn_blocking(move || at_second.recv().unwrap()).await.unwrap();
    assert!(store.fault().is_some());
    let put_back = lost.into_iter().map(|(key, row)| Change { key, value: Some(row.unwrap()) });
    script.rows.apply(&put_back.collect::<Vec<_>>()).unwrap();
    go_on.send(()).unwrap();
    healed(&store).await;
    assert!(TokenStore::get(&*store, &id("", "google", "a")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_settling_that_fails_behind_a_write_has_the_engine_reopened() {
    let Fixture { script, store, folder } = fixture_on(Inner::Redb);
    drop(Arc::into_inner(store).unwrap());
    fs::remove_file(HighWater::place(&folder.path().join("data"))).unwrap();
    let store = open_on(folder.path(), &script, Inner::Redb).unwrap();
    assert!(store.opened().rollback.is_some());
    let gate = || {
        let (reached, at_sync) = channel::channel();
        let (go, gate) = channel::channel();
        script.syncs.lock().unwrap().push_back(Act::Gate(reached, gate));
        (at_sync, go)
    };
    let reached = |at_sync: channel::Receiver<()>| async {
        tokio::task::spawn_blocking(move || at_sync.recv().unwrap()).await.unwrap();
    };
    let (connection, other) =
        (connection(id("", "google", "a"), "1"), connection(id("", "google", "b"), "1"));
    let mut first = TokenStore::put(&store, &connection, Expected::Absent);
    let mut second = TokenStore::put(&store, &other, Expected::Absent);
    let mut settling = Box::pin(store.settle_rollback());

    let (at_first, go) = gate();
    assert!(poll!(&mut first).is_pending());
    reached(at_first).await;
    // Both wait while the first is written, so that the settling ends the group of the second.
    assert!(poll!(&mut second).is_pending());
    assert!(poll!(&mut settling).is_pending());
    let (at_second, go_on) = gate();
    go.send(()).unwrap();
    first.await.unwrap();
    reached(at_second).await;
    script.applies.lock().unwrap().push_back(Act::Fail);
    go_on.send(()).unwrap();
    second.await.unwrap();
    assert_eq!(settling.await.unwrap_err(), StoreError::Unavailable("apply failed".into()));
    healed(&store).await;
    store.settle_rollback().await.unwrap();
}

/// Sled keeps a large record in pieces; without one of them not even its revision can be told.
#[tokio::test]
async fn a_record_that_is_old_is_noticed_beside_one_of_which_nothing_can_be_told() {
    let large = "x".repeat(9000);
    // How many records lose a piece, whether one of the others is old, and whether that is told.
    for (in_pieces, is_one_old, is_told) in
        [(1, true, true), (1, false, false), (2, false, true), (0, false, false)]
    {
        let Fixture { script, store, folder } = fixture_on(Inner::Sled);
        for name in ["a", "b"] {
            let record = connection(id("", "google", name), &large);
            TokenStore::put(&*store, &record, Expected::Absent).await.unwrap();
        }
        fill(&store, &["c", "d"]).await;
        drop(Arc::into_inner(store).unwrap());
        let mut old = Vec::new();
        behind(folder.path(), &script, Inner::Sled, |engine| {
            old = engine.scan(Kind::Connection, None, 9).unwrap();
        });
        old.retain(|(_, row)| row.as_ref().unwrap().len() < 9000);
        let store = open_on(folder.path(), &script, Inner::Sled).unwrap();
        for name in ["c", "d"] {
            let found = TokenStore::get(&store, &id("", "google", name)).await.unwrap().unwrap();
            let newer = connection(id("", "google", name), "2");
            TokenStore::put(&store, &newer, Expected::At(found.revision)).await.unwrap();
        }
        drop(store);
        if is_one_old {
            let (key, row) = old.remove(0);
            let change = Change { key, value: Some(row.unwrap()) };
            behind(folder.path(), &script, Inner::Sled, |engine| engine.apply(&[change]).unwrap());
        }
        {
            let rows = ::sled::Config::new().path(folder.path().join("data/store/scripted")).open().unwrap();
            let first_pieces: Vec<_> = rows
                .iter()
                .map(Result::unwrap)
                .filter(|(key, piece)| key.len() == 34 && key[33] == 0 && piece[0] > 1)
                .collect();
            assert_eq!(first_pieces.len(), 2);
            for (key, _) in first_pieces.iter().take(in_pieces) {
                rows.remove(key).unwrap();
            }
            rows.flush().unwrap();
        }
        let opened = open_on(folder.path(), &script, Inner::Sled).unwrap().opened().clone();
        assert_eq!((opened.connections, opened.unreadable), (4, in_pieces as u64));
        let why = is_told.then_some("its records are not the ones last written");
        assert_eq!(opened.rollback.map(|rollback| rollback.why), why, "{in_pieces} {is_one_old}");
    }
}
