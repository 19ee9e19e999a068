//! Tokens of an identity provider, and its key set.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::Jwk;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der).into_bytes();
    let lines: Vec<_> = text.chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A key pair of an identity provider.
struct Pair {
    algorithm: Algorithm,
    private: EncodingKey,
    public: Value,
}

impl Pair {
    fn new(algorithm: Algorithm) -> Self {
        let random = SystemRandom::new();
        let private = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_der(
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                    .unwrap()
                    .as_ref(),
            ),
            Algorithm::ES384 => EncodingKey::from_ec_der(
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &random)
                    .unwrap()
                    .as_ref(),
            ),
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::generate().unwrap();
                EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref())
            }
            _ => {
                let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
                let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                EncodingKey::from_rsa_pem(pem("PRIVATE KEY", der.as_ref()).as_bytes()).unwrap()
            }
        };
        Self::of(algorithm, private)
    }

    fn of(algorithm: Algorithm, private: EncodingKey) -> Self {
        let public = Jwk::from_encoding_key(&private, algorithm).unwrap();
        let mut public = serde_json::to_value(public).unwrap();
        public.as_object_mut().unwrap().remove("alg");
        Self {
            algorithm,
            private,
            public,
        }
    }

    /// The public key with more members.
    fn jwk(&self, members: &Value) -> Value {
        let mut jwk = self.public.clone();
        for (name, value) in members.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    fn token(&self, header: &Value) -> String {
        self.token_as(self.algorithm, header)
    }

    fn token_as(&self, algorithm: Algorithm, header: &Value) -> String {
        let mut header = header.clone();
        header["alg"] = json!(format!("{algorithm:?}"));
        let (header, claims) = (header.to_string(), claims().to_string());
        sign_raw(&header, &claims, &self.private, algorithm)
    }
}

fn with_keys(secret: bool, keys: &[Value]) -> Result<Authenticator, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, json!({"keys": keys}).to_string()).unwrap();
    let auth = Auth {
        jwt_secret: secret.then(|| SecretString::from(SECRET)),
        jwks_file: Some(path),
        ..settings()
    };
    Authenticator::from_config(&auth).map_err(|faults| faults.iter().map(Fault::to_string).collect())
}

