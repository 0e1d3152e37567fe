//! Who may import whom. The arrows between the rooms are data here, and every source file is held to them.
//!
//! ```text
//! main -> cli -> app -> { grpc, web } -> broker -> { provider, store }   (traits and plain data)
//! everything -> { connection, error, secret, entropy, clock }
//! ```

mod source;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use source::{Reading, SourceFile, Target, module_of};
use table::{CORE, Crates, ONLY_IN, PLAIN, RULES};

/// A line that names what its room may not.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    path: String,
    line: usize,
    names: String,
    why: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{} names {}: {}", self.path, self.line, self.names, self.why)
    }
}

/// All files of the crate, read, and what is needed to judge them.
struct House {
    files: Vec<(String, Reading)>,
    modules: BTreeSet<Vec<String>>,
    passes_on: BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
}

impl House {
    fn new(files: &[SourceFile], crates: &BTreeSet<String>) -> Self {
        let read: Vec<_> = files.iter().map(|file| (file.path.clone(), source::read(file, crates))).collect();
        Self {
            modules: read.iter().map(|(path, _)| module_of(path)).collect(),
            passes_on: read
                .iter()
                .map(|(path, reading)| (module_of(path), reading.passes_on.clone()))
                .collect(),
            files: read.into_iter().filter(|(path, _)| !is_test_file(path)).collect(),
        }
    }

    fn breaches(&self) -> Vec<Breach> {
        let mut breaches = Vec::new();
        for (path, reading) in &self.files {
            let from = module_of(path);
            // The map of the crate declares its rooms and may say anything about them.
            if from.is_empty() {
                continue;
            }
            for mention in &reading.mentions {
                let found = match &mention.target {
                    Target::Crate(to) => refused_crate(&from, to),
                    Target::Here(to) => self.refused_room(&from, to).map(|why| (to.join("::"), why)),
                };
                if let Some((names, why)) = found {
                    breaches.push(Breach { path: path.clone(), line: mention.line, names, why });
                }
            }
        }
        breaches
    }

    fn refused_room(&self, from: &[String], to: &[String]) -> Option<String> {
        let to = self.true_home(to.to_vec());
        let (from_room, to_room) = (from.first()?, to.first()?);
        if from_room == to_room || CORE.contains(&to_room.as_str()) || !self.modules.contains(&to[..1]) {
            return None;
        }
        let (from, part) =
            (room_of(from, &self.modules), to.iter().take(2).cloned().collect::<Vec<_>>().join("::"));
        let to = room_of(&to, &self.modules);
        let Some(rule) = RULES.iter().find(|rule| rule.room == from) else {
            return Some(format!("{from} has no line in tests/it/rooms/table.rs yet"));
        };
        let may = rule.may.contains(&to.as_str()) || rule.may.contains(&part.as_str());
        (!may).then(|| format!("{from} may not use {to}"))
    }

    /// Follows `pub use` inside a room, so that an implementation passed on by its own room counts as what it is. What a
    /// room passes on of another's is its own word, for which it answers.
    fn true_home(&self, mut path: Vec<String>) -> Vec<String> {
        for _ in 0..8 {
            let known = (1..path.len()).rev().find_map(|cut| {
                let real = self.passes_on.get(&path[..cut])?.get(&path[cut])?;
                (real.as_slice() != &path[..=cut] && real.first() == path.first())
                    .then(|| [real.as_slice(), &path[cut + 1..]].concat())
            });
            match known {
                Some(real) => path = real,
                None => break,
            }
        }
        path
    }
}

/// What is named and why it may not be, if `from` may not name `to` of another crate.
fn refused_crate(from: &[String], to: &[String]) -> Option<(String, String)> {
    let (name, path) = (to.first()?, to.join("::"));
    let is_below = |path: &str, top: &str| path == top || path.starts_with(&format!("{top}::"));
    let place = from.join("::");
    // `use std::net;` opens all that is in it.
    if let Some((only, homes, why)) =
        ONLY_IN.iter().find(|(only, ..)| is_below(&path, only) || (to.len() > 1 && is_below(only, &path)))
    {
        let at_home = homes.iter().any(|home| is_below(&place, home));
        return (!at_home)
            .then(|| ((*only).to_owned(), format!("only {} may, because {why}", homes.join(", "))));
    }
    if matches!(name.as_str(), "std" | "core" | "alloc") {
        return None;
    }
    let modules: BTreeSet<_> = (1..=from.len()).map(|cut| from[..cut].to_vec()).collect();
    let room = room_of(from, &modules);
    let refused = match &RULES.iter().find(|rule| rule.room == room)?.crates {
        Crates::Only(names) => !names.contains(&name.as_str()),
        Crates::AllBut(names) => names.contains(&name.as_str()),
    };
    refused.then(|| (name.clone(), format!("{room} may not use this crate")))
}

