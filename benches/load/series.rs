//! Figures of one window, and how figures of several rounds become one with its spread.

use std::time::Duration;

use crate::drive::Run;

/// A kind of load.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) door: &'static str,
    pub(crate) callers: usize,
}

impl Case {
    pub(crate) fn new(door: &'static str, callers: usize) -> Self {
        Self { door, callers }
    }

    pub(crate) fn name(&self) -> String {
        let plural = if self.callers == 1 { "" } else { "s" };
        format!("{}, {} caller{plural}", self.door, self.callers)
    }
}

/// One server in one window.
pub(crate) struct Sample {
    pub(crate) calls_per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Processor time of the server for each call.
    pub(crate) cpu: Duration,
    pub(crate) histogram: Histogram,
    /// Length of a reply message.
    pub(crate) reply_bytes: usize,
}

/// Both servers, measured one after the other.
pub(crate) struct Round {
    pub(crate) floor: Sample,
    pub(crate) ours: Sample,
}

impl Sample {
    pub(crate) fn new(run: Run, cpu_seconds: f64) -> Self {
        let Run { mut latencies, calls, window, reply_bytes } = run;
        latencies.sort_unstable();
        let at = |quantile: f64| {
            let rank = (latencies.len() as f64 * quantile) as usize;
            latencies.get(rank.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        Self {
            calls_per_second: latencies.len() as f64 / window.as_secs_f64(),
            p50: Duration::from_nanos(at(0.50).into()),
            p99: Duration::from_nanos(at(0.99).into()),
            cpu: Duration::from_secs_f64(cpu_seconds.max(0.0) / calls.max(1) as f64),
            histogram: Histogram::of(&latencies),
            reply_bytes,
        }
    }
}

/// Counts by latency, eight buckets to a doubling.
#[derive(Clone)]
pub(crate) struct Histogram(Vec<u64>);

impl Histogram {
    /// 1 µs to 1 s.
    const LOWEST: f64 = 1e3;
    const BUCKETS: usize = 160;
    const TO_A_DOUBLING: f64 = 8.0;

    pub(crate) fn empty() -> Self {
        Self(vec![0; Self::BUCKETS])
    }

    fn of(latencies: &[u32]) -> Self {
        let mut histogram = Self::empty();
        for nanos in latencies {
            let bucket = (f64::from(*nanos) / Self::LOWEST).log2() * Self::TO_A_DOUBLING;
            let bucket = (bucket.max(0.0) as usize).min(Self::BUCKETS - 1);
            if let Some(count) = histogram.0.get_mut(bucket) {
                *count += 1;
            }
        }
        histogram
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }

    /// Every bucket that holds anything or lies between two that do: its lower end in microseconds, and its share.
    pub(crate) fn shares(&self) -> Vec<(f64, f64)> {
        let all = self.0.iter().sum::<u64>().max(1) as f64;
        let first = self.0.iter().position(|count| *count > 0).unwrap_or(0);
        let last = self.0.iter().rposition(|count| *count > 0).unwrap_or(0);
        let bucket = |(at, count): (usize, &u64)| {
            let micros = Self::LOWEST / 1e3 * (at as f64 / Self::TO_A_DOUBLING).exp2();
            (micros, *count as f64 / all)
        };
        self.0.iter().enumerate().skip(first).take(last + 1 - first).map(bucket).collect()
    }
}

/// A figure of several rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
        Self { median: at(values.len() / 2), min: at(0), max: at(values.len().saturating_sub(1)) }
    }
}
