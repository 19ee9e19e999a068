//! A token without PKCS#11: keys in this process's memory, for [`Hsm`] to use like any other. It has P-256 and Ed25519,
//! and says so of everything else that it lacks. A service of keys over the network would be written the same way.
//!
//! ```text
//! cargo run --example memory_backend
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hsm_core::algorithm::MechanismId;
use hsm_core::backend::{
    Backend, Class, Filter, Handle, Made, Mechanism, MechanismFlags, MechanismInfo, Object, Outcome, Session, Slot,
    Template, Token, Used,
};
use hsm_core::key::Material;
use hsm_core::software::{self, Message};
use hsm_core::{
    Ckr, Curve, During, Error, Failure, Hash, Hsm, KeySize, KeySpec, KeyType, Label, NewKey, Options, PublicKey, Sign,
    Verify,
};
use p256::ecdsa::signature::Signer as _;
use secrecy::{ExposeSecret as _, SecretString};

const SLOT: u64 = 0;
const PIN: &str = "1234";

/// Opens the token, makes a key of each kind, and signs with it.
pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options {
        pin: Some(PIN.into()),
        ..Options::default()
    };
    let hsm = Hsm::open(Memory::default(), options)?;
    for curve in [Curve::P256, Curve::Ed25519] {
        let key = hsm
            .generate(NewKey::new(KeySpec::Curve(curve), Label::parse(curve.name())?))
            .wait()?;
        let asked = Sign::new(key.id.clone(), b"Hello World!");
        let signed = hsm.sign(asked.clone()).wait()?;
        let verify = Verify {
            signed: asked,
            signature: signed.signature,
        };
        println!(
            "{} by {}: right: {}",
            signed.algorithm.name(),
            key.id,
            hsm.verify(verify).wait()?
        );
    }
    let rsa = NewKey::new(KeySpec::Rsa { bits: 2048 }, Label::parse("rsa")?);
    match hsm.generate(rsa).wait() {
        Err(Error::NotSupported(why)) => println!("no RSA: {why}"),
        other => return Err(format!("RSA: {other:?}").into()),
    }
    println!("{:?}", hsm.stop(std::time::Duration::from_secs(5)));
    Ok(())
}

/// The token. Its sessions share what is on it, and whether the user is logged in.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Store>>);

#[derive(Default)]
struct Store {
    logged_in: bool,
    last_handle: u64,
    keys: BTreeMap<Handle, Key>,
}

struct Key {
    half: Half,
    id: Vec<u8>,
    label: String,
    extractable: bool,
    usages: hsm_core::Usages,
    curve: Curve,
    public: Vec<u8>,
}

/// The crates' keys are wiped when they are dropped.
enum Half {
    Public,
    P256(Box<p256::ecdsa::SigningKey>),
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

impl Memory {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Memory {
    fn slots(&self) -> Outcome<Vec<Slot>> {
        Ok(vec![Slot {
            id: SLOT,
            description: "memory".to_owned(),
            manufacturer: "example".to_owned(),
            token: Some(Token {
                label: "memory".to_owned(),
                manufacturer: "example".to_owned(),
                model: "memory".to_owned(),
                serial: "1".to_owned(),
                firmware_version: "1.0".to_owned(),
                initialized: true,
                login_required: true,
                user_pin_initialized: true,
                user_pin_final_try: false,
                user_pin_locked: false,
                write_protected: false,
                protected_authentication_path: false,
                max_sessions: None,
            }),
        }])
    }

    /// What is not told here is never asked for.
    fn mechanisms(&self, _slot: u64) -> Outcome<Vec<MechanismInfo>> {
        let mechanism = |id, flags: &[&str]| {
            let named = MechanismFlags::NAMED.iter().filter(|(_, name)| flags.contains(name));
            MechanismInfo {
                id,
                min_key_size: 256,
                max_key_size: 256,
                flags: MechanismFlags(named.map(|(bit, _)| bit).sum()),
            }
        };
        Ok(vec![
            mechanism(MechanismId::EC_KEY_PAIR_GEN, &["generate_key_pair"]),
            mechanism(MechanismId::ECDSA_SHA256, &["sign", "verify"]),
            mechanism(MechanismId::EC_EDWARDS_KEY_PAIR_GEN, &["generate_key_pair"]),
            mechanism(MechanismId::EDDSA, &["sign", "verify"]),
        ])
    }

    fn open(&self, _slot: u64) -> Outcome<Box<dyn Session>> {
        Ok(Box::new(self.clone()))
    }

