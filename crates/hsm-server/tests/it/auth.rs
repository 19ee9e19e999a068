//! Who may call what: tokens of an identity provider, and the scope of every call.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use softhsm_test::Token;

use crate::support::{SECRET, Server, base64, mint};
use crate::tools::{only_fault, sh};

/// Each call, how it is asked, and the scope that it needs.
const CALLS: [(&str, &str, &str); 17] = [
    ("GET", "/api/v1/hsm/slots", "slots:read"),
    ("GET", "/api/v1/hsm/keys", "keys:read"),
    ("POST", "/api/v1/hsm/keys", "keys:create"),
    ("GET", "/api/v1/hsm/keys/hsm:01", "keys:read"),
    ("DELETE", "/api/v1/hsm/keys/hsm:01", "keys:delete"),
    ("POST", "/api/v1/hsm/encrypt", "crypto:encrypt"),
    ("POST", "/api/v1/hsm/decrypt", "crypto:decrypt"),
    ("POST", "/api/v1/hsm/sign", "crypto:sign"),
    ("POST", "/api/v1/hsm/verify", "crypto:verify"),
    ("GET", "/api/v1/keys", "keys:read"),
    ("GET", "/api/v1/keys/hsm:01", "keys:read"),
    ("DELETE", "/api/v1/keys/hsm:01", "keys:delete"),
    ("POST", "/api/v1/encrypt", "crypto:encrypt"),
    ("POST", "/api/v1/decrypt", "crypto:decrypt"),
    ("POST", "/api/v1/sign", "crypto:sign"),
    ("POST", "/api/v1/verify", "crypto:verify"),
    ("GET", "/api/v1/audit", "audit:read"),
];

const SCOPES: [&str; 15] = [
    "slots:read",
    "keys:read",
    "keys:create",
    "keys:update",
    "keys:delete",
    "crypto:encrypt",
    "crypto:decrypt",
    "crypto:sign",
    "crypto:verify",
    "crypto:wrap",
    "crypto:unwrap",
    "crypto:derive",
    "crypto:random",
    "audit:read",
    "metrics:read",
];

#[test]
fn each_call_needs_its_scope_and_no_other() {
    let server = Server::softhsm();
    for (method, path, scope) in CALLS {
        let others: Vec<&str> = SCOPES.into_iter().filter(|other| *other != scope).collect();
        let reply = server.caller(&others.join(" ")).raw(method, path, &[], b"");
        reply.problem_naming(403, "forbidden", scope);
        assert_eq!(
            reply.header("www-authenticate"),
            Some(format!("Bearer realm=\"hsm\", error=\"insufficient_scope\", scope=\"{scope}\"").as_str()),
            "{method} {path}"
        );
        let family = format!("{}:*", scope.split(':').next().unwrap());
        for enough in [scope, &family, "*"] {
            let status = server.caller(enough).raw(method, path, &[], b"").status;
            assert!(!matches!(status, 401 | 403), "{method} {path} {enough}: {status}");
        }
        let reply = server.anonymous().raw(method, path, &[], b"");
        reply.problem(401, "unauthenticated");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"hsm\""));
    }
}

