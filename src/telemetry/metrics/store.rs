//! What the store reports of itself, and what waits for it.

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Metrics, register, register_seconds};

/// A commit is a flush to a disk: 0.1 ms on a fast one to the seconds of one that is dying.
const COMMIT_BUCKETS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];

/// The store's series.
#[derive(Debug)]
pub(super) struct StoreSeries {
    commit_duration: Histogram,
    blob_files: Gauge,
    full: Gauge,
    rolled_back: Gauge,
    records_missing: Gauge,
    records_unreadable: Gauge,
    escrowed_connections: Gauge,
    escrow_kept: Gauge,
}

impl StoreSeries {
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            commit_duration: register_seconds(
                registry,
                "store_commit_duration",
                "From asking the store for a change to its being durable",
                Histogram::new(COMMIT_BUCKETS),
            ),
            blob_files: register(
                registry,
                "store_blob_files",
                "Files the store keeps beside its log for large values",
                Gauge::default(),
            ),
            full: register(
                registry,
                "store_full",
                "1 while the disk is full and only tokens that exist nowhere else are written",
                Gauge::default(),
            ),
            rolled_back: register(
                registry,
                "store_rolled_back",
                "1 if the store was in an older state than it had when it was opened",
                Gauge::default(),
            ),
            records_missing: register(
                registry,
                "store_records_missing",
                "Records that were written and were not there when the store was opened",
                Gauge::default(),
            ),
            records_unreadable: register(
                registry,
                "store_records_unreadable",
                "Records that did not open when the store was opened",
                Gauge::default(),
            ),
            escrowed_connections: register(
                registry,
                "escrowed_connections",
                "Connections whose newest tokens are held in memory because the store does not take them",
                Gauge::default(),
            ),
            escrow_kept: register(
                registry,
                "escrow_kept",
                "Files in the second place that were not taken up at start, and are kept",
                Gauge::default(),
            ),
        }
    }
}

impl Metrics {
    /// Notes how long a change took to be durable.
    pub fn store_commit_took(&self, duration: Duration) {
        self.store.commit_duration.observe(duration.as_secs_f64());
    }

    /// How many files the store keeps beside its log.
    pub fn set_store_blob_files(&self, count: u64) {
        self.store.blob_files.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Whether the disk is full, so that only tokens that exist nowhere else are written.
    pub fn set_store_full(&self, is_full: bool) {
        self.store.full.set(is_full.into());
    }

    /// Whether the store was in an older state than it had when it was opened. Stays so until the process ends.
    pub fn set_store_rolled_back(&self, is_rolled_back: bool) {
        self.store.rolled_back.set(is_rolled_back.into());
    }

    /// What the look at the whole store found wrong when it was opened.
    pub fn set_store_losses(&self, missing: u64, unreadable: u64) {
        self.store.records_missing.set(i64::try_from(missing).unwrap_or(i64::MAX));
        self.store.records_unreadable.set(i64::try_from(unreadable).unwrap_or(i64::MAX));
    }

    /// How many connections have tokens that are not durable.
    pub fn set_escrowed(&self, count: usize) {
        self.store.escrowed_connections.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many files of the second place were not taken up at start.
    pub fn set_escrow_kept(&self, count: usize) {
        self.store.escrow_kept.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