    fn restart(&self) -> Outcome<()> {
        self.store().logged_in = false;
        Ok(())
    }

    fn finish(&self) -> Outcome<()> {
        Ok(())
    }
}

impl Session for Memory {
    fn logged_in(&mut self) -> Outcome<bool> {
        Ok(self.store().logged_in)
    }

    fn login(&mut self, pin: Option<&SecretString>) -> Outcome<()> {
        if pin.is_none_or(|pin| pin.expose_secret() != PIN) {
            return Err(failure("C_Login", During::Login, Ckr::PinIncorrect));
        }
        self.store().logged_in = true;
        Ok(())
    }

    fn logout(&mut self) -> Outcome<()> {
        self.store().logged_in = false;
        Ok(())
    }

    fn certified(&mut self, _: Option<&[u8]>) -> Outcome<Vec<(Vec<u8>, PublicKey)>> {
        Ok(Vec::new())
    }

    fn find(&mut self, filter: &Filter<'_>) -> Outcome<Vec<Handle>> {
        let store = self.store();
        let fits = |key: &Key| match filter {
            Filter::Class(class) => *class == key.class(),
            Filter::Id(id) => *id == key.id,
            Filter::Label(label) => *label == key.label,
        };
        // Without a login private objects are not seen.
        let seen = |key: &Key| store.logged_in || key.class() == Class::Public;
        let found = store.keys.iter().filter(|(_, key)| fits(key) && seen(key));
        Ok(found.map(|(handle, _)| *handle).collect())
    }

    fn read(&mut self, object: Handle) -> Outcome<Option<Object>> {
        let store = self.store();
        let key = store.key(object)?;
        let public = key.class() == Class::Public;
        Ok(Some(Object {
            class: key.class(),
            key_type: key.curve.key_type(),
            id: key.id.clone(),
            label: key.label.clone(),
            extractable: key.extractable,
            sensitive: !public,
            usages: key.usages,
            size: KeySize::Curve(key.curve),
            always_authenticate: false,
            public_key: public.then(|| key.public_key()),
        }))
    }

    fn generate(&mut self, spec: KeySpec, template: &Template<'_>) -> Outcome<Made> {
        let failed = |rv| failure("C_GenerateKeyPair", During::Create, rv);
        let (private, public, curve) = match spec {
            KeySpec::Curve(curve @ Curve::P256) => {
                let random = random_bytes().map_err(failed)?;
                // Not one in 2^32 is no key of the curve.
                let key = p256::ecdsa::SigningKey::from_slice(&random).map_err(|_| failed(Ckr::FunctionFailed))?;
                let public = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
                (Half::P256(Box::new(key)), public, curve)
            }
            KeySpec::Curve(curve @ Curve::Ed25519) => {
                let key = ed25519_dalek::SigningKey::from_bytes(&random_bytes().map_err(failed)?);
                let public = key.verifying_key().to_bytes().to_vec();
                (Half::Ed25519(Box::new(key)), public, curve)
            }
            KeySpec::Curve(_)
            | KeySpec::Rsa { .. }
            | KeySpec::Aes { .. }
            | KeySpec::Hmac { .. }
            | KeySpec::PostQuantum(_) => return Err(failed(Ckr::MechanismInvalid)),
        };
        let mut store = self.store();
        let mut add = |half, usages| {
            store.last_handle += 1;
            let handle = Handle(store.last_handle);
            let key = Key {
                extractable: template.extractable || matches!(half, Half::Public),
                half,
                id: template.id.to_vec(),
                label: template.label.to_owned(),
                usages,
                curve,
                public: public.clone(),
            };
            store.keys.insert(handle, key);
            handle
        };
        Ok(Made::Pair {
            public: add(Half::Public, of_half(template, hsm_core::Usage::Verify)),
            private: add(private, of_half(template, hsm_core::Usage::Sign)),
        })
    }

    fn sign(&mut self, mechanism: &Mechanism, key: Used<'_>, data: &[u8]) -> Outcome<Vec<u8>> {
        let store = self.store();
        match (mechanism, &store.key(key.handle)?.half) {
            (Mechanism::Ecdsa(Some(Hash::Sha256)), Half::P256(key)) => {
                let signature: p256::ecdsa::Signature = key.sign(data);
                Ok(signature.to_bytes().to_vec())
            }
            (Mechanism::Eddsa { ed448: false }, Half::Ed25519(key)) => Ok(key.sign(data).to_bytes().to_vec()),
            (_, _) => Err(lacks("C_SignInit")),
        }
    }

