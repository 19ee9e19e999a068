//! Bearer tokens made with the configured secret.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::ExposeSecret;
use serde::Serialize;

use super::token::{MAX_SUBJECT_BYTES, is_subject};
use super::{ScopeSet, now, scope};
use crate::config::Auth;

/// Longest life of a token that is made here: ten years.
const MAX_TTL_S: u64 = 10 * 365 * 24 * 60 * 60;

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    scope: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// Makes an HS256 token for `subject` with the space-separated `scopes`, and with the issuer
/// and audience that are asked for, so that it is accepted.
///
/// # Errors
///
/// A text for the user: no secret, no usable subject, or a scope that does not exist.
pub fn mint(auth: &Auth, subject: &str, scopes: &str, ttl: Duration) -> Result<String, String> {
    let Some(secret) = &auth.jwt_secret else {
        return Err("HSM_AUTH__JWT_SECRET: must be set".to_owned());
    };
    if !is_subject(subject) {
        return Err(format!(
            "the subject must be 1 to {MAX_SUBJECT_BYTES} bytes without control characters"
        ));
    }
    let words = known_words(scopes)?;
    let iat = now().as_secs();
    let claims = Claims {
        sub: subject,
        scope: &words.join(" "),
        iat,
        exp: iat.saturating_add(ttl.as_secs()),
        iss: auth.issuer.as_deref(),
        aud: auth.audience.as_deref(),
    };
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|error| format!("the token can't be made: {error}"))
}

fn known_words(scopes: &str) -> Result<Vec<&str>, String> {
    let words: Vec<_> = scopes.split_whitespace().collect();
    let unknown: Vec<_> = words.iter().filter(|word| ScopeSet::parse(word).is_none()).collect();
    if words.is_empty() || !unknown.is_empty() {
        let what = if words.is_empty() {
            "no scope given".to_owned()
        } else {
            format!("unknown scope {unknown:?}")
        };
        return Err(format!("{what}; there are: {}", scope::words().join(" ")));
    }
    Ok(words)
}

/// A token's life: a whole number with `s`, `m`, `h` or `d`, such as `90s`, `15m`, `1h`, `7d`.
///
/// # Errors
///
/// A text for the user.
pub fn parse_ttl(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} is not a time such as 90s, 15m, 1h or 7d");
    let unit = text.chars().last().ok_or_else(malformed)?;
    let unit_s = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(malformed()),
    };
    let digits = text.strip_suffix(unit).unwrap_or_default();
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let count: u64 = digits.parse().map_err(|_| malformed())?;
    let ttl_s = count.saturating_mul(unit_s);
    if !(1..=MAX_TTL_S).contains(&ttl_s) {
        return Err(format!("{text:?} is not between 1s and 3650d"));
    }
    Ok(Duration::from_secs(ttl_s))
}
