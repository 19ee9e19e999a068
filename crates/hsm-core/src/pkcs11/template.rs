//! Key objects: the templates that they are made from, and how they are made.

use cryptoki::mechanism::Mechanism as Native;
use cryptoki::object::{Attribute, AttributeType, KeyType as NativeType, ObjectClass, ObjectHandle, ParameterSetType};
use cryptoki::session::Session;

use zeroize::Zeroize as _;

use super::failure::{failed, refused};
use super::session::handle;
use crate::backend::{Made, Outcome, Template};
use crate::encoding;
use crate::error::Ckr;
use crate::key::{KeySpec, KeyType, Material, ParameterSet, PublicKey, RsaPrivate, Usage};

const RSA_EXPONENT: [u8; 3] = [1, 0, 1];

/// Makes a key or a pair.
pub(super) fn generate(
    session: &Session,
    spec: KeySpec,
    template: &Template<'_>,
    set_usages_only: bool,
) -> Outcome<Made> {
    match spec {
        KeySpec::Aes { bits } => secret(session, template, &Native::AesKeyGen, bits),
        KeySpec::Hmac { bits } => secret(session, template, &Native::GenericSecretKeyGen, bits),
        KeySpec::Rsa { bits } => {
            let size = [
                Attribute::ModulusBits(std::ffi::c_ulong::from(bits).into()),
                Attribute::PublicExponent(RSA_EXPONENT.to_vec()),
            ];
            pair(
                session,
                template,
                &Native::RsaPkcsKeyPairGen,
                KeyType::Rsa,
                &size,
                set_usages_only,
            )
        }
        KeySpec::Curve(curve) => {
            let mechanism = match curve.key_type() {
                KeyType::Ed => Native::EccEdwardsKeyPairGen,
                _ => Native::EccKeyPairGen,
            };
            let size = [Attribute::EcParams(encoding::curve_params(curve).to_vec())];
            pair(session, template, &mechanism, curve.key_type(), &size, set_usages_only)
        }
        KeySpec::PostQuantum(set) => {
            let mechanism = match set.key_type() {
                KeyType::MlKem => Native::MlKemKeyPairGen,
                KeyType::SlhDsa => Native::SlhDsaKeyPairGen,
                _ => Native::MlDsaKeyPairGen,
            };
            let size = [parameter_set(set)?];
            pair(session, template, &mechanism, set.key_type(), &size, set_usages_only)
        }
    }
}

/// Puts a key from outside on the token. Where the second half of a pair fails, the first one is destroyed.
pub(super) fn import(session: &Session, material: &Material, template: &Template<'_>) -> Outcome<Made> {
    let create = |attributes: &[Attribute]| {
        let made = session.create_object(attributes);
        made.map_err(|why| failed("C_CreateObject", &why))
    };
    let key_type = material.key_type();
    let private = match material {
        Material::Secret { value, .. } => {
            let mut attributes = key_object(ObjectClass::SECRET_KEY, key_type);
            attributes.extend(secret_key(template));
            let mut attributes = Wiped(attributes);
            attributes.0.push(Attribute::Value(value.to_vec()));
            return Ok(Made::Secret(handle(create(&attributes.0)?)));
        }
        Material::Public(key) => {
            return Ok(Made::Public(handle(create(&public_object(key, template)?)?)));
        }
        Material::Rsa(key) => rsa_private(key),
        Material::Curve { curve, private, .. } => vec![
            Attribute::EcParams(encoding::curve_params(*curve).to_vec()),
            Attribute::Value(private.to_vec()),
        ],
        Material::PostQuantum {
            parameter_set: set,
            seed,
            private,
            ..
        } => {
            let mut attributes = vec![parameter_set(*set)?];
            attributes.extend(seed.as_ref().map(|seed| Attribute::Seed(seed.to_vec())));
            attributes.extend(private.as_ref().map(|private| Attribute::Value(private.to_vec())));
            attributes
        }
    };
    let mut private = Wiped(private);
    private.0.extend(key_object(ObjectClass::PRIVATE_KEY, key_type));
    private.0.extend(private_key(template, key_type));
    let Some(public) = material.public_key() else {
        return Err(refused("C_CreateObject", Ckr::TemplateIncomplete));
    };
    let public = public_object(&public, template)?;
    let private = create(&private.0)?;
    match create(&public) {
        Ok(public) => Ok(Made::Pair {
            public: handle(public),
            private: handle(private),
        }),
        Err(failure) => {
            let undone = session.destroy_object(private);
            undone.map_err(|why| failed("C_DestroyObject", &why))?;
            Err(failure)
        }
    }
}

