//! Recipes 8 and 9, faults.md F5, F7 and F31: a second opener, planted leftovers, copies that are put back, and no program
//! but our own.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use token_broker::store::guard::OpenError;
use token_broker::store::remedy::Remedy;

use super::child::{Acks, Role, Task, opening};
use super::engine::Engine;
use super::files::copy;
use super::points::require_strace;
use super::process::{furnish, last_word, on_both_engines, seed, start, times, verify, writer};
use super::script::mix;

const ROLLBACKS: u64 = 25;

on_both_engines!(
    a_second_opener_waits_and_is_refused_by_name_and_never_opens,
    what_an_interrupted_run_left_is_swept,
    a_copy_that_is_put_back_is_always_found_out,
    no_other_program_is_started,
);

fn a_second_opener_waits_and_is_refused_by_name_and_never_opens(engine: Engine) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("run");
    furnish(&folder);
    let task = Task { role: Role::Hold, ..writer(engine, &folder, seed(), 1, 0) };
    // Its standard input stays open as long as the holder lives.
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(own);
    command.args(["--exact", "child::child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.envs(task.environment()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut holder = command.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(holder.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().ends_with("HELD")));

    let before = fs::read(folder.join("data").join(engine.file())).unwrap();
    let mut refused = 0;
    for patience in [0, 50, 300] {
        let mut second = opening(&folder);
        second.lock_patience = Duration::from_millis(patience);
        let error = engine.open(second).err().expect("never opened twice");
        assert_eq!(error, OpenError::Locked { path: folder.join("data"), holder: Some(holder.id()) });
        let Remedy::Run { words, .. } = error.remedy() else { panic!("{:?}", error.remedy()) };
        assert_eq!(words, ["ps".to_owned(), "-p".to_owned(), holder.id().to_string()]);
        refused += 1;
    }
    assert!(before == fs::read(folder.join("data").join(engine.file())).unwrap());

    // One that waits longer gets it once the holder is gone.
    let waiting = std::thread::spawn({
        let mut third = opening(&folder);
        third.lock_patience = Duration::from_secs(60);
        move || engine.open(third).map(drop)
    });
    holder.kill().unwrap();
    holder.wait().unwrap();
    waiting.join().unwrap().unwrap();
    println!("second opener: {}, {refused} refused, 0 opened", engine.name());
}

fn what_an_interrupted_run_left_is_swept(engine: Engine) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("run");
    let data = folder.join("data");
    furnish(&folder);
    let task = writer(engine, &folder, seed(), 1, 60);
    assert!(start(&task, &[]).finish().unwrap().success());
    let junk: [&[u8]; 3] = [b"", b"\0", &[0x5A; 9000]];
    let mut planted = 0;
    for content in junk {
        let mut names = vec!["store.new/identity", "store.new/half/made", "highwater.new", "ballast.new"];
        if engine == Engine::Sled {
            names.push("store/sled/snap.00000000DEADBEEF.generating");
        }
        for name in &names {
            fs::create_dir_all(data.join(name).parent().unwrap()).unwrap();
            fs::write(data.join(name), content).unwrap();
            planted += 1;
        }
        fs::remove_file(data.join("ballast")).unwrap();
        verify(&task).unwrap();
        assert!(!data.join("store/sled/snap.00000000DEADBEEF.generating").exists());
        assert!(!data.join("ballast.new").exists() && data.join("ballast").exists());
    }
    println!("planted leftovers: {}, {planted} planted, opened 100 %", engine.name());
}

fn a_copy_that_is_put_back_is_always_found_out(engine: Engine) {
    let root = tempfile::tempdir().unwrap();
    let (folder, older) = (root.path().join("run"), root.path().join("older"));
    let seed = seed();
    let (mut found, rounds) = (0, ROLLBACKS * times());
    let mut bad = Vec::new();
    for round in 0..rounds {
        furnish(&folder);
        let task = writer(engine, &folder, mix(seed ^ round), 2, 1 << 40);
        let write = |writes: u64| {
            let acks = Acks::open(&folder);
            let before = acks.total();
            let mut running = start(&task, &[]);
            running.await_begin();
            while acks.total() < before + writes {
                assert!(running.child.try_wait().unwrap().is_none(), "the writer failed");
                std::thread::yield_now();
            }
            running.child.kill().unwrap();
            running.finish().unwrap();
        };
        write(1 + mix(round) % 60);
        copy(&folder.join("data/store"), &older);
        verify(&task).unwrap();
        // Few enough that the last one alone makes the difference now and then. Steps that change nothing count as
        // acknowledged too, so several are made.
        write(6 + mix(round + 1) % 40);
        copy(&older, &folder.join("data/store"));
        // Twice: until it is dealt with, every opening says so.
        for _ in 0..2 {
            match last_word(&Task { role: Role::Inspect, ..task.clone() }) {
                Ok(word) if word.starts_with("TOLD rolled back") => found += 1,
                other => bad.push(format!("round {round}: {other:?}")),
            }
        }
    }
    println!(
        "rollback: {}, seed {seed}, {rounds} copies put back, {found} of {} openings said so, {} bad",
        engine.name(),
        rounds * 2,
        bad.len()
    );
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

fn no_other_program_is_started(engine: Engine) {
    require_strace();
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("run");
    furnish(&folder);
    let log = root.path().join("calls");
    let task = writer(engine, &folder, seed(), 1, 30);
    let wrapper =
        ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", "trace=execve,execveat,fork,vfork"];
    let mut wrapper: Vec<String> = wrapper.map(str::to_owned).to_vec();
    wrapper.extend(["-E".to_owned(), "PATH=/nowhere".to_owned()]);
    for role in [Role::Write, Role::Verify] {
        let ended = start(&Task { role, ..task.clone() }, &wrapper).finish().unwrap();
        assert!(ended.success());
        let calls = fs::read_to_string(&log).unwrap();
        let started: Vec<&str> = calls.lines().filter(|line| line.contains('(')).collect();
        assert_eq!(started.len(), 1, "only the process itself: {started:?}");
    }
    println!("no child programs: {}, 0 started in two lives", engine.name());
}
