//! [`Own`]: keys that a gateway keeps on the token for itself, and what it does with them: wrapping keys that lie outside,
//! sealing what it knows of them, and handing a new key-encryption key to other tokens.

use std::sync::Arc;

use crate::algorithm::{Algorithm, Hash, MechanismId, Operation};
use crate::backend::{Handle, Made, Mechanism, Outcome, Session, Template, Used};
use crate::call::Call;
use crate::create::{self, Birth};
use crate::error::{Error, Result};
use crate::hsm::Hsm;
use crate::index::Key;
use crate::key::{
    HsmKeyId, KeyAttributes, KeyInfo, KeySpec, KeyType, Material, NewKey, PublicKey, Usage, Usages, WrappedKey,
};
use crate::making::generates;
use crate::operation::{listed, no_half, under_a_key};
use crate::quirks;
use crate::shared::Shared;
use crate::vault::Parked;
use crate::worker::{Again, Worker};

/// What a gateway does with keys of its own; [`Options::hidden`](crate::Options::hidden) keeps them from everybody else.
#[derive(Clone, Copy)]
pub struct Own<'a>(&'a Hsm);

/// A wrapped key to be made.
#[derive(Clone, Debug)]
pub struct NewWrapped {
    /// Type and size.
    pub spec: KeySpec,
    /// Exactly what the key may be used for.
    pub usages: Usages,
    /// The key-encryption key: AES, of this token.
    pub kek: HsmKeyId,
}

/// A secret to be made on several tokens.
#[derive(Clone, Copy, Debug)]
pub struct SharedKey {
    /// Type and size: AES or HMAC.
    pub spec: KeySpec,
    /// What it may be used for.
    pub usages: Usages,
}

/// A token's readiness to take a secret that another one made: an RSA pair that is there for this alone, and gone with the
/// offer.
pub struct Offer {
    key: Arc<Parked>,
    public_key: PublicKey,
    hash: Hash,
}

/// A secret on its way from one token to another, encrypted for an [`Offer`] (RSA-OAEP).
#[derive(Clone)]
pub struct Parcel {
    wrapped: Vec<u8>,
    hash: Hash,
}

impl Hsm {
    /// Keys that a gateway keeps for itself.
    pub fn own(&self) -> Own<'_> {
        Own(self)
    }
}

