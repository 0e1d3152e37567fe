//! F5, F6: what an interrupted run left lies about, or the store's files are no longer what was written. It opens, or it
//! says that it does not; what is lost is said, what is served is right, and nothing is sent that may be spent.

use std::fs;
use std::path::Path;

use token_broker::sandbox::{Endpoint, Exchange};

use super::draw;
use crate::engine::Engine;
use crate::files::{copy, cut, files, flip};
use crate::home::Home;
use crate::profile::Habit;
use crate::stage::{Grant, LIFE, Stage, reason, request};
use crate::tally::{Promise, Row};

const CONNECTIONS: usize = 3;

/// What nobody needs any more, and what is gone once the broker has started.
const SWEPT: [&str; 2] =
    ["store/ballast.new", "second/00112233445566778899aabbccddeeff-0011223344556677.escrow.new"];

/// The same of an engine's own. redb has one file, and nothing beside it at any moment.
fn swept(engine: Engine) -> &'static [&'static str] {
    match engine {
        Engine::Sled => &["store/store/sled/snap.00000000DEADBEEF.generating"],
        Engine::Redb => &[],
    }
}

/// What is overwritten or removed when it is in the way of something.
const HARMLESS: [&str; 3] = ["store/highwater.new", "store/store.new/identity", "store/store.new/half/made"];

/// F5: half-written files of a run that was killed, and of others.
pub(super) async fn leftovers(row: &mut Row, rounds: u64) {
    let junk: [&[u8]; 3] = [b"", b"TB", &[0x5A; 9000]];
    let mut planted = 0;
    for round in 0..rounds {
        let home = Home::new(row.engine).with_a_second_place();
        let mut stage = Stage::at(home, row.profile, LIFE, &serde_json::json!({})).await;
        let mut grants = lives(&mut stage).await;
        // In the middle of a commit.
        stage.home.order("store.sync.before=kill");
        let _ = stage.renew(&mut grants[0]).await;
        stage.died().await;
        stage.home.order("");
        let content = junk[usize::try_from(round).unwrap() % junk.len()];
        let swept: Vec<&str> = SWEPT.iter().chain(swept(row.engine)).copied().collect();
        for name in swept.iter().copied().chain(HARMLESS) {
            let place = stage.home.path(name);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            // What lies in the second place is removed only if it is the mere beginning of what we write.
            fs::write(place, if name.starts_with("second") { b"" } else { content }).unwrap();
            planted += 1;
        }
        fs::remove_file(stage.home.path("store/ballast")).unwrap();
        stage.start().await;
        for name in swept {
            row.expect(!stage.home.path(name).exists(), || format!("round {round}: {name} is left"));
        }
        for grant in &mut grants {
            let before = grant.current.clone();
            let token = stage.ask(grant).await;
            row.expect(token.as_ref().is_ok_and(|token| token.access_token == before), || {
                format!("round {round}: {} has not its newest token: {token:?}", grant.name)
            });
        }
        for grant in &mut grants {
            row.judge(&mut stage, grant, Promise::Survives, &format!("round {round}")).await;
        }
        row.rounds -= CONNECTIONS as u64 - 1;
    }
    row.figures.push(("planted", f64::from(planted)));
}

/// F6: damage anywhere in a store that was closed in order. Two to a round.
pub(super) async fn damaged(row: &mut Row, rounds: u64) {
    let mut counts = Counts::default();
    let mut seed = row.seed;
    for round in 0..rounds * 2 {
        let mut stage = Stage::new(row).await;
        let mut grants = lives(&mut stage).await;
        stage.stop().await;
        let (store, good) = (stage.home.store(), stage.home.path("good"));
        copy(&store, &good);
        let state = seed;
        let what = format!("round {round} (state {state}), {}", damage(&store, round, &mut seed));
        let known = stage.exchanges();
        let process = stage.launch(&[]);
        match process.door().await {
            Some(door) => {
                stage.serve(process, &door);
                started(row, &mut counts, &mut stage, grants, &what).await;
            }
            None => {
                counts.refused += 1;
                let said = process.said();
                let status = process.ended().await;
                let is_clear = ["error: ", "why:", "next:"].iter().all(|word| said.contains(word));
                row.expect(status.code() == Some(78) && is_clear, || format!("{what}: {status}, {said}"));
                row.expect(store.join("store").is_dir(), || format!("{what}: the store was removed"));
                let sent = stage.exchanges() - known;
                row.expect(sent == 0, || format!("{what}: refused, and {sent} requests"));
                // Whoever has a copy puts it back.
                copy(&good, &store);
                for grant in &mut grants {
                    row.judge(&mut stage, grant, Promise::Survives, &what).await;
                    row.rounds -= 1;
                }
            }
        }
        row.rounds += 1;
    }
    for (name, value) in [
        ("did not start and said why", counts.refused),
        ("started and said what is lost", counts.told),
        ("nothing was lost", counts.well),
        ("records named as lost", counts.named),
        ("gone with it, as said", row.gone),
    ] {
        row.figures.push((name, value as f64));
    }
}

