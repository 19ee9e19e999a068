//! [`FaultyToken`]: a token whose module fails on command.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use crate::token::text;
use crate::{Token, control, library};

/// A real token behind a module that forwards every call, and fails, waits, hangs or lies on command.
///
/// The commands reach a module that is already in use, in any process that was given [`env`](Self::env):
///
/// ```
/// # use softhsm_test::FaultyToken;
/// let token = FaultyToken::fresh();
/// token.fault("C_Sign rv=0x30 count=1");
/// // … the first signature fails with CKR_DEVICE_ERROR, the next one works …
/// assert_eq!(token.calls("C_Sign"), 0);
/// ```
///
/// A rule is a line: a function's name or `*`, and one action.
///
/// | rule | what happens |
/// | --- | --- |
/// | `C_Sign rv=0x30` | this code is answered, the token is not asked |
/// | `C_GenerateKeyPair late_rv=0x30` | the token does it, and this code is answered |
/// | `C_Sign delay_ms=500` | the call waits first |
/// | `C_Sign hang` | the call waits until the rules change |
/// | `C_Sign corrupt`, `C_Sign length=3` | the answer has a flipped bit, states a wrong length |
/// | `C_GenerateRandom zero`, `C_GenerateRandom repeat` | zeros, the same bytes each time |
/// | `C_GetTokenInfo flags=0x40000`, `max_sessions=2`, `bad_clock` | the token's description is changed |
/// | `C_GetMechanismList without=0x1087,0x1085` | mechanisms are missing from the list |
/// | `C_OpenSession room=2` | no more sessions than these at a time |
/// | `C_Login enter=1234` | this PIN is entered, whatever the program passes |
/// | `C_EncryptInit own_iv=0xd1` | the IV of AES-GCM is overwritten with this byte, as by a device that makes it itself |
/// | `C_SignInit mechanism=0x0d rv=0x70` | only calls with this mechanism |
/// | `* rv=0x32` | every call but C_Initialize and C_Finalize |
/// | `forget-sessions`, `logout` | all sessions are closed, the login is undone, once, before the next call |
///
/// `skip=N` lets the first N matching calls pass, `count=N` ends the rule after N of them.
#[derive(Debug)]
pub struct FaultyToken {
    token: Token,
    shim: PathBuf,
    folder: TempDir,
    generation: AtomicU64,
}

impl FaultyToken {
    /// [`Token::fresh`] behind the module.
    pub fn fresh() -> Self {
        Self::over(Token::fresh())
    }

    /// The module before a token that is there.
    pub fn over(token: Token) -> Self {
        let faulty = Self {
            token,
            shim: library::built("fault-shim"),
            folder: tempfile::Builder::new().prefix("hsm-fault-").tempdir().unwrap(),
            generation: AtomicU64::new(0),
        };
        faulty.clear();
        faulty
    }

    /// The token itself: what is done through it meets no fault and is not counted.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Path of the failing module.
    pub fn module(&self) -> &Path {
        &self.shim
    }

    /// Puts these rules, one a line, in force in place of all others; numbers in them start anew.
    pub fn fault(&self, rules: &str) {
        if let Err(why) = control::parse(rules) {
            panic!("{why}");
        }
        // The number makes a text that was there before a new one.
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let new = self.folder.path().join(format!("rules.{generation}"));
        fs::write(&new, format!("# {generation}\n{rules}\n")).unwrap();
        fs::rename(&new, self.control()).unwrap();
    }

    /// No more faults; what hangs goes on.
    pub fn clear(&self) {
        self.fault("");
    }

    /// How often this function was called, since the start or [`forget_calls`](Self::forget_calls).
    pub fn calls(&self, function: &str) -> u64 {
        self.call_log().iter().filter(|name| *name == function).count() as u64
    }

    /// The functions that were called, in their order.
    pub fn call_log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Counts from zero again.
    pub fn forget_calls(&self) {
        fs::write(self.log(), "").unwrap();
    }

    /// The variables that a server process needs to use the token through the failing module.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env = self.token.env();
        env.retain(|(name, _)| name != "HSM_LIBRARY_PATH");
        env.push(("HSM_LIBRARY_PATH".to_owned(), text(&self.shim)));
        env.extend(self.fault_env());
        env
    }

    /// [`Token::apply_env`], with the failing module's own variables.
    #[allow(
        unsafe_code,
        reason = "the module is told its files by the environment, as modules are"
    )]
    pub fn apply_env(&self) {
        self.token.apply_env();
        for (name, value) in self.fault_env() {
            // SAFETY: as in `Token::apply_env`.
            unsafe { std::env::set_var(name, value) };
        }
    }

    fn fault_env(&self) -> [(String, String); 3] {
        [
            ("FAULT_MODULE", self.token.module()),
            ("FAULT_CONTROL", &self.control()),
            ("FAULT_CALLS", &self.log()),
        ]
        .map(|(name, path)| (name.to_owned(), text(path)))
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("rules")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("calls")
    }
}
