//! Recipe 5 and faults.md F6: bits flip and files are cut short anywhere in a store that was closed cleanly. What is lost
//! must be said: refused at opening, missed, rolled back, or unreadable. Never a wrong value, never a silent loss.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::child::{Role, Task};
use super::engine::Engine;
use super::process::{copy, furnish, last_word, on_both_engines, seed, start, times, writer};
use super::script::mix;

const FLIPS: u64 = 60;
const CUTS: u64 = 30;

on_both_engines!(no_damage_is_silent);

fn no_damage_is_silent(engine: Engine) {
    let root = tempfile::tempdir().unwrap();
    let seed = seed();
    let (good, folder) = (root.path().join("good"), root.path().join("run"));
    furnish(&good);
    let task = writer(engine, &good, seed, 1, 150);
    assert!(start(&task, &[]).finish().unwrap().success());
    let task = Task { role: Role::Inspect, folder: folder.clone(), ..task };
    copy(&good, &folder);
    assert_eq!(last_word(&task).unwrap(), "WHOLE");

    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut bad = Vec::new();
    let (flips, cuts) = (FLIPS * times(), CUTS * times());
    for round in 0..flips + cuts {
        copy(&good, &folder);
        let what =
            if round < flips { flip(&folder, mix(seed ^ round)) } else { cut(&folder, mix(seed ^ round)) };
        match last_word(&task) {
            Ok(word) => {
                let kind = word.split([':', ' ']).take(2).collect::<Vec<_>>().join(" ");
                *counts.entry(kind).or_default() += 1;
                if word.starts_with("SILENT") {
                    bad.push(format!("{what}: {word}"));
                }
            }
            Err(why) => bad.push(format!("{what}: {why}")),
        }
    }
    println!(
        "damage: {}, seed {seed}, {flips} flips, {cuts} cuts, {counts:?}, {} bad",
        engine.name(),
        bad.len()
    );
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(counts.keys().any(|kind| kind.starts_with("TOLD")), "some damage must have been met");
}

/// Flips one bit, anywhere with even odds for each byte.
fn flip(folder: &Path, draw: u64) -> String {
    let files = files(&folder.join("data"));
    let bytes: u64 = files.iter().map(|(_, len)| len).sum();
    let mut at = draw % bytes;
    let (path, _) = files
        .iter()
        .find(|(_, len)| {
            let is_here = at < *len;
            at -= if is_here { 0 } else { *len };
            is_here
        })
        .unwrap();
    let mut content = fs::read(path).unwrap();
    content[usize::try_from(at).unwrap()] ^= 1 << (mix(draw) % 8);
    fs::write(path, content).unwrap();
    format!("bit flipped at {at} of {}", path.display())
}

/// Cuts a file short.
fn cut(folder: &Path, draw: u64) -> String {
    let files = files(&folder.join("data"));
    let (path, len) = &files[usize::try_from(draw % files.len() as u64).unwrap()];
    let left = mix(draw) % len;
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(left).unwrap();
    format!("{} cut from {len} to {left}", path.display())
}

/// Every file of a store that has content, with its length; not the ballast and the lock, which hold none.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "ballast" && name != "lock") {
            let len = fs::metadata(&path).unwrap().len();
            found.extend((len > 0).then_some((path, len)));
        }
    }
    found.sort();
    found
}
