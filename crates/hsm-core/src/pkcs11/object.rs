//! Key objects: what is read of them.

use cryptoki::error::Error;
use cryptoki::object::{Attribute, AttributeType, KeyType as NativeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::failure::{failed, number};
use crate::backend::{Class, Object, Outcome};
use crate::encoding;
use crate::key::{Curve, KeySize, KeyType, ParameterSet, PublicKey, Usage, Usages};

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
    AttributeType::ParameterSet,
    AttributeType::AlwaysAuthenticate,
    AttributeType::PublicKeyInfo,
];

/// Reads a key object in two calls of C_GetAttributeValue; `None` if it is no key of a type that the gateway knows.
pub(super) fn read(session: &Session, object: ObjectHandle) -> Outcome<Option<Object>> {
    let told = match session.get_attributes(object, ATTRIBUTES) {
        Ok(told) => told,
        Err(why @ Error::Pkcs11(..)) => return Err(failed("C_GetAttributeValue", &why)),
        Err(_) => one_by_one(session, object)?,
    };
    let mut told = Told::from(told);
    // Not asked of any other object: CKA_VALUE is the key itself there.
    if let (Some(Class::Public), Some(KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa)) = (told.class, told.key_type)
    {
        told.value = value(session, object)?;
    }
    Ok(told.object())
}

/// The public keys that certificates on the token are about, each with the certificate's CKA_ID: all, or those with this id.
/// A certificate that can't be read is left out.
pub(super) fn certified(session: &Session, id: Option<&[u8]>) -> Outcome<Vec<(Vec<u8>, PublicKey)>> {
    let mut template = vec![Attribute::Class(ObjectClass::CERTIFICATE), Attribute::Token(true)];
    template.extend(id.map(|id| Attribute::Id(id.to_vec())));
    let found = session.find_objects(&template);
    let found = found.map_err(|why| failed("C_FindObjects", &why))?;
    let read = |certificate: ObjectHandle| {
        let told = session.get_attributes(certificate, &[AttributeType::Id, AttributeType::Value]);
        let (mut id, mut key) = (None, None);
        for attribute in told.ok()? {
            match attribute {
                Attribute::Id(told) => id = Some(told),
                Attribute::Value(der) => key = encoding::public_key_from_certificate(&der),
                _ => {}
            }
        }
        Some((id?, key?))
    };
    Ok(found.into_iter().filter_map(read).collect())
}

/// CKA_VALUE; `None` if the object has it not, or does not tell.
fn value(session: &Session, object: ObjectHandle) -> Outcome<Option<Vec<u8>>> {
    let told = match session.get_attributes(object, &[AttributeType::Value]) {
        Ok(told) => told,
        Err(why @ Error::Pkcs11(..)) => return Err(failed("C_GetAttributeValue", &why)),
        Err(_) => return Ok(None),
    };
    Ok(told.into_iter().find_map(|attribute| match attribute {
        Attribute::Value(value) if !value.is_empty() => Some(value),
        _ => None,
    }))
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
    parameter_set: Option<u64>,
    always_authenticate: bool,
    /// The encoded key of a post-quantum public key.
    value: Option<Vec<u8>>,
    /// CKA_PUBLIC_KEY_INFO
    known_as: Option<PublicKey>,
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
            Attribute::ParameterSet(set) => self.parameter_set = Some(number(**set)),
            Attribute::PublicKeyInfo(info) => self.known_as = encoding::public_key_from_der(&info),
            Attribute::AlwaysAuthenticate(always) => self.always_authenticate = always,
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
        let told = self.public_key(key_type, curve);
        let known_as = || self.known_as.clone().filter(|_| class == Class::Private);
        let public_key = told.or_else(known_as).filter(|key| {
            let same_curve = curve.is_none_or(|curve| key.size() == KeySize::Curve(curve));
            key.key_type() == key_type && same_curve
        });
        let bits = match key_type {
            KeyType::Rsa => self.modulus.as_deref().map(encoding::bit_length),
            KeyType::Aes | KeyType::Hmac => self.value_bits(),
            KeyType::Ec | KeyType::Ed | KeyType::MlDsa | KeyType::MlKem | KeyType::SlhDsa => None,
        };
        let size = bits
            .map(KeySize::Bits)
            .or(curve.map(KeySize::Curve))
            .or(self.parameter_set(key_type).map(KeySize::ParameterSet))
            .or(public_key.as_ref().map(PublicKey::size))
            .unwrap_or(KeySize::Unknown);
        let public = class == Class::Public;
        Some(Object {
            class,
            key_type,
            size,
            public_key,
            always_authenticate: class == Class::Private && self.always_authenticate,
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
        if let (Some(parameter_set), Some(key)) = (self.parameter_set(key_type), &self.value) {
            let whole = key.len() == parameter_set.public_key_bytes();
            return whole.then(|| PublicKey::PostQuantum {
                parameter_set,
                key: key.clone(),
            });
        }
        let curve = curve?;
        let point = encoding::point_from_attribute(self.point.as_ref()?, curve)?;
        Some(PublicKey::Curve { curve, point })
    }

    fn parameter_set(&self, key_type: KeyType) -> Option<ParameterSet> {
        ParameterSet::from_number(key_type, self.parameter_set?)
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
