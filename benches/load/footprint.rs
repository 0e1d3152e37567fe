//! Memory and time to serving: empty, and with a crowd of connections in the store, on either engine.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::broker::{Broker, Home};
use crate::series::Spread;
use crate::{Outcome, child, say, token};

/// Connections in the crowd.
const CROWD: usize = 100_000;

/// How long an idle broker is watched.
const WATCHED: Duration = Duration::from_secs(10);

/// Starts that the time to serving is taken from.
const STARTS: usize = 5;

/// What one engine costs. Memory in bytes, as resident; times from process start to serving.
pub(crate) struct Footprint {
    engine: &'static str,
    starts: Vec<Duration>,
    idle: u64,
    crowded_starts: Vec<Duration>,
    /// With the crowd in the store, nothing done ahead of time.
    crowded: u64,
    /// The same with all of them in the schedule.
    scheduled: u64,
    /// After each was asked for once.
    cached: u64,
    /// What the schedule costs: without it and with it.
    idling: [Idling; 2],
}

/// Processor time of a broker that nobody asks anything, in seconds.
struct Idling {
    /// From process start until it has settled.
    to_settle: f64,
    /// In [`WATCHED`] after that.
    after: f64,
}

impl Idling {
    async fn of(broker: &Broker) -> Outcome<Self> {
        let to_settle = child::cpu_seconds(broker.process())?;
        tokio::time::sleep(WATCHED).await;
        Ok(Self { to_settle, after: child::cpu_seconds(broker.process())? - to_settle })
    }
}

/// Measures one engine.
pub(crate) async fn measure(engine: &'static str) -> Outcome<Footprint> {
    say(&format!("{engine}: {CROWD} connections"))?;
    let home = Home::new(engine)?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let broker = home.start()?;
        starts.push(broker.took());
        broker.stop()?;
    }
    let broker = home.start()?;
    let idle = broker.settled_bytes().await?;
    broker.import_crowd(CROWD, &token(0)).await?;
    broker.stop()?;

    let broker = home.start_without_schedule()?;
    let crowded = broker.settled_bytes().await?;
    let unscheduled = Idling::of(&broker).await?;
    broker.stop()?;
    let mut crowded_starts = Vec::new();
    for _ in 0..STARTS {
        let broker = home.start()?;
        crowded_starts.push(broker.took());
        broker.stop()?;
    }
    let broker = home.start()?;
    let scheduled = broker.settled_bytes().await?;
    let idling = [unscheduled, Idling::of(&broker).await?];
    broker.get_crowd(CROWD).await?;
    let cached = child::resident_bytes(broker.process())?;
    Ok(Footprint { engine, starts, idle, crowded_starts, crowded, scheduled, cached, idling })
}

/// One table of all engines.
pub(crate) fn markdown(footprints: &[Footprint]) -> String {
    let mut text = "\n| footprint |".to_owned();
    footprints.iter().for_each(|footprint| text.push_str(&format!(" {} |", footprint.engine)));
    text.push_str(" goal |\n|---|");
    footprints.iter().for_each(|_| text.push_str("---:|"));
    text.push_str("---|\n");
    let mut row = |name: String, of: &dyn Fn(&Footprint) -> String, goal: &str| {
        let figures: Vec<String> = footprints.iter().map(of).collect();
        // Writing into a String cannot fail.
        let _ = writeln!(text, "| {name} | {} | {goal} |", figures.join(" | "));
    };
    row("process start to serving, empty store".into(), &|one| spread(&one.starts), "< 1 s");
    row(
        format!("process start to serving, {CROWD} connections"),
        &|one| spread(&one.crowded_starts),
        "< 5 s",
    );
    row("resident memory, idle".into(), &|one| mib(one.idle), "< 20 MiB");
    row(format!("resident memory, {CROWD} connections in the store"), &|one| mib(one.crowded), "");
    row("… and all of them in the schedule".into(), &|one| mib(one.scheduled), "");
    row("… and each asked for once".into(), &|one| mib(one.cached), "");
    let both = |one: &Footprint, of: fn(&Idling) -> f64| {
        let [without, with] = one.idling.each_ref().map(|idling| of(idling) * 1e3);
        format!("{without:.0} → {with:.0} ms")
    };
    row(
        format!("processor time to start with {CROWD} connections, schedule off → on"),
        &|one| both(one, |idling| idling.to_settle),
        "",
    );
    row(
        format!("processor time of {} s in which nobody asks, schedule off → on", WATCHED.as_secs()),
        &|one| both(one, |idling| idling.after),
        "",
    );
    row("memory a scheduled connection".into(), &|one| each(one.crowded, one.scheduled), "");
    row("memory a cached connection".into(), &|one| each(one.scheduled, one.cached), "< 4 KiB");
    text
}

impl Footprint {
    pub(crate) fn json(&self) -> Value {
        let seconds = |starts: &[Duration]| starts.iter().map(Duration::as_secs_f64).collect::<Vec<_>>();
        json!({
            "engine": self.engine,
            "start_to_serving_seconds": seconds(&self.starts),
            "start_to_serving_crowded_seconds": seconds(&self.crowded_starts),
            "connections": CROWD,
            "rss_idle_bytes": self.idle,
            "rss_crowded_bytes": self.crowded,
            "rss_scheduled_bytes": self.scheduled,
            "rss_cached_bytes": self.cached,
            "cpu_to_settle_seconds": self.idling.each_ref().map(|idling| idling.to_settle),
            "cpu_idling_seconds": self.idling.each_ref().map(|idling| idling.after),
        })
    }
}

fn spread(starts: &[Duration]) -> String {
    let spread = Spread::of(starts.iter().map(|start| start.as_secs_f64() * 1e3));
    format!("{:.0} ms [{:.0}–{:.0}]", spread.median, spread.min, spread.max)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn each(before: u64, after: u64) -> String {
    format!("{:.2} KiB", after.saturating_sub(before) as f64 / CROWD as f64 / 1024.0)
}
