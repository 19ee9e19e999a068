//! [`Token`]: how tokens are made and what they are called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{env, io::Write};

use tempfile::TempDir;

use crate::kind::Kind;
use crate::servers::{Server, Servers};
use crate::{library, outside};

pub(crate) const LABEL: &str = "test token";
/// Unlike anything that a log would hold by chance.
pub(crate) const PIN: &str = "pin-5927-tulip";
pub(crate) const SO_PIN: &str = "so-pin-8841-maple";

/// A token of a PKCS#11 module. Its processes and its folder go when the last token in it is dropped.
#[derive(Clone, Debug)]
pub struct Token {
    pub(crate) module: PathBuf,
    pub(crate) label: String,
    pub(crate) pin: String,
    pub(crate) so_pin: String,
    pub(crate) init_args: Option<String>,
    /// The module learns where its token is by `init_args` and not from the environment.
    pub(crate) argument_only: bool,
    /// Variables that the module reads.
    pub(crate) module_env: Vec<(String, String)>,
    pub(crate) home: Option<Arc<Home>>,
}

impl Token {
    /// A token with nothing on it, of the kind that the environment asks for (see the crate's page).
    ///
    /// A token named by `HSM_TEST_MODULE` is taken as it is.
    pub fn fresh() -> Self {
        Self::of_environment()
    }

    /// The same as [`fresh`](Self::fresh), for tests that are about what the environment names.
    pub fn of_environment() -> Self {
        if let Some(module) = env::var_os("HSM_TEST_MODULE") {
            return Self::of_module(module.into());
        }
        match env::var("HSM_TEST_TOKEN") {
            Ok(name) => Self::named(&name),
            Err(_) => Self::softhsm(),
        }
    }

    /// A token with nothing on it, of the kind with this name, one of [`NAMES`](crate::NAMES).
    pub fn named(name: &str) -> Self {
        match Kind::parse(name) {
            Ok(Kind::Softhsm) => Self::softhsm(),
            Ok(Kind::Embedded) => Self::embedded(),
            Ok(Kind::Nss) => Self::nss(),
            Ok(Kind::Opencryptoki) => Self::opencryptoki(),
            Ok(Kind::Tpm) => Self::tpm(),
            Ok(Kind::P11kit) => Self::p11kit(),
            Err(why) => panic!("{why}"),
        }
    }

    /// A token of SoftHSM, whatever the environment says.
    pub fn softhsm() -> Self {
        Self::several(&[LABEL]).remove(0)
    }

    /// Tokens of one SoftHSM module with these labels, side by side; all have the same PIN.
    pub fn several(labels: &[&str]) -> Vec<Self> {
        let empty = Self::uninitialised();
        let initialise = |label: &&str| {
            let mut util = Command::new("softhsm2-util");
            util.args(["--init-token", "--free", "--label", label])
                .args(["--pin", PIN, "--so-pin", SO_PIN])
                .envs(empty.module_env.iter().cloned());
            outside::run(&mut util);
            Self {
                label: (*label).to_owned(),
                ..empty.clone()
            }
        };
        labels.iter().map(initialise).collect()
    }

    /// SoftHSM with no token but the empty slot that it always shows; its label is empty.
    pub fn uninitialised() -> Self {
        let home = Home::new();
        let tokens = home.folder().join("tokens");
        fs::create_dir(&tokens).expect("a folder for tokens");
        let conf = home.folder().join("softhsm2.conf");
        let mut file = fs::File::create(&conf).expect("softhsm2.conf");
        writeln!(
            file,
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false",
            text(&tokens)
        )
        .expect("softhsm2.conf");
        Self {
            module: library::softhsm(),
            label: String::new(),
            pin: PIN.to_owned(),
            so_pin: SO_PIN.to_owned(),
            init_args: None,
            argument_only: false,
            module_env: vec![("SOFTHSM2_CONF".to_owned(), text(&conf))],
            home: Some(Arc::new(home)),
        }
    }

    /// A token of the module file that the crate `embedded-token` builds, whatever the environment says.
    pub fn embedded() -> Self {
        let home = Home::new();
        let database = text(&home.folder().join("token.sql"));
        let token = Self {
            module: library::built("embedded-token"),
            label: LABEL.to_owned(),
            pin: PIN.to_owned(),
            so_pin: SO_PIN.to_owned(),
            init_args: Some(database.clone()),
            argument_only: false,
            // For programs that cannot give C_Initialize an argument.
            module_env: vec![("KRYOPTIC_CONF".to_owned(), database)],
            home: Some(Arc::new(home)),
        };
        token.initialise();
        token
    }

