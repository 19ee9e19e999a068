//! A PKCS#11 module as a [`Backend`]. Only what is under here knows the crate cryptoki.

mod failure;
mod mechanism;
mod object;
mod raw;
mod session;
mod template;

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error as CryptokiError;
use cryptoki::mechanism::MechanismType;
use cryptoki::session::UserType;
use cryptoki::slot::{Limit, TokenInfo};
use secrecy::SecretString;

use self::failure::failed;
use self::session::OpenSession;
use crate::algorithm::MechanismId;
use crate::backend::{Backend, MechanismFlags, MechanismInfo, Outcome, Session, Slot, Token};
use crate::error::{Ckr, Failure};
use crate::quirks;

/// A PKCS#11 module, loaded and initialised (C_Initialize with CKF_OS_LOCKING_OK: any thread may call it).
///
/// A process has one of a module: put it in an [`Arc`] to share it. When it is dropped it is neither finalised, since a
/// thread might still be inside a call, nor unloaded; [`Backend::finish`] finalises it.
#[derive(Debug)]
pub struct Module {
    library: Pkcs11,
    init_args: Option<&'static CStr>,
    /// Where it was loaded from; `None` if it is linked into the program.
    path: Option<PathBuf>,
    /// The module's own functions, for what cryptoki does not call; `None` where they are not the same for everybody.
    functions: Option<raw::Functions>,
    /// See [`quirks::takes_set_usages_only`].
    set_usages_only: bool,
    /// Counts C_Finalize. A session of an earlier time must not touch one that has got its number since.
    generation: Arc<AtomicU64>,
}

/// Why a module can't be used. The texts are for the operator, one line each.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such file.
    #[error("there is no file {}", .0.display())]
    NotFound(PathBuf),
    /// The system's loader refuses the file: no library, for another machine, or something it needs is missing.
    #[error("{} can't be loaded: {reason}", path.display())]
    NotLoadable {
        /// The file.
        path: PathBuf,
        /// What the loader says.
        reason: String,
    },
    /// A library without C_GetFunctionList.
    #[error("{0} is not a PKCS#11 module: it has no C_GetFunctionList")]
    NotAModule(String),
    /// The initialisation text has a NUL byte in it, which C can't pass on.
    #[error("the text for C_Initialize has a NUL byte in it")]
    InitArgs,
    /// The module refuses to start. Also if something else in this process has started it: then its locking may be
    /// off, and it may be finalised at any time.
    #[error("{module} does not start: {failure}")]
    Initialize {
        /// The module.
        module: String,
        /// What it answered.
        failure: Failure,
    },
}

/// Ends the process at once with `code`, without the exit handlers of modules: for when a call hangs in one
/// ([`Stopped::Hanging`](crate::Stopped::Hanging)). Nothing is flushed.
pub fn leave_process(code: i32) -> ! {
    raw::leave(code)
}

impl Module {
    /// Loads the module in `path` and initialises it. `init_args` is for C_Initialize's reserved argument, which some
    /// modules read their configuration from.
    ///
    /// A `path` without a folder is looked for where the system looks for libraries.
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn load(path: &Path, init_args: Option<&str>) -> Result<Module, LoadError> {
        let has_folder = path.parent().is_some_and(|folder| folder != Path::new(""));
        if has_folder && !path.exists() {
            return Err(LoadError::NotFound(path.to_owned()));
        }
        let library = Pkcs11::new(path).map_err(|why| not_loaded(Some(path), why))?;
        Module::start(library, init_args, Some(path.to_owned()))
    }

    /// The module that is linked into this program and exports its functions; else as [`Module::load`].
    ///
    /// # Errors
    /// [`LoadError`]
    pub fn linked_in(init_args: Option<&str>) -> Result<Module, LoadError> {
        let library = Pkcs11::new_from_self().map_err(|why| not_loaded(None, why))?;
        Module::start(library, init_args, None)
    }

    /// Makes the token in `slot` anew, and all that was on it is lost: C_InitToken, then C_InitPIN by the security
    /// officer. The label is cut to 32 bytes. No session may be open on the token.
    ///
    /// # Errors
    /// What the module answers, such as `CKR_PIN_LEN_RANGE`.
    pub fn init_token(&self, slot: u64, so_pin: &SecretString, label: &str, user_pin: &SecretString) -> Outcome<()> {
        let slot = slot_id(slot)?;
        let made = self.library.init_token(slot, so_pin, label);
        made.map_err(|why| failed("C_InitToken", &why))?;
        let session = self.library.open_rw_session(slot);
        let session = session.map_err(|why| failed("C_OpenSession", &why))?;
        let login = session.login(UserType::So, Some(so_pin));
        login.map_err(|why| failed("C_Login", &why))?;
        let pin = session.init_pin(user_pin);
        let logout = session.logout();
        pin.map_err(|why| failed("C_InitPIN", &why))?;
        logout.map_err(|why| failed("C_Logout", &why))
    }

