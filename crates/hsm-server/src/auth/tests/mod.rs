#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod public_keys;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_800_000_000;
/// The largest difference of clocks that the contract allows, and a second.
const BEYOND_LEEWAY: u64 = 61;

fn settings() -> Auth {
    Auth {
        jwt_secret: Some(SecretString::from(SECRET)),
        jwks_file: None,
        issuer: None,
        audience: None,
    }
}

fn authenticator() -> Authenticator {
    Authenticator::from_config(&settings()).unwrap()
}

fn claims() -> Value {
    json!({"sub": "alice", "exp": NOW + 600, "scope": "keys:read crypto:*"})
}

/// The claims, changed: `null` takes one away.
fn claims_with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token with this very header and payload, signed with what `key` and `algorithm` say.
fn sign_raw(header: &str, payload: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn hs256(header: &Value, claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    sign_raw(&header.to_string(), &claims.to_string(), &key, Algorithm::HS256)
}

fn token(claims: &Value) -> String {
    hs256(&json!({"alg": "HS256", "typ": "JWT"}), claims)
}

fn check(token: &str) -> Result<Arc<Caller>, AuthError> {
    at(&authenticator(), token, NOW)
}

fn at(authenticator: &Authenticator, token: &str, now_s: u64) -> Result<Arc<Caller>, AuthError> {
    authenticator.authenticate_at(token, Duration::from_secs(now_s).as_secs_f64())
}

fn accepted(changes: &Value) -> bool {
    check(&token(&claims_with(changes))).is_ok()
}

#[test]
fn a_good_token_gives_its_caller() {
    let caller = check(&token(&claims())).unwrap();
    assert_eq!(caller.subject, "alice");
    assert!(caller.scopes.contains(Scope::KeysRead) && caller.scopes.contains(Scope::CryptoSign));
    assert!(!caller.scopes.contains(Scope::KeysCreate) && !caller.scopes.contains(Scope::AuditRead));
}

#[test]
fn types_of_access_tokens_are_accepted() {
    for typ in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"] {
        let header = json!({"alg": "HS256", "typ": typ});
        assert!(check(&hs256(&header, &claims())).is_ok(), "{typ}");
    }
    assert!(check(&hs256(&json!({"alg": "HS256"}), &claims())).is_ok());
    for typ in [json!("dpop+jwt"), json!("JOSE"), json!(""), json!(null), json!(1)] {
        let header = json!({"alg": "HS256", "typ": typ});
        assert!(check(&hs256(&header, &claims())).is_err(), "{typ}");
    }
}

#[test]
fn any_crit_is_refused() {
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!(null), json!("x")] {
        let header = json!({"alg": "HS256", "crit": crit, "b64": false});
        assert!(check(&hs256(&header, &claims())).is_err(), "{crit}");
    }
}

#[test]
fn only_algorithms_of_the_list_are_accepted() {
    for alg in [
        "none", "None", "NONE", "", "HS1", "hs256", "HS384", "HS512", "RS256", "ES512",
    ] {
        let header = json!({"alg": alg, "typ": "JWT"});
        let unsigned = format!("{}.{}.", part(&header), part(&claims()));
        assert!(check(&unsigned).is_err(), "{alg}");
        assert!(check(&hs256(&header, &claims())).is_err(), "{alg}");
    }
    for (bytes, alg) in [(48, Algorithm::HS384), (64, Algorithm::HS512)] {
        let key = EncodingKey::from_secret(&SECRET.as_bytes().repeat(3)[..bytes]);
        let header = json!({"alg": format!("{alg:?}")}).to_string();
        assert!(check(&sign_raw(&header, &claims().to_string(), &key, alg)).is_err());
    }
}

#[test]
fn times_are_checked_with_a_small_leeway() {
    assert!(accepted(&json!({"exp": NOW + 1})));
    assert!(accepted(&json!({"exp": NOW as f64 + 0.5})));
    assert!(!accepted(&json!({"exp": NOW - BEYOND_LEEWAY})));
    assert!(!accepted(&json!({"exp": 0})));
    assert!(!accepted(&json!({"exp": -1})));
    assert!(accepted(&json!({"nbf": NOW, "iat": NOW + 10_000})));
    assert!(!accepted(&json!({"nbf": NOW + BEYOND_LEEWAY})));
    assert!(!accepted(&json!({"nbf": u64::MAX})));
    for wrong in [json!("1800000600"), json!(true), json!([1]), json!({})] {
        assert!(!accepted(&json!({"exp": wrong})), "{wrong}");
        assert!(!accepted(&json!({"nbf": wrong})), "{wrong}");
    }
    let null_nbf = claims().to_string().replace("{", "{\"nbf\":null,");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let null_nbf = sign_raw("{\"alg\":\"HS256\"}", &null_nbf, &key, Algorithm::HS256);
    assert!(check(&null_nbf).is_err());
}