const PUBLIC_KEY_ALGORITHMS: [Algorithm; 5] = [
    Algorithm::RS256,
    Algorithm::PS256,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

#[test]
fn every_public_key_algorithm_works_by_kid_and_without() {
    let pairs: Vec<_> = PUBLIC_KEY_ALGORITHMS.iter().map(|alg| Pair::new(*alg)).collect();
    let keys: Vec<_> = pairs
        .iter()
        .map(|pair| pair.jwk(&json!({"kid": format!("{:?}", pair.algorithm), "use": "sig"})))
        .collect();
    let authenticator = with_keys(false, &keys).unwrap();
    for pair in &pairs {
        let name = format!("{:?}", pair.algorithm);
        let accepted = |header: &Value| at(&authenticator, &pair.token(header), NOW).is_ok();
        assert!(accepted(&json!({"kid": name})), "{name}");
        assert!(accepted(&json!({})), "{name}");
        assert!(!accepted(&json!({"kid": "unknown"})), "{name}");
        assert!(!accepted(&json!({"kid": ""})), "{name}");
        let stranger = Pair::new(pair.algorithm);
        assert!(at(&authenticator, &stranger.token(&json!({})), NOW).is_err(), "{name}");
    }
    // One key under another's name.
    let crossed = pairs[2].token(&json!({"kid": "ES384"}));
    assert!(at(&authenticator, &crossed, NOW).is_err());
}

#[test]
fn a_public_key_is_no_secret() {
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let private = pem("PRIVATE KEY", pkcs8.as_ref());
    let private = EncodingKey::from_rsa_pem(private.as_bytes()).unwrap();
    let pair = Pair::of(Algorithm::RS256, private);
    let modulus = pair.public["n"].as_str().unwrap().to_owned();
    let spki_pem = pem("PUBLIC KEY", spki.as_ref());
    let secrets = [
        spki_pem.trim_end().as_bytes().to_vec(),
        spki_pem.into_bytes(),
        spki.as_ref().to_vec(),
        URL_SAFE_NO_PAD.decode(&modulus).unwrap(),
        modulus.into_bytes(),
        pair.jwk(&json!({"kid": "k"})).to_string().into_bytes(),
        Vec::new(),
    ];
    for with_secret in [false, true] {
        let authenticator = with_keys(with_secret, &[pair.jwk(&json!({"kid": "k"}))]).unwrap();
        for secret in &secrets {
            let key = EncodingKey::from_secret(secret);
            for header in ["{\"alg\":\"HS256\",\"kid\":\"k\"}", "{\"alg\":\"HS256\"}"] {
                let forged = sign_raw(header, &claims().to_string(), &key, Algorithm::HS256);
                assert!(at(&authenticator, &forged, NOW).is_err());
            }
        }
        let honest = at(&authenticator, &token(&claims()), NOW);
        assert_eq!(honest.is_ok(), with_secret);
        assert!(at(&authenticator, &pair.token(&json!({})), NOW).is_ok());
    }
}

#[test]
fn a_key_in_the_header_is_not_believed() {
    let (ours, theirs) = (Pair::new(Algorithm::ES256), Pair::new(Algorithm::ES256));
    let authenticator = with_keys(false, &[ours.jwk(&json!({}))]).unwrap();
    let forged = theirs.token(&json!({"jwk": theirs.public, "jku": "https://evil/", "x5u": "https://evil/"}));
    assert!(at(&authenticator, &forged, NOW).is_err());
}

#[test]
fn what_a_jwk_says_of_itself_holds() {
    let pair = Pair::new(Algorithm::RS256);
    let only_ps256 = with_keys(false, &[pair.jwk(&json!({"alg": "PS256"}))]).unwrap();
    assert!(at(&only_ps256, &pair.token(&json!({})), NOW).is_err());
    assert!(at(&only_ps256, &pair.token_as(Algorithm::PS256, &json!({})), NOW).is_ok());
    assert!(with_keys(false, &[pair.jwk(&json!({"key_ops": ["verify"]}))]).is_ok());

    let other = Pair::new(Algorithm::ES256);
    for members in [
        json!({"use": "enc"}),
        json!({"key_ops": ["encrypt"]}),
        json!({"key_ops": []}),
        json!({"alg": "RSA-OAEP"}),
        json!({"alg": "RS512"}),
        json!({"alg": "ES256"}),
        json!({"alg": null}),
    ] {
        let unusable = pair.jwk(&members);
        assert!(with_keys(false, std::slice::from_ref(&unusable)).is_err(), "{members}");
        let authenticator = with_keys(false, &[unusable, other.jwk(&json!({}))]).unwrap();
        assert!(at(&authenticator, &pair.token(&json!({})), NOW).is_err(), "{members}");
        assert!(at(&authenticator, &other.token(&json!({})), NOW).is_ok(), "{members}");
    }
}

#[test]
fn a_key_set_is_checked_when_it_is_loaded() {
    let good = Pair::new(Algorithm::ES256);
    let rsa = |bits: usize, exponent: &[u8]| {
        let modulus = URL_SAFE_NO_PAD.encode(vec![0xff; bits / 8]);
        json!({"kty": "RSA", "n": modulus, "e": URL_SAFE_NO_PAD.encode(exponent)})
    };
    for (bad, expected) in [
        (rsa(1024, &[1, 0, 1]), "1024 bits"),
        (rsa(2040, &[1, 0, 1]), "2040 bits"),
        (rsa(16384, &[1, 0, 1]), "16384 bits"),
        (rsa(2048, &[1]), "exponent"),
        (rsa(2048, &[0, 1]), "exponent"),
        (rsa(2048, &[4]), "exponent"),
        (json!({"kty": "oct", "k": "AAAA"}), "symmetric"),
        (
            good.jwk(&json!({"d": "AAAA", "kid": "mine"})),
            "(kid \"mine\") is a private key",
        ),
        (good.jwk(&json!({"x": "AAAA"})), "member x"),
        (good.jwk(&json!({"kid": 7})), "kid"),
        (json!({"n": "AAAA"}), "kty"),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"}), "member x"),
    ] {
        let faults = with_keys(true, &[good.jwk(&json!({})), bad]).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("HSM_AUTH__JWKS_FILE: "), "{faults:?}");
        assert!(
            faults[0].contains(": key 2") && faults[0].contains(expected),
            "{faults:?}"
        );
    }
    assert!(with_keys(true, &[rsa(2048, &[1, 0, 1])]).is_ok());
    let twice = good.jwk(&json!({"kid": "k"}));
    let faults = with_keys(true, &[twice.clone(), twice]).unwrap_err();
    assert!(faults[0].contains("two keys with the kid \"k\""), "{faults:?}");
    assert!(with_keys(true, &[]).is_err());
    assert!(with_keys(true, &[json!({"kty": "new"})]).is_err());
}

#[test]
fn a_key_file_that_is_none_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [("a", Some("{}")), ("b", Some("[]")), ("c", Some("\u{0}")), ("d", None)] {
        let path = folder.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let auth = Auth {
            jwks_file: Some(path),
            ..settings()
        };
        assert_eq!(Authenticator::from_config(&auth).unwrap_err().len(), 1);
    }
}
