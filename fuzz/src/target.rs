//! The targets: a reader, and what must hold of what it reads.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hsm_core::encoding::{self, Jwk};
use hsm_core::key::{Material, TokenName};
use hsm_core::material::{self, Format};
use hsm_core::uri::TokenSelector;
use hsm_core::{Curve, HsmKeyId, KeyType, Label, PublicKey};
use zeroize::Zeroizing;

macro_rules! targets {
    ($($(#[$doc:meta])* $variant:ident = $name:literal => $run:ident),* $(,)?) => {
        /// A reader of untrusted bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Target { $($(#[$doc])* $variant),* }

        impl Target {
            /// Every target.
            pub const ALL: &'static [Target] = &[$(Target::$variant),*];

            /// The name on the command line, and of the corpus folder.
            pub const fn name(self) -> &'static str {
                match self { $(Target::$variant => $name),* }
            }

            /// Looks a name up.
            pub fn parse(name: &str) -> Option<Target> {
                match name { $($name => Some(Target::$variant),)* _ => None }
            }

            /// Reads `bytes`.
            ///
            /// # Errors
            /// What did not hold of what was read.
            pub fn run(self, bytes: &[u8]) -> Result<Verdict, String> {
                match self { $(Target::$variant => $run(bytes)),* }
            }
        }
    };
}

targets! {
    /// ECDSA signatures in DER, and as r‖s.
    Signature = "signature" => signature,
    /// SubjectPublicKeyInfo: DER, PEM, base64, and the JSON Web Key of what is read.
    Spki = "spki" => spki,
    /// Private keys.
    Pkcs8 = "pkcs8" => pkcs8,
    /// Public keys to import.
    PublicImport = "public-import" => public_import,
    /// Texts of public keys: PEM and base64.
    Text = "text" => text,
    /// CKA_EC_POINT and CKA_EC_PARAMS.
    Point = "point" => point,
    /// X.509 certificates.
    Certificate = "certificate" => certificate,
    /// Key ids, labels, names of tokens, `pkcs11:` URIs.
    Names = "names" => names,
}

/// Whether a reader took the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are what it reads.
    Taken,
    /// They are not.
    Refused,
}

type Outcome = Result<Verdict, String>;

fn verdict(taken: bool) -> Verdict {
    if taken { Verdict::Taken } else { Verdict::Refused }
}

fn holds(what: &str, holds: bool) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(format!("does not hold: {what}"))
    }
}

fn signature(bytes: &[u8]) -> Outcome {
    let mut taken = false;
    for curve in Curve::ALL.iter().copied() {
        if let Some(fixed) = encoding::ecdsa_from_der(bytes, curve) {
            taken = true;
            holds(
                "r‖s is as long as two field elements",
                fixed.len() == 2 * curve.field_bytes(),
            )?;
            let again = encoding::ecdsa_to_der(&fixed, curve);
            holds(
                "DER that is read is written again to the byte",
                again.as_deref() == Some(bytes),
            )?;
        }
        if let Some(der) = encoding::ecdsa_to_der(bytes, curve) {
            let again = encoding::ecdsa_from_der(&der, curve);
            holds("r‖s that is written is read again", again.as_deref() == Some(bytes))?;
        }
    }
    Ok(verdict(taken))
}

fn spki(bytes: &[u8]) -> Outcome {
    let Some(key) = encoding::public_key_from_der(bytes) else {
        return Ok(Verdict::Refused);
    };
    let der = encoding::public_key_der(&key);
    // A compressed point is written out: there alone the bytes may differ.
    let compressed = matches!(key, PublicKey::Curve { .. }) && der.len() > bytes.len();
    holds(
        "DER that is read is written again to the byte",
        der == bytes || compressed,
    )?;
    holds(
        "DER that is written is read again",
        encoding::public_key_from_der(&der).as_ref() == Some(&key),
    )?;
    let pem = encoding::public_key_pem(&key);
    holds(
        "PEM that is written is read again",
        encoding::public_key_from_pem(&pem).as_ref() == Some(&key),
    )?;
    let sound = encoding::check_point(&key).is_ok();
    let read = encoding::public_key_from_text(&pem).ok();
    holds(
        "a text is read if its point is sound",
        read.as_ref() == sound.then_some(&key),
    )?;
    jwk(&key)?;
    Ok(Verdict::Taken)
}

