//! Recipe 5 and faults.md F6: bits flip and files are cut short anywhere in a store that was closed cleanly. What is lost
//! must be said: refused at opening, missed, rolled back, or unreadable. Never a wrong value, never a silent loss.

use std::collections::BTreeMap;
use std::path::Path;

use super::child::{Role, Task};
use super::engine::Engine;
use super::files::{copy, cut, files, flip};
use super::process::{furnish, last_word, on_both_engines, seed, start, times, writer};
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
        let what = if round < flips {
            flip_anywhere(&folder, mix(seed ^ round))
        } else {
            cut_anywhere(&folder, mix(seed ^ round))
        };
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
fn flip_anywhere(folder: &Path, draw: u64) -> String {
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
    flip(path, at, mix(draw))
}

/// Cuts a file short, anywhere.
fn cut_anywhere(folder: &Path, draw: u64) -> String {
    let files = files(&folder.join("data"));
    let (path, len) = &files[usize::try_from(draw % files.len() as u64).unwrap()];
    cut(path, mix(draw) % len)
}
