//! What a doctor asks of a token: does it work from end to end, and what did others leave behind.

use crate::algorithm::MechanismId;
use crate::backend::{Class, Filter, Made, Mechanism, Template, Used};
use crate::call::Call;
use crate::error::Error;
use crate::hsm::Hsm;
use crate::key::{Curve, KeySpec, Usage, Usages};
use crate::quirks;
use crate::worker::Again;

/// Key objects that no whole key can be made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Key objects without a CKA_ID.
    pub without_id: usize,
    /// Private halves without a public one.
    pub lone_private: usize,
    /// Public halves without a private one, which is nothing wrong.
    pub lone_public: usize,
}

impl Hsm {
    /// Makes a key that lives in a session alone, signs with it and verifies; tells what kind of key it was.
    pub fn round_trip(&self) -> Call<&'static str> {
        let mechanisms = self.mechanisms();
        let has = |id: MechanismId| mechanisms.iter().any(|info| info.id == id);
        let trial = if has(MechanismId::EC_KEY_PAIR_GEN) && has(MechanismId::ECDSA) {
            Some(("EC P-256", KeySpec::Curve(Curve::P256), Mechanism::Ecdsa(None)))
        } else if has(MechanismId::RSA_PKCS_KEY_PAIR_GEN) && has(MechanismId::RSA_PKCS) {
            Some(("RSA 2048", KeySpec::Rsa { bits: 2048 }, Mechanism::RsaPkcs1(None)))
        } else if has(MechanismId::GENERIC_SECRET_KEY_GEN) && has(MechanismId::SHA256_HMAC) {
            Some((
                "HMAC 256",
                KeySpec::Hmac { bits: 256 },
                Mechanism::Hmac(crate::algorithm::Hash::Sha256),
            ))
        } else {
            None
        };
        let Some((name, spec, mechanism)) = trial else {
            return Call::settled(Err(Error::NotSupported(
                "this token makes neither EC nor RSA nor HMAC keys that sign".into(),
            )));
        };
        self.call(self.timeout_of_creation(), move |worker, reply| {
            let template = Template {
                id: b"round trip",
                label: "round trip",
                extractable: false,
                usages: Usages::NONE.with(Usage::Sign).with(Usage::Verify),
                session_only: true,
            };
            let data = [0x5a; 32];
            let shared = worker.shared.clone();
            let token = shared.link.token();
            let outcome = worker.run(Again::Once, |session| {
                let _hold = shared.catalogue.change(&token);
                let (public, private) = match session.generate(spec, &template)? {
                    Made::Pair { public, private } => (public, private),
                    Made::Secret(key) | Made::Public(key) | Made::Private(key) => (key, key),
                };
                let signature = session.sign(&mechanism, Used::freely(private), &data)?;
                let right = session.verify(&mechanism, public, &data, &signature)?;
                session.destroy(private)?;
                if public != private {
                    session.destroy(public)?;
                }
                Ok(right)
            });
            reply.settle(match outcome {
                Ok(true) => Ok(name),
                Ok(false) => Err(Error::Device("the token's own signature does not verify".into())),
                Err(error) => Err(error),
            });
        })
    }

    /// Counts what a crashed key creation may have left on the token.
    pub fn leftovers(&self) -> Call<Leftovers> {
        let token = self.token();
        self.call(self.timeout_of_creation(), move |worker, reply| {
            let ids = worker.run(Again::Once, |session| {
                let mut ids = [Vec::new(), Vec::new(), Vec::new()];
                for (class, ids) in Class::ALL.into_iter().zip(&mut ids) {
                    for handle in session.find(&Filter::Class(class))? {
                        match session.read(handle) {
                            Ok(object) => ids.extend(object.map(|object| object.id)),
                            Err(failure) if quirks::is_dead_handle(&token, &failure) => {}
                            Err(failure) => return Err(failure),
                        }
                    }
                }
                Ok(ids)
            });
            reply.settle(ids.map(|[secret, private, public]| {
                let without_id = [&secret, &private, &public]
                    .into_iter()
                    .flatten()
                    .filter(|id| id.is_empty())
                    .count();
                let alone = |ids: &[Vec<u8>], others: &[Vec<u8>]| {
                    ids.iter().filter(|id| !id.is_empty() && !others.contains(id)).count()
                };
                Leftovers {
                    without_id,
                    lone_private: alone(&private, &public),
                    lone_public: alone(&public, &private),
                }
            }));
        })
    }
}
