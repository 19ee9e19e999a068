//! The ways in which a key comes to be on the token: generated, put there, unwrapped, derived, encapsulated. Each is checked
//! here as far as it can be without the token.

mod check;
mod request;

use self::check::{
    MOST_SALT, a_good_size, as_long_as, asks_for_no_login, at_most, kem, others_point, refuse, secret_bits, takes,
};
use crate::algorithm::{Hash, Operation, Scheme};
use crate::backend::{Handle, Made, Mechanism, Object, Outcome, Session, Template, Used};
use crate::call::Call;
use crate::create::{self, Birth, Make};
use crate::encoding;
use crate::error::{Ckr, During, Error, Failure, Result};
use crate::hsm::Hsm;
use crate::index::Key;
use crate::key::{Curve, HsmKeyId, KeyAttributes, KeyInfo, KeySize, KeyType, Label, Material, NewKey};
use crate::key::{PublicKey, Usage, Usages};
use crate::operation::{self, no_half};
use crate::quirks;
use crate::shared::Shared;
use crate::software::recover_ecdsa_key;
use crate::worker::Worker;

pub(crate) use check::generates;
pub use request::{Decapsulate, Derive, Encapsulate, Import, Unwrap};

impl Hsm {
    /// Makes a key.
    pub fn generate(&self, new: NewKey) -> Call<KeyInfo> {
        let ready = self.shared().check_label(&new.label);
        match ready {
            Ok(()) => self.generate_any(new),
            Err(error) => Call::settled(Err(error)),
        }
    }

    /// The same, also with a label that is kept out of sight.
    pub(crate) fn generate_any(&self, new: NewKey) -> Call<KeyInfo> {
        let NewKey {
            id,
            spec,
            label,
            extractable,
            usages,
        } = new;
        let ready = generates(self.shared(), spec).and_then(|()| self.shared().link.check_change());
        if let Err(error) = ready {
            return Call::settled(Err(error));
        }
        let token = self.token();
        let attributes = KeyAttributes {
            id,
            label,
            extractable,
            usages,
        };
        self.born(attributes, move || Birth {
            base: None,
            make: Box::new(move |session, _, template| {
                let made = session.generate(spec, template);
                Ok((
                    made.map_err(|failure| quirks::of_creation(&token, spec, failure))?,
                    Vec::new(),
                ))
            }),
            accept: Box::new(anything),
            answer: alone,
        })
    }

    /// Puts a key from outside on the token: a secret, both halves of a pair, or a public key alone.
    pub fn import(&self, import: Import) -> Call<KeyInfo> {
        let Import { material, attributes } = import;
        let ready = takes(self.shared(), &material, attributes.usages)
            .and_then(|()| self.shared().check_label(&attributes.label))
            .and_then(|()| self.shared().link.check_change());
        if let Err(error) = ready {
            return Call::settled(Err(error));
        }
        let token = self.token();
        self.born(attributes, move || Birth {
            base: None,
            make: Box::new(move |session, _, template| {
                let made = session.import(&material, template);
                Ok((
                    made.map_err(|failure| quirks::of_import(&token, &material, failure))?,
                    Vec::new(),
                ))
            }),
            accept: Box::new(anything),
            answer: alone,
        })
    }

