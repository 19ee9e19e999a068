//! From settings to a running server: everything that may be wrong is looked at before the first request, and said in one
//! line a fault.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web;
use hsm_core::Stopped;
use keymgmt::audit::{self, AuditLog, Sync};
use keymgmt::managed::Settings;
use keymgmt::service::Parts;
use keymgmt::store::{Place, Store};
use keymgmt::{Hooks, KeyService, Tokens};

use crate::app::{self, InFlight, Listeners, State};
use crate::auth::Authenticator;
use crate::config::{AuditSync, Config, Fault, is_loopback};
use crate::metrics::Metrics;
use crate::routes::{self, Routes};
use crate::{problem, secrets, tls, tokens};

/// The exit code of a fault of the PIN (`EX_CONFIG`): a supervisor need not try again.
pub const PIN_FAULT: u8 = 78;

/// What is left at least for closing sessions, after clients that never finished their requests have used up the time.
const CLOSING: Duration = Duration::from_secs(1);

/// How often the audit log is synced when not before each answer.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Says the faults on stderr, and chooses the exit code.
pub fn refuse(faults: &[Fault]) -> ExitCode {
    for fault in faults {
        eprintln!("hsm-server: {fault}");
    }
    if faults.iter().any(Fault::is_pin) {
        ExitCode::from(PIN_FAULT)
    } else {
        ExitCode::FAILURE
    }
}

/// Everything that a running server has.
pub struct Ready {
    state: web::Data<State>,
    listeners: Listeners,
    shutdown_timeout: Duration,
}

impl Ready {
    /// Checks what the settings name, opens the store and the tokens, and listens.
    ///
    /// # Errors
    /// Every fault that was found. The store is opened only if there is no other, a module is loaded only after that.
    pub fn prepare(config: &Config, main: Result<std::net::TcpListener, String>) -> Result<Ready, Vec<Fault>> {
        let mut faults = Vec::new();
        let main = main
            .map_err(|text| faults.push(Fault::of("server.listen", format!("HSM_SERVER__LISTEN: {text}"))))
            .ok();
        let mut keep = |found: Result<(), Vec<Fault>>| faults.extend(found.err().unwrap_or_default());
        let mut authenticator = None;
        keep(Authenticator::from_config(&config.auth).map(|made| authenticator = Some(made)));
        let mut tls = None;
        if let (Some(cert), Some(key)) = (&config.server.tls_cert, &config.server.tls_key) {
            keep(tls::server_config(cert, key).map(|made| tls = Some(made)));
        }
        let mut metrics_listener = None;
        if let Some(address) = config.server.metrics_listen {
            let listening = app::listen(address).map(|made| metrics_listener = Some(made));
            keep(listening.map_err(|text| {
                vec![Fault::of(
                    "server.metrics_listen",
                    format!("HSM_SERVER__METRICS_LISTEN: {text}"),
                )]
            }));
        }
        let mut audit = None;
        keep(
            open_audit(config)
                .map(|made| audit = Some(made))
                .map_err(|fault| vec![fault]),
        );
        faults.extend(tokens::faults_before_loading(config));
        let (Some(main), Some(authenticator), Some(audit), true) = (main, authenticator, audit, faults.is_empty())
        else {
            return Err(faults);
        };
        let store = open_store(config).map_err(|fault| vec![fault])?;
        let tokens = tokens::open_all(config)?;
        let listeners = Listeners {
            main,
            tls,
            metrics: metrics_listener,
        };
        let state = state(config, tokens, audit, store, authenticator).map_err(|fault| vec![fault])?;
        Ok(Ready {
            state: web::Data::new(state),
            listeners,
            shutdown_timeout: config.shutdown_timeout(),
        })
    }

    /// The key service.
    pub fn service(&self) -> &KeyService {
        &self.state.service
    }

    /// The address of the API, as a URL.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn url(&self) -> std::io::Result<String> {
        self.listeners.url()
    }

    /// Serves until the process is told to end.
    pub fn serve(self) -> ExitCode {
        let Ready {
            state,
            listeners,
            shutdown_timeout,
        } = self;
        let service = state.service.clone();
        let deadline = match actix_web::rt::System::new().block_on(app::run(state, listeners, shutdown_timeout)) {
            Ok(deadline) => deadline,
            Err(error) => {
                eprintln!("hsm-server: {error}");
                return ExitCode::FAILURE;
            }
        };
        service.close();
        let left = deadline.saturating_duration_since(Instant::now());
        let stopped = service.tokens().stop(left.max(CLOSING));
        service.audit().close();
        match stopped {
            Stopped::Clean => {
                tracing::info!("stopped");
                ExitCode::SUCCESS
            }
            Stopped::Hanging => {
                tracing::error!("a call hangs in the PKCS#11 module, which was therefore not finalized");
                // The hanging thread is inside the module: nothing of the process may be torn down under it.
                hsm_core::pkcs11::leave_process(1)
            }
        }
    }
}

