//! `docs/ALGORITHMS.md`, from `hsm_core`'s tables.

use std::fmt::Write as _;

use hsm_core::algorithm::{Jose, JoseKey, MechanismId, ROWS, Row};
use hsm_core::key::ParameterSet;
use hsm_core::{Curve, KeySpec, KeyType, Operation, Usage, Usages};

const INTRODUCTION: &str = "\
# Algorithms and key types

<!-- Generated from crates/hsm-core/src/algorithm/table.rs and key/. -->

## Algorithms

A request names an algorithm by its own name or by a JOSE name, which also fixes what stands in brackets behind it; with
`ES…` names signatures are `p1363` unless `der` is asked for. Answers use the own name. Without `algorithm` the key
decides: see \"the default\" below; an HMAC key takes the strongest hash that the token has and that it is long enough for.

The token does all of it by the mechanism. Where it lacks that one and has the second, the gateway hashes the data and
only the digest goes to the token; so it does for `message_type` `digest`. A signature is verified on the token, or by
the gateway with the public key where the token has no mechanism for it (not Ed448). RSA-OAEP always encrypts in the
gateway, with the public key, and with hashes alone that the token decrypts. Anything else that the token lacks is
answered 501 `mechanism_not_supported`. `GET /api/v1/hsm/capabilities` tells what a token does natively, what is composed
here, and what it can't do; [MODULES.md](MODULES.md) tells what the tested tokens have.

| algorithm | JOSE names | operations | key type | mechanism | or, once hashed | |
| --- | --- | --- | --- | --- | --- | --- |
";

const KEY_TYPES: &str = "
## Key types

`key_type` of `POST /api/v1/hsm/keys`. A key has the usages that were asked for and no others; `extractable` is false
unless asked for; every key is a private and sensitive object of the token.

| key type | sized by | values | usages, unless others are asked for | other possible usages |
| --- | --- | --- | --- | --- |
";

/// The text of `docs/ALGORITHMS.md`.
pub fn algorithms_markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for row in &ROWS {
        // Writing to a String does not fail.
        let _ = writeln!(page, "{}", algorithm(row));
    }
    page.push_str(KEY_TYPES);
    for key_type in KeyType::ALL {
        let _ = writeln!(page, "{}", key(*key_type));
    }
    page
}

fn algorithm(row: &Row) -> String {
    let Row {
        algorithm: _,
        name,
        jose,
        operations,
        key_type,
        scheme: _,
        native,
        bare,
        text,
    } = row;
    let jose = list(jose.iter().map(jose_name));
    let operations = list(operations.iter().copied().map(Operation::name));
    let bare = bare.map(mechanism).unwrap_or_default();
    let native = mechanism(*native);
    format!("| `{name}` | {jose} | {operations} | {key_type} | {native} | {bare} | {text} |")
}

fn jose_name(jose: &Jose) -> String {
    let Jose { name, key } = jose;
    match key {
        JoseKey::Any => format!("`{name}`"),
        JoseKey::Curve(curve) => format!("`{name}` ({curve})"),
        JoseKey::Bits(bits) => format!("`{name}` ({bits} bits)"),
        JoseKey::AtLeast(bits) => format!("`{name}` ({bits} bits or more)"),
        JoseKey::Set(set) => format!("`{name}` ({set})"),
    }
}

fn mechanism(mechanism: MechanismId) -> String {
    format!("`{mechanism}`")
}

fn key(key_type: KeyType) -> String {
    let curves = || Curve::ALL.iter().filter(|curve| curve.key_type() == key_type);
    let bits = |sizes: &[u32]| list(sizes.iter());
    let (sized_by, values) = match key_type {
        KeyType::Rsa => ("`key_size`", bits(KeySpec::RSA_BITS)),
        KeyType::Aes => ("`key_size`", bits(KeySpec::AES_BITS)),
        KeyType::Hmac => ("`key_size`", "256 to 512, multiples of 8; 256 if not said".to_owned()),
        KeyType::Ec => (
            "`curve`, or `key_size` 256, 384, 521 for the P- curves",
            list(curves().map(quoted)),
        ),
        KeyType::Ed => ("`curve`", list(curves().map(quoted))),
        KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa => (
            "`parameter_set`",
            list(ParameterSet::of(key_type).map(|set| quoted(set.name()))),
        ),
    };
    let usual = Usages::default_for(key_type);
    let more = Usages::possible(key_type)
        .iter()
        .filter(|usage| !usual.contains(*usage));
    let (usual, more) = (list(usual.iter().map(Usage::name)), list(more.map(Usage::name)));
    format!("| `{key_type}` | {sized_by} | {values} | {usual} | {more} |")
}

fn quoted(name: impl std::fmt::Display) -> String {
    format!("`{name}`")
}

fn list(items: impl Iterator<Item = impl std::fmt::Display>) -> String {
    let mut text = String::new();
    for item in items {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{item}");
    }
    text
}
