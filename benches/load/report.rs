//! What was measured, for people and for machines.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::crossing::Crossing;
use crate::footprint::{self, Footprint};
use crate::series::{Case, Histogram, Round, Sample, Spread};

/// Everything one run has measured.
pub(crate) struct Report {
    pub(crate) rounds: Vec<(Case, Vec<Round>)>,
    /// Not measured in the control, nor are the footprints.
    pub(crate) crossings: Vec<Crossing>,
    pub(crate) footprints: Vec<Footprint>,
    /// Before and after.
    pub(crate) load_average: (f64, f64),
    pub(crate) cores: usize,
    pub(crate) profile: String,
}

/// A row of the table: what it is, in which unit, how to read it, and the goal for its ratio.
struct Figure {
    name: &'static str,
    of: fn(&Sample) -> f64,
    unit: &'static str,
    goal: fn(&Case) -> &'static str,
}

const FIGURES: [Figure; 4] = [
    Figure {
        name: "calls a second",
        of: |sample| sample.calls_per_second,
        unit: "",
        goal: |case| if case.callers == 1 { "" } else { "≥ 0.90" },
    },
    Figure {
        name: "p50",
        of: |sample| micros(sample.p50),
        unit: " µs",
        goal: |case| if case.callers == 1 { "≤ 1.10" } else { "" },
    },
    Figure { name: "p99", of: |sample| micros(sample.p99), unit: " µs", goal: |_| "" },
    Figure { name: "server CPU a call", of: |sample| micros(sample.cpu), unit: " µs", goal: |_| "" },
];

pub(crate) fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

fn ratios(rounds: &[Round], of: fn(&Sample) -> f64) -> Spread {
    Spread::of(rounds.iter().map(|round| of(&round.ours) / of(&round.floor)))
}

impl Report {
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "Profile `{}`, {} cores (server on one, driver on another), load average {:.2} before and {:.2} after.\n\
             Each figure is the median of its rounds, both sides in turns; in brackets the lowest and the highest.\n",
            self.profile, self.cores, self.load_average.0, self.load_average.1,
        );
        if !self.rounds.is_empty() {
            // Writing into a String cannot fail.
            let _ = writeln!(
                text,
                "\n| hits, reply of {} bytes | figure | tonic echo | token-broker | ratio | goal |\n\
                 |---|---|---:|---:|---:|---|",
                self.reply_bytes(),
            );
        }
        for (case, rounds) in &self.rounds {
            for figure in &FIGURES {
                let floor = Spread::of(rounds.iter().map(|round| (figure.of)(&round.floor)));
                let ours = Spread::of(rounds.iter().map(|round| (figure.of)(&round.ours)));
                let ratio = ratios(rounds, figure.of);
                // Writing into a String cannot fail.
                let _ = writeln!(
                    text,
                    "| {} | {} | {}{unit} | {}{unit} | {:.2} [{:.2}–{:.2}] | {} |",
                    case.name(),
                    figure.name,
                    rounded(floor.median),
                    rounded(ours.median),
                    ratio.median,
                    ratio.min,
                    ratio.max,
                    (figure.goal)(case),
                    unit = figure.unit,
                );
            }
        }
        for crossing in &self.crossings {
            text.push_str(&crossing.markdown());
        }
        if !self.footprints.is_empty() {
            text.push_str(&footprint::markdown(&self.footprints));
        }
        text
    }

    fn reply_bytes(&self) -> usize {
        let first = self.rounds.first().and_then(|(_, rounds)| rounds.first());
        first.map_or(0, |round| round.ours.reply_bytes)
    }

    pub(crate) fn json(&self) -> Value {
        let sample = |sample: &Sample| {
            json!({
                "calls_per_second": sample.calls_per_second,
                "p50_us": micros(sample.p50),
                "p99_us": micros(sample.p99),
                "server_cpu_us_per_call": micros(sample.cpu),
                "histogram": sample.histogram.shares(),
            })
        };
        let cases = self.rounds.iter().map(|(case, rounds)| {
            let rounds = rounds
                .iter()
                .map(|round| json!({ "floor": sample(&round.floor), "token_broker": sample(&round.ours) }));
            json!({ "door": case.door, "callers": case.callers, "rounds": rounds.collect::<Vec<_>>() })
        });
        json!({
            "profile": self.profile,
            "cores": self.cores,
            "reply_bytes": self.reply_bytes(),
            "load_average": [self.load_average.0, self.load_average.1],
            "histogram": "[lower end of the bucket in µs, share of the calls]",
            "cases": cases.collect::<Vec<_>>(),
            "beside_refreshes": self.crossings.iter().map(Crossing::json).collect::<Value>(),
            "footprints": self.footprints.iter().map(Footprint::json).collect::<Vec<_>>(),
        })
    }
}

/// All rounds of one server in one case.
pub(crate) fn together(rounds: &[Round], of: fn(&Round) -> &Sample) -> Histogram {
    let mut sum = Histogram::empty();
    rounds.iter().for_each(|round| sum.add(&of(round).histogram));
    sum
}

/// Three digits that mean something, thousands set apart.
fn rounded(value: f64) -> String {
    if value >= 1000.0 {
        let digits = format!("{value:.0}");
        let (head, tail) = digits.split_at(digits.len() - 3);
        format!("{head} {tail}")
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}
