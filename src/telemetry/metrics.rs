//! Every metric of the broker: its name, its labels, and one method each to move it.

mod label;
mod store;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::clock::Timestamp;
use crate::connection::Status;
use crate::error::{Error, Reason};
use label::{
    BreakerLabels, BuildLabels, BytesLabels, ErrorLabels, OutcomeLabels, ProviderLabel, RequestLabels,
    ServedLabels, StatusLabels,
};
use store::StoreSeries;

/// Counts one thing; cloning shares the count. Keep the handle: a hit must not look up a label.
pub type Count = Counter<u64, AtomicU64>;

/// A refresh is a request to another company's server: 10 ms to the longest total timeout one would configure.
const REFRESH_BUCKETS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// A call is a request to another company's server, and may bring a file.
const CALL_BUCKETS: [f64; 10] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// The states of a circuit breaker, as `provider::health` spells them.
const BREAKER_STATES: [&str; 3] = ["closed", "open", "half_open"];

/// A refresh ahead has minutes to spare; what is later than a few was held up by its provider.
const LATENESS_BUCKETS: [f64; 8] = [0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0];

/// Every metric of the broker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    tokens_served: Family<ServedLabels, Count>,
    errors: Family<ErrorLabels, Count>,
    refreshes: Family<OutcomeLabels, Count>,
    refresh_duration: Family<ProviderLabel, Histogram, fn() -> Histogram>,
    connections: Family<StatusLabels, Gauge>,
    soonest_grant_expiry: Family<ProviderLabel, Gauge<f64, AtomicU64>>,
    provider_requests: Family<RequestLabels, Count>,
    breaker_state: Family<BreakerLabels, Gauge>,
    call_duration: Family<ProviderLabel, Histogram, fn() -> Histogram>,
    call_bytes: Family<BytesLabels, Count>,
    call_cache: Family<OutcomeLabels, Count>,
    call_cache_entries: Family<ProviderLabel, Gauge>,
    call_cache_bytes: Family<ProviderLabel, Gauge>,
    api_breaker_state: Family<BreakerLabels, Gauge>,
    refreshes_ahead: Family<ProviderLabel, Count>,
    refreshes_due: Family<ProviderLabel, Gauge>,
    refresh_lateness: Family<ProviderLabel, Histogram, fn() -> Histogram>,
    grants_ending: Family<ProviderLabel, Count>,
    grants_narrowed: Family<ProviderLabel, Count>,
    store: StoreSeries,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("token_broker");
        let build = Info::new(BuildLabels { version: env!("CARGO_PKG_VERSION") });
        registry.register("build", "Which release this is", build);
        let registry = &mut registry;
        Self {
            tokens_served: register(registry, "tokens_served", "Access tokens answered", Family::default()),
            errors: register(registry, "errors", "Requests answered with an error", Family::default()),
            refreshes: register(
                registry,
                "refreshes",
                "Refreshes at the token endpoint, by outcome",
                Family::default(),
            ),
            refresh_duration: register_seconds(
                registry,
                "refresh_duration",
                "From sending a refresh to its outcome",
                Family::new_with_constructor(|| Histogram::new(REFRESH_BUCKETS)),
            ),
            connections: register(registry, "connections", "Connections held, by status", Family::default()),
            soonest_grant_expiry: register_seconds(
                registry,
                "soonest_grant_expiry_timestamp",
                "When the first grant of a provider ends unless its owner consents again, as Unix time",
                Family::default(),
            ),
            provider_requests: register(
                registry,
                "provider_requests",
                "Requests sent to providers, by kind and class of the answer",
                Family::default(),
            ),
            breaker_state: register(
                registry,
                "breaker_state",
                "1 for the state in which the circuit breaker of a provider is, 0 for the others",
                Family::default(),
            ),
            call_duration: register_seconds(
                registry,
                "call_duration",
                "From a provider call to the end of its answer",
                Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS)),
            ),
            call_bytes: register(
                registry,
                "call_bytes",
                "Bytes of bodies in provider calls, by direction",
                Family::default(),
            ),
            call_cache: register(
                registry,
                "call_cache",
                "Provider calls that might be answered from memory: hit, revalidated or miss",
                Family::default(),
            ),
            call_cache_entries: register(
                registry,
                "call_cache_entries",
                "Answers of a provider's API in memory",
                Family::default(),
            ),
            call_cache_bytes: register(
                registry,
                "call_cache_bytes",
                "Bytes of answers of a provider's API in memory",
                Family::default(),
            ),
            api_breaker_state: register(
                registry,
                "api_breaker_state",
                "1 for the state in which the circuit breaker of a provider's API is, 0 for the others; of several hosts that of the worst",
                Family::default(),
            ),
            refreshes_ahead: register(
                registry,
                "refreshes_ahead",
                "Refreshes that no caller had to wait for, of all that succeeded",
                Family::default(),
            ),
            refreshes_due: register(
                registry,
                "refreshes_due",
                "Connections whose refresh ahead is due and has not begun",
                Family::default(),
            ),
            refresh_lateness: register_seconds(
                registry,
                "refresh_lateness",
                "From the time a refresh ahead was due to its beginning",
                Family::new_with_constructor(|| Histogram::new(LATENESS_BUCKETS)),
            ),
            grants_ending: register(
                registry,
                "grants_ending",
                "Announcements that a grant ends unless its owner consents again",
                Family::default(),
            ),
            grants_narrowed: register(
                registry,
                "grants_narrowed",
                "Refreshes that brought fewer scopes than the connection had before",
                Family::default(),
            ),
            store: StoreSeries::new(registry),
            registry: std::mem::take(registry),
        }
    }
}

fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn register_seconds<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}

impl Metrics {
    /// The count of tokens of `provider` answered from `source`.
    pub fn tokens_served(&self, provider: &str, source: &'static str) -> Count {
        self.tokens_served.get_or_create_owned(&ServedLabels { provider: provider.to_owned(), source })
    }

    /// Counts a request of `provider` (empty where none was settled) that was answered with `error`. What a caller
    /// made up does not become a label: those are counted with no provider.
    pub fn failed(&self, provider: &str, error: &Error) {
        let reason = error.reason();
        let provider = if is_provider_unsettled(reason) { "" } else { provider };
        let labels = ErrorLabels { provider: provider.to_owned(), reason: reason.as_str() };
        self.errors.get_or_create(&labels).inc();
    }

    /// Counts a refresh at the token endpoint that succeeded (`None`) or failed for `reason`.
    pub fn refreshed(&self, provider: &str, failed: Option<Reason>) {
        let outcome = failed.map_or("success", Reason::as_str);
        self.refreshes.get_or_create(&OutcomeLabels { provider: provider.to_owned(), outcome }).inc();
    }

    /// Notes how long a refresh took, from sending it to its outcome, whichever that was.
    pub fn refresh_took(&self, provider: &str, duration: Duration) {
        let label = ProviderLabel { provider: provider.to_owned() };
        self.refresh_duration.get_or_create(&label).observe(duration.as_secs_f64());
    }

    /// Counts a refresh that succeeded before anybody had to wait for it.
    pub fn refreshed_ahead(&self, provider: &str) {
        self.refreshes_ahead.get_or_create(&ProviderLabel { provider: provider.to_owned() }).inc();
    }

