//! G7: while the disk is full, what exists nowhere else is written and the rest is refused, until there is room.

use super::*;
use crate::store::guard::committer::NO_ROOM;

on_every_engine!(a_full_disk_takes_rescued_tokens_alone_and_heals_by_itself);

async fn until(store: &DurableStore, wanted: Health) {
    let mut health = store.health();
    let reached = health.wait_for(|health| *health == wanted);
    tokio::time::timeout(Duration::from_secs(60), reached).await.expect("it fares so").unwrap();
}

async fn a_full_disk_takes_rescued_tokens_alone_and_heals_by_itself(inner: Inner) {
    let Fixture { script, store, folder } = fixture_on(inner);
    let data = folder.path().join("data");
    let (ballast, aside) = (data.join("ballast"), data.join("ballast.new"));
    assert!(ballast.exists());
    // A directory where the new ballast is to be made: there is no room until it goes.
    fs::create_dir(&aside).unwrap();
    script.syncs.lock().unwrap().push_back(Act::Full);
    let no = StoreError::Unavailable("sync failed".into());
    assert_eq!(put(&store, Expected::Absent).await.unwrap_err(), no);
    until(&store, Health::Full).await;
    assert!(!ballast.exists(), "given up");
    assert_eq!(store.fault(), None, "reading goes on");

    let refused = Err(StoreError::Unavailable(NO_ROOM.to_owned()));
    let name = |name| id("", "google", name);
    let other = connection(name("other"), "1");
    assert_eq!(TokenStore::put(&*store, &other, Expected::Absent).await, refused);
    let revision = store.rescue(&other, Expected::Absent).await.unwrap();
    assert_eq!(store.remove(&name("other"), Expected::At(revision)).await, refused.clone().map(drop));
    assert!(TokenStore::get(&*store, &name("other")).await.unwrap().is_some());

    fs::remove_dir(&aside).unwrap();
    // Nobody stops asking meanwhile.
    let asked = async { while TokenStore::put(&*store, &other, Expected::Absent).await == refused {} };
    tokio::time::timeout(Duration::from_secs(60), asked).await.expect("it finds the room");
    until(&store, Health::Well).await;
    assert!(ballast.exists());
    store.remove(&name("other"), Expected::At(revision)).await.unwrap();
}

#[tokio::test]
async fn whoever_follows_the_store_hears_of_its_failure_and_of_its_recovery() {
    let Fixture { script, store, folder: _folder } = fixture();
    let (reached, at_open) = channel::channel();
    let (go, gate) = channel::channel();
    script.applies.lock().unwrap().push_back(Act::Fail);
    script.opens.lock().unwrap().push_back(Act::Gate(reached, gate));
    put(&store, Expected::Absent).await.unwrap_err();
    tokio::task::spawn_blocking(move || at_open.recv().unwrap()).await.unwrap();
    assert_eq!(*store.health().borrow(), Health::Failed);
    go.send(()).unwrap();
    until(&store, Health::Well).await;
}
