//! Logs and metrics. Owns the subscriber set-up and every metric name. Does not know what is measured. Invariant:
//! no label ever holds a connection, an account or a secret.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::error::{Error, Reason};

/// Every metric of the broker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    tokens_served: Family<ServedLabels, Counter<u64, AtomicU64>>,
    refreshes: Family<OutcomeLabels, Counter<u64, AtomicU64>>,
    errors: Family<ErrorLabels, Counter<u64, AtomicU64>>,
}

/// Counts one thing; cloning shares the count. Keep the handle: a hit must not look up a label.
pub type Count = Counter<u64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServedLabels {
    provider: String,
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    provider: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    provider: String,
    reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("token_broker");
        let tokens_served = Family::default();
        registry.register("tokens_served", "Access tokens answered", tokens_served.clone());
        let refreshes = Family::default();
        registry.register("refreshes", "Refreshes at the token endpoint, by outcome", refreshes.clone());
        let errors = Family::default();
        registry.register("errors", "Requests answered with an error", errors.clone());
        Self { registry, tokens_served, refreshes, errors }
    }
}

impl Metrics {
    /// The count of tokens of `provider` answered from `source`.
    pub fn tokens_served(&self, provider: &str, source: &'static str) -> Count {
        self.tokens_served.get_or_create(&ServedLabels { provider: provider.to_owned(), source }).clone()
    }

    /// Counts a refresh at the token endpoint that succeeded (`None`) or failed for `reason`.
    pub fn refreshed(&self, provider: &str, failed: Option<Reason>) {
        let outcome = failed.map_or("success", Reason::as_str);
        self.refreshes.get_or_create(&OutcomeLabels { provider: provider.to_owned(), outcome }).inc();
    }

    /// Counts a request of `provider` (empty where none was settled) that was answered with `error`.
    pub fn failed(&self, provider: &str, error: &Error) {
        let labels = ErrorLabels { provider: provider.to_owned(), reason: error.reason().as_str() };
        self.errors.get_or_create(&labels).inc();
    }

    /// Everything, in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