/// A JSON Web Key has the numbers of its key.
fn jwk(key: &PublicKey) -> Result<(), String> {
    let Jwk {
        kty,
        crv,
        n,
        e,
        x,
        y,
        alg,
        public,
    } = encoding::jwk(key);
    let bytes = |text: Option<String>| text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let [n, e, x, y, public] = [n, e, x, y, public].map(bytes);
    let same = match key {
        PublicKey::Rsa { modulus, exponent } => {
            kty == "RSA" && n.as_ref() == Some(modulus) && e.as_ref() == Some(exponent)
        }
        PublicKey::Curve { curve, point } => {
            let joined = match (kty, x, y) {
                ("EC", Some(x), Some(y)) => Some([vec![4], x, y].concat()),
                ("OKP", x, None) => x,
                _ => None,
            };
            crv == Some(curve.name()) && joined.as_ref() == Some(point)
        }
        PublicKey::PostQuantum { parameter_set, key } => {
            kty == "AKP" && alg == Some(parameter_set.name()) && public.as_ref() == Some(key)
        }
    };
    holds("the JSON Web Key has the key's numbers", same)
}

fn import(format: Format, bytes: &[u8]) -> Result<Option<Material>, String> {
    let mut found = None;
    for key_type in KeyType::ALL.iter().copied() {
        if let Ok(key) = material::parse(key_type, format, Zeroizing::new(bytes.to_vec())) {
            holds("a key has one type", found.is_none() && key.key_type() == key_type)?;
            found = Some(key);
        }
    }
    Ok(found)
}

fn pkcs8(bytes: &[u8]) -> Outcome {
    let Some(key) = import(Format::Pkcs8, bytes)? else {
        return Ok(Verdict::Refused);
    };
    let public = key.public_key().ok_or("a private key has a public half")?;
    let der = encoding::public_key_der(&public);
    let again = import(Format::Spki, &der)?.and_then(|key| key.public_key());
    // The two halves of SLH-DSA are not compared, and ML-KEM's are by themselves.
    holds("the public half can be imported", again == Some(public))?;
    Ok(Verdict::Taken)
}

fn public_import(bytes: &[u8]) -> Outcome {
    let Some(key) = import(Format::Spki, bytes)? else {
        return Ok(Verdict::Refused);
    };
    let public = key.public_key().ok_or("a public key has a public half")?;
    holds("its point is sound", encoding::check_point(&public).is_ok())?;
    Ok(Verdict::Taken)
}

fn text(bytes: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Ok(Verdict::Refused);
    };
    let Ok(key) = encoding::public_key_from_text(text) else {
        return Ok(Verdict::Refused);
    };
    let again = encoding::public_key_from_text(&STANDARD.encode(encoding::public_key_der(&key)));
    holds("a key that is read can be sent again", again.as_ref() == Ok(&key))?;
    Ok(Verdict::Taken)
}

fn point(bytes: &[u8]) -> Outcome {
    let mut taken = false;
    for curve in Curve::ALL.iter().copied() {
        let Some(point) = encoding::point_from_attribute(bytes, curve) else {
            continue;
        };
        taken = true;
        let again = encoding::point_from_attribute(&point, curve);
        holds("a point that is read is a point", again.as_ref() == Some(&point))?;
    }
    if let Some(curve) = encoding::curve_from_params(bytes) {
        taken = true;
        let again = encoding::curve_from_params(encoding::curve_params(curve));
        holds("a curve that is read is written as itself", again == Some(curve))?;
    }
    Ok(verdict(taken))
}

fn certificate(bytes: &[u8]) -> Outcome {
    let Some(key) = encoding::public_key_from_certificate(bytes) else {
        return Ok(Verdict::Refused);
    };
    let again = encoding::public_key_from_der(&encoding::public_key_der(&key));
    holds("the key of a certificate is a key", again == Some(key))?;
    Ok(Verdict::Taken)
}

fn names(bytes: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Ok(Verdict::Refused);
    };
    let id = HsmKeyId::parse(text).ok();
    if let Some(id) = &id {
        let written = id.to_string();
        holds(
            "a key id is written as it was read, but for its case",
            written.eq_ignore_ascii_case(text),
        )?;
        holds(
            "a key id that is written is read again",
            HsmKeyId::parse(&written).as_ref() == Ok(id),
        )?;
        let length = id.as_bytes().len();
        holds(
            "a key id has 1 to 255 bytes",
            (1..=HsmKeyId::MAX_BYTES).contains(&length),
        )?;
    }
    let label = Label::parse(text).ok();
    if let Some(label) = &label {
        holds(
            "a label is the text",
            label.as_str() == text && !text.chars().any(char::is_control),
        )?;
    }
    let token = TokenName::parse(text);
    if let Some(token) = &token {
        holds("the name of a token is the text", token.as_str() == text)?;
        let id = HsmKeyId::parse(&format!("hsm:{token}:00"));
        holds(
            "a key id can have every name",
            id.is_ok_and(|id| id.token() == Some(token)),
        )?;
    }
    // Any other text is a label to it.
    let uri = TokenSelector::parse(text).is_ok() && text.starts_with("pkcs11:");
    Ok(verdict(id.is_some() || label.is_some() || token.is_some() || uri))
}