    /// Makes the key that is in a wrapped one. The public half of a private key is made with it, where the token tells
    /// enough of it.
    pub fn unwrap(&self, unwrap: Unwrap) -> Call<KeyInfo> {
        let Unwrap {
            key: id,
            algorithm,
            wrapped_key,
            key_type,
            attributes,
        } = unwrap;
        let check = move |shared: &Shared, key: &Key| -> Result<Prepare> {
            let how = operation::unwrapping(shared, key, &algorithm, wrapped_key, key_type)?;
            Ok(Box::new(move |worker| {
                let hash = how.hash(worker)?;
                let token = worker.shared.link.token();
                let trial = check::trial(&worker.shared, key_type);
                Ok(Box::new(move |session, key, template| {
                    let key = private(key)?;
                    let unwrap = |session: &mut dyn Session, template: &Template<'_>| {
                        how.unwrap(session, &token, key, hash, key_type, template)
                    };
                    let made = unwrap(session, template)?;
                    let finished = match is_usable(session, made, trial.as_ref(), unwrap) {
                        Ok(true) => with_public_half(session, made, key_type, template),
                        Ok(false) => {
                            session.destroy(made).map_err(Failure::afterwards)?;
                            return Err(Failure::answered("C_UnwrapKey", During::Unwrap, Ckr::KeySizeRange));
                        }
                        Err(failure) => Err(failure),
                    };
                    match finished {
                        Ok(made) => Ok((made, Vec::new())),
                        Err(failure) => {
                            session.destroy(made).map_err(Failure::afterwards)?;
                            Err(failure.afterwards())
                        }
                    }
                }))
            }))
        };
        self.born_of(&id, Operation::Unwrap, attributes, check, a_good_size, alone)
    }

    /// Makes a secret key of another key.
    pub fn derive(&self, derive: Derive) -> Call<KeyInfo> {
        let Derive {
            key: id,
            algorithm,
            public_key,
            salt,
            info,
            spec,
            attributes,
        } = derive;
        let check = move |shared: &Shared, key: &Key| -> Result<Prepare> {
            let algorithm = operation::chosen(shared, key, &algorithm, Operation::Derive)?;
            operation::permit(shared, key, Usage::Derive)?;
            let bits = secret_bits(spec)?;
            let mechanism = match (algorithm.scheme(), key.info.size) {
                (Scheme::Hkdf(hash), _) => {
                    refuse("public_key", public_key.is_some(), "only ECDH takes one")?;
                    let salt = salt.filter(|salt| !salt.is_empty());
                    at_most("salt", salt.as_deref(), MOST_SALT)?;
                    at_most("info", info.as_deref(), MOST_SALT)?;
                    Mechanism::Hkdf {
                        hash,
                        salt,
                        info: info.unwrap_or_default(),
                    }
                }
                (_, KeySize::Curve(curve)) => {
                    refuse("salt", salt.is_some(), "only HKDF takes one")?;
                    refuse("info", info.is_some(), "only HKDF takes one")?;
                    Mechanism::Ecdh {
                        point: others_point(public_key, curve, bits)?,
                    }
                }
                _ => {
                    return Err(Error::KeyTypeMismatch(
                        "the key is on a curve that the gateway does not know".into(),
                    ));
                }
            };
            operation::listed(shared, algorithm.row().native, Operation::Derive)?;
            Ok(ready(move |session, key, template| {
                let made = session.derive(&mechanism, private(key)?, spec, template)?;
                Ok((Made::Secret(made), Vec::new()))
            }))
        };
        self.born_of(&id, Operation::Derive, attributes, check, as_long_as(spec), alone)
    }

    /// Makes a secret key with an ML-KEM public key; whoever has the private one can make the same of the ciphertext that is
    /// told beside it.
    pub fn encapsulate(&self, encapsulate: Encapsulate) -> Call<(KeyInfo, Vec<u8>)> {
        let Encapsulate {
            key: id,
            spec,
            attributes,
        } = encapsulate;
        let check = move |shared: &Shared, key: &Key| -> Result<Prepare> {
            kem(shared, key, spec, Operation::Encapsulate)?;
            Ok(ready(move |session, key, template| {
                let key = key.and_then(Key::public).ok_or_else(|| no_half("public"))?;
                let (ciphertext, made) = session.encapsulate(&Mechanism::MlKem, key, spec, template)?;
                Ok((Made::Secret(made), ciphertext))
            }))
        };
        self.born_of(
            &id,
            Operation::Encapsulate,
            attributes,
            check,
            as_long_as(spec),
            |info, ciphertext| (info, ciphertext),
        )
    }

    /// Makes the secret key again that [`encapsulate`](Self::encapsulate) made. A ciphertext that was tampered with makes
    /// another one (FIPS 203 §6.3).
    pub fn decapsulate(&self, decapsulate: Decapsulate) -> Call<KeyInfo> {
        let Decapsulate {
            key: id,
            ciphertext,
            spec,
            attributes,
        } = decapsulate;
        let check = move |shared: &Shared, key: &Key| -> Result<Prepare> {
            kem(shared, key, spec, Operation::Decapsulate)?;
            if let KeySize::ParameterSet(set) = key.info.size
                && ciphertext.len() != set.output_bytes()
            {
                let text = format!("a ciphertext of {set} has {} bytes", set.output_bytes());
                return Err(Error::invalid("ciphertext", text));
            }
            Ok(ready(move |session, key, template| {
                let made = session.decapsulate(&Mechanism::MlKem, private(key)?, &ciphertext, spec, template)?;
                Ok((Made::Secret(made), Vec::new()))
            }))
        };
        self.born_of(&id, Operation::Decapsulate, attributes, check, as_long_as(spec), alone)
    }

    /// Gives a key another label, both its halves.
    pub fn relabel(&self, id: &HsmKeyId, label: Label) -> Call<KeyInfo> {
        if let Err(error) = self.writable(id) {
            return Call::settled(Err(error));
        }
        let id = id.clone();
        self.call(self.shared().options.timeout, move |worker, reply| {
            reply.settle(create::relabel(worker, &id, &label));
        })
    }

    /// Makes a key that needs no other.
    fn born(
        &self,
        attributes: KeyAttributes,
        birth: impl FnOnce() -> Birth<KeyInfo> + Send + 'static,
    ) -> Call<KeyInfo> {
        self.call(self.shared().options.keygen_timeout, move |worker, reply| {
            create::create(worker, &attributes, birth(), &reply);
        })
    }

    /// Makes a key of another, or under it, once `check` has looked at the request and at that key.
    fn born_of<A: Send + 'static>(
        &self,
        id: &HsmKeyId,
        operation: Operation,
        attributes: KeyAttributes,
        check: impl FnOnce(&Shared, &Key) -> Result<Prepare> + Send + 'static,
        accept: impl Fn(&KeyInfo) -> Result<()> + Send + 'static,
        answer: fn(KeyInfo, Vec<u8>) -> A,
    ) -> Call<A> {
        self.resolve(&id.into(), operation.usage(), move |shared, key, reply| {
            let checked = if key.ambiguous {
                Err(Error::AmbiguousKey(key.info.id.clone()))
            } else {
                check(shared, key).and_then(|prepare| {
                    shared.check_label(&attributes.label)?;
                    let private = operation != Operation::Encapsulate;
                    if private {
                        asks_for_no_login(key)?;
                    }
                    shared.link.check_change().map(|()| prepare)
                })
            };
            let prepare = match checked {
                Ok(prepare) => prepare,
                Err(error) => {
                    reply.settle(Err(error));
                    return;
                }
            };
            let base = Some(key.clone());
            shared.submit(shared.options.keygen_timeout, reply, move |worker, reply| {
                let make = match prepare(worker) {
                    Ok(make) => make,
                    Err(error) => {
                        reply.settle(Err(error));
                        return;
                    }
                };
                let birth = Birth {
                    base,
                    make,
                    accept: Box::new(accept),
                    answer,
                };
                create::create(worker, &attributes, birth, &reply);
            });
        })
    }

    /// That the user may change the token.
    fn writable(&self, id: &HsmKeyId) -> Result<()> {
        self.foreign_token(id)?;
        self.shared().link.check_change()
    }
}