/// The line of the table that a path falls under.
fn room_of(path: &[String], modules: &BTreeSet<Vec<String>>) -> String {
    let Some(top) = path.first() else { return String::new() };
    let behind_traits = RULES.iter().any(|rule| rule.room == format!("{top}::*"));
    let is_part = path.len() > 1 && modules.contains(&path[..2]);
    if behind_traits && is_part && !PLAIN.contains(&path[..2].join("::").as_str()) {
        format!("{top}::*")
    } else {
        top.clone()
    }
}

fn is_test_file(path: &str) -> bool {
    let module = module_of(path);
    module.iter().any(|part| part == "tests" || part == "conformance")
}

fn crates_of(manifest: &str) -> BTreeSet<String> {
    let mut section = "";
    let mut crates: BTreeSet<String> = ["std", "core", "alloc"].map(str::to_owned).into();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]" {
            crates.extend(line.split_once('=').map(|(name, _)| name.trim().replace('-', "_")));
        }
    }
    crates
}

fn files_below(root: &Path, below: &Path, into: &mut Vec<SourceFile>) {
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(root, &path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(SourceFile {
                path: path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(),
                text: std::fs::read_to_string(&path).unwrap(),
            });
        }
    }
}

#[test]
fn every_room_names_only_what_it_may() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crates = crates_of(&std::fs::read_to_string(package.join("Cargo.toml")).unwrap());
    let mut files = Vec::new();
    files_below(&package.join("src"), &package.join("src"), &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let breaches: Vec<String> =
        House::new(&files, &crates).breaches().iter().map(Breach::to_string).collect();
    assert!(
        breaches.is_empty(),
        "{} breaches of the table in tests/it/rooms/table.rs:\n{}",
        breaches.len(),
        breaches.join("\n")
    );
}

/// The first rule of a room is the one that is applied; a second one would only look as if it held.
#[test]
fn no_room_has_two_rules() {
    let mut seen = BTreeSet::new();
    let twice: Vec<_> = RULES.iter().map(|rule| rule.room).filter(|room| !seen.insert(*room)).collect();
    assert_eq!(twice, [""; 0]);
}

/// Breaches of a house of the given files, as `path:line names`.
fn planted(files: &[(&str, &str)]) -> Vec<String> {
    let crates =
        ["std", "http", "sled", "tonic", "tokio", "reqwest", "aes_gcm", "serde"].map(str::to_owned).into();
    let rooms = [
        "app",
        "broker",
        "connection",
        "error",
        "grpc",
        "provider",
        "provider/oauth",
        "provider/spec",
        "store",
        "store/keyring",
        "store/sled",
    ];
    let mut house: Vec<SourceFile> = files
        .iter()
        .map(|(path, text)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() })
        .collect();
    for room in rooms.map(|room| format!("{room}.rs")) {
        if !house.iter().any(|file| file.path == room) {
            house.push(SourceFile { path: room, text: String::new() });
        }
    }
    House::new(&house, &crates)
        .breaches()
        .iter()
        .map(|breach| format!("{}:{} {}", breach.path, breach.line, breach.names))
        .collect()
}

#[test]
fn a_planted_breach_is_found_whichever_way_it_is_written() {
    let told = |text: &str| planted(&[("broker/refresh.rs", text)]);
    assert_eq!(told("use crate::store::sled::SledStore;"), ["broker/refresh.rs:1 store::sled::SledStore"]);
    assert_eq!(
        told("use crate::{error::Error,\n  grpc::{self, status}};"),
        ["broker/refresh.rs:2 grpc", "broker/refresh.rs:2 grpc::status"]
    );
    assert_eq!(told("use super::super::grpc;"), ["broker/refresh.rs:1 grpc"]);
    assert_eq!(
        told("\nfn f() { let s = crate::provider::oauth::Client::new(); }"),
        ["broker/refresh.rs:2 provider::oauth::Client::new"]
    );
    assert_eq!(
        told("use crate::store as s;\nfn f(x: s::sled::SledStore) {}"),
        ["broker/refresh.rs:2 store::sled::SledStore"]
    );
    assert_eq!(told("#[tonic::async_trait]\nimpl X for Y {}"), ["broker/refresh.rs:1 tonic"]);
    assert_eq!(told("fn f() -> Result<(), sled::Error> { Ok(()) }"), ["broker/refresh.rs:1 sled"]);
    assert_eq!(told("mod inner { use super::super::super::app; }"), ["broker/refresh.rs:1 app"]);
}