/// What a key is given that is unwrapped.
pub(super) fn unwrapped(key_type: KeyType, template: &Template<'_>) -> Vec<Attribute> {
    let class = match key_type {
        KeyType::Aes | KeyType::Hmac => ObjectClass::SECRET_KEY,
        _ => ObjectClass::PRIVATE_KEY,
    };
    let mut attributes = key_object(class, key_type);
    attributes.extend(match key_type {
        KeyType::Aes | KeyType::Hmac => secret_key(template),
        _ => private_key(template, key_type),
    });
    attributes
}

/// Sees to it that an unwrapped key is as secret as it was asked to be: openCryptoki makes it extractable whatever it is
/// told.
pub(super) fn insist(session: &Session, object: ObjectHandle, template: &Template<'_>) -> Outcome<()> {
    let asked = [Attribute::Sensitive(true), Attribute::Extractable(template.extractable)];
    let told = || {
        let told = session.get_attributes(object, &[AttributeType::Sensitive, AttributeType::Extractable]);
        told.map_err(|why| failed("C_GetAttributeValue", &why))
    };
    for attribute in told()?
        .iter()
        .zip(&asked)
        .filter(|(is, asked)| is != asked)
        .map(|(_, asked)| asked)
    {
        let set = session.update_attributes(object, std::slice::from_ref(attribute));
        set.map_err(|why| failed("C_SetAttributeValue", &why))?;
    }
    if told()? == asked {
        return Ok(());
    }
    Err(refused("C_UnwrapKey", Ckr::TemplateInconsistent))
}

/// What a secret key is given that is derived, or encapsulated.
pub(super) fn derived(spec: KeySpec, template: &Template<'_>) -> Vec<Attribute> {
    let mut attributes = key_object(ObjectClass::SECRET_KEY, spec.key_type());
    attributes.extend(secret_key(template));
    match spec {
        KeySpec::Aes { bits } | KeySpec::Hmac { bits } => attributes.push(length(bits)),
        KeySpec::Rsa { .. } | KeySpec::Curve(_) | KeySpec::PostQuantum(_) => {}
    }
    attributes
}

/// Attributes of a private key, wiped when they are dropped.
struct Wiped(Vec<Attribute>);

impl Drop for Wiped {
    fn drop(&mut self) {
        for attribute in &mut self.0 {
            match attribute {
                Attribute::Value(value)
                | Attribute::Seed(value)
                | Attribute::PrivateExponent(value)
                | Attribute::Prime1(value)
                | Attribute::Prime2(value)
                | Attribute::Exponent1(value)
                | Attribute::Exponent2(value)
                | Attribute::Coefficient(value) => value.zeroize(),
                _ => {}
            }
        }
    }
}

fn key_object(class: ObjectClass, key_type: KeyType) -> Vec<Attribute> {
    let native = match key_type {
        KeyType::Rsa => NativeType::RSA,
        KeyType::Aes => NativeType::AES,
        KeyType::Ec => NativeType::EC,
        KeyType::Ed => NativeType::EC_EDWARDS,
        KeyType::Hmac => NativeType::GENERIC_SECRET,
        KeyType::MlDsa => NativeType::ML_DSA,
        KeyType::MlKem => NativeType::ML_KEM,
        KeyType::SlhDsa => NativeType::SLH_DSA,
    };
    vec![Attribute::Class(class), Attribute::KeyType(native)]
}

fn rsa_private(key: &RsaPrivate) -> Vec<Attribute> {
    vec![
        Attribute::Modulus(key.modulus.clone()),
        Attribute::PublicExponent(key.public_exponent.clone()),
        Attribute::PrivateExponent(key.private_exponent.to_vec()),
        Attribute::Prime1(key.prime_1.to_vec()),
        Attribute::Prime2(key.prime_2.to_vec()),
        Attribute::Exponent1(key.exponent_1.to_vec()),
        Attribute::Exponent2(key.exponent_2.to_vec()),
        Attribute::Coefficient(key.coefficient.to_vec()),
    ]
}

fn public_object(key: &PublicKey, template: &Template<'_>) -> Outcome<Vec<Attribute>> {
    let mut attributes = key_object(ObjectClass::PUBLIC_KEY, key.key_type());
    attributes.extend(public_key(template, key.key_type()));
    match key {
        PublicKey::Rsa { modulus, exponent } => attributes.extend([
            Attribute::Modulus(modulus.clone()),
            Attribute::PublicExponent(exponent.clone()),
        ]),
        PublicKey::Curve { curve, point } => attributes.extend([
            Attribute::EcParams(encoding::curve_params(*curve).to_vec()),
            Attribute::EcPoint(encoding::octet_string(point)),
        ]),
        PublicKey::PostQuantum {
            parameter_set: set,
            key,
        } => attributes.extend([parameter_set(*set)?, Attribute::Value(key.clone())]),
    }
    Ok(attributes)
}

