//! Who is calling and what they may: bearer tokens (RFC 6750) that are JWTs (RFC 7519), checked
//! by the rules of RFC 8725.
//!
//! The algorithm is one of an allow-list and bound to the kind of key: HS256 goes with the
//! configured secret alone, all others with the keys of the JWKS file alone. `exp` and `sub`
//! are required, `nbf` holds when it is there, `iss` and `aud` when they are configured. The
//! JWKS file is read once; a changed one takes effect at the next start.

mod cache;
mod jwks;
mod mint;
mod scope;
#[cfg(test)]
mod tests;
mod token;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey};
use secrecy::ExposeSecret;

use crate::config::{Auth, Fault};
use cache::Cache;
use jwks::Key;
pub use mint::{mint, parse_ttl};
pub use scope::{Scope, ScopeSet};
use token::{Period, Unverified};

/// Verified tokens that are remembered, a generation.
const CACHED_TOKENS: usize = 4096;

/// A caller whose token holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's `sub`: 1 to 256 bytes, no control characters.
    pub subject: String,
    /// What the token allows.
    pub scopes: ScopeSet,
}

/// Why a caller is not known. Both are answered 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No bearer token was sent.
    #[error("a bearer token is needed: Authorization: Bearer <JWT>")]
    Missing,
    /// The token sent does not hold, and why; the text has nothing of the token in it.
    #[error("{0}")]
    Invalid(&'static str),
}

impl AuthError {
    /// The value of `WWW-Authenticate` (RFC 6750 §3).
    pub const fn challenge(self) -> &'static str {
        match self {
            Self::Missing => r#"Bearer realm="hsm""#,
            Self::Invalid(_) => r#"Bearer realm="hsm", error="invalid_token""#,
        }
    }
}

/// The value of `WWW-Authenticate` for a token that lacks these scopes (RFC 6750 §3.1).
pub fn insufficient_scope_challenge(lacking: ScopeSet) -> String {
    format!(r#"Bearer realm="hsm", error="insufficient_scope", scope="{lacking}""#)
}

/// The bearer token in a request's `Authorization` headers.
///
/// # Errors
///
/// [`AuthError::Missing`] when there is none or it is of another scheme,
/// [`AuthError::Invalid`] when there are several headers or it can't be a token.
pub fn bearer<'a>(mut headers: impl Iterator<Item = &'a [u8]>) -> Result<&'a str, AuthError> {
    let header = headers.next().ok_or(AuthError::Missing)?;
    if headers.next().is_some() {
        return Err(AuthError::Invalid("there are several Authorization headers"));
    }
    let text = std::str::from_utf8(header).map_err(|_| AuthError::Invalid("the Authorization header is not text"))?;
    let text = text.trim_matches([' ', '\t']);
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    let token = token.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(AuthError::Missing);
    }
    Ok(token)
}

/// Checks bearer tokens.
pub struct Authenticator {
    secret: Option<DecodingKey>,
    keys: Vec<Key>,
    issuer: Option<String>,
    audience: Option<String>,
    cache: Cache<Verified>,
}

/// A token whose signature and claims hold; only its time is still to be looked at.
#[derive(Clone)]
struct Verified {
    caller: Arc<Caller>,
    period: Period,
}

impl Authenticator {
    /// Takes the secret and reads the JWKS file.
    ///
    /// # Errors
    ///
    /// What is wrong with the JWKS file, all of it.
    pub fn from_config(auth: &Auth) -> Result<Self, Vec<Fault>> {
        let secret = auth.jwt_secret.as_ref();
        let keys = auth.jwks_file.as_deref().map(jwks::load).transpose()?;
        Ok(Self {
            secret: secret.map(|text| DecodingKey::from_secret(text.expose_secret().as_bytes())),
            keys: keys.unwrap_or_default(),
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            cache: Cache::new(CACHED_TOKENS),
        })
    }

    /// Who sent this token. A token that held before is not verified again, but must still be
    /// within its time.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] with the reason.
    pub fn authenticate(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        self.authenticate_at(token, now().as_secs_f64())
    }

    fn authenticate_at(&self, token: &str, now_s: f64) -> Result<Arc<Caller>, AuthError> {
        let fingerprint = cache::fingerprint(token);
        let cached = self.cache.find(&fingerprint);
        let known = cached.is_some();
        let verified = cached.map_or_else(|| self.verify(token), Ok)?;
        if let Err(error) = verified.period.check(now_s) {
            self.cache.remove(&fingerprint);
            return Err(error);
        }
        if !known {
            self.cache.insert(fingerprint, verified.clone());
        }
        Ok(verified.caller)
    }

    fn verify(&self, token: &str) -> Result<Verified, AuthError> {
        let token = Unverified::parse(token)?;
        let signed = self.candidates(&token).any(|key| {
            let message = token.message.as_bytes();
            jsonwebtoken::crypto::verify(token.signature, message, key, token.algorithm).unwrap_or(false)
        });
        if !signed {
            return Err(AuthError::Invalid("the token's signature does not hold"));
        }
        let claims = token.claims()?;
        if self.issuer.as_deref().is_some_and(|issuer| !claims.is_from(issuer)) {
            return Err(AuthError::Invalid("the token is from another issuer"));
        }
        if self
            .audience
            .as_deref()
            .is_some_and(|audience| !claims.is_for(audience))
        {
            return Err(AuthError::Invalid("the token is for another audience"));
        }
        let caller = Caller {
            subject: claims.subject()?.to_owned(),
            scopes: claims.scopes()?,
        };
        Ok(Verified {
            caller: Arc::new(caller),
            period: claims.period()?,
        })
    }

    /// The keys that may have signed the token: by its algorithm, and by its `kid` if it has
    /// one.
    fn candidates<'a>(&'a self, token: &'a Unverified<'_>) -> impl Iterator<Item = &'a DecodingKey> {
        let symmetric = token.algorithm == Algorithm::HS256;
        let secret = self.secret.as_ref().filter(|_| symmetric);
        let public = self.keys.iter().filter(move |key| {
            // A hint only: a key of a set may have none.
            let named = token.key_id.is_none() || key.id.is_none() || token.key_id == key.id;
            !symmetric && named && key.algorithms.contains(&token.algorithm)
        });
        secret.into_iter().chain(public.map(|key| &key.key))
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

/// The time since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
