//! [`Builder`]: module, token, PIN and limits, said one by one.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::SharedBackend;
use crate::choice::OpenError;
use crate::hsm::Hsm;
use crate::key::TokenName;
use crate::pkcs11::{LoadError, Module};
use crate::shared::{Options, VerifyAfterSign};
use crate::uri::{TokenSelector, UriError};

/// Opens a token of a PKCS#11 module; made by [`Hsm::builder`]. Only the module is needed, and what is not said is as in
/// [`Options::default`].
#[derive(Clone, Default)]
#[must_use = "nothing is opened before `open`"]
pub struct Builder {
    module: Option<PathBuf>,
    init_args: Option<String>,
    token: Option<String>,
    options: Options,
}

/// Why no token was opened.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No module was named.
    #[error("no PKCS#11 module: name its file with `module`")]
    NoModule,
    /// The module can't be used.
    #[error(transparent)]
    Module(#[from] LoadError),
    /// What was given to [`Builder::token`] selects no token.
    #[error(transparent)]
    Token(#[from] UriError),
    /// The token can't be used.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Builder {
    /// The module's file; without a folder it is looked for where the system looks for libraries.
    pub fn module(mut self, path: impl Into<PathBuf>) -> Builder {
        self.module = Some(path.into());
        self
    }

    /// Text for C_Initialize's reserved argument, which some modules read their configuration from.
    pub fn init_args(mut self, text: impl Into<String>) -> Builder {
        self.init_args = Some(text.into());
        self
    }

    /// The token's label, or a `pkcs11:` URI (RFC 7512). Without it, the only initialised token.
    pub fn token(mut self, label_or_uri: impl Into<String>) -> Builder {
        self.token = Some(label_or_uri.into());
        self
    }

    /// What the ids of the token's keys name it by, `hsm:<name>:<hex>`; for a further token beside the default one.
    pub fn name(mut self, name: TokenName) -> Builder {
        self.options.name = Some(name);
        self
    }

    /// The user PIN. It is tried once. Without it only what needs no login is done.
    pub fn pin(mut self, pin: impl Into<SecretString>) -> Builder {
        self.options.pin = Some(pin.into());
        self
    }

    /// How many sessions work, at most what the token states; twice the processors if not said.
    pub fn sessions(mut self, most: usize) -> Builder {
        self.options.max_sessions = Some(most);
        self
    }

    /// How many operations may wait for a session, 1024 if not said; one more is [`Error::Busy`](crate::Error::Busy).
    pub fn queue(mut self, most: usize) -> Builder {
        self.options.queue = most;
        self
    }

    /// The deadline of one operation, 10 s if not said.
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.options.timeout = timeout;
        self
    }

    /// The deadline of a key creation, 60 s if not said.
    pub fn keygen_timeout(mut self, timeout: Duration) -> Builder {
        self.options.keygen_timeout = timeout;
        self
    }

    /// Which signatures are checked with the public key before they are given out; RSA's if not said.
    pub fn verify_after_sign(mut self, which: VerifyAfterSign) -> Builder {
        self.options.verify_after_sign = which;
        self
    }

    /// Loads the module, finds the token, logs in and starts the sessions.
    ///
    /// # Errors
    /// [`BuildError`], each with what to do.
    pub fn open(self) -> Result<Hsm, BuildError> {
        let module = self.module.as_deref().ok_or(BuildError::NoModule)?;
        let module = Module::load(module, self.init_args.as_deref())?;
        self.open_on(module)
    }

    /// The same on a backend that is there: another token of a module that is in use, or what is no PKCS#11 module.
    ///
    /// # Errors
    /// [`BuildError::Token`], [`BuildError::Open`]
    pub fn open_on(self, backend: impl Into<SharedBackend>) -> Result<Hsm, BuildError> {
        let Builder {
            module: _,
            init_args: _,
            token,
            mut options,
        } = self;
        if let Some(token) = token {
            options.token = TokenSelector::parse(&token)?;
        }
        Ok(Hsm::open(backend, options)?)
    }
}

impl Hsm {
    /// Says step by step which token to open, and how.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("module", &self.module)
            .finish_non_exhaustive()
    }
}