fn parameter_set(set: ParameterSet) -> Outcome<Attribute> {
    let wrong = || refused("C_GenerateKeyPair", Ckr::AttributeValueInvalid);
    let number = std::ffi::c_ulong::try_from(set.number()).map_err(|_| wrong())?;
    let native = ParameterSetType::try_from(cryptoki::types::Ulong::from(number));
    native.map(Attribute::ParameterSet).map_err(|_| wrong())
}

fn length(bits: u32) -> Attribute {
    Attribute::ValueLen(std::ffi::c_ulong::from(bits / 8).into())
}

fn secret(session: &Session, template: &Template<'_>, mechanism: &Native<'_>, bits: u32) -> Outcome<Made> {
    let mut attributes = secret_key(template);
    attributes.push(length(bits));
    let key = session.generate_key(mechanism, &attributes);
    let key = key.map_err(|why| failed("C_GenerateKey", &why))?;
    Ok(Made::Secret(handle(key)))
}

fn pair(
    session: &Session,
    template: &Template<'_>,
    mechanism: &Native<'_>,
    key_type: KeyType,
    size: &[Attribute],
    set_usages_only: bool,
) -> Outcome<Made> {
    let mut public = public_key(template, key_type);
    public.extend_from_slice(size);
    let mut private = private_key(template, key_type);
    if set_usages_only {
        public.retain(|attribute| !is_unset_usage(attribute));
        private.retain(|attribute| !is_unset_usage(attribute));
    }
    let made = session.generate_key_pair(mechanism, &public, &private);
    let (public, private) = made.map_err(|why| failed("C_GenerateKeyPair", &why))?;
    Ok(Made::Pair {
        public: handle(public),
        private: handle(private),
    })
}

fn common(template: &Template<'_>) -> Vec<Attribute> {
    vec![
        Attribute::Token(!template.session_only),
        Attribute::Id(template.id.to_vec()),
        Attribute::Label(template.label.as_bytes().to_vec()),
    ]
}

fn secrecy(template: &Template<'_>) -> [Attribute; 3] {
    [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(template.extractable),
    ]
}

/// What a secret key is given, but for type and value.
fn secret_key(template: &Template<'_>) -> Vec<Attribute> {
    let mut attributes = common(template);
    attributes.extend(secrecy(template));
    attributes.extend(usages(template, &PUBLIC));
    attributes.extend(usages(template, &PRIVATE));
    attributes
}

fn private_key(template: &Template<'_>, key_type: KeyType) -> Vec<Attribute> {
    let mut attributes = common(template);
    attributes.extend(secrecy(template));
    let set: &[Usage] = if key_type == KeyType::MlKem {
        &[Usage::Decapsulate]
    } else {
        &PRIVATE
    };
    attributes.extend(usages(template, set));
    attributes
}

fn public_key(template: &Template<'_>, key_type: KeyType) -> Vec<Attribute> {
    let mut attributes = common(template);
    attributes.push(Attribute::Private(false));
    let set: &[Usage] = if key_type == KeyType::MlKem {
        &[Usage::Encapsulate]
    } else {
        &PUBLIC
    };
    attributes.extend(usages(template, set));
    attributes
}

const PUBLIC: [Usage; 3] = [Usage::Encrypt, Usage::Verify, Usage::Wrap];
const PRIVATE: [Usage; 4] = [Usage::Decrypt, Usage::Sign, Usage::Unwrap, Usage::Derive];

fn is_unset_usage(attribute: &Attribute) -> bool {
    matches!(
        attribute,
        Attribute::Encrypt(false)
            | Attribute::Verify(false)
            | Attribute::Wrap(false)
            | Attribute::Decrypt(false)
            | Attribute::Sign(false)
            | Attribute::Unwrap(false)
            | Attribute::Derive(false)
    )
}

/// Each of these usages, set or not set: left out, each module has defaults of its own.
fn usages(template: &Template<'_>, of: &[Usage]) -> Vec<Attribute> {
    let given = template.usages;
    let attribute = |usage: &Usage| {
        let set = given.contains(*usage);
        match usage {
            Usage::Encrypt => Attribute::Encrypt(set),
            Usage::Verify => Attribute::Verify(set),
            Usage::Wrap => Attribute::Wrap(set),
            Usage::Decrypt => Attribute::Decrypt(set),
            Usage::Sign => Attribute::Sign(set),
            Usage::Unwrap => Attribute::Unwrap(set),
            Usage::Derive => Attribute::Derive(set),
            Usage::Encapsulate => Attribute::Encapsulate(set),
            Usage::Decapsulate => Attribute::Decapsulate(set),
        }
    };
    of.iter().map(attribute).collect()
}
