//! What a hit costs while others are refreshed: the same load without refreshes, with them, and beside another broker on
//! the same core that does them, in turns. The last is what sharing a core costs, however a broker is built.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Home, refresh, request};
use crate::drive::Load;
use crate::provider::{self, GRANTS};
use crate::report::micros;
use crate::series::{Case, Sample, Spread};
use crate::{Outcome, ROUNDS, WARM_UP, WINDOW, sample, say, token};

/// Refreshes begun a second.
const RATE: u32 = 200;

/// A window of each of the three.
struct Turn {
    quiet: Sample,
    busy: Sample,
    beside: Sample,
    /// Refreshes that were answered a second.
    refreshed: f64,
}

/// All that was measured with one engine.
pub(crate) struct Crossing {
    engine: &'static str,
    cases: Vec<(Case, Vec<Turn>)>,
}

/// Measures over the socket, with one caller and with many.
pub(crate) async fn measure(engine: &'static str) -> Outcome<Crossing> {
    let provider = provider::start()?;
    let home = Home::with_provider(engine, &provider.told)?;
    let broker = home.start()?;
    broker.import("user-42", &token(0)).await?;
    broker.import_grants(&provider.told.refresh_tokens).await?;
    let neighbour_provider = provider::start()?;
    let neighbour_home = Home::with_provider(engine, &neighbour_provider.told)?;
    let neighbour = neighbour_home.start()?;
    neighbour.import_grants(&neighbour_provider.told.refresh_tokens).await?;
    let door = broker.side().socket;
    let mut cases = vec![((1, 1), Vec::new()), ((64, 4), Vec::new())];
    for round in 0..ROUNDS {
        say(&format!("with refreshes, {engine}, round {} of {ROUNDS}", round + 1))?;
        for ((callers, connections), turns) in &mut cases {
            let load = Load {
                callers: *callers,
                connections: *connections,
                warm_up: WARM_UP,
                window: WINDOW,
                request: request("user-42"),
            };
            let quiet = sample(&door, broker.process(), &load).await?;
            let refreshing = Refreshing::start(&broker).await?;
            let busy = sample(&door, broker.process(), &load).await?;
            let refreshed = refreshing.stop().await?;
            let refreshing = Refreshing::start(&neighbour).await?;
            let beside = sample(&door, broker.process(), &load).await?;
            refreshing.stop().await?;
            turns.push(Turn { quiet, busy, beside, refreshed });
        }
    }
    let named = |((callers, _), turns)| (Case::new(door.name(), callers), turns);
    Ok(Crossing { engine, cases: cases.into_iter().map(named).collect() })
}

/// Refreshes under way.
struct Refreshing {
    task: JoinHandle<Result<f64, String>>,
    ends: CancellationToken,
}

impl Refreshing {
    async fn start(broker: &Broker) -> Outcome<Self> {
        let (channel, ends) = (broker.channel().await?, CancellationToken::new());
        let until = ends.clone();
        let task = tokio::spawn(async move {
            let mut tick = interval(Duration::from_secs(1) / RATE);
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let (began, mut under_way) = (Instant::now(), Vec::new());
            for turn in 0.. {
                tokio::select! {
                    biased;
                    () = until.cancelled() => break,
                    _ = tick.tick() => {}
                }
                under_way.push(tokio::spawn(refresh(channel.clone(), turn % GRANTS)));
            }
            let (count, span) = (under_way.len(), began.elapsed());
            for refreshed in under_way {
                refreshed.await.map_err(|error| error.to_string())?.map_err(|status| status.to_string())?;
            }
            Ok(count as f64 / span.as_secs_f64())
        });
        Ok(Self { task, ends })
    }

    /// Answers how many there were a second; an error if one of them failed.
    async fn stop(self) -> Outcome<f64> {
        self.ends.cancel();
        Ok(self.task.await??)
    }
}

impl Crossing {
    pub(crate) fn markdown(&self) -> String {
        /// Its name, where it is in a sample, and its goal.
        type Figure = (&'static str, fn(&Sample) -> Duration, &'static str);

        let rate =
            Spread::of(self.cases.iter().flat_map(|(_, turns)| turns.iter().map(|turn| turn.refreshed)));
        let mut text = format!(
            "\n| hits beside refreshes ({}, {:.0} a second, each durable) | without | with | ratio | goal \
             | those of another broker on the core | ratio |\n|---|---:|---:|---:|---|---:|---:|\n",
            self.engine, rate.median
        );
        let figures: [Figure; 3] = [
            ("p50", |sample| sample.p50, ""),
            ("p99", |sample| sample.p99, "≤ 1.5"),
            ("server CPU a call, refreshes included", |sample| sample.cpu, ""),
        ];
        for (case, turns) in &self.cases {
            for (name, of, goal) in figures {
                let quiet = Spread::of(turns.iter().map(|turn| micros(of(&turn.quiet))));
                let busy = Spread::of(turns.iter().map(|turn| micros(of(&turn.busy))));
                let beside = Spread::of(turns.iter().map(|turn| micros(of(&turn.beside))));
                let ratio =
                    Spread::of(turns.iter().map(|turn| micros(of(&turn.busy)) / micros(of(&turn.quiet))));
                let floor =
                    Spread::of(turns.iter().map(|turn| micros(of(&turn.beside)) / micros(of(&turn.quiet))));
                // Writing into a String cannot fail.
                let _ = writeln!(
                    text,
                    "| {}, {name} | {:.1} µs | {:.1} µs | {:.2} [{:.2}–{:.2}] | {goal} | {:.1} µs | {:.2} [{:.2}–{:.2}] |",
                    case.name(),
                    quiet.median,
                    busy.median,
                    ratio.median,
                    ratio.min,
                    ratio.max,
                    beside.median,
                    floor.median,
                    floor.min,
                    floor.max,
                );
            }
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let sample = |sample: &Sample| json!({ "p50_us": micros(sample.p50), "p99_us": micros(sample.p99) });
        let cases = self.cases.iter().map(|(case, turns)| {
            let turns = turns.iter().map(|turn| {
                json!({
                    "without": sample(&turn.quiet),
                    "with": sample(&turn.busy),
                    "beside": sample(&turn.beside),
                    "refreshes_per_second": turn.refreshed,
                })
            });
            json!({ "callers": case.callers, "rounds": turns.collect::<Vec<_>>() })
        });
        json!({ "engine": self.engine, "cases": cases.collect::<Value>() })
    }
}
