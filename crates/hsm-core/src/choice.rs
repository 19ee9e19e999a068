//! Which of a module's tokens is meant, and why none can be used.

use crate::backend::{Slot, Token};
use crate::error::Result;
use crate::uri::TokenSelector;

/// Why a token can't be used from the start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No token fits.
    #[error("{wanted} was not found; the module has {}", list(.present))]
    TokenNotFound {
        /// What was looked for.
        wanted: String,
        /// The labels of the tokens that are there.
        present: Vec<String>,
    },
    /// Several tokens fit.
    #[error("several tokens fit: {}; name one by its label, or by a pkcs11: URI with serial or slot-id", .0.join("; "))]
    SeveralTokens(Vec<String>),
    /// Another [`Hsm`](crate::Hsm) of this module has the token.
    #[error("the token `{label}` (slot {slot}) is in use under another name; name each token once")]
    InUse {
        /// The token's label.
        label: String,
        /// Its slot.
        slot: u64,
    },
    /// The PIN was refused, or may not be tried.
    #[error("{0}")]
    Pin(String),
    /// The module or the token failed.
    #[error("{0}")]
    Failed(String),
}

fn list(labels: &[String]) -> String {
    if labels.is_empty() {
        "no initialised token".into()
    } else {
        labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// The one token that the selector fits.
///
/// # Errors
/// [`OpenError::TokenNotFound`], [`OpenError::SeveralTokens`].
pub(crate) fn choose(slots: &[Slot], selector: &TokenSelector) -> Result<(u64, Token), OpenError> {
    let initialised: Vec<(&Slot, &Token)> = slots
        .iter()
        .filter_map(|slot| Some((slot, slot.token.as_ref()?)))
        .filter(|(_, token)| token.initialized)
        .collect();
    let fits = |(slot, token): &&(&Slot, &Token)| selector.matches(slot.id, token.names());
    let fitting: Vec<_> = initialised.iter().filter(fits).collect();
    match fitting.as_slice() {
        [(slot, token)] => Ok((slot.id, (*token).clone())),
        [] => Err(OpenError::TokenNotFound {
            wanted: selector.to_string(),
            present: initialised.iter().map(|(_, token)| token.label.clone()).collect(),
        }),
        several => Err(OpenError::SeveralTokens(
            several
                .iter()
                .map(|(slot, token)| format!("`{}` (serial {}, slot {})", token.label, token.serial, slot.id))
                .collect(),
        )),
    }
}

/// Why the PIN is not tried: it is locked, or a wrong one would lock it.
pub(crate) fn pin_in_danger(token: &Token) -> Option<&'static str> {
    match (token.user_pin_locked, token.user_pin_final_try) {
        (true, _) => Some(
            "the token says that its PIN is locked (CKF_USER_PIN_LOCKED); have it unlocked by its security officer",
        ),
        (_, true) => Some(
            "the token says that one more wrong PIN locks it (CKF_USER_PIN_FINAL_TRY); the PIN is not tried: log in once by hand",
        ),
        (false, false) => None,
    }
}
