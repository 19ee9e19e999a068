//! The software token that is linked into the binary: made in the data folder, and loaded from there.

use hsm_core::pkcs11::Module;

use crate::config::{Config, Fault, TokenSettings};

/// Refuses: there is no embedded token in this binary.
///
/// # Errors
/// Always.
#[cfg(not(feature = "embedded"))]
pub fn load(_: &Config, settings: &TokenSettings<'_>) -> Result<Module, Fault> {
    Err(settings.fault("library_path", "this binary was built without the embedded token"))
}

#[cfg(feature = "embedded")]
pub use linked_in::load;

/// The file of the security officer's PIN, beside the token's database.
const SO_PIN: &str = "so-pin";

/// Whether the data folder has an embedded token.
pub fn is_made(config: &Config) -> bool {
    config.data_dir.join("token").join(SO_PIN).exists()
}

#[cfg(feature = "embedded")]
mod linked_in {
    use std::path::PathBuf;

    use hsm_core::backend::Backend;
    use hsm_core::uri::TokenSelector;
    use secrecy::{ExposeSecret, SecretString};

    use super::{Config, Fault, Module, SO_PIN, TokenSettings};
    use crate::secrets;
    use crate::serve::make_folder;

    /// The label of a token that is made here, unless one is configured.
    const LABEL: &str = "hsm-gateway";
    /// The shortest PIN, in characters.
    const MIN_PIN: usize = 8;

    /// Loads the embedded token; makes it first if the data folder has none.
    ///
    /// # Errors
    /// One line that names the setting.
    pub fn load(config: &Config, settings: &TokenSettings<'_>) -> Result<Module, Fault> {
        make_folder(&config.data_dir, "HSM_DATA_DIR")?;
        let folder = config.data_dir.join("token");
        make_folder(&folder, "HSM_DATA_DIR")?;
        let in_folder = |error: &dyn std::fmt::Display| {
            Fault::of("data_dir", format!("HSM_DATA_DIR: {}: {error}", folder.display()))
        };
        let database: PathBuf = folder.join(format!("token{}", embedded_token::DATABASE_SUFFIX));
        secrets::touch(&database).map_err(|error| in_folder(&error))?;
        let init_args = embedded_token::init_args(&database).map_err(|error| in_folder(&error))?;
        let module = Module::linked_in(Some(&init_args)).map_err(|error| in_folder(&error))?;
        let slots = module.slots().map_err(|failure| in_folder(&failure))?;
        let fresh = slots.iter().find(|slot| {
            slot.token
                .as_ref()
                .is_some_and(|token| !token.initialized || !token.user_pin_initialized)
        });
        if let Some(slot) = fresh {
            let pin = pin(settings)?;
            let so_pin = secrets::read_or_make(&folder.join(SO_PIN)).map_err(|error| in_folder(&error))?;
            module
                .init_token(slot.id, &so_pin, &label(settings), pin)
                .map_err(|error| in_folder(&error))?;
            tracing::info!(folder = %folder.display(), "the embedded token was made");
        }
        Ok(module)
    }

    fn pin<'a>(settings: &TokenSettings<'a>) -> Result<&'a SecretString, Fault> {
        let pin = settings
            .pin
            .filter(|pin| pin.expose_secret().chars().count() >= MIN_PIN);
        pin.ok_or_else(|| {
            let text = format!("at least {MIN_PIN} characters are needed to make the embedded token");
            settings.fault("pin", text)
        })
    }

    fn label(settings: &TokenSettings<'_>) -> String {
        let wanted = settings
            .token_label
            .and_then(|text| TokenSelector::parse(text).ok()?.label);
        wanted.unwrap_or_else(|| LABEL.to_owned())
    }
}
