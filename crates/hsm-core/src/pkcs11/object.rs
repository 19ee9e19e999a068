//! Key objects: what is read of them, and the templates that they are made from.

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism as Native;
use cryptoki::object::{Attribute, AttributeType, KeyType as NativeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::failure::{failed, number, refused};
use super::session::handle;
use crate::backend::{Class, Made, Object, Outcome, Template};
use crate::encoding;
use crate::error::Ckr;
use crate::key::{Curve, KeySpec, KeyType, PublicKey, Usage, Usages};

/// What is asked of an object. No object has all of them. Those that most modules do not know come last.
const ATTRIBUTES: &[AttributeType] = &[
    AttributeType::Class,
    AttributeType::KeyType,
    AttributeType::Id,
    AttributeType::Label,
    AttributeType::Sensitive,
    AttributeType::Extractable,
    AttributeType::Encrypt,
    AttributeType::Decrypt,
    AttributeType::Sign,
    AttributeType::Verify,
    AttributeType::Wrap,
    AttributeType::Unwrap,
    AttributeType::Derive,
    AttributeType::ValueLen,
    AttributeType::Modulus,
    AttributeType::PublicExponent,
    AttributeType::EcParams,
    AttributeType::EcPoint,
    AttributeType::Encapsulate,
    AttributeType::Decapsulate,
];

const RSA_EXPONENT: [u8; 3] = [1, 0, 1];

/// Reads a key object in two calls of C_GetAttributeValue; `None` if it is no key of a type that the gateway knows.
pub(super) fn read(session: &Session, object: ObjectHandle) -> Outcome<Option<Object>> {
    let told = match session.get_attributes(object, ATTRIBUTES) {
        Ok(told) => told,
        Err(why @ Error::Pkcs11(..)) => return Err(failed("C_GetAttributeValue", &why)),
        Err(_) => one_by_one(session, object)?,
    };
    Ok(Told::from(told).object())
}

/// Makes a key or a pair.
pub(super) fn generate(session: &Session, template: &Template<'_>) -> Outcome<Made> {
    match template.spec {
        KeySpec::Aes { bits } => secret(session, template, &Native::AesKeyGen, bits),
        KeySpec::Hmac { bits } => secret(session, template, &Native::GenericSecretKeyGen, bits),
        KeySpec::Rsa { bits } => {
            let size = [
                Attribute::ModulusBits(std::ffi::c_ulong::from(bits).into()),
                Attribute::PublicExponent(RSA_EXPONENT.to_vec()),
            ];
            pair(session, template, &Native::RsaPkcsKeyPairGen, &size)
        }
        KeySpec::Curve(curve) => {
            let mechanism = match curve.key_type() {
                KeyType::Ed => Native::EccEdwardsKeyPairGen,
                _ => Native::EccKeyPairGen,
            };
            let size = [Attribute::EcParams(encoding::curve_params(curve).to_vec())];
            pair(session, template, &mechanism, &size)
        }
        KeySpec::PostQuantum { .. } => Err(refused("C_GenerateKeyPair", Ckr::MechanismInvalid)),
    }
}

/// What could be read of an object.
#[derive(Default)]
struct Told {
    class: Option<Class>,
    key_type: Option<KeyType>,
    id: Vec<u8>,
    label: Vec<u8>,
    sensitive: bool,
    extractable: bool,
    usages: Usages,
    value_bytes: Option<u64>,
    modulus: Option<Vec<u8>>,
    exponent: Option<Vec<u8>>,
    curve: Option<Curve>,
    point: Option<Vec<u8>>,
}

impl From<Vec<Attribute>> for Told {
    fn from(attributes: Vec<Attribute>) -> Told {
        let mut told = Told::default();
        for attribute in attributes {
            told.take(attribute);
        }
        told
    }
}

impl Told {
    fn take(&mut self, attribute: Attribute) {
        match attribute {
            Attribute::Class(class) => self.class = known_class(class),
            Attribute::KeyType(key_type) => self.key_type = known_type(key_type),
            Attribute::Id(id) => self.id = id,
            Attribute::Label(label) => self.label = label,
            Attribute::Sensitive(sensitive) => self.sensitive = sensitive,
            Attribute::Extractable(extractable) => self.extractable = extractable,
            Attribute::Encrypt(set) => self.usage(Usage::Encrypt, set),
            Attribute::Decrypt(set) => self.usage(Usage::Decrypt, set),
            Attribute::Sign(set) => self.usage(Usage::Sign, set),
            Attribute::Verify(set) => self.usage(Usage::Verify, set),
            Attribute::Wrap(set) => self.usage(Usage::Wrap, set),
            Attribute::Unwrap(set) => self.usage(Usage::Unwrap, set),
            Attribute::Derive(set) => self.usage(Usage::Derive, set),
            Attribute::Encapsulate(set) => self.usage(Usage::Encapsulate, set),
            Attribute::Decapsulate(set) => self.usage(Usage::Decapsulate, set),
            Attribute::ValueLen(length) => self.value_bytes = Some(number(*length)),
            Attribute::Modulus(modulus) => self.modulus = Some(modulus),
            Attribute::PublicExponent(exponent) => self.exponent = Some(exponent),
            Attribute::EcParams(params) => self.curve = encoding::curve_from_params(&params),
            Attribute::EcPoint(point) => self.point = Some(point),
            _ => {}
        }
    }

    fn usage(&mut self, usage: Usage, set: bool) {
        if set {
            self.usages = self.usages.with(usage);
        }
    }

    fn object(self) -> Option<Object> {
        let (class, key_type) = (self.class?, self.key_type?);
        let curve = self.curve.filter(|curve| curve.key_type() == key_type);
        let bits = match key_type {
            KeyType::Rsa => self.modulus.as_deref().map(encoding::bit_length),
            KeyType::Aes | KeyType::Hmac => self.value_bits(),
            KeyType::Ec | KeyType::Ed | KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa => None,
        };
        let public = class == Class::Public;
        Some(Object {
            class,
            key_type,
            bits,
            curve,
            public_key: self.public_key(key_type, curve),
            extractable: public || self.extractable,
            sensitive: !public && self.sensitive,
            usages: self.usages.iter().filter(|usage| belongs(*usage, class)).collect(),
            label: label(&self.label),
            id: self.id,
        })
    }

    fn value_bits(&self) -> Option<u32> {
        let bytes = u32::try_from(self.value_bytes?).ok()?;
        bytes.checked_mul(8).filter(|bits| *bits > 0)
    }

    fn public_key(&self, key_type: KeyType, curve: Option<Curve>) -> Option<PublicKey> {
        if key_type == KeyType::Rsa {
            return encoding::rsa_from_numbers(self.modulus.as_ref()?, self.exponent.as_ref()?);
        }
        let curve = curve?;
        let point = encoding::point_from_attribute(self.point.as_ref()?, curve)?;
        Some(PublicKey::Curve { curve, point })
    }
}

/// Whether an object of the class can be used so at all: NSS sets CKA_DERIVE on public keys by itself.
fn belongs(usage: Usage, class: Class) -> bool {
    match usage {
        Usage::Encrypt | Usage::Verify | Usage::Wrap | Usage::Encapsulate => class != Class::Private,
        Usage::Decrypt | Usage::Sign | Usage::Unwrap | Usage::Derive | Usage::Decapsulate => class != Class::Public,
    }
}

/// Reads what can be read when one of the attributes has a value that cryptoki does not know, and so refuses all.
fn one_by_one(session: &Session, object: ObjectHandle) -> Outcome<Vec<Attribute>> {
    let mut told = Vec::new();
    for attribute in ATTRIBUTES {
        match session.get_attributes(object, &[*attribute]) {
            Ok(value) => told.extend(value),
            Err(why @ Error::Pkcs11(..)) => return Err(failed("C_GetAttributeValue", &why)),
            Err(_) => {}
        }
    }
    Ok(told)
}

fn known_class(class: ObjectClass) -> Option<Class> {
    match class {
        ObjectClass::SECRET_KEY => Some(Class::Secret),
        ObjectClass::PRIVATE_KEY => Some(Class::Private),
        ObjectClass::PUBLIC_KEY => Some(Class::Public),
        _ => None,
    }
}

fn known_type(key_type: NativeType) -> Option<KeyType> {
    match key_type {
        NativeType::RSA => Some(KeyType::Rsa),
        NativeType::AES => Some(KeyType::Aes),
        NativeType::EC => Some(KeyType::Ec),
        NativeType::EC_EDWARDS => Some(KeyType::Ed),
        // cryptoki 0.12.1 reads the types of the other SHA-2 hashes as SHA-256's.
        NativeType::GENERIC_SECRET | NativeType::SHA256_HMAC => Some(KeyType::Hmac),
        NativeType::ML_DSA => Some(KeyType::MlDsa),
        NativeType::ML_KEM => Some(KeyType::MlKem),
        NativeType::SLH_DSA => Some(KeyType::SlhDsa),
        _ => None,
    }
}

fn label(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn secret(session: &Session, template: &Template<'_>, mechanism: &Native<'_>, bits: u32) -> Outcome<Made> {
    let mut attributes = common(template);
    attributes.extend(secrecy(template));
    attributes.push(Attribute::ValueLen(std::ffi::c_ulong::from(bits / 8).into()));
    attributes.extend(usages(template, Class::Secret));
    let key = session.generate_key(mechanism, &attributes);
    let key = key.map_err(|why| failed("C_GenerateKey", &why))?;
    Ok(Made::Secret(handle(key)))
}

fn pair(session: &Session, template: &Template<'_>, mechanism: &Native<'_>, size: &[Attribute]) -> Outcome<Made> {
    let mut public = common(template);
    public.push(Attribute::Private(false));
    public.extend_from_slice(size);
    public.extend(usages(template, Class::Public));
    let mut private = common(template);
    private.extend(secrecy(template));
    private.extend(usages(template, Class::Private));
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

/// Every usage that an object of the class can have, set or not set: left out, each module has defaults of its own.
fn usages(template: &Template<'_>, class: Class) -> Vec<Attribute> {
    let set = |usage: Usage| template.usages.contains(usage);
    let public = || {
        [
            Attribute::Encrypt(set(Usage::Encrypt)),
            Attribute::Verify(set(Usage::Verify)),
            Attribute::Wrap(set(Usage::Wrap)),
        ]
    };
    let private = || {
        [
            Attribute::Decrypt(set(Usage::Decrypt)),
            Attribute::Sign(set(Usage::Sign)),
            Attribute::Unwrap(set(Usage::Unwrap)),
            Attribute::Derive(set(Usage::Derive)),
        ]
    };
    match class {
        Class::Secret => public().into_iter().chain(private()).collect(),
        Class::Public => public().into(),
        Class::Private => private().into(),
    }
}
