//! The load harness: `tests/run.sh --bench`, or `cargo bench --profile dist --bench load`.
//!
//! Starts the real binary and, beside it, a stock tonic echo with a reply of the same bytes (the floor), each as a child
//! process on the same core, with this driver on another. Every figure is a ratio of the two formed in one run, measured
//! in turns. Then what a hit costs while 200 refreshes a second run, and what 100 000 connections cost either engine.
//! Nothing is asserted about time. Writes `target/bench/load.{md,json,svg}`.
//!
//! With `-- --control` both sides are the floor: what is then not 1.00 is the machine's noise.

mod broker;
mod child;
mod crossing;
mod drive;
mod floor;
mod footprint;
mod picture;
mod provider;
mod report;
mod series;

use std::error::Error;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::Duration;

use broker::Home;
use drive::{Door, Load};
use report::Report;
use series::{Case, Round, Sample};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How the same executable is told what it is this time.
const ROLE: &str = "LOAD_ROLE";

/// Turns of each server in each case; odd, so that the median is a measured one.
const ROUNDS: usize = 7;

const WARM_UP: Duration = Duration::from_millis(300);
const WINDOW: Duration = Duration::from_secs(2);

/// An access token as large providers issue them.
const TOKEN_BYTES: usize = 1200;

fn main() -> Outcome<()> {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    match std::env::var(ROLE).as_deref() {
        Ok("floor") => runtime()?.block_on(floor::serve()),
        Ok("provider") => runtime()?.block_on(provider::serve()),
        Ok("driver") => runtime()?.block_on(measure()),
        _ if !std::env::args().any(|argument| argument == "--bench") => {
            // `cargo test --benches` comes here: there is nothing to test.
            Ok(())
        }
        _ => {
            let mut driver = child::pinned(child::DRIVER_CORE, &std::env::current_exe()?);
            Err(driver.args(std::env::args_os().skip(1)).env(ROLE, "driver").exec().into())
        }
    }
}

/// Where a server listens, and its process.
pub(crate) struct Side {
    pub(crate) tcp: Door,
    pub(crate) socket: Door,
    pub(crate) process: u32,
}

async fn measure() -> Outcome<()> {
    let load_before = child::load_average()?;
    let (rounds, crossings, footprints) = if std::env::args().any(|argument| argument == "--control") {
        let (one, other) =
            (floor::start(&broker::a_reply(&token(0)))?, floor::start(&broker::a_reply(&token(0)))?);
        (rounds(&one.side(), &other.side()).await?, Vec::new(), Vec::new())
    } else {
        let (mut hits, mut crossings, mut footprints) = (Vec::new(), Vec::new(), Vec::new());
        if is_wanted("hits") {
            let home = Home::new("sled")?;
            let ours = home.start()?;
            ours.import("user-42", &token(0)).await?;
            let floor = floor::start(&ours.reply("user-42").await?)?;
            hits = rounds(&floor.side(), &ours.side()).await?;
        }
        if is_wanted("refreshes") {
            crossings = vec![crossing::measure("sled").await?, crossing::measure("redb").await?];
        }
        if is_wanted("footprint") {
            footprints = vec![footprint::measure("sled").await?, footprint::measure("redb").await?];
        }
        (hits, crossings, footprints)
    };
    let report = Report {
        rounds,
        crossings,
        footprints,
        load_average: (load_before, child::load_average()?),
        cores: child::cores()?,
        profile: child::profile()?,
    };
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("load.md"), report.markdown())?;
    std::fs::write(folder.join("load.json"), serde_json::to_string_pretty(&report.json())?)?;
    std::fs::write(folder.join("load.svg"), picture::histograms(&report.rounds))?;
    say(&format!("\n{}\nraw figures and histograms: target/bench/load.{{md,json,svg}}", report.markdown()))
}

/// Whether a part was asked for: with `-- --only hits` (or `refreshes`, `footprint`) no other is measured.
fn is_wanted(part: &str) -> bool {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--only");
    arguments.next().is_none() || arguments.any(|argument| argument == part)
}

/// Measures both sides in turns, every case in every round.
async fn rounds(floor: &Side, ours: &Side) -> Outcome<Vec<(Case, Vec<Round>)>> {
    let mut cases = Vec::new();
    for (floor_door, our_door) in [(&floor.tcp, &ours.tcp), (&floor.socket, &ours.socket)] {
        for (callers, connections) in [(1, 1), (64, 4)] {
            let load = Load {
                callers,
                connections,
                warm_up: WARM_UP,
                window: WINDOW,
                request: broker::request("user-42"),
            };
            cases.push((load, floor_door, our_door, Vec::new()));
        }
    }
    for round in 0..ROUNDS {
        say(&format!("round {} of {ROUNDS}", round + 1))?;
        for (load, floor_door, our_door, rounds) in &mut cases {
            // Who goes first takes turns too.
            let (floor, ours) = if round % 2 == 0 {
                let floor = sample(floor_door, floor.process, load).await?;
                (floor, sample(our_door, ours.process, load).await?)
            } else {
                let ours = sample(our_door, ours.process, load).await?;
                (sample(floor_door, floor.process, load).await?, ours)
            };
            rounds.push(Round { floor, ours });
        }
    }
    Ok(cases
        .into_iter()
        .map(|(load, door, _, rounds)| (Case::new(door.name(), load.callers), rounds))
        .collect())
}

async fn sample(door: &Door, process: u32, load: &Load) -> Outcome<Sample> {
    let before = child::cpu_seconds(process)?;
    let run = drive::run(door, load).await?;
    Ok(Sample::new(run, child::cpu_seconds(process)? - before))
}

/// A token of its own for each connection, of the usual size.
fn token(number: usize) -> String {
    let mut token = format!("{number:08}.");
    token.extend(
        (0..TOKEN_BYTES - token.len())
            .map(|at| char::from(b'a' + u8::try_from((at * 7 + number) % 26).unwrap_or(0))),
    );
    token
}

fn say(line: &str) -> Outcome<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}
