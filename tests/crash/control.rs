//! Negative controls: a suite that cannot fail proves nothing.

use super::child::Acks;
use super::engine::Engine;
use super::process::{furnish, on_both_engines, start, verify, writer};
use super::script::Script;

on_both_engines!(a_lost_a_stale_and_an_unopenable_store_are_noticed);

fn a_lost_a_stale_and_an_unopenable_store_are_noticed(engine: Engine) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("run");
    furnish(&folder);
    let task = writer(engine, &folder, 1, 1, 60);
    assert!(start(&task, &[]).finish().unwrap().success());
    verify(&task).unwrap();
    let acks = Acks::open(&folder);
    assert_eq!(acks.get(0), 60);

    // Writes that were acknowledged and are not there.
    let script = Script { seed: task.seed, thread: 0 };
    assert_ne!(script.after(60), script.after(70));
    acks.set(0, 70);
    assert!(verify(&task).unwrap_err().contains("acknowledged 70 steps"));
    // Writes that are there and were never made.
    acks.set(0, 50);
    assert!(verify(&task).unwrap_err().contains("acknowledged 50 steps"));
    acks.set(0, 60);
    verify(&task).unwrap();

    std::fs::remove_dir_all(folder.join("data/store").join(engine.name())).unwrap();
    assert!(verify(&task).unwrap_err().contains("its data is missing"));
}