#[test]
fn scopes_may_be_a_list_and_unknown_ones_open_nothing() {
    let server = Server::softhsm();
    let list = mint(&json!({"scope": ["keys:read", "slots:read"]}));
    server.bearer(&list).get("/api/v1/hsm/keys").good(200);
    server.bearer(&list).get("/api/v1/hsm/slots").good(200);
    for none in [
        json!(""),
        json!([]),
        Value::Null,
        json!("keys"),
        json!("KEYS:READ"),
        json!("keys:read:all keys:"),
    ] {
        let token = mint(&json!({"scope": none}));
        let status = server.bearer(&token).get("/api/v1/hsm/keys").status;
        assert_eq!(status, 403, "{none}");
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token with this very header.
fn hs256(header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

#[test]
fn tokens_that_are_refused() {
    let server = Server::softhsm();
    let claims = json!({"sub": "a", "scope": "*", "exp": now() + 600});
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let good = hs256(&header, &claims);
    server.bearer(&good).get("/api/v1/hsm/keys").good(200);
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let none = part(&json!({"alg": "none"}));
    let with = |more: Value| hs256(&header, &crate::support::merged(&claims, more));
    let wrong_secret = {
        let key = EncodingKey::from_secret(b"another secret that is long enough.....");
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
    };
    let hs512 = {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS512), &claims, &key).unwrap()
    };
    let refused = [
        ("none", format!("{none}.{body}.")),
        ("none, signed", format!("{none}.{body}.{signature}")),
        ("no signature", format!("{head}.{body}.")),
        ("two parts", format!("{head}.{body}")),
        (
            "other claims",
            format!(
                "{head}.{}.{signature}",
                part(&json!({"sub": "b", "scope": "*", "exp": now() + 600}))
            ),
        ),
        ("another secret", wrong_secret),
        ("HS512", hs512),
        ("expired", with(json!({"exp": now() - 120}))),
        ("no exp", mint(&json!({"scope": "*", "exp": null}))),
        ("no sub", mint(&json!({"scope": "*", "sub": null}))),
        ("empty sub", with(json!({"sub": ""}))),
        ("not yet", with(json!({"nbf": now() + 120}))),
        ("crit", hs256(&json!({"alg": "HS256", "crit": ["exp"]}), &claims)),
        ("typ", hs256(&json!({"alg": "HS256", "typ": "secevent+jwt"}), &claims)),
        (
            "no JSON",
            format!("{}.{body}.{signature}", URL_SAFE_NO_PAD.encode("no")),
        ),
        ("text", "abc".to_owned()),
        ("long", "a".repeat(6000)),
    ];
    for (why, token) in refused {
        let reply = server.bearer(&token).get("/api/v1/hsm/keys");
        let problem = reply.problem(401, "unauthenticated");
        assert!(
            reply
                .header("www-authenticate")
                .unwrap()
                .contains("error=\"invalid_token\""),
            "{why}"
        );
        assert!(!problem.to_string().contains(signature), "{why}");
    }
    // At the limits of what is accepted.
    for token in [
        with(json!({"nbf": now() - 5})),
        with(json!({"iss": "anyone", "aud": ["anything"]})),
        hs256(&json!({"alg": "HS256", "typ": "at+jwt"}), &claims),
        hs256(&json!({"alg": "HS256"}), &claims),
    ] {
        server.bearer(&token).get("/api/v1/hsm/keys").good(200);
    }
}

#[test]
fn headers_that_are_no_bearer_token() {
    let server = Server::softhsm();
    let token = mint(&json!({"scope": "*"}));
    let ask = |values: &[&str]| {
        let headers: Vec<(&str, &str)> = values.iter().map(|value| ("Authorization", *value)).collect();
        server.anonymous().raw("GET", "/api/v1/hsm/keys", &headers, b"")
    };
    for scheme in ["Bearer", "bearer", "BEARER"] {
        ask(&[&format!("{scheme} {token}")]).good(200);
    }
    let good = format!("Bearer {token}");
    for values in [
        vec!["Basic dXNlcjpwYXNz"],
        vec!["Bearer"],
        vec!["Bearer "],
        vec![token.as_str()],
        vec![good.as_str(), good.as_str()],
    ] {
        ask(&values).problem(401, "unauthenticated");
    }
    // Not in the URL, where logs would keep it.
    server
        .anonymous()
        .get(&format!("/api/v1/hsm/keys?access_token={token}"))
        .problem(401, "unauthenticated");
}

/// A key pair of an identity provider.
struct Provider {
    algorithm: Algorithm,
    private: EncodingKey,
    public: Value,
}

impl Provider {
    fn new(algorithm: Algorithm, kid: &str) -> Self {
        let private = match algorithm {
            Algorithm::ES256 => {
                let random = SystemRandom::new();
                let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
                EncodingKey::from_ec_der(pair.as_ref())
            }
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::generate().unwrap();
                EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref())
            }
            _ => {
                let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
                let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                let pem = format!(
                    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
                    base64(der.as_ref())
                );
                EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap()
            }
        };
        let mut public = serde_json::to_value(Jwk::from_encoding_key(&private, algorithm).unwrap()).unwrap();
        public["kid"] = kid.into();
        public["use"] = "sig".into();
        Self {
            algorithm,
            private,
            public,
        }
    }

    fn token(&self, kid: &str, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(kid.to_owned());
        jsonwebtoken::encode(&header, claims, &self.private).unwrap()
    }
}

