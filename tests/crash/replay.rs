//! Recipes 2 and 3: every write, sync and rename of three process lives is recorded, and at random points the states that
//! a power cut could have left are built and verified, each opened twice. With the engine's own sync taken for nothing,
//! most states must be bad: a suite that cannot fail proves nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::child::{Acks, Role, Task};
use super::disk::{Disk, Mode, read_log};
use super::engine::Engine;
use super::process::{furnish, on_both_engines, seed, start, times, verify, writer};
use super::script::mix;

const POINTS: u64 = 60;
/// Fewer for the control, whose states take longer: most of them panic.
const CONTROL_POINTS: u64 = 12;
const THREADS: usize = 4;
/// Acknowledged writes of each life.
const WRITES: u64 = 150;

on_both_engines!(no_power_cut_loses_what_was_acknowledged_and_without_its_sync_most_do);

fn no_power_cut_loses_what_was_acknowledged_and_without_its_sync_most_do(engine: Engine) {
    let root = tempfile::tempdir().unwrap();
    let seed = seed();
    let recorder = recorder(root.path());
    let (task, log) = record(engine, root.path(), seed, &recorder);
    let points = POINTS * times();
    let (states, bad) = replay(&task, &log, root.path(), points, None);
    println!(
        "write-log replay: {}, seed {seed}, {points} points, {states} states opened twice, {} bad",
        engine.name(),
        bad.len()
    );
    let (control_states, control_bad) = replay(&task, &log, root.path(), CONTROL_POINTS, Some(engine.file()));
    println!(
        "write-log replay, negative control: {}, {control_states} states without the engine's sync, {} bad",
        engine.name(),
        control_bad.len()
    );
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(
        control_bad.len() as u64 * 2 > control_states,
        "the control must fail in more than half of its states"
    );
}

/// Compiles the library that records. Where that cannot be done this test cannot be run, and fails saying so.
fn recorder(root: &Path) -> PathBuf {
    let library = root.join("recorder.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/recorder.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-lpthread");
    let compiled = compiler.status();
    assert!(
        compiled.is_ok_and(|status| status.success()),
        "the write-log replay needs a C compiler named cc: apt-get install gcc libc6-dev"
    );
    library
}

/// Three lives of a writer, the first two of them killed, with a verifying process after each.
fn record(engine: Engine, root: &Path, seed: u64, recorder: &Path) -> (Task, PathBuf) {
    let (folder, log) = (root.join("run"), root.join("log"));
    furnish(&folder);
    let task = writer(engine, &folder, mix(seed), THREADS, 1 << 40);
    let preload = [
        "env".to_owned(),
        format!("LD_PRELOAD={}", recorder.display()),
        format!("RECORD_LOG={}", log.display()),
        format!("RECORD_ROOT={}", folder.display()),
    ];
    for _ in 0..3 {
        let before = Acks::open(&folder).total();
        let mut running = start(&task, &preload);
        running.await_begin();
        let acks = Acks::open(&folder);
        while acks.total() < before + WRITES {
            assert!(running.child.try_wait().unwrap().is_none(), "the writer failed");
            std::thread::yield_now();
        }
        running.child.kill().unwrap();
        running.finish().unwrap();
        acks.set_stage(0);
        let verified = start(&Task { role: Role::Verify, ..task.clone() }, &preload).finish().unwrap();
        assert!(verified.success());
    }
    let recorded = std::fs::metadata(&log).map_or(0, |log| log.len());
    assert!(recorded > 100_000, "nothing was recorded: LD_PRELOAD does not work here");
    (task, log)
}

/// Answers how many states there were, and what was wrong with which.
fn replay(
    task: &Task,
    log: &Path,
    root: &Path,
    points: u64,
    deaf: Option<&'static str>,
) -> (u64, Vec<String>) {
    let records = read_log(log);
    let telling: Vec<usize> = match deaf {
        None => (0..records.len()).collect(),
        // Where nothing is owed to anybody, a disk that takes no sync loses nothing.
        Some(_) => {
            let mut disk = Disk::deaf_to(deaf);
            let owes = |record| {
                disk.play(record);
                disk.owes()
            };
            let after: Vec<bool> = records.iter().map(owes).collect();
            let owing: Vec<usize> = (1..records.len()).filter(|point| after[point - 1]).collect();
            println!("write-log replay: something is owed at {} of {} points", owing.len(), records.len());
            owing
        }
    };
    assert!(!telling.is_empty(), "nothing was ever owed");
    let draw = |n| telling[(mix(task.seed ^ mix(n + 77)) % telling.len() as u64) as usize];
    let mut at: Vec<usize> = (0..points).map(draw).collect();
    at.sort_unstable();
    let folder = root.join("cut");
    let (mut states, mut bad) = (0, Vec::new());
    let mut disk = Disk::deaf_to(deaf);
    let mut played = 0;
    for point in at {
        records[played..point].iter().for_each(|record| disk.play(record));
        played = point;
        for mode in [Mode::Nothing, Mode::InPlace, Mode::Random(mix(task.seed ^ point as u64))] {
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
            disk.cut(mode, &folder);
            std::fs::copy(task.folder.join("keys"), folder.join("keys")).unwrap();
            states += 1;
            if let Err(why) = verify(&Task { folder: folder.clone(), ..task.clone() }) {
                bad.push(format!("record {point} of {}, {mode:?}: {why}", records.len()));
            }
        }
    }
    (states, bad)
}