#[test]
fn exp_and_sub_are_required() {
    assert!(!accepted(&json!({"exp": null})));
    assert!(!accepted(&json!({"sub": null})));
    for sub in [json!(""), json!(7), json!(["a"]), json!("a\nb"), json!("\u{7f}")] {
        assert!(!accepted(&json!({"sub": sub})), "{sub}");
    }
    assert!(accepted(&json!({"sub": "ü".repeat(128)})));
    assert!(!accepted(&json!({"sub": "x".repeat(257)})));
}

#[test]
fn issuer_and_audience_hold_when_configured() {
    let authenticator = Authenticator::from_config(&Auth {
        issuer: Some("https://id".to_owned()),
        audience: Some("hsm".to_owned()),
        ..settings()
    })
    .unwrap();
    let accepted = |iss: Value, aud: Value| {
        let claims = claims_with(&json!({"iss": iss, "aud": aud}));
        at(&authenticator, &token(&claims), NOW).is_ok()
    };
    assert!(accepted(json!("https://id"), json!("hsm")));
    assert!(accepted(json!("https://id"), json!(["other", "hsm"])));
    for aud in [
        json!(null),
        json!("other"),
        json!([]),
        json!(["hs", "m"]),
        json!(1),
        json!([["hsm"]]),
    ] {
        assert!(!accepted(json!("https://id"), aud.clone()), "{aud}");
    }
    for iss in [json!(null), json!("https://id/"), json!(["https://id"]), json!("")] {
        assert!(!accepted(iss.clone(), json!("hsm")), "{iss}");
    }
}

#[test]
fn issuer_and_audience_do_not_matter_otherwise() {
    assert!(accepted(&json!({"iss": "anyone", "aud": ["anything"]})));
    assert!(accepted(&json!({"iss": 1, "aud": {}})));
}