    fn start(library: Pkcs11, init_args: Option<&str>, path: Option<PathBuf>) -> Result<Module, LoadError> {
        let init_args = init_args.map(CString::new).transpose();
        let init_args = init_args.map_err(|_| LoadError::InitArgs)?;
        let mut module = Module {
            library,
            functions: None,
            set_usages_only: false,
            // A module may keep the pointer, and C_Initialize is called again on a restart.
            init_args: init_args.map(|text| &*Box::leak(text.into_boxed_c_str())),
            path,
            generation: Arc::new(AtomicU64::new(0)),
        };
        match module.initialize() {
            Ok(()) => {
                // Never unloaded: modules leave threads and exit handlers behind that run their code.
                std::mem::forget(module.library.clone());
                module.functions = raw::Functions::of(module.path.as_deref());
                let info = module.library.get_library_info();
                module.set_usages_only = info.is_ok_and(|info| quirks::takes_set_usages_only(info.manufacturer_id()));
                Ok(module)
            }
            Err(failure) => Err(LoadError::Initialize {
                module: name_of(module.path.as_deref()),
                failure,
            }),
        }
    }

    fn initialize(&self) -> Outcome<()> {
        let flags = CInitializeFlags::OS_LOCKING_OK;
        let args = self
            .init_args
            .map_or(CInitializeArgs::new(flags), |text| raw::with_reserved(flags, text));
        let started = self.library.initialize(args);
        started.map_err(|why| failed("C_Initialize", &why))
    }

    /// C_Finalize. A module that is not initialised is as it should be.
    fn finalize(&self) -> Outcome<()> {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let ended = self.library.clone().finalize();
        match ended.map_err(|why| failed("C_Finalize", &why)) {
            Err(failure) if failure.rv == Some(Ckr::CryptokiNotInitialized) => Ok(()),
            other => other,
        }
    }

    fn slot(&self, slot: cryptoki::slot::Slot) -> Outcome<Slot> {
        let info = self.library.get_slot_info(slot);
        let info = info.map_err(|why| failed("C_GetSlotInfo", &why))?;
        let token = match info.token_present() {
            true => self.token(slot)?,
            false => None,
        };
        Ok(Slot {
            id: slot.id(),
            description: trimmed(info.slot_description()),
            manufacturer: trimmed(info.manufacturer_id()),
            token,
        })
    }

    /// The token in a slot; `None` if it was pulled out meanwhile.
    fn token(&self, slot: cryptoki::slot::Slot) -> Outcome<Option<Token>> {
        let why = match self.library.get_token_info(slot) {
            Ok(info) => return Ok(Some(token(&info))),
            Err(why) => why,
        };
        let failure = failed("C_GetTokenInfo", &why);
        match failure.rv {
            Some(Ckr::TokenNotPresent | Ckr::DeviceRemoved) => Ok(None),
            Some(Ckr::TokenNotRecognized) => Ok(Some(unreadable_token())),
            Some(_) => Err(failure),
            // The module answered, and cryptoki can't read it: openCryptoki has letters for a time.
            None => {
                let told = self.functions.and_then(|functions| functions.token_info(slot.id()));
                Ok(Some(told.unwrap_or_else(unreadable_token)))
            }
        }
    }

    /// The mechanisms that are listed, by number.
    fn listed(&self, slot: u64) -> Outcome<Vec<u64>> {
        if let Some(functions) = self.functions {
            return functions.mechanisms(slot);
        }
        // Without what cryptoki does not know.
        let listed = self.library.get_mechanism_list(slot_id(slot)?);
        let listed = listed.map_err(|why| failed("C_GetMechanismList", &why))?;
        Ok(listed
            .into_iter()
            .map(|mechanism| failure::number(*mechanism))
            .collect())
    }

    fn mechanism_info(&self, slot: u64, mechanism: u64) -> Outcome<MechanismInfo> {
        if let Some(functions) = self.functions {
            return functions.mechanism_info(slot, mechanism);
        }
        let refused = || failure::refused("C_GetMechanismInfo", Ckr::MechanismInvalid);
        let number = std::ffi::c_ulong::try_from(mechanism).map_err(|_| refused())?;
        let known = MechanismType::try_from(number).map_err(|_| refused())?;
        let info = self.library.get_mechanism_info(slot_id(slot)?, known);
        let info = info.map_err(|why| failed("C_GetMechanismInfo", &why))?;
        let set = [
            ("encrypt", info.encrypt()),
            ("decrypt", info.decrypt()),
            ("digest", info.digest()),
            ("sign", info.sign()),
            ("verify", info.verify()),
            ("generate", info.generate()),
            ("generate_key_pair", info.generate_key_pair()),
            ("wrap", info.wrap()),
            ("unwrap", info.unwrap()),
            ("derive", info.derive()),
            ("encapsulate", info.encapsulate()),
            ("decapsulate", info.decapsulate()),
        ];
        let bit = |(bit, name): &(u64, &str)| set.contains(&(*name, true)).then_some(*bit);
        Ok(MechanismInfo {
            id: MechanismId(mechanism),
            min_key_size: info.min_key_size() as u64,
            max_key_size: info.max_key_size() as u64,
            flags: MechanismFlags(MechanismFlags::NAMED.iter().filter_map(bit).sum()),
        })
    }
}

