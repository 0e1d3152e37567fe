//! What durability costs: `cargo bench --bench store`.
//!
//! In turns, in one run and on one file system: a durable `put` of a 2 KiB connection; the same bytes through bare sled,
//! flushed and synced; and an append with `fdatasync`, which is the floor. Then 64 writers at once, where group commit
//! shares the sync, and reads. Nothing is asserted about time. `STORE_BENCH_DIR` says where; default: a temporary folder.

use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use token_broker::clock::Timestamp;
use token_broker::connection::{AccessToken, Connection, ConnectionId, TokenSet};
use token_broker::entropy::OsEntropy;
use token_broker::secret::Secret;
use token_broker::store::guard::{DurableStore, Opening};
use token_broker::store::keyring::KeyRing;
use token_broker::store::{Expected, TokenStore, sled as guarded};
use token_broker::telemetry::Metrics;
use tokio::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error>>;

const RECORDS: usize = 1000;
const TOKEN_BYTES: usize = 1200;
const WRITERS: usize = 64;
const ROUNDS: usize = 3000;

fn main() -> Outcome<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // `cargo test --benches` comes here: there is nothing to test.
        return Ok(());
    }
    tokio::runtime::Builder::new_current_thread().build()?.block_on(measure())
}

async fn measure() -> Outcome<()> {
    let folder = match std::env::var_os("STORE_BENCH_DIR") {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let entropy = Arc::new(OsEntropy);
    let keys = KeyRing::ephemeral(&*entropy);
    let mut opening = Opening::new(folder.path().join("data"), keys, entropy, Arc::new(Metrics::default()));
    opening.allow_throwaway = true;
    let began = Instant::now();
    let store = guarded::open(opening)?;
    let made_in = began.elapsed();
    let bare = sled::Config::new().path(folder.path().join("bare")).open()?;
    let bare_log = File::open(folder.path().join("bare/db"))?;
    let mut floor = File::create(folder.path().join("floor"))?;

    let mut revisions = Vec::with_capacity(RECORDS);
    for name in 0..RECORDS {
        revisions.push(store.put(&connection(name)?, Expected::Absent).await?);
    }
    let value = vec![7; 2048];
    let (mut puts, mut bares, mut floors) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let at = round % RECORDS;
        let record = connection(at)?;
        let began = Instant::now();
        revisions[at] = store.put(&record, Expected::At(revisions[at])).await?;
        puts.push(began.elapsed());

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
    let mut gets = Vec::new();
    for round in 0..ROUNDS {
        let id = id(round * 7919 % RECORDS)?;
        let began = Instant::now();
        store.get(&id).await?;
        gets.push(began.elapsed());
    }
    let rate = crowd(&store).await?;

    let mut out = std::io::stdout().lock();
    writeln!(out, "{RECORDS} records, tokens of {TOKEN_BYTES} bytes, {ROUNDS} rounds in turns")?;
    writeln!(out, "made and opened in {made_in:?}")?;
    for (what, spans) in [
        ("durable put", &mut puts),
        ("bare sled, flush + fdatasync", &mut bares),
        ("append + fdatasync", &mut floors),
        ("get", &mut gets),
    ] {
        spans.sort_unstable();
        let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize];
        writeln!(out, "{what:32} p50 {:>10.1?}   p99 {:>10.1?}", at(0.5), at(0.99))?;
    }
    writeln!(out, "{WRITERS} writers at once: {rate:.0} durable puts a second")?;
    writeln!(out, "{}", resident()?)?;
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
    connection.tokens = Some(TokenSet { access: Some(access), refresh: None, previous: None });
    Ok(connection)
}

fn resident() -> Outcome<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    Ok(status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default().to_owned())
}
