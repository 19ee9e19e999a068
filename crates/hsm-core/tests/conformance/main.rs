//! What every token must do, whoever made it: each cell of what `Hsm::capabilities` tells is true. One that says `native`
//! or `composed` works, and one that says `no` is answered so. The same tests run on each module that `softhsm_test` starts.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first thing that is not as expected"
)]

mod cells;
mod everyday;
mod keys;
mod page;
mod transport;

use std::time::Duration;

use hsm_core::pkcs11::Module;
use hsm_core::{
    Algorithm, Capabilities, Error, Hsm, KeyAttributes, KeyInfo, KeySize, KeySpec, KeyType, Label, NewKey, Operation,
    Options, Result, Support, Usage, Usages,
};
use softhsm_test::Token;

macro_rules! on_every_module {
    ($($module:ident),*) => {
        $(mod $module {
            use crate::Fixture;

            fn fixture() -> Fixture {
                Fixture::on(stringify!($module))
            }

            #[test]
            fn every_cell_of_the_capabilities_is_true() {
                crate::cells::check(&fixture());
            }

            #[test]
            fn what_it_tells_is_what_the_page_says() {
                crate::page::check(&fixture());
            }

            #[test]
            fn the_keys_that_are_told_are_made_and_no_others() {
                crate::keys::check(&fixture());
            }

            #[test]
            fn keys_leave_wrapped_and_come_back() {
                crate::transport::check(&fixture());
            }

            #[test]
            fn keys_are_put_there_listed_renamed_and_destroyed() {
                crate::everyday::check(&fixture());
            }
        })*

        /// The modules, in the order of the page.
        const MODULES: &[&str] = &[$(stringify!($module)),*];
    };
}

on_every_module!(softhsm, embedded, nss, opencryptoki, tpm, p11kit);

/// A token in use.
struct Fixture {
    name: &'static str,
    hsm: Hsm,
    _token: Token,
    capabilities: Capabilities,
}

impl Fixture {
    fn on(name: &'static str) -> Fixture {
        let token = Token::named(name);
        token.apply_env();
        let module = Module::load(token.module(), token.init_args()).unwrap();
        let mut options = Options {
            pin: Some(token.pin().into()),
            legacy_algorithms: true,
            timeout: Duration::from_secs(60),
            keygen_timeout: Duration::from_secs(120),
            ..Options::default()
        };
        options.token.label = Some(token.label().to_owned());
        let hsm = Hsm::open(module, options).unwrap();
        let capabilities = hsm.capabilities().wait().unwrap();
        Fixture {
            name,
            hsm,
            _token: token,
            capabilities,
        }
    }

    fn support(&self, algorithm: Algorithm, operation: Operation) -> Support {
        let told = self.capabilities.algorithms.iter();
        let mut cells = told.filter(|cell| cell.algorithm == algorithm && cell.operation == operation);
        cells.next().unwrap().support
    }

    fn sizes(&self, key_type: KeyType) -> &[KeySize] {
        let told = self
            .capabilities
            .key_types
            .iter()
            .find(|told| told.key_type == key_type);
        &told.unwrap().sizes
    }

    /// The first of the sizes that the token makes.
    fn some_spec(&self, key_type: KeyType) -> Option<KeySpec> {
        self.sizes(key_type).first().map(|size| spec(key_type, *size))
    }

    fn make(&self, spec: KeySpec, usages: &[Usage], extractable: bool) -> Result<KeyInfo> {
        self.hsm
            .generate(NewKey {
                id: None,
                spec,
                label: label(),
                extractable,
                usages: usages.iter().copied().collect(),
            })
            .wait()
    }
}

fn spec(key_type: KeyType, size: KeySize) -> KeySpec {
    match (key_type, size) {
        (KeyType::Rsa, KeySize::Bits(bits)) => KeySpec::Rsa { bits },
        (KeyType::Aes, KeySize::Bits(bits)) => KeySpec::Aes { bits },
        (KeyType::Hmac, KeySize::Bits(bits)) => KeySpec::Hmac { bits },
        (_, KeySize::Curve(curve)) => KeySpec::Curve(curve),
        (_, KeySize::ParameterSet(set)) => KeySpec::PostQuantum(set),
        other => panic!("{other:?}"),
    }
}

/// A label that no other key has.
fn label() -> Label {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    Label::parse(&format!("key {}", NUMBER.fetch_add(1, Ordering::Relaxed))).unwrap()
}

fn attributes(usages: &[Usage]) -> KeyAttributes {
    KeyAttributes {
        id: None,
        label: label(),
        extractable: false,
        usages: usages.iter().copied().collect::<Usages>(),
    }
}

fn is_not_supported<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::NotSupported(_)))
}

fn told<T>(result: Result<T>) -> String {
    result
        .err()
        .map_or_else(|| "it worked".into(), |error| format!("{error:?}"))
}