#[test]
fn a_name_passed_on_counts_as_what_it_is() {
    let found = planted(&[
        ("store.rs", "pub mod sled;\npub use self::sled::SledStore;\npub(crate) use sled::Guard as Keeper;"),
        ("broker.rs", "use crate::store::{SledStore, TokenStore};\nfn f(k: crate::store::Keeper) {}"),
    ]);
    assert_eq!(found, ["broker.rs:1 store::SledStore", "broker.rs:2 store::Keeper"]);
}

#[test]
fn what_a_room_passes_on_of_anothers_is_its_own_word() {
    let broker = ("broker.rs", "pub use crate::store::TokenStore;");
    assert_eq!(planted(&[broker, ("grpc.rs", "use crate::broker::TokenStore;")]), [""; 0]);
    assert_eq!(
        planted(&[broker, ("grpc.rs", "use crate::store::TokenStore;")]),
        ["grpc.rs:1 store::TokenStore"]
    );
}

#[test]
fn a_crate_with_one_home_is_found_elsewhere() {
    assert_eq!(planted(&[("store/sled/tree.rs", "use sled::Tree;")]), [""; 0]);
    assert_eq!(planted(&[("store/memory.rs", "use sled::Tree;")]), ["store/memory.rs:1 sled"]);
    assert_eq!(
        planted(&[("provider/oauth.rs", "fn f(c: reqwest::Client) {}")]),
        ["provider/oauth.rs:1 reqwest"]
    );
    assert_eq!(planted(&[("connection.rs", "use tokio::sync::Mutex;")]), ["connection.rs:1 tokio"]);
}

#[test]
fn files_sockets_threads_and_processes_are_named_by_those_who_own_them_alone() {
    assert_eq!(
        planted(&[
            ("broker.rs", "use std::{fs, net::{IpAddr, TcpListener}, time::Duration};"),
            ("grpc.rs", "fn f() { std::thread::spawn(|| ()); }"),
            ("provider/oauth.rs", "use std::net;"),
            ("store/sled.rs", "use std::fs::File;"),
            ("error.rs", "use std::net::SocketAddr;"),
        ]),
        [
            "broker.rs:1 std::fs",
            "broker.rs:1 std::net::TcpListener",
            "grpc.rs:1 std::thread",
            "provider/oauth.rs:1 std::net::TcpListener",
        ]
    );
}

#[test]
fn one_module_of_a_room_may_be_allowed_without_the_rest() {
    assert_eq!(planted(&[("cli/keys.rs", "use crate::store::keyring::{self, KeyInfo};")]), [""; 0]);
    assert_eq!(
        planted(&[("cli/keys.rs", "use crate::store::sled::open;")]),
        ["cli/keys.rs:1 store::sled::open"]
    );
}

#[test]
fn a_room_missing_from_the_table_is_found() {
    assert_eq!(planted(&[("helpers.rs", "use crate::broker::Broker;")]), ["helpers.rs:1 broker::Broker"]);
}

#[test]
fn what_is_allowed_is_let_be() {
    assert_eq!(
        planted(&[
            (
                "broker.rs",
                "//! crate::grpc is not named here\nuse crate::{connection::Connection, store::TokenStore};\nuse crate::provider::spec::Spec;"
            ),
            (
                "broker/call.rs",
                "/* use tonic::Status; */ const S: &str = \"crate::grpc::x\"; const R: &str = r#\"use sled::\"x\"; \"#;\nfn f<'a>(c: char) -> bool { c == '\"' }\n// sled::x\n"
            ),
            (
                "broker/cache.rs",
                "#[cfg(test)]\nmod tests {\n use crate::store::sled::SledStore;\n fn f() { tonic::x(); }\n}\n#[cfg(test)]\nuse crate::grpc;\n"
            ),
            ("broker/tests.rs", "use crate::app;"),
            // A module of our own that shares its name with a crate.
            ("connection/http.rs", ""),
            ("connection.rs", "mod http;\nfn f() { http::get() }"),
            ("app.rs", "use crate::store::sled::SledStore;\nuse crate::provider::oauth;"),
        ]),
        [""; 0]
    );
}