impl Own<'_> {
    /// Makes a key, also with a label that is kept out of sight.
    pub fn generate(&self, new: NewKey) -> Call<KeyInfo> {
        self.0.generate_any(new)
    }

    /// Whether the token has the key.
    pub fn has(&self, id: &HsmKeyId) -> Call<bool> {
        if let Err(error) = self.ready(id) {
            return Call::settled(Err(error));
        }
        let id = id.clone();
        self.0.call(self.0.shared().options.timeout, move |worker, reply| {
            reply.settle(match worker.find(&id) {
                Ok(_) => Ok(true),
                Err(Error::KeyNotFound(_)) => Ok(false),
                Err(error) => Err(error),
            });
        })
    }

    /// A message authentication code: HMAC-SHA256 (FIPS 198-1), 32 bytes.
    pub fn seal(&self, key: &HsmKeyId, data: Vec<u8>) -> Call<Vec<u8>> {
        self.with_own(key, Usage::Sign, move |worker, key| {
            worker.run_with_key(&key, |session, key| {
                session.sign(&Mechanism::Hmac(Hash::Sha256), Used::freely(secret(key)?), &data)
            })
        })
    }

    /// Whether [`seal`](Self::seal) made `mac` of this data.
    pub fn check_seal(&self, key: &HsmKeyId, data: Vec<u8>, mac: Vec<u8>) -> Call<bool> {
        let seal = Mechanism::Hmac(Hash::Sha256);
        self.with_own(key, Usage::Verify, move |worker, key| {
            if mac.len() != Hash::Sha256.len() {
                return Ok(false);
            }
            let token = worker.shared.link.token();
            worker.run_with_key(&key, |session, key| {
                match session.verify(&seal, secret(key)?, &data, &mac) {
                    Err(failure) if quirks::is_wrong_signature(&token, &seal, &failure) => Ok(false),
                    verified => verified,
                }
            })
        })
    }

    /// Makes a key inside the token, as an object of the session, wraps it, and destroys it: outside it is only wrapped.
    pub fn make_wrapped(&self, new: NewWrapped) -> Call<WrappedKey> {
        let NewWrapped { spec, usages, kek } = new;
        let shared = self.0.shared();
        let ready = generates(shared, spec).and_then(|()| self.ready(&kek));
        let algorithm = match ready.and_then(|()| storing(shared, spec.key_type())) {
            Ok(algorithm) => algorithm,
            Err(error) => return Call::settled(Err(error)),
        };
        self.0.call(shared.options.keygen_timeout, move |worker, reply| {
            reply.settle(make_wrapped(worker, spec, usages, &kek, algorithm));
        })
    }

    /// The same key, wrapped under another key-encryption key. It is unwrapped inside the token for that, as an object of
    /// the session.
    pub fn rewrap(&self, wrapped: &Arc<WrappedKey>, to: &HsmKeyId) -> Call<WrappedKey> {
        let shared = self.0.shared();
        let ready = self.ready(to).and_then(|()| storing(shared, wrapped.key_type));
        let algorithm = match ready {
            Ok(algorithm) => algorithm,
            Err(error) => return Call::settled(Err(error)),
        };
        let (wrapped, to) = (wrapped.clone(), to.clone());
        self.0.call(shared.options.timeout, move |worker, reply| {
            reply.settle(rewrap(worker, &wrapped, &to, algorithm));
        })
    }

    /// Gets ready to take secrets from another token, or from this one.
    pub fn offer(&self) -> Call<Offer> {
        let spec = KeySpec::Rsa { bits: 2048 };
        let ready = generates(self.0.shared(), spec).and_then(|()| self.0.shared().link.check_login());
        if let Err(error) = ready {
            return Call::settled(Err(error));
        }
        self.0
            .call(self.0.shared().options.keygen_timeout, move |worker, reply| {
                reply.settle(offer(worker, spec));
            })
    }

    /// Makes secrets inside this token and encrypts them for each offer; here they do not stay. Answers for each offer one
    /// parcel a secret, in their order.
    pub fn make_shared(&self, keys: Vec<SharedKey>, offers: &[&Offer]) -> Call<Vec<Vec<Parcel>>> {
        let shared = self.0.shared();
        let ready = keys.iter().try_for_each(|key| generates(shared, key.spec));
        let ready = ready.and_then(|()| shared.link.check_login());
        if let Err(error) = ready {
            return Call::settled(Err(error));
        }
        let offers: Vec<(PublicKey, Hash)> = offers
            .iter()
            .map(|offer| (offer.public_key.clone(), offer.hash))
            .collect();
        self.0.call(shared.options.keygen_timeout, move |worker, reply| {
            reply.settle(make_shared(worker, &keys, &offers));
        })
    }

    /// Takes a secret that was encrypted for this token's offer: a token object that is not extractable, whatever
    /// `attributes` say.
    pub fn accept(&self, offer: &Offer, parcel: Parcel, attributes: KeyAttributes, spec: KeySpec) -> Call<KeyInfo> {
        if let Err(error) = self.0.shared().link.check_change() {
            return Call::settled(Err(error));
        }
        let attributes = KeyAttributes {
            extractable: false,
            ..attributes
        };
        let parked = offer.key.clone();
        let token = self.0.token();
        let shared = self.0.shared().clone();
        self.0.call(shared.options.keygen_timeout, move |worker, reply| {
            let generation = worker.shared.index.generation();
            let Some(private) = parked.private(generation) else {
                let text = "the token lost its sessions while a key was handed to it: try again";
                reply.settle(Err(Error::Device(text.into())));
                return;
            };
            let Parcel { wrapped, hash } = parcel;
            let birth = Birth {
                base: None,
                make: Box::new(move |session, _, template| {
                    let mechanism = Mechanism::RsaOaep(hash);
                    let made = session.unwrap(&mechanism, private, &wrapped, spec.key_type(), template);
                    let made = made.map_err(|failure| quirks::of_unwrapping(&token, failure))?;
                    Ok((Made::Secret(made), Vec::new()))
                }),
                accept: Box::new(|_| Ok(())),
                answer: |info, _| info,
            };
            create::create(worker, &attributes, birth, &reply);
            drop(parked);
        })
    }

    /// That something can be done with a key of this token.
    fn ready(&self, id: &HsmKeyId) -> Result<()> {
        self.0.foreign_token(id)?;
        self.0.shared().link.check_login()
    }

    fn with_own<T: Send + 'static>(
        &self,
        id: &HsmKeyId,
        needs: Usage,
        run: impl FnOnce(&mut Worker, Arc<Key>) -> Result<T> + Send + 'static,
    ) -> Call<T> {
        self.0.resolve_on_token(id, needs, move |shared, key, reply| {
            shared.go_on(key, reply, move |_, _| Ok(Box::new(run)));
        })
    }
}

