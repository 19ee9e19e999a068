//! The server as it runs: what handlers share, the listeners, and the orderly end.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::rt::signal::unix::{SignalKind, signal};
use actix_web::rt::time::sleep;
use actix_web::{App, HttpRequest, HttpServer, web};
use keymgmt::KeyService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use utoipa_actix_web::AppExt;
use utoipa_swagger_ui::{Config as SwaggerConfig, SwaggerUi};

use crate::api::health;
use crate::auth::Authenticator;
use crate::gate::gate;
use crate::metrics::Metrics;
use crate::routes::{self, Routes};

/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Files that the process may have open, if the system lets it.
const MOST_FILES: u64 = 65_536;
/// Files that are left for all but connections: the audit log, the module's, the token's.
const OTHER_FILES: u64 = 256;

/// How long before the end batches are told to end where they are, at most; a quarter of the time if that is less.
const LAST_ORDERS: Duration = Duration::from_secs(5);

/// How long the last answers may take to leave, in seconds.
const LAST_BYTES_S: u64 = 5;

/// What handlers share.
pub struct State {
    /// The door to keys.
    pub service: KeyService,
    /// Who may call.
    pub authenticator: Authenticator,
    /// The calls, and who may make them.
    pub routes: Routes,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The OpenAPI document as JSON.
    pub openapi: web::Bytes,
    /// Largest body in bytes.
    pub body_bytes: usize,
    /// Whether callers' addresses are in `x-forwarded-for`.
    pub behind_proxy: bool,
    /// Requests under way.
    pub in_flight: InFlight,
}

/// Counts requests under way, so that the server ends when they have.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Flights>);

#[derive(Default)]
struct Flights {
    count: AtomicUsize,
    draining: AtomicBool,
}

/// A request, or an operation that outlives its request, for as long as it is under way.
pub struct UnderWay(Arc<Flights>);

impl InFlight {
    /// One more.
    pub fn enter(&self) -> UnderWay {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        UnderWay(self.0.clone())
    }

    /// Whether the server is ending.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::SeqCst)
    }

    async fn drain(&self, deadline: Instant) {
        self.0.draining.store(true, Ordering::SeqCst);
        while self.0.count.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Where the server listens.
pub struct Listeners {
    /// For the API.
    pub main: TcpListener,
    /// TLS for it.
    pub tls: Option<rustls::ServerConfig>,
    /// For `/metrics` alone.
    pub metrics: Option<TcpListener>,
}

impl Listeners {
    /// The address of the API, as a URL.
    pub fn url(&self) -> std::io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.main.local_addr()?))
    }
}

/// Opens a listener.
///
/// # Errors
/// One line that says what is in the way.
pub fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).map_err(|error| format!("can't listen on {address}: {error}"))
}

/// Serves until SIGTERM or SIGINT, and lets what is under way end within `shutdown_timeout`; returns when that time is over.
///
/// # Errors
/// What the operating system says when a listener or a signal can't be used.
pub async fn run(
    state: web::Data<State>,
    listeners: Listeners,
    shutdown_timeout: Duration,
) -> std::io::Result<Instant> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let url = listeners.url()?;
    let Listeners { main, tls, metrics } = listeners;
    let handles = start(&state, main, tls, metrics)?;
    tracing::info!(url, "listening");
    futures_util::future::select(Box::pin(terminate.recv()), Box::pin(interrupt.recv())).await;
    let deadline = Instant::now() + shutdown_timeout;
    tracing::info!("stopping: requests under way may end");
    // So that what was done of a long batch is recorded and answered.
    let last_orders = shutdown_timeout.min(4 * LAST_ORDERS) / 4;
    state.in_flight.drain(deadline - last_orders).await;
    state.service.tokens().wind_down();
    state.in_flight.drain(deadline).await;
    for handle in handles {
        handle.stop(true).await;
    }
    Ok(deadline)
}

fn start(
    state: &web::Data<State>,
    main: TcpListener,
    tls: Option<rustls::ServerConfig>,
    metrics: Option<TcpListener>,
) -> std::io::Result<Vec<ServerHandle>> {
    let shared = state.clone();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let server = HttpServer::new(move || {
        let api = App::new().app_data(shared.clone()).wrap(from_fn(gate));
        let (api, _) = api.into_utoipa_app().configure(routes::configure).split_for_parts();
        let swagger =
            SwaggerUi::new("/docs/{_:.*}").config(SwaggerConfig::from(format!("{}/openapi.json", routes::API)));
        api.service(health::docs).service(health::errors).service(swagger)
    })
    .disable_signals()
    .client_request_timeout(HEAD_TIMEOUT)
    .keep_alive(KEEP_ALIVE)
    .workers(threads)
    .max_connections(connections(threads))
    .shutdown_timeout(LAST_BYTES_S);
    let server = match tls {
        Some(tls) => server.listen_rustls_0_23(main, tls)?,
        None => server.listen(main)?,
    };
    let running = server.run();
    let mut handles = vec![running.handle()];
    actix_web::rt::spawn(running);
    if let Some(listener) = metrics {
        let shared = state.clone();
        let page = || async |state: web::Data<State>, request: HttpRequest| health::metrics_page(&state, &request);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .route(health::METRICS, web::get().to(page()))
        });
        let running = server
            .workers(1)
            .disable_signals()
            .client_request_timeout(HEAD_TIMEOUT)
            .shutdown_timeout(1)
            .listen(listener)?
            .run();
        handles.push(running.handle());
        actix_web::rt::spawn(running);
    }
    Ok(handles)
}

/// How many connections each of actix-web's threads may have open: as many as there are files for, so that strangers who
/// hold connections never keep the audit log from being written.
fn connections(threads: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(MOST_FILES, |most| most.min(MOST_FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            ..limit
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let files = limit.current.unwrap_or(MOST_FILES).min(MOST_FILES);
    let for_connections = files.saturating_sub(OTHER_FILES).max(files / 2);
    usize::try_from(for_connections).unwrap_or(usize::MAX) / threads.max(1)
}