/// What is left to do on a worker before the key can be made.
type Prepare = Box<dyn FnOnce(&mut Worker) -> Result<Make> + Send>;

/// Nothing is.
fn ready(
    make: impl FnMut(&mut dyn Session, Option<&Key>, &Template<'_>) -> Outcome<(Made, Vec<u8>)> + Send + 'static,
) -> Prepare {
    Box::new(move |_| Ok(Box::new(make)))
}

fn alone(info: KeyInfo, _: Vec<u8>) -> KeyInfo {
    info
}

fn anything(_: &KeyInfo) -> Result<()> {
    Ok(())
}

fn private(key: Option<&Key>) -> Outcome<Handle> {
    key.and_then(Key::private).ok_or_else(|| no_half("private"))
}

/// Whether a secret that was unwrapped can be used by `trial`. SoftHSM does not measure what it unwraps, nor tell its
/// length; there it is unwrapped once more, for the session alone, and tried.
fn is_usable(
    session: &mut dyn Session,
    made: Handle,
    trial: Option<&Mechanism>,
    once_more: impl Fn(&mut dyn Session, &Template<'_>) -> Outcome<Handle>,
) -> Outcome<bool> {
    let Some(mechanism) = trial else {
        return Ok(true);
    };
    let told = session.read(made)?;
    if told.is_none_or(|object| object.size != KeySize::Unknown) {
        return Ok(true);
    }
    let template = Template {
        id: b"trial",
        label: "trial",
        extractable: false,
        usages: Usages::NONE.with(Usage::Sign),
        session_only: true,
    };
    let trial = once_more(session, &template)?;
    let signed = session.sign(mechanism, Used::freely(trial), b"trial");
    session.destroy(trial)?;
    Ok(signed.is_ok())
}

/// Makes the public half of a private key where the token tells it.
fn with_public_half(
    session: &mut dyn Session,
    made: Handle,
    key_type: KeyType,
    template: &Template<'_>,
) -> Outcome<Made> {
    if matches!(key_type, KeyType::Aes | KeyType::Hmac) {
        return Ok(Made::Secret(made));
    }
    let read = session.read(made)?;
    let told = match &read {
        Some(Object {
            public_key: None,
            size: KeySize::Curve(curve),
            ..
        }) if key_type == KeyType::Ec && template.usages.contains(Usage::Sign) => {
            by_its_signatures(session, made, *curve)
        }
        Some(object) => object.public_key.clone(),
        None => None,
    };
    let Some(public) = told else {
        return Ok(Made::Private(made));
    };
    match session.import(&Material::Public(public), template) {
        Ok(Made::Public(public)) => Ok(Made::Pair { public, private: made }),
        Ok(_) => Ok(Made::Private(made)),
        Err(failure) => Err(failure),
    }
}

/// The public half of an EC key that the token does not tell: two signatures give it away.
fn by_its_signatures(session: &mut dyn Session, private: Handle, curve: Curve) -> Option<PublicKey> {
    let mut signed = |data: &[u8]| {
        let digest = encoding::digest(Hash::Sha256, data);
        let signature = session.sign(&Mechanism::Ecdsa(None), Used::freely(private), &digest);
        Some((digest, signature.ok()?))
    };
    let (one, other) = (signed(b"one")?, signed(b"other")?);
    recover_ecdsa_key(curve, [(&one.0, &one.1), (&other.0, &other.1)])
}