/// How keys of this type are wrapped that lie outside: so that the same token unwraps them again.
///
/// # Errors
/// [`Error::NotSupported`], naming what the token lacks.
fn storing(shared: &Shared, key_type: KeyType) -> Result<Algorithm> {
    let both = |algorithm| {
        under_a_key(shared, algorithm, Operation::Wrap)?;
        under_a_key(shared, algorithm, Operation::Unwrap)
    };
    let secret = matches!(key_type, KeyType::Aes | KeyType::Hmac);
    match both(Algorithm::AesKwp) {
        Ok(_) => Ok(Algorithm::AesKwp),
        // Without padding it takes whole blocks alone, and the length of a private key is anything.
        Err(_) if secret && both(Algorithm::AesKw).is_ok() => Ok(Algorithm::AesKw),
        Err(error) => Err(error),
    }
}

fn make_wrapped(
    worker: &mut Worker,
    spec: KeySpec,
    usages: Usages,
    kek_id: &HsmKeyId,
    algorithm: Algorithm,
) -> Result<WrappedKey> {
    let shared = worker.shared.clone();
    let token = shared.link.token();
    let mechanism = under_a_key(&shared, algorithm, Operation::Wrap)?;
    let mut bytes = [0; STORED_ID_BYTES];
    shared.entropy.fill(worker, &mut bytes)?;
    let id = HsmKeyId::on(shared.options.name.as_ref(), &bytes);
    let id = id.ok_or_else(|| Error::Internal("an id of no bytes".into()))?;
    let kek = worker.kek(kek_id)?;
    let template = Template {
        id: id.as_bytes(),
        label: PASSING,
        extractable: true,
        usages,
        session_only: true,
    };
    let made = worker.run_with_key(&kek, |session, kek| {
        let _hold = shared.catalogue.change(&token);
        let made = session
            .generate(spec, &template)
            .map_err(|failure| quirks::of_creation(&token, spec, failure))?;
        let wrapped = wrap_made(session, &mechanism, kek, made);
        let destroyed = made.handles().try_for_each(|handle| session.destroy(handle));
        let wrapped = wrapped?;
        destroyed?;
        Ok(wrapped)
    });
    let (wrapped, public_key) = made.map_err(cannot_leave)?;
    if public_key.is_none() && !matches!(spec.key_type(), KeyType::Aes | KeyType::Hmac) {
        return Err(Error::Device(
            "the token does not tell the public key that it made".into(),
        ));
    }
    Ok(WrappedKey {
        id,
        key_type: spec.key_type(),
        size: spec.size(),
        usages,
        public_key,
        kek: kek_id.clone(),
        algorithm,
        wrapped,
    })
}

fn wrap_made(
    session: &mut dyn Session,
    mechanism: &Mechanism,
    kek: &Key,
    made: Made,
) -> Outcome<(Vec<u8>, Option<PublicKey>)> {
    let kek = secret(kek)?;
    let (public, target) = match made {
        Made::Pair { public, private } => (Some(public), private),
        Made::Secret(handle) | Made::Private(handle) | Made::Public(handle) => (None, handle),
    };
    let read = public.map(|public| session.read(public)).transpose()?.flatten();
    let wrapped = session.wrap(mechanism, kek, target)?;
    Ok((wrapped, read.and_then(|object| object.public_key)))
}

fn rewrap(worker: &mut Worker, key: &Arc<WrappedKey>, to: &HsmKeyId, algorithm: Algorithm) -> Result<WrappedKey> {
    let shared = worker.shared.clone();
    let token = shared.link.token();
    let unwrap = under_a_key(&shared, key.algorithm, Operation::Unwrap)?;
    let wrap = under_a_key(&shared, algorithm, Operation::Wrap)?;
    let template = Template {
        id: key.id.as_bytes(),
        label: PASSING,
        extractable: true,
        usages: key.usages,
        session_only: true,
    };
    let mut new = None;
    for _ in 0..crate::worker::MOST_LOOKS {
        let old = worker.kek(&key.kek)?;
        let kek = worker.kek(to)?;
        new = worker
            .run_with_key(&old, |session, old| {
                if !shared.index.is_current(&kek) {
                    return Ok(None);
                }
                let _hold = shared.catalogue.change(&token);
                let made = session.unwrap(&unwrap, secret(old)?, &key.wrapped, key.key_type, &template);
                let made = made.map_err(|failure| quirks::of_unwrapping(&token, failure))?;
                let wrapped = session.wrap(&wrap, secret(&kek)?, made);
                session.destroy(made)?;
                wrapped.map(Some)
            })
            .map_err(cannot_leave)?;
        if new.is_some() {
            break;
        }
        worker.find(to)?;
    }
    let wrapped = new.ok_or_else(crate::worker::lost_again_and_again)?;
    Ok(WrappedKey {
        kek: to.clone(),
        algorithm,
        wrapped,
        ..WrappedKey::clone(key)
    })
}

