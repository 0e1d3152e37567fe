//! What was counted: a row for each fault at each provider, the table, and the last line.

use std::fmt;

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::checker::{Fate, calm, fate, needless};
use super::ended::{self, Served};
use super::engine::Engine;
use super::fault::Fault;
use super::profile::Profile;
use super::stage::{Grant, Stage};

/// Whether the promise allows that this round costs the grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// It must survive.
    Survives,
    /// The request was on the wire, or its answer not durable yet, at a strict provider.
    MayBeLost,
    /// What the disk holds was damaged or put back by somebody, and the broker said so: the newest tokens are nowhere.
    MayBeGone,
}

/// One fault at one provider.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) fault: Fault,
    pub(crate) profile: Profile,
    pub(crate) engine: Engine,
    pub(crate) seed: u64,
    pub(crate) rounds: u64,
    pub(crate) lost: u64,
    pub(crate) inherent: u64,
    /// Lost with what somebody damaged or put back, as the broker had said.
    pub(crate) gone: u64,
    pub(crate) false_deaths: u64,
    pub(crate) duplicates: u64,
    /// Access tokens that were served although their provider had ended them, which the broker could not know.
    pub(crate) in_doubt: u64,
    /// Everything that broke a promise, in words.
    pub(crate) breaches: Vec<String>,
    /// What was measured.
    pub(crate) figures: Vec<(&'static str, f64)>,
    /// Microseconds from the last byte of an answer to its being durable.
    pub(crate) windows: Vec<u64>,
}

impl Row {
    pub(crate) fn new(fault: Fault, profile: Profile, engine: Engine, seed: u64) -> Self {
        Self {
            fault,
            profile,
            engine,
            seed,
            rounds: 0,
            lost: 0,
            inherent: 0,
            gone: 0,
            false_deaths: 0,
            duplicates: 0,
            in_doubt: 0,
            breaches: Vec::new(),
            figures: Vec::new(),
            windows: Vec::new(),
        }
    }

    /// Ends a round: what became of `grant`, and whether it was refreshed without need.
    pub(crate) async fn judge(&mut self, stage: &mut Stage, grant: &mut Grant, promise: Promise, what: &str) {
        self.rounds += 1;
        if stage.profile.ends_old && promise != Promise::MayBeGone {
            calm(stage).await;
            self.look_for_ended(stage, grant, what).await;
        }
        let fate = fate(stage, grant).await;
        match (&fate, promise) {
            (Fate::Kept, _) => {}
            (Fate::Lost, Promise::MayBeLost) => self.inherent += 1,
            (Fate::Lost, Promise::MayBeGone) => self.gone += 1,
            (Fate::Lost, Promise::Survives) => {
                self.lost += 1;
                self.breach(format!("{what}: {} is lost", grant.name));
            }
            (Fate::FalseDeath, _) => {
                self.false_deaths += 1;
                self.breach(format!("{what}: {} was given up although its grant lives", grant.name));
            }
            (Fate::Stuck(why), _) => self.breach(format!("{what}: {} does not come back: {why}", grant.name)),
        }
        self.look_for_duplicates(stage, grant, what);
    }

    /// Looks what is served of a grant whose old access tokens are ended by each refresh: a living one, as soon as the
    /// broker has heard of it; and none from before one that was served as durable.
    async fn look_for_ended(&mut self, stage: &Stage, grant: &mut Grant, what: &str) {
        match ended::served(stage, grant).await {
            Served::Living => {}
            Served::InDoubt => self.in_doubt += 1,
            Served::Ended => {
                let name = &grant.name;
                self.breach(format!("{what}: {name}: a token is served that was ended, which had been told"));
            }
        }
        let stepped_back = std::mem::take(&mut *stage.stepped_back.lock().unwrap());
        stepped_back.into_iter().for_each(|told| self.breach(format!("{what}: {told}")));
    }

    pub(crate) fn look_for_duplicates(&mut self, stage: &Stage, grant: &Grant, what: &str) {
        for needless in needless(stage, grant) {
            self.duplicates += 1;
            self.breach(format!("{what}: {}: {needless}", grant.name));
        }
    }

    pub(crate) fn breach(&mut self, what: String) {
        let (fault, profile, engine) = (self.fault.name(), self.profile.name(), self.engine.name());
        println!("  breach: {fault} {profile} {engine} seed {}: {what}", self.seed);
        self.breaches.push(what);
    }

    /// A round of something that is not about one grant.
    pub(crate) fn expect(&mut self, is_so: bool, what: impl FnOnce() -> String) {
        if !is_so {
            self.breach(what());
        }
    }

    /// Takes the windows that the broker's log shows.
    pub(crate) fn measure(&mut self, stage: &Stage) {
        let mut received = None;
        for passed in stage.home.passed() {
            match passed.point.as_str() {
                "refresh.send.after" => received = Some(passed.at),
                "refresh.commit.after" => {
                    self.windows.extend(received.take().map(|from| passed.at.saturating_sub(from)));
                }
                _ => {}
            }
        }
    }
}

/// The value below which `part` of all are.
pub(crate) fn percentile(values: &[u64], part: f64) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into what fits in memory"
    )]
    let at = ((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1);
    sorted.get(at).copied()
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Tally(pub(crate) Vec<Row>);

impl Tally {
    pub(crate) fn is_good(&self) -> bool {
        self.0.iter().all(|row| row.breaches.is_empty()) && !self.0.is_empty()
    }

    /// The line that everything ends with.
    pub(crate) fn line(&self) -> String {
        let sum = |of: fn(&Row) -> u64| self.0.iter().map(of).sum::<u64>();
        format!(
            "torture: rounds {}, lost {}, false deaths {}, duplicates {}",
            sum(|row| row.rounds),
            sum(|row| row.lost),
            sum(|row| row.false_deaths),
            sum(|row| row.duplicates)
        )
    }

    fn window(&self) -> Option<String> {
        let all: Vec<u64> = self.0.iter().flat_map(|row| row.windows.iter().copied()).collect();
        let millis =
            |part| percentile(&all, part).map(|micros| format!("{}.{:03}", micros / 1000, micros % 1000));
        Some(format!(
            "window from an answer's last byte to durable: {} refreshes, p50 {} ms, p99 {} ms",
            all.len(),
            millis(0.5)?,
            millis(0.99)?
        ))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header([
            "fault",
            "what",
            "provider",
            "engine",
            "rounds",
            "lost",
            "inherent",
            "false deaths",
            "duplicates",
            "other breaches",
            "measured",
        ]);
        for row in &self.0 {
            let counted = row.lost + row.false_deaths + row.duplicates;
            let other = (row.breaches.len() as u64).saturating_sub(counted);
            let figures: Vec<String> =
                row.figures.iter().map(|(name, value)| format!("{name} {value:.1}")).collect();
            let mut cells = vec![
                Cell::new(row.fault.name()),
                Cell::new(row.fault.about()),
                Cell::new(row.profile.name()),
                Cell::new(row.engine.name()),
            ];
            cells.extend(
                [row.rounds, row.lost, row.inherent, row.false_deaths, row.duplicates, other]
                    .map(|number| Cell::new(number).set_alignment(CellAlignment::Right)),
            );
            cells.push(Cell::new(figures.join(", ")));
            table.add_row(cells);
        }
        writeln!(f, "{table}")?;
        if let Some(window) = self.window() {
            writeln!(f, "{window}")?;
        }
        let inherent: u64 = self.0.iter().map(|row| row.inherent).sum();
        writeln!(f, "lost with the request on the wire at a strict provider, as the promise says: {inherent}")
    }
}
