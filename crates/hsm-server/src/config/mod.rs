//! The settings: a TOML file, overridden by variables with the prefix `HSM_`.
//!
//! A setting is a field below with a doc comment and a rule; its variable, its place in the
//! file, its line in `docs/CONFIG.md` and its checks follow from that one declaration. All that
//! is wrong is reported at once, a line a fault.

mod manual;
mod rule;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

pub use manual::markdown;
use rule::{Row, Rule, address, choice, flag, meaning, module, number, path, secret, settings, text};
use source::{Reader, Sources};
pub use store::Store;
pub use tokens::{FurtherToken, FurtherTokens, ModuleSettings, TokenSettings, token_variable};

/// Shortest HS256 secret, in bytes (RFC 7518 §3.2).
pub const MIN_JWT_SECRET_BYTES: usize = 32;

/// Longest time that can be set, in milliseconds: one hour.
const MAX_MS: u64 = 3_600_000;
/// How many worker sessions a token may have.
const SESSIONS: RangeInclusive<u64> = 1..=4_096;
/// How many calls may wait for a token.
const QUEUE: RangeInclusive<u64> = 0..=1_000_000;

/// What stands in the way of starting: one line that says what to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    path: Option<String>,
    text: String,
}

impl Fault {
    /// A fault of no setting in particular.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            path: None,
            text: text.into(),
        }
    }

    /// A fault of one setting, named as in the file.
    pub fn of(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            path: Some(path.into()),
            text: text.into(),
        }
    }

    /// Whether a token's PIN is what is wrong (exit code 78: trying again does not help).
    pub fn is_pin(&self) -> bool {
        let field = self.path.as_ref().and_then(|path| path.rsplit('.').next());
        matches!(field, Some("pin" | "pin_file"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Something odd that does not stand in the way: one line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(String);

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What the settings are wanted for; each command needs others of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `serve`: a module, authentication, and an address that is safe to listen on.
    Serve,
    /// `dev`: a loopback address; all else is made.
    Dev,
    /// `check`: a module.
    Check,
    /// `token`: the secret.
    Token,
    /// `audit verify`: nothing.
    Audit,
    /// `migrate`, `backup`, `restore`, `kek status`: a store, which there always is.
    Store,
    /// `kek rotate`: a module.
    Kek,
}

impl Purpose {
    fn needs_module(self) -> bool {
        match self {
            Purpose::Serve | Purpose::Check | Purpose::Kek => true,
            Purpose::Dev | Purpose::Token | Purpose::Audit | Purpose::Store => false,
        }
    }
}

/// The PKCS#11 module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Module {
    /// The software token linked into the binary.
    Embedded,
    /// A library file.
    File(PathBuf),
}

/// Which signatures are checked with the public key before they are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyAfterSign {
    /// RSA's: a faulty one can give the private key away.
    Rsa,
    /// All that have a public key.
    All,
    /// None.
    None,
}

/// When an audit record is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditSync {
    /// Before the answer that it records.
    Always,
    /// At an interval: a crash of the machine can lose the last records.
    Interval,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

