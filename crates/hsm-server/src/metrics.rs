//! Metrics for Prometheus.

use std::fmt;
use std::time::Duration;

use actix_web::http::Method;
use hsm_core::{LoadedKeys, Login, Status};
use keymgmt::managed::CachedKeys;
use keymgmt::{Action, KeyService};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// What every name begins with.
const PREFIX: &str = "hsm";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    route: String,
    method: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    route: String,
    method: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
    outcome: &'static str,
}

/// What is counted and timed.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    request_time: Family<Call, Histogram, fn() -> Histogram>,
    unauthenticated: Counter,
    operations: Family<Operation, Counter>,
    operation_time: Family<Operation, Histogram, fn() -> Histogram>,
    audit_writable: Gauge,
    store_available: Gauge,
    store_contact_age: Gauge,
}

/// From a tenth of a millisecond to 26 seconds.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 4.0, 10))
}

impl Default for Metrics {
    /// All at zero.
    fn default() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix(PREFIX),
            requests: Family::default(),
            request_time: Family::new_with_constructor(times),
            unauthenticated: Counter::default(),
            operations: Family::default(),
            operation_time: Family::new_with_constructor(times),
            audit_writable: Gauge::default(),
            store_available: Gauge::default(),
            store_contact_age: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "requests",
            "Requests by route, method and status",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "Time of requests",
            Unit::Seconds,
            metrics.request_time.clone(),
        );
        registry.register(
            "unauthenticated_requests",
            "Requests without a valid bearer token",
            metrics.unauthenticated.clone(),
        );
        registry.register(
            "operations",
            "Operations of the token by outcome: success or a problem code",
            metrics.operations.clone(),
        );
        registry.register_with_unit(
            "operation_duration",
            "Time of operations of the token, waiting included",
            Unit::Seconds,
            metrics.operation_time.clone(),
        );
        registry.register(
            "audit_writable",
            "Whether the audit log can be written",
            metrics.audit_writable.clone(),
        );
        registry.register(
            "store_available",
            "Whether the store could be reached when it was last asked",
            metrics.store_available.clone(),
        );
        registry.register_with_unit(
            "store_contact_age",
            "Time since the store was last reached",
            Unit::Seconds,
            metrics.store_contact_age.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// Takes note of a request.
    pub fn request(&self, route: &str, method: &Method, status: u16, elapsed: Duration) {
        // An invented method must not become a series of its own.
        let known = [
            Method::GET,
            Method::POST,
            Method::DELETE,
            Method::PUT,
            Method::PATCH,
            Method::HEAD,
            Method::OPTIONS,
        ];
        let method = if known.contains(method) {
            method.as_str()
        } else {
            "other"
        };
        let call = Call {
            route: route.to_owned(),
            method: method.to_owned(),
        };
        self.request_time.get_or_create(&call).observe(elapsed.as_secs_f64());
        let Call { route, method } = call;
        self.requests.get_or_create(&Request { route, method, status }).inc();
    }

    /// Takes note of a request without a valid token.
    pub fn unauthenticated(&self) {
        self.unauthenticated.inc();
    }

    /// Takes note of an operation of the token.
    pub fn operation(&self, action: Action, outcome: &'static str, elapsed: Duration) {
        let labels = Operation {
            operation: action.name(),
            outcome,
        };
        self.operations.get_or_create(&labels).inc();
        self.operation_time
            .get_or_create(&labels)
            .observe(elapsed.as_secs_f64());
    }

    /// The page that Prometheus reads.
    pub fn page(&self, service: &KeyService) -> String {
        self.audit_writable.set(i64::from(service.audit().writable()));
        let store = service.store().status();
        self.store_available.set(i64::from(store.available));
        let age = store.last_contact.elapsed().as_secs();
        self.store_contact_age.set(i64::try_from(age).unwrap_or(i64::MAX));
        let tokens = service.tokens().iter();
        let mut asked = Registry::with_prefix(PREFIX);
        asked.register_collector(Box::new(TokenGauges(
            tokens
                .map(|(name, hsm)| OneToken {
                    name: name.map(ToString::to_string),
                    status: hsm.status(),
                    loaded: hsm.loaded(),
                })
                .collect(),
        )));
        asked.register_collector(Box::new(ManagedKeys {
            cached: service.cached(),
            background_failures: service.background_failures(),
        }));
        let mut text = String::new();
        // Writing to a string can't fail.
        let _: fmt::Result = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &asked))
            .and_then(|()| encode_eof(&mut text));
        text
    }
}

