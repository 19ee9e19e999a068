//! An identity provider's public keys: a JWK Set (RFC 7517) in a file, read once at the start.

use std::collections::HashSet;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::token;
use crate::config::Fault;

/// Largest file, in bytes.
const MAX_FILE_BYTES: usize = 1 << 20;
/// Most keys: a token without `kid` is tried against each of its algorithm.
const MAX_KEYS: usize = 64;
/// RFC 7518 §3.3.
const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;
/// Members that only a private key has (RFC 7518 §6).
const PRIVATE_MEMBERS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// One key, made ready when it was loaded.
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

/// Reads the set in `path`.
///
/// Keys for another purpose, type, curve or algorithm are passed over (RFC 7517 §5); what must
/// not be in such a file is a fault.
pub(super) fn load(path: &Path) -> Result<Vec<Key>, Vec<Fault>> {
    let fault = |text: String| {
        let text = format!("HSM_AUTH__JWKS_FILE: {}: {text}", path.display());
        Fault::of("auth.jwks_file", text)
    };
    let bytes = std::fs::read(path).map_err(|error| vec![fault(format!("can't be read: {error}"))])?;
    parse(&bytes).map_err(|texts| texts.into_iter().map(fault).collect())
}

fn parse(bytes: &[u8]) -> Result<Vec<Key>, Vec<String>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Map<String, Value>>,
    }
    if bytes.len() > MAX_FILE_BYTES {
        return Err(vec!["is larger than 1 MiB".to_owned()]);
    }
    let set: Set = serde_json::from_slice(bytes).map_err(|_| vec!["is not a JWK Set (RFC 7517 §5)".to_owned()])?;
    if set.keys.len() > MAX_KEYS {
        return Err(vec![format!("has more than {MAX_KEYS} keys")]);
    }
    let mut keys = Vec::new();
    let mut faults = Vec::new();
    for (index, jwk) in set.keys.iter().enumerate() {
        match read_key(jwk) {
            Ok(key) => keys.extend(key),
            Err(text) => faults.push(format!("key {}{} {text}", index + 1, named(jwk))),
        }
    }
    let mut seen = HashSet::new();
    for id in keys.iter().filter_map(|key: &Key| key.id.as_deref()) {
        if !seen.insert(id) {
            faults.push(format!("has two keys with the kid {id:?}"));
        }
    }
    if faults.is_empty() && keys.is_empty() {
        let text = "has no key for RS256, PS256, ES256, ES384 or EdDSA signatures";
        faults.push(text.to_owned());
    }
    if faults.is_empty() { Ok(keys) } else { Err(faults) }
}

fn named(jwk: &Map<String, Value>) -> String {
    let id = jwk.get("kid").and_then(Value::as_str);
    id.map_or_else(String::new, |id| format!(" (kid {id:?})"))
}

/// One key; none if it is not for checking signatures of an accepted algorithm.
fn read_key(jwk: &Map<String, Value>) -> Result<Option<Key>, String> {
    let text = |member: &str| jwk.get(member).and_then(Value::as_str);
    let kty = text("kty").ok_or("has no kty")?;
    if kty == "oct" {
        return Err("is a symmetric key; only public keys belong in this file".to_owned());
    }
    if PRIVATE_MEMBERS.iter().any(|member| jwk.contains_key(*member)) {
        return Err("is a private key; only public keys belong in this file".to_owned());
    }
    if !is_for_verification(jwk) {
        return Ok(None);
    }
    let Some((possible, key)) = material(kty, jwk)? else {
        return Ok(None);
    };
    let algorithms = match jwk.get("alg") {
        None => possible,
        Some(alg) => {
            let named = alg.as_str().and_then(token::algorithm);
            possible.into_iter().filter(|one| Some(*one) == named).collect()
        }
    };
    let id = match jwk.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.clone()),
        Some(_) => return Err("has a kid that is not text".to_owned()),
    };
    Ok((!algorithms.is_empty()).then_some(Key { id, algorithms, key }))
}

/// RFC 7517 §4.2 and §4.3.
fn is_for_verification(jwk: &Map<String, Value>) -> bool {
    let purpose = jwk.get("use").is_none_or(|purpose| purpose == "sig");
    let operation = jwk.get("key_ops").is_none_or(|operations| {
        let operations = operations.as_array();
        operations.is_some_and(|all| all.iter().any(|operation| operation == "verify"))
    });
    purpose && operation
}

type Material = (Vec<Algorithm>, DecodingKey);

fn material(kty: &str, jwk: &Map<String, Value>) -> Result<Option<Material>, String> {
    let curve = jwk.get("crv").and_then(Value::as_str);
    match (kty, curve) {
        ("RSA", _) => rsa(jwk).map(Some),
        ("EC", Some("P-256")) => ec(jwk, 32, Algorithm::ES256).map(Some),
        ("EC", Some("P-384")) => ec(jwk, 48, Algorithm::ES384).map(Some),
        ("OKP", Some("Ed25519")) => ed25519(jwk).map(Some),
        _ => Ok(None),
    }
}

fn rsa(jwk: &Map<String, Value>) -> Result<Material, String> {
    let modulus = number(jwk, "n")?;
    let exponent = number(jwk, "e")?;
    let top = modulus.first().map_or(8, |byte| byte.leading_zeros() as usize);
    let bits = (modulus.len() * 8).saturating_sub(top);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(format!(
            "is an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted"
        ));
    }
    let odd = exponent.last().is_some_and(|byte| byte & 1 == 1);
    if exponent == [1] || !odd || exponent.len() > 4 {
        return Err("has an RSA exponent that is not accepted".to_owned());
    }
    let key = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
    Ok((vec![Algorithm::RS256, Algorithm::PS256], key))
}

fn ec(jwk: &Map<String, Value>, bytes: usize, algorithm: Algorithm) -> Result<Material, String> {
    let coordinate = |member: &str| {
        let text = jwk.get(member).and_then(Value::as_str).unwrap_or_default();
        match decode(text) {
            Some(value) if value.len() == bytes => Ok(text),
            _ => Err(format!("has a member {member} that is not {bytes} bytes in base64url")),
        }
    };
    let key =
        DecodingKey::from_ec_components(coordinate("x")?, coordinate("y")?).map_err(|_| "is not a point".to_owned())?;
    Ok((vec![algorithm], key))
}

fn ed25519(jwk: &Map<String, Value>) -> Result<Material, String> {
    let text = jwk.get("x").and_then(Value::as_str).unwrap_or_default();
    if decode(text).is_none_or(|value| value.len() != 32) {
        return Err("has a member x that is not 32 bytes in base64url".to_owned());
    }
    let key = DecodingKey::from_ed_components(text).map_err(|_| "is not a key".to_owned())?;
    Ok((vec![Algorithm::EdDSA], key))
}

/// Base64urlUInt (RFC 7518 §2), without the leading zeros that some writers add.
fn number(jwk: &Map<String, Value>, member: &str) -> Result<Vec<u8>, String> {
    let text = jwk.get(member).and_then(Value::as_str).unwrap_or_default();
    let bytes = decode(text).ok_or_else(|| format!("has a member {member} that is not base64url"))?;
    Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