    fn verify(&mut self, mechanism: &Mechanism, key: Handle, data: &[u8], signature: &[u8]) -> Outcome<bool> {
        let store = self.store();
        let key = store.key(key)?;
        let algorithm = match (mechanism, key.curve) {
            (Mechanism::Ecdsa(Some(Hash::Sha256)), Curve::P256) => hsm_core::Algorithm::EcdsaSha256,
            (Mechanism::Eddsa { ed448: false }, Curve::Ed25519) => hsm_core::Algorithm::EdDsa,
            (_, _) => return Err(lacks("C_VerifyInit")),
        };
        let right = software::verify(&key.public_key(), algorithm.scheme(), Message::Raw(data), signature);
        right.map_err(|_| failure("C_Verify", During::Verify, Ckr::FunctionFailed))
    }

    fn random(&mut self, buffer: &mut [u8]) -> Outcome<()> {
        getrandom::fill(buffer).map_err(|_| failure("C_GenerateRandom", During::Other, Ckr::FunctionFailed))
    }

    fn relabel(&mut self, object: Handle, label: &str) -> Outcome<()> {
        let mut store = self.store();
        let key = store.keys.get_mut(&object).ok_or_else(gone)?;
        key.label = label.to_owned();
        Ok(())
    }

    fn destroy(&mut self, object: Handle) -> Outcome<()> {
        self.store().keys.remove(&object).map(drop).ok_or_else(gone)
    }

    fn import(&mut self, _material: &Material, _template: &Template<'_>) -> Outcome<Made> {
        Err(lacks("C_CreateObject"))
    }

    fn wrap(&mut self, _mechanism: &Mechanism, _key: Handle, _target: Handle) -> Outcome<Vec<u8>> {
        Err(lacks("C_WrapKey"))
    }

    fn unwrap(
        &mut self,
        _mechanism: &Mechanism,
        _key: Handle,
        _wrapped: &[u8],
        _key_type: KeyType,
        _template: &Template<'_>,
    ) -> Outcome<Handle> {
        Err(lacks("C_UnwrapKey"))
    }

    fn derive(&mut self, _: &Mechanism, _key: Handle, _spec: KeySpec, _template: &Template<'_>) -> Outcome<Handle> {
        Err(lacks("C_DeriveKey"))
    }

    fn encapsulate(
        &mut self,
        _mechanism: &Mechanism,
        _key: Handle,
        _spec: KeySpec,
        _template: &Template<'_>,
    ) -> Outcome<(Vec<u8>, Handle)> {
        Err(lacks("C_EncapsulateKey"))
    }

    fn decapsulate(
        &mut self,
        _mechanism: &Mechanism,
        _key: Handle,
        _ciphertext: &[u8],
        _spec: KeySpec,
        _template: &Template<'_>,
    ) -> Outcome<Handle> {
        Err(lacks("C_DecapsulateKey"))
    }

    fn encrypt(&mut self, _mechanism: &mut Mechanism, _key: Handle, _data: &[u8]) -> Outcome<Vec<u8>> {
        Err(lacks("C_EncryptInit"))
    }

    fn decrypt(&mut self, _mechanism: &Mechanism, _key: Used<'_>, _data: &[u8]) -> Outcome<Vec<u8>> {
        Err(lacks("C_DecryptInit"))
    }
}

impl Store {
    fn key(&self, handle: Handle) -> Outcome<&Key> {
        self.keys.get(&handle).ok_or_else(gone)
    }
}

impl Key {
    fn class(&self) -> Class {
        match self.half {
            Half::Public => Class::Public,
            Half::P256(_) | Half::Ed25519(_) => Class::Private,
        }
    }

    fn public_key(&self) -> PublicKey {
        PublicKey::Curve {
            curve: self.curve,
            point: self.public.clone(),
        }
    }
}

/// The usage that belongs to one half, if the key is to have it.
fn of_half(template: &Template<'_>, usage: hsm_core::Usage) -> hsm_core::Usages {
    template.usages.iter().filter(|wanted| *wanted == usage).collect()
}

fn random_bytes() -> Result<[u8; 32], Ckr> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| Ckr::FunctionFailed)?;
    Ok(bytes)
}

fn failure(function: &'static str, during: During, rv: Ckr) -> Failure {
    Failure {
        function,
        during,
        rv: Some(rv),
        detail: String::new(),
    }
}

fn lacks(function: &'static str) -> Failure {
    failure(function, During::Start, Ckr::MechanismInvalid)
}

fn gone() -> Failure {
    failure("C_GetAttributeValue", During::Other, Ckr::ObjectHandleInvalid)
}