#[test]
fn an_identity_provider_s_tokens() {
    let providers = [
        Provider::new(Algorithm::ES256, "ec"),
        Provider::new(Algorithm::RS256, "rsa"),
        Provider::new(Algorithm::EdDSA, "ed"),
    ];
    let keys: Vec<&Value> = providers.iter().map(|provider| &provider.public).collect();
    let builder = Server::with(Token::softhsm()).without("HSM_AUTH__JWT_SECRET");
    let file = builder.scratch().file("jwks.json", json!({"keys": keys}).to_string());
    let server = builder
        .env("HSM_AUTH__JWKS_FILE", file.to_str().unwrap())
        .env("HSM_AUTH__ISSUER", "https://issuer.example")
        .env("HSM_AUTH__AUDIENCE", "gateway")
        .start();
    let claims = json!({
        "sub": "alice", "scope": "keys:read", "exp": now() + 600,
        "iss": "https://issuer.example", "aud": ["other", "gateway"]
    });
    for (provider, kid) in providers.iter().zip(["ec", "rsa", "ed"]) {
        let ask = |token: &str| server.bearer(token).get("/api/v1/hsm/keys");
        ask(&provider.token(kid, &claims)).good(200);
        ask(&provider.token("unknown", &claims)).problem(401, "unauthenticated");
        let stranger = Provider::new(provider.algorithm, kid);
        ask(&stranger.token(kid, &claims)).problem(401, "unauthenticated");
        for (name, other) in [("iss", json!("https://other.example")), ("aud", json!("other"))] {
            for value in [other, json!("\u{0}absent")] {
                let mut change = json!({});
                change[name] = value;
                let wrong = crate::support::merged(&claims, change);
                ask(&provider.token(kid, &wrong)).problem(401, "unauthenticated");
            }
        }
        // A public key is no secret to sign with.
        let text = provider.public.to_string();
        let key = EncodingKey::from_secret(text.as_bytes());
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        let confused = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        ask(&confused).problem(401, "unauthenticated");
    }
    server.all().get("/api/v1/hsm/keys").problem(401, "unauthenticated");
}

#[test]
fn a_key_set_that_is_none() {
    let private = {
        let text = sh("openssl ecparam -name prime256v1 -genkey -noout");
        text.replace('\n', "\\n")
    };
    for (text, named) in [
        ("", "HSM_AUTH__JWKS_FILE"),
        ("{}", "HSM_AUTH__JWKS_FILE"),
        (r#"{"keys":[]}"#, "HSM_AUTH__JWKS_FILE"),
        (r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#, "HSM_AUTH__JWKS_FILE"),
        (private.as_str(), "HSM_AUTH__JWKS_FILE"),
    ] {
        let builder = Server::with(Token::softhsm()).without("HSM_AUTH__JWT_SECRET");
        let file = builder.scratch().file("jwks.json", text);
        let ended = builder.env("HSM_AUTH__JWKS_FILE", file.to_str().unwrap()).refused();
        only_fault(&ended, 1, &[named]);
    }
}

#[test]
fn what_needs_no_token() {
    let server = Server::softhsm();
    let anonymous = server.anonymous();
    for path in [
        "/health/live",
        "/health/ready",
        "/api/v1/openapi.json",
        "/docs/",
        "/docs/errors",
        "/metrics",
    ] {
        assert_eq!(anonymous.get(path).status, 200, "{path}");
    }
    assert!(matches!(anonymous.get("/docs").status, 200 | 301 | 302 | 307 | 308));
}
