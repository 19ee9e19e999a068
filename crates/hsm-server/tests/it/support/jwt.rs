//! Bearer tokens, made here so that a test may make wrong ones too.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// The HS256 secret of every server here. Unlike anything that a log would hold by chance.
pub(crate) const SECRET: &str = "jwt-secret-0193-walnut-heron-violet";

/// A token with these claims over `sub` "test" and an `exp` in an hour; a claim that is `null` is left out.
pub(crate) fn mint(claims: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut all = json!({"sub": "test", "iat": now, "exp": now + 3600});
    for (name, value) in claims.as_object().expect("claims") {
        all[name] = value.clone();
    }
    all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &all, &key).unwrap()
}