    /// How many connections of `provider` are due to be refreshed ahead and wait for their turn.
    pub fn set_refreshes_due(&self, provider: &str, count: usize) {
        let label = ProviderLabel { provider: provider.to_owned() };
        self.refreshes_due.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Notes how long after it was due a refresh ahead began.
    pub fn refresh_lateness(&self, provider: &str, lateness: Duration) {
        let label = ProviderLabel { provider: provider.to_owned() };
        self.refresh_lateness.get_or_create(&label).observe(lateness.as_secs_f64());
    }

    /// Counts an announcement that a grant of `provider` ends for good.
    pub fn grant_ending(&self, provider: &str) {
        self.grants_ending.get_or_create(&ProviderLabel { provider: provider.to_owned() }).inc();
    }

    /// Counts a refresh that left a connection of `provider` with fewer scopes.
    pub fn grant_narrowed(&self, provider: &str) {
        self.grants_narrowed.get_or_create(&ProviderLabel { provider: provider.to_owned() }).inc();
    }

    /// How many connections of `provider` have `status`. The broker counts; this tells.
    pub fn set_connections(&self, provider: &str, status: Status, count: u64) {
        let labels = StatusLabels { provider: provider.to_owned(), status: status.as_str() };
        self.connections.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// When the first grant of `provider` ends by the provider's own word; `None`: none does, and the series goes.
    pub fn set_soonest_grant_expiry(&self, provider: &str, soonest: Option<Timestamp>) {
        let label = ProviderLabel { provider: provider.to_owned() };
        match soonest {
            #[expect(clippy::cast_precision_loss, reason = "seconds of any real date fit 53 bits")]
            Some(instant) => {
                self.soonest_grant_expiry.get_or_create(&label).set(instant.as_millis() as f64 / 1e3);
            }
            None => {
                self.soonest_grant_expiry.remove(&label);
            }
        }
    }

    /// Counts a request sent to `provider`: what `kind` it was (`token`, `revocation`, `userinfo`, `discovery`, `api`)
    /// and which status came back; `None`: no answer.
    pub fn provider_requested(&self, provider: &str, kind: &'static str, status: Option<u16>) {
        let labels =
            RequestLabels { provider: provider.to_owned(), kind, status_class: status_class(status) };
        self.provider_requests.get_or_create(&labels).inc();
    }

    /// The circuit breaker of `provider` is now `state`: `closed`, `open` or `half_open`.
    pub fn set_breaker_state(&self, provider: &str, state: &'static str) {
        set_state(&self.breaker_state, provider, state);
    }

    /// The same of its API's.
    pub fn set_api_breaker_state(&self, provider: &str, state: &'static str) {
        set_state(&self.api_breaker_state, provider, state);
    }

    /// Notes a call at the API of `provider`: how long it took to the end of its answer, and the bytes of its bodies,
    /// sent and received.
    pub fn called(&self, provider: &str, duration: Duration, (sent, received): (u64, u64)) {
        let label = ProviderLabel { provider: provider.to_owned() };
        self.call_duration.get_or_create(&label).observe(duration.as_secs_f64());
        for (direction, bytes) in [("sent", sent), ("received", received)] {
            let labels = BytesLabels { provider: provider.to_owned(), direction };
            self.call_bytes.get_or_create(&labels).inc_by(bytes);
        }
    }

    /// Counts a call at the API of `provider` that might be answered from memory: `hit`, `revalidated` or `miss`.
    pub fn call_cached(&self, provider: &str, outcome: &'static str) {
        self.call_cache.get_or_create(&OutcomeLabels { provider: provider.to_owned(), outcome }).inc();
    }

    /// How many answers of `provider` are remembered, and how many bytes that takes.
    pub fn set_call_cache(&self, provider: &str, entries: usize, bytes: u64) {
        let label = ProviderLabel { provider: provider.to_owned() };
        self.call_cache_entries.get_or_create(&label).set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.call_cache_bytes.get_or_create(&label).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Everything, in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn set_state(family: &Family<BreakerLabels, Gauge>, provider: &str, state: &'static str) {
    for known in BREAKER_STATES {
        let labels = BreakerLabels { provider: provider.to_owned(), state: known };
        family.get_or_create(&labels).set(i64::from(known == state));
    }
}

/// Whether an error of this reason may come with a provider's name that exists nowhere but in the request.
fn is_provider_unsettled(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InvalidRequest
            | Reason::MessageTooLarge
            | Reason::CallerUnknown
            | Reason::CallerNotAllowed
            | Reason::ProviderNotConfigured
    )
}

fn status_class(status: Option<u16>) -> &'static str {
    match status {
        None => "none",
        Some(100..=199) => "1xx",
        Some(200..=299) => "2xx",
        Some(300..=399) => "3xx",
        Some(400..=499) => "4xx",
        Some(_) => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_documented_names() {
        let metrics = Metrics::default();
        metrics.tokens_served("google", "cache").inc();
        metrics.failed("google", &Error::ShuttingDown);
        metrics.refreshed("google", None);
        metrics.refresh_took("google", Duration::from_millis(40));
        metrics.refreshed_ahead("google");
        metrics.set_refreshes_due("google", 7);
        metrics.refresh_lateness("google", Duration::from_millis(40));
        metrics.grant_ending("google");
        metrics.grant_narrowed("google");
        metrics.set_connections("google", Status::Active, 3);
        metrics.set_soonest_grant_expiry("google", Some(Timestamp::from_millis(1_790_000_000_500)));
        metrics.provider_requested("google", "token", Some(200));
        metrics.provider_requested("google", "token", None);
        metrics.set_breaker_state("google", "closed");
        metrics.set_breaker_state("google", "open");
        metrics.call_cached("google", "hit");
        metrics.set_call_cache("google", 2, 2048);
        metrics.store_commit_took(Duration::from_micros(300));
        metrics.set_store_blob_files(2);
        metrics.set_store_full(true);
        metrics.set_store_rolled_back(true);
        metrics.set_store_losses(3, 4);
        let text = metrics.encode().unwrap();
        for line in [
            concat!("token_broker_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "token_broker_tokens_served_total{provider=\"google\",source=\"cache\"} 1",
            "token_broker_errors_total{provider=\"google\",reason=\"SHUTTING_DOWN\"} 1",
            "token_broker_refreshes_total{provider=\"google\",outcome=\"success\"} 1",
            "token_broker_refresh_duration_seconds_bucket{le=\"0.05\",provider=\"google\"} 1",
            "token_broker_refreshes_ahead_total{provider=\"google\"} 1",
            "token_broker_refreshes_due{provider=\"google\"} 7",
            "token_broker_refresh_lateness_seconds_bucket{le=\"0.1\",provider=\"google\"} 1",
            "token_broker_grants_ending_total{provider=\"google\"} 1",
            "token_broker_grants_narrowed_total{provider=\"google\"} 1",
            "token_broker_call_cache_total{provider=\"google\",outcome=\"hit\"} 1",
            "token_broker_call_cache_entries{provider=\"google\"} 2",
            "token_broker_call_cache_bytes{provider=\"google\"} 2048",
            "token_broker_connections{provider=\"google\",status=\"ACTIVE\"} 3",
            "token_broker_soonest_grant_expiry_timestamp_seconds{provider=\"google\"} 1790000000.5",
            "token_broker_provider_requests_total{provider=\"google\",kind=\"token\",status_class=\"2xx\"} 1",
            "token_broker_provider_requests_total{provider=\"google\",kind=\"token\",status_class=\"none\"} 1",
            "token_broker_breaker_state{provider=\"google\",state=\"open\"} 1",
            "token_broker_breaker_state{provider=\"google\",state=\"closed\"} 0",
            "token_broker_breaker_state{provider=\"google\",state=\"half_open\"} 0",
            "token_broker_store_commit_duration_seconds_bucket{le=\"0.0005\"} 1",
            "token_broker_store_blob_files 2",
            "token_broker_store_full 1",
            "token_broker_store_rolled_back 1",
            "token_broker_store_records_missing 3",
            "token_broker_store_records_unreadable 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        metrics.set_soonest_grant_expiry("google", None);
        assert!(!metrics.encode().unwrap().contains("expiry_timestamp_seconds{"));
    }

    #[test]
    fn a_made_up_provider_is_no_label() {
        let metrics = Metrics::default();
        let error = Error::ProviderNotConfigured { provider: "made-up".into(), known: Vec::new() };
        metrics.failed("made-up", &error);
        let text = metrics.encode().unwrap();
        assert!(text.contains("errors_total{provider=\"\",reason=\"PROVIDER_NOT_CONFIGURED\"} 1"), "{text}");
        assert!(!text.contains("made-up"));
    }

    #[test]
    fn a_kept_handle_moves_the_same_count() {
        let metrics = Metrics::default();
        let kept = metrics.tokens_served("google", "cache");
        kept.inc();
        metrics.tokens_served("google", "cache").inc();
        assert_eq!(kept.get(), 2);
    }
}
