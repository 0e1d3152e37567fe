//! Recipes 6 and 7, faults.md F9 and F10: the disk is full, or an I/O error is injected. Nothing acknowledged is lost, and
//! a full disk heals by itself.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use token_broker::error::StoreError;
use token_broker::store::guard::{DurableStore, Health};
use token_broker::store::{Expected, TokenStore};
use tokio::time::Instant;

use super::child::{Acks, BEGUN, opening};
use super::engine::Engine;
use super::points::require_strace;
use super::process::{furnish, on_both_engines, seed, start, verify, writer};
use super::script::Script;

on_both_engines!(a_full_disk_loses_nothing_and_heals, no_io_error_is_taken_for_success);

/// A file system in memory of so many bytes, as long as it lives.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(place: &'a Path, bytes: u64) -> Option<Self> {
        fs::create_dir_all(place).unwrap();
        let mut mount = Command::new("mount");
        let mounted =
            mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(place).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(place))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn a_full_disk_loses_nothing_and_heals(engine: Engine) {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("small");
    let Some(_disk) = SmallDisk::mount(&place, 40 << 20) else {
        println!(
            "full disk: {}: NOT RUN: no small disk can be mounted here; a limit on file sizes stands in",
            engine.name()
        );
        return limited(engine, root.path());
    };
    let folder = place.join("run");
    furnish(&folder);
    let script = Script { seed: seed(), thread: 0 };
    let mut how = opening(&folder);
    how.ballast_bytes = 8 << 20;
    let store = engine.open(how).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        // Somebody else fills the disk; then our own writes meet the end of it.
        fs::write(place.join("others"), vec![1; 20 << 20]).unwrap();
        let mut acked = 0;
        while put(&store, script, acked).await.is_ok() {
            acked += 1;
            assert!(acked < 20_000, "the disk does not fill");
        }
        reaches(&store, Health::Full).await;
        let refused = put(&store, script, LATER).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Unavailable(why) if why.contains("disk is full")), "{refused}");
        // What exists nowhere else is written all the same.
        let mut rescued = 0;
        for key in RESCUED {
            let is_written = store.rescue(&script.connection(key, key), Expected::Absent).await.is_ok();
            rescued += u64::from(is_written);
        }
        assert_eq!(rescued, 50);

        fs::remove_file(place.join("others")).unwrap();
        let since = Instant::now();
        reaches(&store, Health::Well).await;
        put(&store, script, LATER).await.unwrap();
        let healed_in = since.elapsed();
        for key in LATER + 1..LATER + 50 {
            put(&store, script, key).await.unwrap();
        }
        store.close().await;
        drop(store);
        let store = engine.open(opening(&folder)).unwrap();
        assert_eq!((store.opened().rollback.clone(), store.opened().missing), (None, 0));
        let mut lost = 0;
        for key in (0..acked).chain(RESCUED).chain(LATER..LATER + 50) {
            let found = TokenStore::get(&store, &script.id(key)).await.unwrap();
            let is_it = found.is_some_and(|found| found.value.tokens == script.connection(key, key).tokens);
            lost += u64::from(!is_it);
        }
        println!(
            "full disk: {}, {acked} writes until it was full, {rescued} of 50 rescued, durable {} ms after space was back, {lost} lost",
            engine.name(),
            healed_in.as_millis()
        );
        assert_eq!(lost, 0);
    });
}

/// Keys that are rescued, and keys that are written when there is room again.
const RESCUED: std::ops::Range<u64> = 100_000..100_050;
const LATER: u64 = 200_000;

/// Writes a record that was not there, durably.
async fn put(store: &DurableStore, script: Script, key: u64) -> Result<(), StoreError> {
    TokenStore::put(store, &script.connection(key, key), Expected::Absent).await.map(drop)
}

async fn reaches(store: &DurableStore, wanted: Health) {
    let mut health = store.health();
    let reached = health.wait_for(|health| *health == wanted);
    tokio::time::timeout(Duration::from_secs(60), reached).await.expect("it fares so").unwrap();
}

/// Without a small disk: files may not grow beyond a limit (EFBIG), which no ballast cures.
fn limited(engine: Engine, root: &Path) {
    let folder = root.join("run");
    furnish(&folder);
    let task = writer(engine, &folder, seed(), 1, 100_000);
    // Blocks of 1 KiB, above the ballast and its margin; the signal is ignored, so that the write fails instead.
    let limit = ["sh", "-c", "trap '' XFSZ; ulimit -f 6000; exec \"$@\"", "sh"].map(str::to_owned);
    let failed = start(&task, &limit).finish();
    assert!(failed.is_err(), "the writer must meet the limit");
    verify(&task).unwrap();
    println!("full disk: {}, {} writes until the limit, 0 lost", engine.name(), Acks::open(&folder).get(0));
}

fn no_io_error_is_taken_for_success(engine: Engine) {
    require_strace();
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("run");
    let seed = seed();
    let (mut hit, mut bad) = (0, Vec::new());
    for call in ["fsync", "fdatasync", "pwrite64"] {
        for n in [1, 2, 3, 5, 8, 12, 17, 23, 30, 38] {
            furnish(&folder);
            let task = writer(engine, &folder, seed ^ n, 1, 40);
            let inject = format!("inject={call}:error=EIO:when={n}");
            let trace = format!("trace={call}");
            let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let outcome = start(&task, &wrapper.map(str::to_owned)).finish();
            if Acks::open(&folder).stage() < BEGUN {
                continue;
            }
            match outcome {
                Err(why) if why.contains("hung") => bad.push(format!("{call} {n}: {why}")),
                // An error that was told, or one that the store healed from before anybody asked.
                Err(_) => hit += 1,
                Ok(_) => {}
            }
            if let Err(why) = verify(&task) {
                bad.push(format!("{call} {n}: {why}"));
            }
        }
    }
    println!("I/O errors: {}, seed {seed}, {hit} met, {} bad", engine.name(), bad.len());
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(hit >= 10, "only {hit} errors were met");
}