settings! {
    /// All settings.
    Config in "" {
        /// Path of the PKCS#11 module (.so, .dll, .dylib), or `embedded`: the software token
        /// linked into the binary.
        library_path: Option<Module> = module();
        /// Label of the token, or a `pkcs11:` URI (RFC 7512: token, serial, slot-id,
        /// manufacturer, model). Without it the only initialised token is used; several are an
        /// error that lists them.
        token_label: Option<String> = text("").optional();
        /// User PIN of the token, taken literally. Without one the server starts without
        /// login, and what needs a login is answered 503.
        pin: Option<SecretString> = secret(1);
        /// File that holds the PIN (a mounted secret, a systemd credential); wins over the PIN
        /// itself. One newline at its end is dropped.
        pin_file: Option<PathBuf> = path().optional();
        /// Text for the reserved argument of C_Initialize; NSS needs it.
        init_args: Option<String> = text("").optional();
        /// Folder of what the server keeps: embedded token, store, audit log unless set apart. Made
        /// with mode 0700.
        data_dir: PathBuf = path().described("`$STATE_DIRECTORY`, else the user's data folder + `/hsm-gateway`");
        /// Which signatures are checked with the public key before they are answered: `rsa` (a
        /// faulty RSA signature can give the key away), `all` or `none`. A wrong one is
        /// answered 502.
        verify_after_sign: VerifyAfterSign = choice(
            ("rsa", VerifyAfterSign::Rsa),
            &[("all", VerifyAfterSign::All), ("none", VerifyAfterSign::None)],
        );
        /// Allows AES-CBC, which is a padding oracle over an API.
        legacy_algorithms: bool = flag();
        section
        /// Tokens beside the one above.
        tokens: FurtherTokens;
        section
        /// How the server is reached.
        server: Server;
        section
        /// Whose tokens are accepted.
        auth: Auth;
        section
        /// The audit log.
        audit: Audit;
        section
        /// Where managed keys are kept.
        store: Store;
        section
        /// Bounds on work.
        limits: Limits;
        section
        /// The server's own log.
        log: Log;
    }
}

settings! {
    /// How the server is reached.
    Server in "server." {
        /// Address and port. An address that is not loopback needs TLS or
        /// HSM_SERVER__BEHIND_PROXY=true.
        listen: SocketAddr = address("127.0.0.1:8080");
        /// PEM file of the TLS certificate, followed by its chain.
        tls_cert: Option<PathBuf> = path().optional();
        /// PEM file of the certificate's private key.
        tls_key: Option<PathBuf> = path().optional();
        /// A proxy in front ends TLS; plain HTTP is then allowed on any address.
        behind_proxy: bool = flag();
        /// How long requests in flight may take at SIGTERM, in milliseconds.
        shutdown_timeout_ms: u64 = number(1..=MAX_MS, 30_000);
        /// Address and port of a listener for `/metrics` alone, which asks for no token.
        metrics_listen: Option<SocketAddr> = address("").optional();
    }
}

settings! {
    /// Whose tokens are accepted. At least one of secret and key file is needed to serve.
    Auth in "auth." {
        /// Secret of HS256 tokens, at least 32 bytes, taken literally.
        jwt_secret: Option<SecretString> = secret(MIN_JWT_SECRET_BYTES);
        /// JWK Set (RFC 7517) of an identity provider's public keys, for RS256, PS256, ES256,
        /// ES384 and EdDSA. Read once, at the start.
        jwks_file: Option<PathBuf> = path().optional();
        /// The `iss` that tokens must have; not looked at when not set.
        issuer: Option<String> = text("").optional();
        /// The `aud` that tokens must have or list; not looked at when not set.
        audience: Option<String> = text("").optional();
    }
}

settings! {
    /// The audit log.
    Audit in "audit." {
        /// Folder of the audit log.
        path: PathBuf = path().described("`audit` in the data folder");
        /// `always`: a record is on disk, synced, before its answer. `interval`: a weaker mode,
        /// a crash of the machine can lose the last records.
        sync: AuditSync = choice(("always", AuditSync::Always), &[("interval", AuditSync::Interval)]);
    }
}

settings! {
    /// Bounds on work.
    Limits in "limits." {
        /// Deadline of one call to the token, in milliseconds.
        hsm_timeout_ms: u64 = number(1..=MAX_MS, 10_000);
        /// Deadline of a key creation, in milliseconds.
        keygen_timeout_ms: u64 = number(1..=MAX_MS, 60_000);
        /// Worker sessions a token; at most what the token states.
        max_sessions: Option<u64> = number(SESSIONS, 1).optional().described("2 × cores");
        /// Calls that may wait for a session; more are answered 503 `busy`.
        queue: u64 = number(QUEUE, 1_024);
        /// Largest request body in bytes; decrypt and verify take 128 KiB more.
        body_bytes: u64 = number(1..=1_073_741_824, 1_048_576);
        /// Wrapped keys that are loaded on a token at once; the one that was not used for longest makes room.
        loaded_keys: u64 = number(1..=1_000_000, 10_000);
        /// Managed keys whose records are kept in memory; the one that was not used for longest makes room.
        cached_keys: u64 = number(1..=10_000_000, 20_000);
    }
}

