//! What durability costs, on either engine: `cargo bench --bench store`.
//!
//! In turns, in one run and on one file system: a durable `put` of a 2 KiB connection on sled and on redb; the same bytes
//! through bare sled, flushed and synced; and an append with `fdatasync`, which is the floor. Then 64 writers at once,
//! where group commit shares the sync, and reads. Memory is that of a process of its own for each engine, with 20 000
//! records. Nothing is asserted about time. `STORE_BENCH_DIR` says where; default: a temporary folder.

use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use token_broker::clock::Timestamp;
use token_broker::connection::{AccessToken, Connection, ConnectionId, TokenSet};
use token_broker::entropy::OsEntropy;
use token_broker::secret::Secret;
use token_broker::store::guard::{DurableStore, Opening};
use token_broker::store::keyring::KeyRing;
use token_broker::store::{Expected, Revision, TokenStore, redb, sled as guarded};
use token_broker::telemetry::Metrics;
use tokio::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error>>;

const RECORDS: usize = 1000;
const TOKEN_BYTES: usize = 1200;
const WRITERS: usize = 64;
const ROUNDS: usize = 3000;
const RSS_RECORDS: usize = 20_000;
const ENGINES: [&str; 2] = ["sled", "redb"];
/// Names the engine of a process that is there for its memory alone.
const RSS_OF: &str = "STORE_BENCH_RSS_OF";

