//! The parts of a JWT (RFC 7519 in RFC 7515's compact form), taken apart strictly.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny};
use serde_json::Number;

use super::{AuthError, ScopeSet};

/// Longest token that is looked at, in bytes.
pub(super) const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Longest `sub`, in bytes.
pub(super) const MAX_SUBJECT_BYTES: usize = 256;
/// How far the clocks of issuer and server may be apart, in seconds.
const LEEWAY_S: f64 = 30.0;

/// A token taken apart; nothing in it is to be trusted before its signature was checked.
pub(super) struct Unverified<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// Header and payload as they were signed.
    pub(super) message: &'a str,
    /// In base64url.
    pub(super) signature: &'a str,
    payload: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default, deserialize_with = "present")]
    typ: Option<String>,
    #[serde(default, deserialize_with = "present")]
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<IgnoredAny>,
}

/// A field that is there, if only as `null`, is one.
fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

impl<'a> Unverified<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid("the token is too long"));
        }
        let not_jwt = AuthError::Invalid("the token is not a JWT");
        let (message, signature) = token.rsplit_once('.').ok_or(not_jwt)?;
        let (header, payload) = message.split_once('.').ok_or(not_jwt)?;
        let header: Header = json(header).ok_or(not_jwt)?;
        if header.crit.is_some() {
            return Err(AuthError::Invalid("the token has a `crit` header"));
        }
        if !header.typ.as_deref().is_none_or(is_access_token) {
            return Err(AuthError::Invalid("the token is of another type"));
        }
        let algorithm = algorithm(&header.alg).ok_or(AuthError::Invalid("the token's algorithm is not accepted"))?;
        Ok(Self {
            algorithm,
            key_id: header.kid,
            message,
            signature,
            payload,
        })
    }

    /// What the token claims; for after its signature was checked.
    pub(super) fn claims(&self) -> Result<Claims, AuthError> {
        json(self.payload).ok_or(AuthError::Invalid("the token's claims can't be read"))
    }
}

/// The algorithms that are accepted, and no others.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "HS256" => Some(Algorithm::HS256),
        "RS256" => Some(Algorithm::RS256),
        "PS256" => Some(Algorithm::PS256),
        "ES256" => Some(Algorithm::ES256),
        "ES384" => Some(Algorithm::ES384),
        "EdDSA" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

/// RFC 7519 §5.1 and RFC 9068 §2.1; media types have no case.
fn is_access_token(typ: &str) -> bool {
    ["JWT", "at+jwt", "application/at+jwt"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(typ))
}

fn json<T: DeserializeOwned>(part: &str) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The claims that are looked at. A claim given twice is an error (RFC 7519 §4 leaves that to
/// the reader).
#[derive(Deserialize)]
pub(super) struct Claims {
    sub: Option<String>,
    exp: Option<Number>,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<Number>,
    iss: Option<serde_json::Value>,
    aud: Option<serde_json::Value>,
    scope: Option<serde_json::Value>,
}

impl Claims {
    /// The subject: text that can stand in a log line.
    pub(super) fn subject(&self) -> Result<&str, AuthError> {
        let subject = self.sub.as_deref().filter(|subject| is_subject(subject));
        subject.ok_or(AuthError::Invalid("the token has no usable `sub`"))
    }

    /// When the token may be used.
    pub(super) fn period(&self) -> Result<Period, AuthError> {
        let no_date = AuthError::Invalid("the token has no usable `exp`, or an unusable `nbf`");
        let date = |number: &Number| number.as_f64().ok_or(no_date);
        Ok(Period {
            not_before_s: self.nbf.as_ref().map_or(Ok(0.0), date)?,
            expires_s: date(self.exp.as_ref().ok_or(no_date)?)?,
        })
    }

    /// Whether `iss` is what is required.
    pub(super) fn is_from(&self, issuer: &str) -> bool {
        self.iss.as_ref().and_then(|iss| iss.as_str()) == Some(issuer)
    }

    /// Whether `aud` is, or lists, what is required.
    pub(super) fn is_for(&self, audience: &str) -> bool {
        match &self.aud {
            Some(serde_json::Value::String(aud)) => aud == audience,
            Some(serde_json::Value::Array(all)) => all.iter().any(|aud| aud.as_str() == Some(audience)),
            _ => false,
        }
    }

    /// The scopes that are known here; others mean something elsewhere.
    pub(super) fn scopes(&self) -> Result<ScopeSet, AuthError> {
        let malformed = AuthError::Invalid("the token's `scope` is neither text nor a list of text");
        let union = |words: &mut dyn Iterator<Item = &str>| {
            words
                .filter_map(ScopeSet::parse)
                .fold(ScopeSet::default(), ScopeSet::union)
        };
        match &self.scope {
            None => Ok(ScopeSet::default()),
            Some(serde_json::Value::String(text)) => Ok(union(&mut text.split(' '))),
            Some(serde_json::Value::Array(list)) => {
                let words: Option<Vec<&str>> = list.iter().map(|word| word.as_str()).collect();
                Ok(union(&mut words.ok_or(malformed)?.into_iter()))
            }
            Some(_) => Err(malformed),
        }
    }
}

/// Whether this can be a subject: not empty, not long, no control characters.
pub(super) fn is_subject(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_SUBJECT_BYTES && !text.chars().any(char::is_control)
}

/// When a token may be used, in seconds since 1970; RFC 7519's NumericDate may have a fraction.
#[derive(Clone, Copy)]
pub(super) struct Period {
    not_before_s: f64,
    expires_s: f64,
}

impl Period {
    /// Checks the time, with the leeway.
    pub(super) fn check(self, now_s: f64) -> Result<(), AuthError> {
        if now_s - LEEWAY_S >= self.expires_s {
            return Err(AuthError::Invalid("the token has expired"));
        }
        if now_s + LEEWAY_S < self.not_before_s {
            return Err(AuthError::Invalid("the token is not valid yet"));
        }
        Ok(())
    }
}