impl Backend for Module {
    fn slots(&self) -> Outcome<Vec<Slot>> {
        let slots = self.library.get_all_slots();
        let slots = slots.map_err(|why| failed("C_GetSlotList", &why))?;
        slots.into_iter().map(|slot| self.slot(slot)).collect()
    }

    fn token_in(&self, slot: u64) -> Outcome<Option<Token>> {
        self.token(slot_id(slot)?)
    }

    fn mechanisms(&self, slot: u64) -> Outcome<Vec<MechanismInfo>> {
        let mut mechanisms = Vec::new();
        for mechanism in self.listed(slot)? {
            match self.mechanism_info(slot, mechanism) {
                Ok(info) => mechanisms.push(info),
                // Listed and not there.
                Err(Failure {
                    rv: Some(Ckr::MechanismInvalid | Ckr::FunctionNotSupported),
                    ..
                }) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(mechanisms)
    }

    fn open(&self, slot: u64) -> Outcome<Box<dyn Session>> {
        let slot = slot_id(slot)?;
        let session = match self.library.open_rw_session_no_drop(slot) {
            Ok(session) => session,
            Err(why) => match failed("C_OpenSession", &why) {
                failure if failure.rv == Some(Ckr::TokenWriteProtected) => {
                    let session = self.library.open_ro_session_no_drop(slot);
                    session.map_err(|why| failed("C_OpenSession", &why))?
                }
                failure => return Err(failure),
            },
        };
        Ok(Box::new(OpenSession::new(
            session,
            self.functions,
            self.set_usages_only,
            &self.generation,
        )))
    }

    fn restart(&self) -> Outcome<()> {
        let ended = self.finalize();
        // A module that lost its server may fail to end, and start all the same.
        match self.initialize() {
            Err(failure) if failure.rv == Some(Ckr::CryptokiAlreadyInitialized) => ended.and(Err(failure)),
            other => other,
        }
    }

    fn finish(&self) -> Outcome<()> {
        self.finalize()
    }
}

fn not_loaded(path: Option<&Path>, why: CryptokiError) -> LoadError {
    let module = name_of(path);
    match (why, path) {
        (CryptokiError::LibraryLoading(why), Some(path)) => LoadError::NotLoadable {
            path: path.to_owned(),
            reason: why.to_string(),
        },
        (CryptokiError::MissingSymbol(_) | CryptokiError::LibraryLoading(_), _) => LoadError::NotAModule(module),
        (why, _) => LoadError::Initialize {
            module,
            failure: failed("C_GetFunctionList", &why),
        },
    }
}

fn name_of(path: Option<&Path>) -> String {
    path.map_or_else(
        || "the module in this program".into(),
        |path| path.display().to_string(),
    )
}

fn slot_id(slot: u64) -> Outcome<cryptoki::slot::Slot> {
    cryptoki::slot::Slot::try_from(slot).map_err(|why| failed("C_GetSlotInfo", &why))
}

fn token(info: &TokenInfo) -> Token {
    Token {
        label: trimmed(info.label()),
        manufacturer: trimmed(info.manufacturer_id()),
        model: trimmed(info.model()),
        serial: trimmed(info.serial_number()),
        firmware_version: version(info.firmware_version().major(), info.firmware_version().minor()),
        initialized: info.token_initialized(),
        login_required: info.login_required(),
        user_pin_initialized: info.user_pin_initialized(),
        user_pin_final_try: info.user_pin_final_try(),
        user_pin_locked: info.user_pin_locked(),
        write_protected: info.write_protected(),
        protected_authentication_path: info.protected_authentication_path(),
        max_sessions: match info.max_session_count() {
            Limit::Max(count) => Some(count),
            Limit::Unavailable | Limit::Infinite => None,
        },
    }
}

/// A token that says nothing readable of itself; it passes for one that is not initialised.
fn unreadable_token() -> Token {
    Token {
        label: String::new(),
        manufacturer: String::new(),
        model: String::new(),
        serial: String::new(),
        firmware_version: version(0, 0),
        initialized: false,
        login_required: true,
        user_pin_initialized: false,
        user_pin_final_try: false,
        user_pin_locked: false,
        write_protected: false,
        protected_authentication_path: false,
        max_sessions: None,
    }
}

/// `major.minor`; PKCS#11 v3.1 §3.1 counts the minor part in hundredths.
fn version(major: u8, minor: u8) -> String {
    format!("{major}.{minor}")
}

/// Fields are padded with blanks; some modules pad with NUL.
fn trimmed(text: &str) -> String {
    text.trim_matches([' ', '\0']).to_owned()
}