#[test]
fn scopes_are_text_or_a_list() {
    let scopes = |scope: Value| check(&token(&claims_with(&json!({"scope": scope}))));
    let sign: ScopeSet = [Scope::CryptoSign].into_iter().collect();
    assert_eq!(scopes(json!("crypto:sign")).unwrap().scopes, sign);
    assert_eq!(scopes(json!(["crypto:sign"])).unwrap().scopes, sign);
    assert_eq!(scopes(json!("openid  crypto:sign email")).unwrap().scopes, sign);
    for none in [
        json!(null),
        json!(""),
        json!([]),
        json!("crypto"),
        json!(["crypto:sign keys:read"]),
    ] {
        assert_eq!(scopes(none.clone()).unwrap().scopes, ScopeSet::default(), "{none}");
    }
    assert!(scopes(json!("*")).unwrap().scopes.contains(Scope::MetricsRead));
    for wrong in [json!(1), json!([1]), json!({"a": 1})] {
        assert!(scopes(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn damaged_tokens_are_refused() {
    let good = token(&claims());
    let parts: Vec<_> = good.split('.').collect();
    let other = token(&claims_with(&json!({"sub": "mallory"})));
    let other: Vec<_> = other.split('.').collect();
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        format!("{good}."),
        format!("{good}.{}", parts[2]),
        format!("{good}="),
        format!("{good}\n"),
        format!("{}.{}", parts[0], parts[1]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], other[1], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], &parts[2][1..]),
        format!("{}.{}.{}", part(&json!("x")), parts[1], parts[2]),
        format!("!!.{}.{}", parts[1], parts[2]),
    ] {
        assert!(matches!(check(&bad), Err(AuthError::Invalid(_))), "{bad}");
    }
    assert!(check(&good).is_ok());
}

#[test]
fn claims_given_twice_are_refused() {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let twice = format!("{{\"sub\":\"a\",\"sub\":\"b\",\"exp\":{}}}", NOW + 9);
    let header = "{\"alg\":\"HS256\"}";
    assert!(check(&sign_raw(header, &twice, &key, Algorithm::HS256)).is_err());
    let header = "{\"alg\":\"none\",\"alg\":\"HS256\"}";
    let payload = claims().to_string();
    assert!(check(&sign_raw(header, &payload, &key, Algorithm::HS256)).is_err());
}

#[test]
fn a_token_has_a_largest_size() {
    assert!(accepted(&json!({"note": "x".repeat(8_000)})));
    assert!(!accepted(&json!({"note": "x".repeat(20_000)})));
}

#[test]
fn another_secret_does_not_hold() {
    let key = EncodingKey::from_secret(b"another secret, as long as the first");
    let payload = claims().to_string();
    assert!(check(&sign_raw("{\"alg\":\"HS256\"}", &payload, &key, Algorithm::HS256)).is_err());
}

#[test]
fn a_remembered_token_still_expires() {
    let authenticator = authenticator();
    let token = token(&claims_with(&json!({"nbf": NOW})));
    let first = at(&authenticator, &token, NOW).unwrap();
    let second = at(&authenticator, &token, NOW + 1).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert!(at(&authenticator, &token, NOW + 600 + BEYOND_LEEWAY).is_err());
    assert!(at(&authenticator, &token, NOW - BEYOND_LEEWAY).is_err());
    assert!(at(&authenticator, &token, NOW).is_ok());
}

#[test]
fn authorization_headers_are_read_strictly() {
    let read = |headers: &[&'static str]| bearer(headers.iter().map(|header| header.as_bytes()));
    for good in ["Bearer t", "bearer t", "BEARER  t", " Bearer t "] {
        assert_eq!(read(&[good]), Ok("t"), "{good}");
    }
    for missing in ["", "Bearer", "Bearer ", "Basic t", "Bearert", "t"] {
        assert_eq!(read(&[missing]), Err(AuthError::Missing), "{missing}");
    }
    assert_eq!(read(&[]), Err(AuthError::Missing));
    assert!(matches!(read(&["Bearer t", "Bearer t"]), Err(AuthError::Invalid(_))));
    assert!(matches!(
        bearer([&b"Bearer \xff"[..]].into_iter()),
        Err(AuthError::Invalid(_))
    ));
}

#[test]
fn challenges_are_those_of_rfc_6750() {
    assert_eq!(AuthError::Missing.challenge(), "Bearer realm=\"hsm\"");
    assert_eq!(
        AuthError::Invalid("why").challenge(),
        "Bearer realm=\"hsm\", error=\"invalid_token\""
    );
    assert_eq!(
        insufficient_scope_challenge(Scope::CryptoSign.into()),
        "Bearer realm=\"hsm\", error=\"insufficient_scope\", scope=\"crypto:sign\""
    );
}

#[test]
fn a_minted_token_is_accepted() {
    let auth = Auth {
        issuer: Some("here".to_owned()),
        audience: Some("hsm".to_owned()),
        ..settings()
    };
    let token = mint(&auth, "bob", "keys:read  crypto:*", Duration::from_secs(60)).unwrap();
    let caller = Authenticator::from_config(&auth).unwrap().authenticate(&token).unwrap();
    assert_eq!(caller.subject, "bob");
    assert!(caller.scopes.contains(Scope::KeysRead) && caller.scopes.contains(Scope::CryptoWrap));
}

#[test]
fn minting_refuses_what_would_not_work() {
    let mint = |subject, scopes| mint(&settings(), subject, scopes, Duration::from_secs(1));
    let text = mint("bob", "keys:read keys:reed").unwrap_err();
    assert!(text.contains("keys:reed") && text.contains("crypto:random"), "{text}");
    assert!(mint("bob", " ").is_err());
    assert!(mint("", "keys:read").is_err());
    assert!(mint("a\tb", "keys:read").is_err());
}

#[test]
fn lives_have_units() {
    for (text, seconds) in [("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604_800)] {
        assert_eq!(parse_ttl(text), Ok(Duration::from_secs(seconds)));
    }
    for wrong in [
        "",
        "h",
        "1",
        "0s",
        "-1h",
        "+1h",
        "1.5h",
        "1h30m",
        "1w",
        "1 h",
        "99999999999999999999d",
        "3651d",
        "1ü",
    ] {
        assert!(parse_ttl(wrong).is_err(), "{wrong}");
    }
}
