//! The PKCS#11 backend on real tokens: every method of a session, on SoftHSM and on the embedded token.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first thing that is not as expected"
)]

mod faults;
mod keys;
mod module;
mod operations;
mod sessions;

use hsm_core::backend::{Backend as _, Class, Filter, Handle, Made, Object, Session, Template};
use hsm_core::pkcs11::Module;
use hsm_core::{Curve, KeySpec, Usage, Usages};
use secrecy::SecretString;

/// Makes two tests of a function: one on SoftHSM, one on the embedded token.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[test]
            fn softhsm() {
                super::$name(&mut crate::Fixture::softhsm());
            }

            #[test]
            fn embedded() {
                super::$name(&mut crate::Fixture::embedded());
            }
        })*
    };
}
pub(crate) use on_both;

/// A token and a session with it whose user is logged in.
struct Fixture {
    session: Box<dyn Session>,
    slot: u64,
    module: Module,
    token: softhsm_test::Token,
    is_softhsm: bool,
}

impl Fixture {
    fn softhsm() -> Fixture {
        Fixture::on(softhsm_test::Token::softhsm(), true)
    }

    fn embedded() -> Fixture {
        Fixture::on(softhsm_test::Token::embedded(), false)
    }

    fn on(token: softhsm_test::Token, is_softhsm: bool) -> Fixture {
        token.apply_env();
        let module = Module::load(token.module(), token.init_args()).unwrap();
        let slots = module.slots().unwrap();
        let fits = |slot: &hsm_core::backend::Slot| {
            let found = slot.token.as_ref();
            found.is_some_and(|found| found.label == token.label())
        };
        let slot = slots.into_iter().find(fits).unwrap().id;
        let mut session = module.open(slot).unwrap();
        session.login(Some(&pin(&token))).unwrap();
        Fixture {
            session,
            slot,
            module,
            token,
            is_softhsm,
        }
    }

    /// Makes a token object with the id `id` in text and the label `key <id>`.
    fn make(&mut self, id: &str, spec: KeySpec, usages: &[Usage]) -> Made {
        let label = format!("key {id}");
        self.session
            .generate(
                spec,
                &Template {
                    id: id.as_bytes(),
                    label: &label,
                    extractable: false,
                    usages: usages.iter().copied().collect::<Usages>(),
                    session_only: false,
                },
            )
            .unwrap()
    }

    fn make_secret(&mut self, spec: KeySpec, usages: &[Usage]) -> Handle {
        match self.make("secret", spec, usages) {
            Made::Secret(key) => key,
            other => panic!("{other:?}"),
        }
    }

    /// The public and the private half.
    fn make_pair(&mut self, id: &str, spec: KeySpec, usages: &[Usage]) -> (Handle, Handle) {
        match self.make(id, spec, usages) {
            Made::Pair { public, private } => (public, private),
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, object: Handle) -> Object {
        self.session.read(object).unwrap().unwrap()
    }

    fn found(&mut self, filter: Filter<'_>) -> Vec<Handle> {
        self.session.find(&filter).unwrap()
    }

    fn count(&mut self, class: Class) -> usize {
        self.found(Filter::Class(class)).len()
    }

    /// The curves that the token has.
    fn curves(&self) -> Vec<Curve> {
        let all = Curve::ALL.iter().copied();
        all.filter(|curve| self.is_softhsm || *curve != Curve::Secp256k1)
            .collect()
    }
}

fn pin(token: &softhsm_test::Token) -> SecretString {
    SecretString::from(token.pin())
}
