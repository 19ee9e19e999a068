//! Cursors of lists: the id that a page ended on, with what tells one of ours from an invented one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hsm_openapi::ProblemCode;
use keymgmt::KeyId;
use sha2::{Digest, Sha256};

use super::Answer;
use crate::problem::ApiError;

/// Bytes of a cursor that tell one of ours from an invented one.
const CHECK: usize = 6;

/// The cursor of what comes after a key.
pub fn after(id: &KeyId) -> String {
    let id = id.to_string();
    let check = check(&id);
    let bytes: Vec<u8> = check.iter().take(CHECK).chain(id.as_bytes()).copied().collect();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The key that a cursor comes after.
///
/// # Errors
/// 400 for what was not given out here.
pub fn read(cursor: &str) -> Answer<KeyId> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    let parts = bytes.as_deref().and_then(|bytes| bytes.split_at_checked(CHECK));
    let id = parts
        .and_then(|(given, id)| Some((given, std::str::from_utf8(id).ok()?)))
        .filter(|(given, id)| check(id).starts_with(given))
        .and_then(|(_, id)| KeyId::parse(id).ok());
    id.ok_or_else(not_ours)
}

/// What a cursor is answered with that is none of the list's.
pub fn not_ours() -> ApiError {
    ApiError::new(
        ProblemCode::InvalidRequest,
        "`cursor` is not one that a list answered as `next_cursor`",
    )
}

fn check(id: &str) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"cursor of a list of keys")
        .chain_update(id)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_ours_or_refused() {
        for id in ["hsm:00ff07", "hsm:backup:00ff07", "orders-2026"] {
            let id = KeyId::parse(id).expect("an id");
            let cursor = after(&id);
            assert_eq!(read(&cursor).expect("ours"), id);
            for invented in ["", "x", "AAAA", "AAECAwQFBgc", &cursor[1..], &format!("{cursor}A")] {
                assert!(read(invented).is_err(), "{invented}");
            }
        }
    }
}
