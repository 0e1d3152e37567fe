//! Recipe 1: a writer of eight threads is killed at random moments: four of five within 16 ms of the moment it begins to
//! open the store, as in a crash loop, the others after a random number of acknowledged writes.

use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::child::{Acks, OPENED};
use super::engine::Engine;
use super::process::{Running, furnish, on_both_engines, seed, start, times, verify, writer};
use super::script::{THREADS, mix};

const ROUNDS: u64 = 120;
const ROUNDS_PER_STORE: u64 = 10;

on_both_engines!(no_acknowledged_write_is_lost_by_a_kill);

fn no_acknowledged_write_is_lost_by_a_kill(engine: Engine) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("run");
    let seed = seed();
    let (mut killed_in_open, mut acknowledged) = (0, 0);
    let mut bad = Vec::new();
    for round in 0..ROUNDS * times() {
        let store = round / ROUNDS_PER_STORE;
        let task = writer(engine, &folder, mix(seed ^ store), THREADS, 1 << 40);
        if round % ROUNDS_PER_STORE == 0 {
            furnish(&folder);
        }
        let before = Acks::open(&folder).total();
        let draw = mix(seed ^ mix(round));
        let mut running = start(&task, &[]);
        running.await_begin();
        let moment = if draw.is_multiple_of(5) {
            Moment::Acknowledged(before + 1 + draw / 5 % 400)
        } else {
            Moment::After(Duration::from_micros(draw / 5 % 16_000))
        };
        moment.await_in(&mut running, &folder);
        running.child.kill().unwrap();
        let outcome = running.finish();

        let acks = Acks::open(&folder);
        killed_in_open += u64::from(acks.stage() != OPENED);
        let total = acks.total();
        acknowledged += total - before;
        acks.set_stage(0);
        if let Err(why) = outcome.and_then(|_| verify(&task)) {
            bad.push(format!("round {round}, killed at {moment:?}: {why}"));
            furnish(&folder);
        }
    }
    println!(
        "kill loop: {}, seed {seed}, {} rounds, {killed_in_open} killed in open, {acknowledged} writes acknowledged, {} bad",
        engine.name(),
        ROUNDS * times(),
        bad.len()
    );
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(killed_in_open > 0 && acknowledged > 0, "the kills must hit both opening and writing");
}

/// When the writer is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after it began.
    After(Duration),
    /// As soon as so many writes are acknowledged in all.
    Acknowledged(u64),
}

impl Moment {
    /// The writer never ends by itself; if it does, it failed.
    fn await_in(self, writer: &mut Running, folder: &Path) {
        let acks = Acks::open(folder);
        let (pause, enough) = match self {
            Self::After(delay) => (delay, None),
            Self::Acknowledged(enough) => (Duration::from_millis(1), Some(enough)),
        };
        loop {
            match writer.lines.recv_timeout(pause) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if enough.is_none_or(|enough| acks.total() >= enough) => {
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the writer failed: {:?}", writer.child.wait()),
            }
        }
    }
}