settings! {
    /// The server's own log, on stderr.
    Log in "log." {
        /// `json`, `text`, or `auto`: text on a terminal, JSON elsewhere.
        format: LogFormat = choice(
            ("auto", LogFormat::Auto),
            &[("json", LogFormat::Json), ("text", LogFormat::Text)],
        );
        /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or directives such as
        /// `info,hsm_core=debug`. Foreign code is never logged below `info`.
        level: String = text("").described("`$RUST_LOG`, else `info`");
    }
}

impl Config {
    /// Reads the file and `environment`, and checks that `purpose` has what it needs.
    ///
    /// # Errors
    ///
    /// Every fault found, in the order of the settings; never empty.
    pub fn load(
        environment: impl IntoIterator<Item = (String, String)>,
        purpose: Purpose,
    ) -> Result<(Self, Vec<Warning>), Vec<Fault>> {
        let environment: BTreeMap<_, _> = environment.into_iter().collect();
        let mut sources = Sources::read(&environment, &Self::rows());
        let mut config = Self::read(&mut sources.reader());
        let mut faults = std::mem::take(&mut sources.faults);
        config.complete(&environment, &mut faults);
        config.validate(purpose, &sources, &mut faults);
        if faults.is_empty() {
            Ok((config, sources.warnings))
        } else {
            Err(faults)
        }
    }