/// What became of the damages.
#[derive(Default)]
struct Counts {
    refused: u64,
    told: u64,
    well: u64,
    named: u64,
}

/// The broker serves from a damaged store: each answer is the newest token, or an older one of the same grant or a
/// refusal that was announced.
async fn started(row: &mut Row, counts: &mut Counts, stage: &mut Stage, grants: Vec<Grant>, what: &str) {
    let said = stage.process().said();
    let is_old = said.contains("the store is in an older state than it had");
    let is_lacking = said.contains("the store lacks records that were written to it");
    let is_unreadable = said.contains("RECORD_UNREADABLE");
    let known = stage.exchanges();
    let mut to_judge = Vec::new();
    for mut grant in grants {
        let answer = stage.tokens().get_access_token(request(&grant)).await;
        match answer.map(tonic::Response::into_inner).map_err(|status| reason(&status)) {
            Ok(token) if token.access_token == grant.current => to_judge.push((grant, Promise::Survives)),
            Ok(token) => {
                let is_its_own = stage.issued_to(&grant, &token.access_token).is_some();
                row.expect(is_its_own, || format!("{what}: {} is served another's token", grant.name));
                row.expect(is_old, || format!("{what}: {} is served an old token in silence", grant.name));
                (grant.current, grant.served) = (token.access_token, None);
                to_judge.push((grant, Promise::MayBeGone));
            }
            Err(reason) => {
                let is_named = said.contains(&format!("\"connection\":\"{}\"", grant.name))
                    || said.contains("a record cannot be opened, nor its name");
                let is_told = match reason.as_str() {
                    "RECORD_UNREADABLE" => is_unreadable && is_named,
                    "CONNECTION_NOT_FOUND" => is_old || is_lacking,
                    _ => false,
                };
                row.expect(is_told, || format!("{what}: {} is lost in silence: {reason}", grant.name));
                counts.named += 1;
            }
        }
    }
    // To read the provider's metadata spends nothing, and a new process does it before its first request.
    let log = stage.sandbox.log();
    let is_sent = |sent: &&Exchange| sent.id >= known && sent.endpoint != Endpoint::Discovery;
    let sent = log.exchanges().iter().filter(is_sent).count() as u64;
    let is_told = is_old || is_lacking || is_unreadable;
    // Where the last write that is left is an intent, the refresh that it names is asked about once. Where spent refresh
    // tokens stay good that costs nobody anything; anywhere else the intent is of a past that was undone.
    let may_ask = if row.profile.habit == Habit::Reusable && is_old { left_unfinished(stage) } else { 0 };
    row.expect(sent <= may_ask, || format!("{what}: {sent} requests although what is held lives"));
    *(if is_told { &mut counts.told } else { &mut counts.well }) += 1;
    for (mut grant, promise) in to_judge {
        row.judge(stage, &mut grant, promise, what).await;
        row.rounds -= 1;
    }
}

/// How many refreshes the broker said it found unfinished.
fn left_unfinished(stage: &Stage) -> u64 {
    let said = stage.process().said();
    let found = said.lines().filter(|line| line.contains("refreshes were left unfinished"));
    let count = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["unfinished"].as_u64();
    found.filter_map(count).sum()
}

/// Connections with a past: each was refreshed once more than the one before.
async fn lives(stage: &mut Stage) -> Vec<Grant> {
    let mut grants = Vec::new();
    for times in 0..CONNECTIONS {
        let mut grant = stage.connected().await;
        let _ = stage.ask(&mut grant).await;
        for _ in 0..times {
            stage.renew(&mut grant).await.unwrap();
        }
        grants.push(grant);
    }
    grants
}

/// Does damage, and says which.
fn damage(store: &Path, round: u64, seed: &mut u64) -> String {
    let files = files(store);
    // Half of it where the records are, at a byte that holds something; the rest anywhere.
    let is_of_records = draw(seed).is_multiple_of(2);
    let any = &files[usize::try_from(draw(seed) % files.len() as u64).unwrap()];
    let (path, _) = if is_of_records { files.iter().max_by_key(|(_, len)| len).unwrap() } else { any };
    let mut content = fs::read(path).unwrap();
    let places: Vec<usize> = (0..content.len()).filter(|at| !is_of_records || content[*at] != 0).collect();
    let at = places[usize::try_from(draw(seed) % places.len() as u64).unwrap()];
    match round % 4 {
        0 => flip(path, at as u64, draw(seed)),
        1 => cut(path, at as u64),
        2 => {
            let until = content.len().min(at + 512);
            content[at..until].fill_with(|| draw(seed).to_le_bytes()[0]);
            fs::write(path, content).unwrap();
            format!("{at} to {until} of {} garbled", path.display())
        }
        _ => {
            content.extend((0..512).map(|_| draw(seed).to_le_bytes()[0]));
            fs::write(path, content).unwrap();
            format!("garbage at the end of {}", path.display())
        }
    }
}
