//! faults.md F3: the power is cut at a random moment, on a real ext4. The file system lies on a loop device; the writer is
//! stopped, the image is copied until two copies agree, and what the copy holds is verified. What only the kernel's cache
//! held is not in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use super::child::Acks;
use super::engine::Engine;
use super::process::{furnish, on_both_engines, seed, start, times, verify, writer};
use super::script::{THREADS, mix};

const ROUNDS: u64 = 20;
const IMAGE_BYTES: u64 = 64 << 20;

on_both_engines!(no_power_cut_on_ext4_loses_what_was_acknowledged);

fn no_power_cut_on_ext4_loses_what_was_acknowledged(engine: Engine) {
    let root = tempfile::tempdir().unwrap();
    let seed = seed();
    let (image, copied) = (root.path().join("image"), root.path().join("copy"));
    let folder = root.path().join("mounted");
    if let Err(why) = made(&image).and_then(|()| Mounted::mount(&image, &folder).map(drop)) {
        println!("F3, power cut on ext4: {}: NOT RUN: no loop device can be had here ({why})", engine.name());
        return;
    }
    let (mut bad, mut acknowledged) = (Vec::new(), 0);
    let rounds = ROUNDS * times();
    for round in 0..rounds {
        if round % 3 == 0 {
            made(&image).unwrap();
        }
        let disk = Mounted::mount(&image, &folder).unwrap();
        // What was acknowledged is noted outside the disk that forgets.
        let noted = root.path().join("noted");
        let run = folder.join("run");
        let task = writer(engine, &run, mix(seed ^ (round / 3)), THREADS, 1 << 40);
        if round % 3 == 0 {
            furnish(&noted);
            furnish(&run);
            fs::copy(noted.join("keys"), run.join("keys")).unwrap();
            fs::create_dir_all(&noted).unwrap();
            let _ = fs::remove_file(run.join("acks"));
            Acks::open(&noted);
            std::os::unix::fs::symlink(noted.join("acks"), run.join("acks")).unwrap();
            shell("sync", &["-f", folder.to_str().unwrap()]).unwrap();
        }
        let acks = Acks::open(&noted);
        let before = acks.total();
        let draw = mix(seed ^ mix(round));
        let mut running = start(&task, &[]);
        running.await_begin();
        // Every fourth time in the middle of opening.
        let enough = if draw.is_multiple_of(4) { 0 } else { before + 1 + draw / 4 % 300 };
        if enough == 0 {
            let _ = running.lines.recv_timeout(Duration::from_micros(draw / 4 % 30_000));
        }
        while acks.total() < enough {
            assert!(running.child.try_wait().unwrap().is_none(), "the writer failed");
            std::thread::yield_now();
        }
        signal(running.child.id(), "STOP");
        settle(&image, &copied);
        acknowledged += acks.total() - before;
        running.child.kill().unwrap();
        running.finish().unwrap();
        drop(disk);
        fs::copy(&copied, &image).unwrap();
        // The one disk there is now: what the cut left of it.
        let disk = Mounted::mount(&image, &folder).unwrap();
        acks.set_stage(0);
        if let Err(why) = verify(&task) {
            bad.push(format!("round {round}, cut at {enough}: {why}"));
        }
        drop(disk);
        if !bad.is_empty() && bad.last().is_some_and(|last| last.starts_with(&format!("round {round},"))) {
            break;
        }
    }
    println!(
        "power cut: {}, ext4, seed {seed}, {rounds} rounds, {acknowledged} writes acknowledged, {} bad",
        engine.name(),
        bad.len()
    );
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// A new file system in a file.
fn made(image: &Path) -> Result<(), String> {
    let file = fs::File::create(image).map_err(|error| error.to_string())?;
    file.set_len(IMAGE_BYTES).map_err(|error| error.to_string())?;
    shell("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]).map(drop)
}

/// A mounted image, until it goes.
struct Mounted(PathBuf);

impl Mounted {
    fn mount(image: &Path, place: &Path) -> Result<Self, String> {
        fs::create_dir_all(place).map_err(|error| error.to_string())?;
        shell("mount", &["-o", "loop", image.to_str().unwrap(), place.to_str().unwrap()])?;
        Ok(Self(place.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = shell("umount", &[self.0.to_str().unwrap()])
            .or_else(|_| shell("umount", &["-l", self.0.to_str().unwrap()]));
    }
}

/// Copies the image until two copies agree: the kernel may be writing to it.
fn settle(image: &Path, copied: &Path) {
    let mut last = Vec::new();
    loop {
        let now = fs::read(image).unwrap();
        if now == last {
            fs::write(copied, now).unwrap();
            return;
        }
        last = now;
    }
}

fn signal(process: u32, name: &str) {
    shell("kill", &[&format!("-{name}"), &process.to_string()]).unwrap();
}

fn shell(program: &str, arguments: &[&str]) -> Result<Output, String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
