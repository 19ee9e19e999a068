//! The life of managed keys on real tokens and a real database.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test panics"
)]

mod crash;
mod failing;
mod life;
mod model;
mod sharing;
mod tampering;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hsm_core::pkcs11::Module;
use hsm_core::{Choice, Encrypt, Encrypted, Hsm, KeyRef, KeySpec, Label, NewKey, Operation, Options, Usages};
use keymgmt::audit::{AuditLog, Filter, Sync};
use keymgmt::managed::record::{KeyRecord, Protection, VersionMaterial};
use keymgmt::managed::{OWN_LABELS, Settings};
use keymgmt::service::{Managed, NewManaged, Parts, Rotation};
use keymgmt::store::{Place, Store};
use keymgmt::{Caller, Error, Hooks, KeyId, KeyService, ManagedId, Tokens};
use softhsm_test::Token;
use tempfile::TempDir;

/// How long a test waits for what takes a second or two, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a token is, as another process is told.
struct Where {
    module: PathBuf,
    label: String,
    pin: String,
}

impl Where {
    fn of(token: &Token) -> Where {
        token.apply_env();
        Where {
            module: token.module().to_owned(),
            label: token.label().to_owned(),
            pin: token.pin().to_owned(),
        }
    }

    /// As [`Token::env`] tells it.
    fn from_env() -> Where {
        let read = |name| env::var(name).unwrap();
        Where {
            module: read("HSM_LIBRARY_PATH").into(),
            label: read("HSM_TOKEN_LABEL"),
            pin: read("HSM_PIN"),
        }
    }

    fn open(&self) -> Hsm {
        let mut options = Options {
            pin: Some(self.pin.clone().into()),
            hidden: Some(OWN_LABELS.into()),
            ..Options::default()
        };
        options.token.label = Some(self.label.clone());
        Hsm::open(Module::load(&self.module, None).unwrap(), options).unwrap()
    }
}

/// Action, key, version and subject of a record.
type Recorded = (String, Option<String>, Option<u32>, Option<String>);

/// A service on a token and on a folder with store and audit log.
struct Gateway {
    hsm: Hsm,
    service: KeyService,
    runtime: tokio::runtime::Runtime,
}

impl Gateway {
    fn open(place: &Where, folder: &Path) -> Gateway {
        Gateway::on(place.open(), folder)
    }

    fn on(hsm: Hsm, folder: &Path) -> Gateway {
        Gateway::with(&Tokens::one(hsm), folder)
    }

    fn with(tokens: &Tokens, folder: &Path) -> Gateway {
        let store = Place::Sqlite(folder.join("store.sqlite"));
        Gateway::keeping(tokens, folder, store, 1000)
    }

    fn keeping(tokens: &Tokens, folder: &Path, store: Place, cached_keys: usize) -> Gateway {
        let hooks = Hooks {
            describe: |error| match error {
                Error::Conflict(_) => (409, "conflict"),
                _ => (500, "internal"),
            },
            observe: Arc::new(|_, _, _| ()),
        };
        let service = KeyService::new(Parts {
            tokens: tokens.clone(),
            audit: AuditLog::open(&folder.join("audit"), Sync::Always).unwrap(),
            store: Store::open(store).unwrap(),
            hooks,
            settings: Settings {
                stale: Duration::from_secs(300),
                cached_keys,
            },
        });
        Gateway {
            hsm: tokens.named(None).unwrap().clone(),
            service: service.unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
        }
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn create(&self, key: &str, protection: Protection) -> Managed {
        let new = new_aes(key, protection);
        self.run(self.service.create_managed(&caller(), new, None)).unwrap()
    }

    fn rotate(&self, key: &str) -> Managed {
        self.run(self.service.rotate(&caller(), &name(key), None)).unwrap()
    }

    fn destroy(&self, key: &str) {
        self.run(self.service.schedule_destruction(&caller(), &name(key), 0))
            .unwrap();
    }

    fn record(&self, key: &str) -> KeyRecord {
        self.run(self.service.managed(&name(key))).unwrap().record
    }

    fn encrypt(&self, key: &str) -> Result<(u32, Encrypted), Error> {
        let id = KeyId::Managed(name(key));
        let request = |key: KeyRef| Encrypt {
            key,
            data: b"plaintext".to_vec().into(),
            algorithm: Choice::parse("AES-GCM", Operation::Encrypt),
            aad: None,
        };
        let (done, encrypted) = self.run(self.service.encrypt(&caller(), id, request))?;
        Ok((done.key_version.unwrap(), encrypted))
    }

    fn actions(&self) -> Vec<Recorded> {
        let page = self.service.records(&Filter::default()).unwrap();
        let of = |one: keymgmt::audit::Record| (one.action, one.key_id, one.key_version, one.subject);
        page.records.into_iter().rev().map(of).collect()
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&Gateway) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "never so: {what}");
            sleep(Duration::from_millis(50));
        }
    }

    fn close(self) {
        self.service.close();
        self.service.audit().close();
    }
}

fn caller() -> Caller {
    Caller {
        request_id: "r-1".into(),
        subject: Some("alice".into()),
        client: None,
    }
}

fn name(text: &str) -> ManagedId {
    ManagedId::parse(text).unwrap()
}

fn new_aes(key: &str, protection: Protection) -> NewManaged {
    let spec = KeySpec::Aes { bits: 256 };
    NewManaged {
        name: name(key),
        spec,
        protection,
        usages: Usages::default_for(spec.key_type()),
        token: None,
        rotation: Rotation::default(),
        tags: BTreeMap::new(),
    }
}

/// The CKA_IDs in hex of a key's versions on the token.
fn ids_of(record: &KeyRecord) -> Vec<String> {
    let id = |material: &VersionMaterial| match material {
        VersionMaterial::OnToken(id) => Some(id.to_string().replace("hsm:", "")),
        VersionMaterial::Wrapped { .. } | VersionMaterial::Destroyed => None,
    };
    record.versions.iter().filter_map(|one| id(&one.material)).collect()
}

/// The ids of all key objects on the token, those of the gateway's own keys too.
fn on_token(token: &Token) -> BTreeSet<String> {
    token.objects().into_iter().map(|object| object.id).collect()
}