    fn of_module(module: PathBuf) -> Self {
        let asked = |name: &str| env::var(name).ok();
        let needed = |name: &str| asked(name).unwrap_or_else(|| panic!("HSM_TEST_MODULE needs {name}"));
        Self {
            module,
            label: needed("HSM_TEST_LABEL"),
            pin: needed("HSM_TEST_PIN"),
            so_pin: asked("HSM_TEST_SO_PIN").unwrap_or_default(),
            init_args: asked("HSM_TEST_INIT_ARGS"),
            argument_only: true,
            module_env: Vec::new(),
            home: None,
        }
    }

    /// C_InitToken and C_InitPIN, by an outside program.
    pub(crate) fn initialise(&self) {
        let tool = |args: &[&str]| {
            let mut tool = self.tool();
            tool.args(args);
            outside::run(&mut tool);
        };
        let (label, so_pin, pin) = (&self.label, &self.so_pin, &self.pin);
        tool(&[
            "--init-token",
            "--slot-index",
            "0",
            "--label",
            label,
            "--so-pin",
            so_pin,
        ]);
        tool(&[
            "--token-label",
            label,
            "--login",
            "--login-type",
            "so",
            "--so-pin",
            so_pin,
            "--init-pin",
            "--new-pin",
            pin,
        ]);
    }

    /// Path of the module.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// Label of the token, without padding.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The user's PIN.
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// The security officer's PIN.
    pub fn so_pin(&self) -> &str {
        &self.so_pin
    }

    /// Text for C_Initialize's reserved argument, if the module needs one.
    pub fn init_args(&self) -> Option<&str> {
        self.init_args.as_deref()
    }

    /// The folder that holds everything of the token; none for a token that was only named.
    pub fn folder(&self) -> Option<&Path> {
        self.home.as_ref().map(|home| home.folder())
    }

    /// Ends the processes that the token lives in, as a crash does: [`p11kit`](Self::p11kit), [`tpm`](Self::tpm),
    /// [`opencryptoki`](Self::opencryptoki). What is on the token stays.
    pub fn kill_server(&self) {
        self.own_home().with_servers(Servers::kill);
    }

    /// Starts these processes anew, at the same address.
    pub fn restart_server(&self) {
        self.own_home().with_servers(Servers::restart);
    }

    pub(crate) fn own_home(&self) -> &Home {
        self.home
            .as_ref()
            .expect("a token that was only named is not at home here")
    }

    /// The variables that a server process needs to use the token.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env = self.module_env.clone();
        let mut add = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
        add("HSM_LIBRARY_PATH", &text(&self.module));
        if !self.label.is_empty() {
            add("HSM_TOKEN_LABEL", &self.label);
            add("HSM_PIN", &self.pin);
        }
        if let Some(args) = &self.init_args {
            add("HSM_INIT_ARGS", args);
        }
        env
    }

    /// The variables that the module itself reads; what an outside program needs.
    pub fn module_env(&self) -> &[(String, String)] {
        &self.module_env
    }

    /// Sets the module's variables in this process, for use of the module without a child process.
    ///
    /// Call it before other threads are started.
    #[allow(
        unsafe_code,
        reason = "a module reads its folder from the environment, and there is no other way to tell it"
    )]
    pub fn apply_env(&self) {
        for (name, value) in &self.module_env {
            if env::var_os(name).is_some_and(|is| is == value.as_str()) {
                continue;
            }
            // SAFETY: a test has its process for itself, and nothing in it reads C's environment beside the module,
            // whose calls this crate keeps apart from this one.
            unsafe { env::set_var(name, value) };
        }
    }
}

/// Where a token lives. Its processes end before its folder goes.
#[derive(Debug)]
pub(crate) struct Home {
    servers: Mutex<Option<Servers>>,
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("hsm-test-").tempdir();
        Self {
            servers: Mutex::new(None),
            folder: folder.expect("a temporary folder"),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn start(&self, servers: Vec<Server>) -> Result<(), String> {
        let servers = Servers::start(self.folder(), servers)?;
        *self.lock() = Some(servers);
        Ok(())
    }

    /// Acts on the processes.
    fn with_servers(&self, act: impl FnOnce(&mut Servers)) {
        act(self.lock().as_mut().expect("the token has no server process"));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Servers>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}