    /// Deadline of one call to the token.
    pub fn hsm_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.hsm_timeout_ms)
    }

    /// Deadline of a key creation.
    pub fn keygen_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.keygen_timeout_ms)
    }

    /// How long requests in flight may take once the server is told to stop.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.server.shutdown_timeout_ms)
    }

    /// Wrapped keys that are loaded on a token at once.
    pub fn loaded_keys(&self) -> usize {
        usize::try_from(self.limits.loaded_keys).unwrap_or(usize::MAX)
    }

    /// Managed keys whose records are kept in memory.
    pub fn cached_keys(&self) -> usize {
        usize::try_from(self.limits.cached_keys).unwrap_or(usize::MAX)
    }

    /// Worker sessions: as set, else two a core.
    pub fn max_sessions(&self) -> usize {
        let set = self.limits.max_sessions.and_then(|set| set.try_into().ok());
        set.unwrap_or_else(|| 2 * std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Fills in what depends on the surroundings.
    fn complete(&mut self, environment: &BTreeMap<String, String>, faults: &mut Vec<Fault>) {
        if self.data_dir.as_os_str().is_empty() {
            self.data_dir = default_data_dir(environment).unwrap_or_else(|| {
                let text = "HSM_DATA_DIR: must be set, since there is no home folder";
                faults.push(Fault::of("data_dir", text));
                PathBuf::new()
            });
        }
        // The embedded token takes no relative path.
        if let Ok(absolute) = std::path::absolute(&self.data_dir) {
            self.data_dir = absolute;
        }
        if self.audit.path.as_os_str().is_empty() {
            self.audit.path = self.data_dir.join("audit");
        }
        if self.log.level.is_empty() {
            let level = environment.get("RUST_LOG").filter(|level| !level.is_empty());
            self.log.level = level.map_or("info", String::as_str).to_owned();
        }
        if let Err(error) = crate::logging::directives(&self.log.level) {
            let text = format!("HSM_LOG__LEVEL (or RUST_LOG): {error}");
            faults.push(Fault::of("log.level", text));
        }
        self.read_pins(faults);
    }

    fn validate(&self, purpose: Purpose, sources: &Sources, faults: &mut Vec<Fault>) {
        if purpose.needs_module() {
            self.validate_modules(faults);
        }
        let mut fault = |path, text: &str| faults.push(Fault::of(path, text));
        let has = |path| sources.has(path);
        if purpose.needs_module() && !has("library_path") {
            let text = "HSM_LIBRARY_PATH: must be set to the path of the PKCS#11 module, or to `embedded`";
            fault("library_path", text);
        }
        if purpose == Purpose::Serve && !has("auth.jwt_secret") && !has("auth.jwks_file") {
            let text = "HSM_AUTH__JWT_SECRET or HSM_AUTH__JWKS_FILE: one of them must be set, authentication is not configured";
            fault("auth.jwt_secret", text);
        }
        if purpose == Purpose::Token && !has("auth.jwt_secret") {
            let text = "HSM_AUTH__JWT_SECRET: must be set to the secret that the server checks tokens with";
            fault("auth.jwt_secret", text);
        }
        if matches!(purpose, Purpose::Serve | Purpose::Check) {
            self.validate_listeners(sources, &mut fault);
        }
        if purpose == Purpose::Dev && !is_loopback(self.server.listen) {
            let text = format!(
                "HSM_SERVER__LISTEN: {} is not a loopback address, and `dev` listens on no other; use `serve`",
                self.server.listen
            );
            fault("server.listen", &text);
        }
        if let Some(address) = self
            .server
            .metrics_listen
            .filter(|address| purpose == Purpose::Dev && !is_loopback(*address))
        {
            let text = format!(
                "HSM_SERVER__METRICS_LISTEN: {address} is not a loopback address, and `dev` listens on no other; use `serve`"
            );
            fault("server.metrics_listen", &text);
        }
    }

    fn validate_listeners(&self, sources: &Sources, fault: &mut impl FnMut(&'static str, &str)) {
        let tls = (sources.has("server.tls_cert"), sources.has("server.tls_key"));
        match tls {
            (true, false) => fault(
                "server.tls_key",
                "HSM_SERVER__TLS_KEY: must be set too, since HSM_SERVER__TLS_CERT is",
            ),
            (false, true) => fault(
                "server.tls_cert",
                "HSM_SERVER__TLS_CERT: must be set too, since HSM_SERVER__TLS_KEY is",
            ),
            (false, false) if !is_loopback(self.server.listen) && !self.server.behind_proxy => {
                let text = format!(
                    "HSM_SERVER__LISTEN: {} is not a loopback address: set HSM_SERVER__TLS_CERT and HSM_SERVER__TLS_KEY, or HSM_SERVER__BEHIND_PROXY=true if a proxy ends TLS",
                    self.server.listen
                );
                fault("server.listen", &text);
            }
            (true, true) | (false, false) => {}
        }
        let listen = self.server.listen;
        if listen.port() != 0 && self.server.metrics_listen == Some(listen) {
            let text = "HSM_SERVER__METRICS_LISTEN: must differ from HSM_SERVER__LISTEN";
            fault("server.metrics_listen", text);
        }
    }
}

/// This process's variables. Text that is not UTF-8 is marked, and refused when it is a
/// setting's value.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        )
    })
}

/// Whether only this machine can reach `address`.
pub fn is_loopback(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.to_canonical().is_loopback(),
    }
}

fn default_data_dir(environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    const FOLDER: &str = "hsm-gateway";
    let absolute = |name: &str| {
        let path = PathBuf::from(environment.get(name)?);
        path.is_absolute().then_some(path)
    };
    let state = environment.get("STATE_DIRECTORY");
    let first = state.and_then(|list| list.split(':').next());
    if let Some(first) = first.filter(|first| !first.is_empty()) {
        return Some(PathBuf::from(first));
    }
    let home = || absolute("HOME").or_else(std::env::home_dir);
    let user = if cfg!(target_os = "windows") {
        absolute("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Application Support"))
    } else {
        absolute("XDG_DATA_HOME").or_else(|| home().map(|home| home.join(".local/share")))
    };
    user.map(|user| user.join(FOLDER))
}
