//! Recipe 4: the process is killed at the N-th call of each kind that touches the disk, while a store is made for the
//! first time and while a dirty one is opened, and in the 40 steps after that.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::child::{Acks, BEGUN};
use super::engine::Engine;
use super::files::copy;
use super::process::{furnish, on_both_engines, seed, start, verify, writer};

/// A question mark: machines that lack the call are fine.
const CALLS: [&str; 12] = [
    "openat",
    "?mkdir,?mkdirat",
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "?sync_file_range",
    "?rename,?renameat,?renameat2",
    "?unlink,?unlinkat,?rmdir",
    "ftruncate",
    "fallocate",
    "flock",
];
/// Points of each call, counted from where the process begins with the store.
const POINTS_PER_CALL: u64 = 30;
/// Calls that a process may make before it begins: a point beyond is not reached any more.
const MAX_N: u64 = 120;
/// Below this the sweep has not done its work (faults.md F1).
const MIN_POINTS: u64 = 150;

on_both_engines!(no_crash_point_of_a_first_start_or_of_a_dirty_open_loses_the_store);

fn no_crash_point_of_a_first_start_or_of_a_dirty_open_loses_the_store(engine: Engine) {
    require_strace();
    let root = tempfile::tempdir().unwrap();
    let seed = seed();
    let dirty = dirty_store(engine, root.path(), seed);
    let mut bad = Vec::new();
    let mut points = [0, 0];
    for call in CALLS {
        for (scenario, from) in [None, Some(&dirty)].into_iter().enumerate() {
            points[scenario] += sweep(engine, root.path(), call, from, seed, &mut bad);
        }
    }
    println!(
        "crash points: {}, seed {seed}, {} in a first start, {} in a dirty open, {} bad",
        engine.name(),
        points[0],
        points[1],
        bad.len()
    );
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(points[0] + points[1] >= MIN_POINTS, "only {points:?} points were reached");
}

/// Kills at one call after the other until the process gets through; answers how many points there were.
fn sweep(
    engine: Engine,
    root: &Path,
    call: &str,
    from: Option<&PathBuf>,
    seed: u64,
    bad: &mut Vec<String>,
) -> u64 {
    let folder = root.join("run");
    let mut points = 0;
    for n in 1..=MAX_N {
        match from {
            None => furnish(&folder),
            Some(from) => copy(from, &folder),
        }
        let task = writer(engine, &folder, seed, 1, 40);
        let inject = format!("inject={call}:signal=KILL:when={n}");
        let trace = format!("trace={call}");
        let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let outcome = start(&task, &wrapper.map(str::to_owned)).finish();
        let what = || format!("{call} {n}, {}", if from.is_some() { "dirty open" } else { "first start" });
        let acks = Acks::open(&folder);
        match outcome {
            Err(why) => bad.push(format!("{}: the writer failed: {why}", what())),
            Ok(status) if status.success() => break,
            // Killed before it touched the store.
            Ok(_) if acks.stage() < BEGUN => continue,
            Ok(_) => {}
        }
        points += 1;
        if let Err(why) = verify(&task) {
            bad.push(format!("{}: {why}", what()));
        }
        if points == POINTS_PER_CALL {
            break;
        }
    }
    points
}

/// A store whose writer was killed in the middle.
fn dirty_store(engine: Engine, root: &Path, seed: u64) -> PathBuf {
    let folder = root.join("dirty");
    furnish(&folder);
    let task = writer(engine, &folder, seed, 1, 1 << 40);
    let mut running = start(&task, &[]);
    running.await_begin();
    let acks = Acks::open(&folder);
    while acks.get(0) < 200 {
        assert!(running.child.try_wait().unwrap().is_none(), "the writer failed");
        std::thread::yield_now();
    }
    running.child.kill().unwrap();
    running.finish().unwrap();
    acks.set_stage(0);
    folder
}

pub(crate) fn require_strace() {
    let mut probe = Command::new("strace");
    let works = probe.args(["-qq", "-o", "/dev/null", "-e", "trace=none", "true"]).status();
    assert!(
        works.is_ok_and(|status| status.success()),
        "the crash points need strace and the right to trace a child: apt-get install strace"
    );
}