/// How managed keys fare.
#[derive(Debug)]
struct ManagedKeys {
    cached: CachedKeys,
    background_failures: u64,
}

impl Collector for ManagedKeys {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let CachedKeys {
            keys,
            most: _,
            hits,
            misses,
        } = self.cached;
        let help = "Managed keys whose records are in memory.";
        let mut metric = encoder.encode_descriptor("cached_keys", help, None, MetricType::Gauge)?;
        metric.encode_gauge(&i64::try_from(keys).unwrap_or(i64::MAX))?;
        let help = "Uses of managed keys: those that were in memory, and those that had to be read from the store";
        let mut metric = encoder.encode_descriptor("cached_key_uses", help, None, MetricType::Counter)?;
        for (found, count) in [("cached", hits), ("read", misses)] {
            metric
                .encode_family(&[("key", found)])?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let help = "What failed in the background: rotations, destructions, cleaning up";
        let mut metric = encoder.encode_descriptor("background_failures", help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&self.background_failures, None)
    }
}

/// How the tokens fare; a further token's gauges have its name as the label `token`, the default token's have no such label.
#[derive(Debug)]
struct TokenGauges(Vec<OneToken>);

#[derive(Debug)]
struct OneToken {
    name: Option<String>,
    status: Status,
    loaded: LoadedKeys,
}

impl Collector for TokenGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.gauge(
            encoder,
            "sessions",
            "Worker sessions: all, idle, and those past a deadline in a call of the module.",
            |token| {
                let load = &token.status.load;
                vec![
                    (Some("all"), load.workers),
                    (Some("idle"), load.idle),
                    (Some("hung"), load.hung),
                ]
            },
        )?;
        self.gauge(encoder, "queued_calls", "Calls that wait for a session.", |token| {
            vec![(None, token.status.load.queued)]
        })?;
        self.gauge(
            encoder,
            "logged_in",
            "Whether the user is logged in to the token, or needs no login.",
            |token| {
                let logged_in = matches!(token.status.login, Login::LoggedIn | Login::NotNeeded);
                vec![(None, logged_in.into())]
            },
        )?;
        self.gauge(encoder, "token_available", "Whether the token can be used.", |token| {
            vec![(None, token.status.unavailable.is_none().into())]
        })?;
        self.gauge(
            encoder,
            "loaded_keys",
            "Wrapped keys that are loaded on the token.",
            |token| vec![(None, token.loaded.keys)],
        )?;
        let uses = "Uses of wrapped keys: those that were loaded, and those that had to be loaded first";
        let mut metric = encoder.encode_descriptor("wrapped_key_uses", uses, None, MetricType::Counter)?;
        for token in &self.0 {
            for (found, count) in [("loaded", token.loaded.hits), ("unwrapped", token.loaded.misses)] {
                let name = token.name.as_deref().map(|name| ("token", name));
                let labels: Vec<_> = std::iter::once(("key", found)).chain(name).collect();
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }
}

impl TokenGauges {
    /// One gauge, with what it shows of each token: values, each with its label `state` if it has one.
    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        values: impl Fn(&OneToken) -> Vec<(Option<&'static str>, usize)>,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for token in &self.0 {
            for (state, value) in values(token) {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                let state = state.map(|state| ("state", state));
                let token = token.name.as_deref().map(|name| ("token", name));
                let labels: Vec<_> = state.into_iter().chain(token).collect();
                if labels.is_empty() {
                    metric.encode_gauge(&value)?;
                } else {
                    metric.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }
}
