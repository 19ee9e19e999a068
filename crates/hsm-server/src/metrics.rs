//! Metrics for Prometheus.

use std::time::Duration;

use actix_web::http::Method;
use hsm_core::Login;
use keymgmt::{Action, KeyService};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Sessions {
    state: &'static str,
}

/// What is counted and timed.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    request_time: Family<Call, Histogram, fn() -> Histogram>,
    unauthenticated: Counter,
    operations: Family<Operation, Counter>,
    operation_time: Family<Operation, Histogram, fn() -> Histogram>,
    sessions: Family<Sessions, Gauge>,
    queue: Gauge,
    logged_in: Gauge,
    available: Gauge,
    audit_writable: Gauge,
}

/// From a tenth of a millisecond to 26 seconds.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 4.0, 10))
}

impl Default for Metrics {
    /// All at zero.
    fn default() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("hsm"),
            requests: Family::default(),
            request_time: Family::new_with_constructor(times),
            unauthenticated: Counter::default(),
            operations: Family::default(),
            operation_time: Family::new_with_constructor(times),
            sessions: Family::default(),
            queue: Gauge::default(),
            logged_in: Gauge::default(),
            available: Gauge::default(),
            audit_writable: Gauge::default(),
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
            "sessions",
            "Worker sessions: all, idle, and those past a deadline in a call of the module",
            metrics.sessions.clone(),
        );
        registry.register("queued_calls", "Calls that wait for a session", metrics.queue.clone());
        registry.register(
            "logged_in",
            "Whether the user is logged in to the token, or needs no login",
            metrics.logged_in.clone(),
        );
        registry.register(
            "token_available",
            "Whether the token can be used",
            metrics.available.clone(),
        );
        registry.register(
            "audit_writable",
            "Whether the audit log can be written",
            metrics.audit_writable.clone(),
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
        let status = service.hsm().status();
        let count = |state: &'static str, number: usize| {
            self.sessions
                .get_or_create(&Sessions { state })
                .set(i64::try_from(number).unwrap_or(i64::MAX));
        };
        count("all", status.load.workers);
        count("idle", status.load.idle);
        count("hung", status.load.hung);
        self.queue.set(i64::try_from(status.load.queued).unwrap_or(i64::MAX));
        self.logged_in
            .set(i64::from(matches!(status.login, Login::LoggedIn | Login::NotNeeded)));
        self.available.set(i64::from(status.unavailable.is_none()));
        self.audit_writable.set(i64::from(service.audit().writable()));
        let mut text = String::new();
        // Writing to a string can't fail.
        let _: std::fmt::Result = encode(&mut text, &self.registry);
        text
    }
}