fn main() -> Outcome<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` comes here: there is nothing to test.
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    match std::env::var(RSS_OF) {
        Ok(engine) => runtime.block_on(memory(&engine)),
        Err(_) => runtime.block_on(measure()),
    }
}

/// A store of `engine` in `folder`.
fn open(engine: &str, folder: &Path) -> Outcome<DurableStore> {
    let entropy = Arc::new(OsEntropy);
    let keys = KeyRing::ephemeral(&*entropy);
    let mut opening = Opening::new(folder.join(engine), keys, entropy, Arc::new(Metrics::default()));
    opening.allow_throwaway = true;
    Ok(if engine == "redb" { redb::open(opening)? } else { guarded::open(opening)? })
}

fn folder() -> Outcome<tempfile::TempDir> {
    Ok(match std::env::var_os("STORE_BENCH_DIR") {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    })
}

/// Fills a store, reads all of it at random, and says what memory that took.
async fn memory(engine: &str) -> Outcome<()> {
    let folder = folder()?;
    let store = open(engine, folder.path())?;
    let names: Vec<usize> = (0..RSS_RECORDS).collect();
    for names in names.chunks(200) {
        let records = names.iter().map(|name| connection(*name)).collect::<Outcome<Vec<_>>>()?;
        for put in join_all(records.iter().map(|record| store.put(record, Expected::Absent))).await {
            put?;
        }
    }
    for round in 0..RSS_RECORDS {
        store.get(&id(round * 7919 % RSS_RECORDS)?).await?;
    }
    writeln!(std::io::stdout(), "{}", resident()?)?;
    Ok(())
}

/// What one engine is measured by.
struct Subject {
    name: &'static str,
    store: DurableStore,
    revisions: Vec<Revision>,
    puts: Vec<Duration>,
    gets: Vec<Duration>,
}

async fn measure() -> Outcome<()> {
    let folder = folder()?;
    let mut out = std::io::stdout().lock();
    let mut subjects = Vec::new();
    for name in ENGINES {
        let began = Instant::now();
        let store = open(name, folder.path())?;
        writeln!(out, "{name}: made and opened in {:?}", began.elapsed())?;
        let mut revisions = Vec::with_capacity(RECORDS);
        for name in 0..RECORDS {
            revisions.push(store.put(&connection(name)?, Expected::Absent).await?);
        }
        subjects.push(Subject { name, store, revisions, puts: Vec::new(), gets: Vec::new() });
    }
    let bare = sled::Config::new().path(folder.path().join("bare")).open()?;
    let bare_log = File::open(folder.path().join("bare/db"))?;
    let mut floor = File::create(folder.path().join("floor"))?;
    let value = vec![7; 2048];
    let (mut bares, mut floors) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let at = round % RECORDS;
        let record = connection(at)?;
        for subject in &mut subjects {
            let began = Instant::now();
            subject.revisions[at] = subject.store.put(&record, Expected::At(subject.revisions[at])).await?;
            subject.puts.push(began.elapsed());
        }
        let began = Instant::now();
        bare.insert(at.to_be_bytes(), value.as_slice())?;
        bare.flush()?;
        bare_log.sync_data()?;
        bares.push(began.elapsed());

        let began = Instant::now();
        floor.write_all(&value)?;
        floor.sync_data()?;
        floors.push(began.elapsed());
    }
    for round in 0..ROUNDS {
        let id = id(round * 7919 % RECORDS)?;
        for subject in &mut subjects {
            let began = Instant::now();
            subject.store.get(&id).await?;
            subject.gets.push(began.elapsed());
        }
    }
    writeln!(out, "{RECORDS} records, tokens of {TOKEN_BYTES} bytes, {ROUNDS} rounds in turns")?;
    let mut row = |what: String, spans: &mut Vec<Duration>| {
        spans.sort_unstable();
        let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize];
        writeln!(out, "{what:32} p50 {:>10.1?}   p99 {:>10.1?}", at(0.5), at(0.99))
    };
    for subject in &mut subjects {
        row(format!("{}, durable put", subject.name), &mut subject.puts)?;
    }
    row("bare sled, flush + fdatasync".to_owned(), &mut bares)?;
    row("append + fdatasync".to_owned(), &mut floors)?;
    for subject in &mut subjects {
        row(format!("{}, get", subject.name), &mut subject.gets)?;
    }
    for Subject { name, store, .. } in &subjects {
        let rate = crowd(store).await?;
        writeln!(out, "{name}: {WRITERS} writers at once: {rate:.0} durable puts a second")?;
    }
    for name in ENGINES {
        let own = std::env::current_exe()?;
        let told = std::process::Command::new(own).arg("--bench").env(RSS_OF, name).output()?;
        let told = String::from_utf8_lossy(&told.stdout);
        writeln!(out, "{name}: {RSS_RECORDS} records, all read: {}", told.trim())?;
    }
    Ok(())
}

/// Durable puts a second with many writers, each with a record of its own.
async fn crowd(store: &DurableStore) -> Outcome<f64> {
    let mut records = Vec::new();
    for writer in 0..WRITERS {
        records.push(connection(RECORDS + writer)?);
    }
    let rounds = 50;
    let began = Instant::now();
    let writers = records.iter().map(async |record| {
        let mut expected = Expected::Absent;
        for _ in 0..rounds {
            expected = Expected::At(store.put(record, expected).await?);
        }
        Ok::<(), token_broker::error::StoreError>(())
    });
    for outcome in join_all(writers).await {
        outcome?;
    }
    Ok((WRITERS * rounds) as f64 / began.elapsed().max(Duration::from_nanos(1)).as_secs_f64())
}

fn id(name: usize) -> Outcome<ConnectionId> {
    ConnectionId::parse(String::new(), "bench".into(), format!("user-{name}"))
        .map_err(|mistakes| format!("{mistakes:?}").into())
}

fn connection(name: usize) -> Outcome<Connection> {
    let now = Timestamp::from_millis(0);
    let mut connection = Connection::pending(id(name)?, now);
    let access = AccessToken {
        value: Secret::new("t".repeat(TOKEN_BYTES)),
        token_type: "Bearer".into(),
        issued_at: now,
        expires_at: None,
    };
    connection.tokens =
        Some(TokenSet { access: Some(access), refresh: None, previous: None, surplus: Vec::new() });
    Ok(connection)
}

fn resident() -> Outcome<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    Ok(status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default().to_owned())
}
