//! From settings to open tokens: each module is loaded once, whoever names it; each token is found, and logged in to once.

use std::collections::BTreeMap;

use hsm_core::backend::{Backend, Slot};
use hsm_core::pkcs11::Module;
use hsm_core::uri::TokenSelector;
use hsm_core::{Hsm, Login, OpenError, Options, SharedBackend};
use keymgmt::managed::OWN_LABELS;
use keymgmt::{Further, Tokens};

use crate::config::{self, Config, Fault, ModuleSettings, TokenSettings, VerifyAfterSign};
use crate::embedded;

/// A module that was loaded, with the settings of its tokens.
pub struct Loaded<'a> {
    /// The settings.
    pub settings: ModuleSettings<'a>,
    /// Its slots, as they were then.
    pub slots: Vec<Slot>,
    backend: SharedBackend,
}

/// What can be said of the tokens' settings without loading a module: selectors that are none, files that are not there.
pub fn faults_before_loading(config: &Config) -> Vec<Fault> {
    let modules = config.modules();
    let selectors = modules
        .iter()
        .flat_map(ModuleSettings::tokens)
        .filter_map(|token| selector(token).err());
    let files = modules.iter().filter_map(missing);
    selectors.chain(files).collect()
}

/// That the module's file is not there.
fn missing(settings: &ModuleSettings<'_>) -> Option<Fault> {
    match settings.module {
        config::Module::File(path) if !path.exists() => load_file(path, settings).err(),
        config::Module::File(_) | config::Module::Embedded => None,
    }
}

fn load_file(path: &std::path::Path, settings: &ModuleSettings<'_>) -> Result<Module, Fault> {
    Module::load(path, settings.init_args).map_err(|error| settings.first.fault("library_path", error))
}

impl<'a> Loaded<'a> {
    /// Loads a module.
    ///
    /// # Errors
    /// One line that names the setting.
    pub fn load(config: &Config, settings: ModuleSettings<'a>) -> Result<Loaded<'a>, Fault> {
        let module = match settings.module {
            config::Module::File(path) => load_file(path, &settings)?,
            config::Module::Embedded => embedded::load(config, &settings.first)?,
        };
        let failed = |failure| {
            let text = format!("the module failed: {failure}");
            settings.first.fault("library_path", text)
        };
        let slots = module.slots().map_err(failed)?;
        Ok(Loaded {
            settings,
            slots,
            backend: SharedBackend::new(module),
        })
    }

    /// Opens one of the module's tokens: finds it, and logs in once.
    ///
    /// # Errors
    /// One line that names the setting.
    pub fn open(&self, config: &Config, token: &TokenSettings<'_>) -> Result<Hsm, Fault> {
        self.open_hiding(config, token, Some(OWN_LABELS))
    }

    /// As [`open`](Self::open), with the gateway's own keys listed among the others.
    ///
    /// # Errors
    /// One line that names the setting.
    pub fn open_with_own_keys(&self, config: &Config, token: &TokenSettings<'_>) -> Result<Hsm, Fault> {
        self.open_hiding(config, token, None)
    }

    fn open_hiding(&self, config: &Config, token: &TokenSettings<'_>, hidden: Option<&str>) -> Result<Hsm, Fault> {
        let options = Options {
            name: token.name.cloned(),
            token: selector(token)?,
            pin: token.pin.cloned(),
            timeout: config.hsm_timeout(),
            keygen_timeout: config.keygen_timeout(),
            max_sessions: Some(token.max_sessions),
            queue: token.queue,
            verify_after_sign: match config.verify_after_sign {
                VerifyAfterSign::Rsa => hsm_core::VerifyAfterSign::Rsa,
                VerifyAfterSign::All => hsm_core::VerifyAfterSign::All,
                VerifyAfterSign::None => hsm_core::VerifyAfterSign::None,
            },
            legacy_algorithms: config.legacy_algorithms,
            hidden: hidden.map(Into::into),
            loaded_keys: config.loaded_keys(),
        };
        let hsm = Hsm::open(self.backend.clone(), options).map_err(|error| match error {
            OpenError::Pin(text) => token.fault("pin", text),
            error @ (OpenError::TokenNotFound { .. } | OpenError::SeveralTokens(_) | OpenError::InUse { .. }) => {
                token.fault("token_label", error)
            }
            OpenError::Failed(text) => token.fault("library_path", format!("the module failed: {text}")),
        })?;
        if hsm.status().login == Login::NoPin {
            let [pin, pin_file] = ["pin", "pin_file"].map(|field| token.variable(field));
            tracing::warn!(
                "no PIN is configured: what needs a login to the token is answered 503; set {pin} or {pin_file}"
            );
        }
        Ok(hsm)
    }
}

/// Loads all modules, and opens all tokens.
///
/// # Errors
/// Every fault that was found. No token is logged in to before all modules are loaded.
pub fn open_all(config: &Config) -> Result<Tokens, Vec<Fault>> {
    let loaded = config
        .modules()
        .into_iter()
        .map(|settings| Loaded::load(config, settings));
    let modules = all_or_faults(loaded.map(|loaded| loaded.map_err(|fault| vec![fault])))?;
    let opened = modules.iter().enumerate().flat_map(|(number, module)| {
        let open = move |token: &TokenSettings<'_>| {
            let hsm = module.open(config, token).map_err(|fault| vec![fault])?;
            Ok((token.name.cloned(), Further { hsm, module: number }))
        };
        module.settings.tokens().map(open)
    });
    let mut default = None;
    let mut further = BTreeMap::new();
    for (name, opened) in all_or_faults(opened)? {
        match name {
            None => default = Some(opened.hsm),
            Some(name) => drop(further.insert(name, opened)),
        }
    }
    let missing = || vec![Fault::of("library_path", "HSM_LIBRARY_PATH: must be set")];
    Ok(Tokens::new(default.ok_or_else(missing)?, further))
}

/// All that is well, or all that is wrong.
fn all_or_faults<T>(results: impl Iterator<Item = Result<T, Vec<Fault>>>) -> Result<Vec<T>, Vec<Fault>> {
    let mut all = Vec::new();
    let mut faults = Vec::new();
    for result in results {
        match result {
            Ok(one) => all.push(one),
            Err(found) => faults.extend(found),
        }
    }
    if faults.is_empty() { Ok(all) } else { Err(faults) }
}

fn selector(token: &TokenSettings<'_>) -> Result<TokenSelector, Fault> {
    let Some(text) = token.token_label else {
        return Ok(TokenSelector::default());
    };
    TokenSelector::parse(text).map_err(|error| token.fault("token_label", error))
}