fn offer(worker: &mut Worker, spec: KeySpec) -> Result<Offer> {
    let shared = worker.shared.clone();
    let token = shared.link.token();
    let hash = if shared.oaep.has(worker, Hash::Sha256)? {
        Hash::Sha256
    } else {
        Hash::Sha1
    };
    let template = Template {
        id: b"offer",
        label: PASSING,
        extractable: false,
        usages: Usages::NONE.with(Usage::Wrap).with(Usage::Unwrap),
        session_only: true,
    };
    let made = worker.make(|session| {
        let _hold = shared.catalogue.change(&token);
        let generation = shared.index.generation();
        let made = session
            .generate(spec, &template)
            .map_err(|failure| quirks::of_creation(&token, spec, failure))?;
        let Made::Pair { public, private } = made else {
            return Ok(None);
        };
        let read = session.read(public)?;
        Ok(read
            .and_then(|object| object.public_key)
            .map(|key| (made, private, key, generation)))
    })?;
    let (made, tenure) = made;
    let (made, private, public_key, generation) =
        made.ok_or_else(|| Error::Device("the token does not tell the public key that it made".into()))?;
    Ok(Offer {
        key: Arc::new(shared.vault.park(made, private, generation, tenure)),
        public_key,
        hash,
    })
}

fn make_shared(worker: &mut Worker, keys: &[SharedKey], offers: &[(PublicKey, Hash)]) -> Result<Vec<Vec<Parcel>>> {
    let shared = worker.shared.clone();
    let token = shared.link.token();
    listed(&shared, MechanismId::RSA_PKCS_OAEP, Operation::Wrap)?;
    let mut hashes = Vec::new();
    for (_, hash) in offers {
        hashes.push(if shared.oaep.has(worker, *hash)? {
            *hash
        } else {
            Hash::Sha1
        });
    }
    worker.run(Again::Once, |session| {
        let _hold = shared.catalogue.change(&token);
        let mut made = Vec::new();
        let parcels = make_parcels(session, keys, offers, &hashes, &mut made);
        let destroyed = made.into_iter().try_for_each(|handle| session.destroy(handle));
        let parcels = parcels?;
        destroyed?;
        Ok(parcels)
    })
}

fn make_parcels(
    session: &mut dyn Session,
    keys: &[SharedKey],
    offers: &[(PublicKey, Hash)],
    hashes: &[Hash],
    made: &mut Vec<Handle>,
) -> Outcome<Vec<Vec<Parcel>>> {
    let passing = |usages| Template {
        id: b"shared",
        label: PASSING,
        extractable: true,
        usages,
        session_only: true,
    };
    let mut secrets = Vec::new();
    for key in keys {
        let secret = session.generate(key.spec, &passing(key.usages))?;
        made.extend(secret.handles());
        secrets.extend(secret.handles());
    }
    let mut all = Vec::new();
    for ((public, _), hash) in offers.iter().zip(hashes) {
        let key = session.import(
            &Material::Public(public.clone()),
            &passing(Usages::NONE.with(Usage::Wrap)),
        )?;
        made.extend(key.handles());
        let mut parcels = Vec::new();
        for (public, secret) in key
            .handles()
            .flat_map(|public| secrets.iter().map(move |secret| (public, secret)))
        {
            let wrapped = session.wrap(&Mechanism::RsaOaep(*hash), public, *secret)?;
            parcels.push(Parcel { wrapped, hash: *hash });
        }
        all.push(parcels);
    }
    Ok(all)
}

/// Length of the CKA_ID of a key that lies outside, in bytes: so long that no two of them meet, without asking the token.
const STORED_ID_BYTES: usize = 16;
/// The label of a key that is there for an instant.
const PASSING: &str = "passing";

fn secret(key: &Key) -> Outcome<Handle> {
    key.private().ok_or_else(|| no_half("private"))
}

/// A token that refuses to wrap what it made to be wrapped can't keep such keys outside.
fn cannot_leave(error: Error) -> Error {
    match error {
        Error::NotExtractable | Error::InvalidRequest { .. } | Error::UsageNotPermitted(_) => Error::NotSupported(
            "this token does not wrap keys of this type: protection `hsm` keeps them on the token".into(),
        ),
        Error::NotSupported(why) => {
            let text = "this token does not make and wrap keys of this type";
            Error::NotSupported(format!("{text} ({why}): protection `hsm` keeps them on the token").into())
        }
        error => error,
    }
}