fn state(
    config: &Config,
    tokens: Tokens,
    audit: AuditLog,
    store: Store,
    authenticator: Authenticator,
) -> Result<State, Fault> {
    let document = routes::openapi().map_err(|error| Fault::new(error.to_string()))?;
    let openapi = document.to_json().map_err(|error| Fault::new(error.to_string()))?;
    let metrics = Arc::new(Metrics::default());
    let hooks = {
        let metrics = metrics.clone();
        Hooks {
            describe: problem::describe,
            observe: Arc::new(move |action, outcome, elapsed| metrics.operation(action, outcome, elapsed)),
        }
    };
    let open_metrics = is_loopback(config.server.listen) && !config.server.behind_proxy;
    Ok(State {
        service: key_service(config, tokens, audit, store, hooks, KeyService::new)?,
        authenticator,
        routes: Routes::new(&document, open_metrics),
        metrics,
        openapi: openapi.into(),
        body_bytes: usize::try_from(config.limits.body_bytes).unwrap_or(usize::MAX),
        behind_proxy: config.server.behind_proxy,
        in_flight: InFlight::default(),
    })
}

/// The key service over what was opened; closes it all again if that fails. Blocks.
///
/// # Errors
/// One line that says what to do.
pub fn key_service(
    config: &Config,
    tokens: Tokens,
    audit: AuditLog,
    store: Store,
    hooks: Hooks,
    start: fn(Parts) -> keymgmt::Result<KeyService>,
) -> Result<KeyService, Fault> {
    let opened = (tokens.clone(), store.clone());
    let parts = Parts {
        tokens,
        audit,
        store,
        hooks,
        settings: Settings {
            stale: config.stale(),
            cached_keys: config.cached_keys(),
        },
    };
    start(parts).map_err(|error| {
        let (tokens, store) = opened;
        store.close();
        tokens.stop(CLOSING);
        Fault::new(format!("the store ({}): {error}", config.store_name()))
    })
}

/// Opens the store, and brings its schema up to date. Blocks.
///
/// # Errors
/// One line that says what to do.
pub fn open_store(config: &Config) -> Result<Store, Fault> {
    let place = config.store_place();
    if let Place::Sqlite(file) = &place {
        make_folder(&config.data_dir, "HSM_DATA_DIR")?;
        secrets::touch(file)
            .map_err(|error| Fault::of("data_dir", format!("HSM_DATA_DIR: {}: {error}", file.display())))?;
    }
    Store::open(place).map_err(|error| store_fault(config, &error))
}

/// What is said of a store that can't be opened.
pub fn store_fault(config: &Config, error: &keymgmt::store::OpenError) -> Fault {
    let (path, variable) = match config.store_place() {
        Place::Sqlite(_) => ("data_dir", "HSM_DATA_DIR"),
        Place::Postgres(_) => ("store.url", "HSM_STORE__URL"),
    };
    Fault::of(
        path,
        format!("{variable}: the store ({}): {error}", config.store_name()),
    )
}

/// Makes a folder of the server's, with mode 0700.
///
/// # Errors
/// One line that names the setting.
pub fn make_folder(folder: &Path, variable: &str) -> Result<(), Fault> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| keep_to_ourselves(folder));
    made.map_err(|error| {
        Fault::new(format!(
            "{variable}: the folder {} can't be made: {error}",
            folder.display()
        ))
    })
}

/// Closes a folder to others if it was made just now for us, and says so if it is open and in use.
fn keep_to_ourselves(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = folder.metadata()?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    if folder.read_dir()?.next().is_none() {
        return std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700));
    }
    tracing::warn!(folder = %folder.display(), "others may look into the data folder: chmod 700");
    Ok(())
}

fn open_audit(config: &Config) -> Result<AuditLog, Fault> {
    let sync = match config.audit.sync {
        AuditSync::Always => Sync::Always,
        AuditSync::Interval => {
            tracing::warn!("HSM_AUDIT__SYNC=interval: a crash of the machine can lose the last audit records");
            Sync::Interval(SYNC_INTERVAL)
        }
    };
    let folder = &config.audit.path;
    if folder.starts_with(&config.data_dir) {
        make_folder(&config.data_dir, "HSM_DATA_DIR")?;
    }
    AuditLog::open(folder, sync).map_err(|error| {
        let hint = match error {
            audit::OpenError::InUse(_) => "; end that server, or choose another HSM_DATA_DIR",
            _ => "",
        };
        Fault::of("audit.path", format!("HSM_AUDIT__PATH: {error}{hint}"))
    })
}
