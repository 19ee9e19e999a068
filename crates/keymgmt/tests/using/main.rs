//! Managed keys in use: on a real token, with a real store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test panics"
)]

mod batches;
mod limits;
mod lists;
mod store_away;
mod versions;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hsm_core::pkcs11::Module;
use hsm_core::{
    Call, Decrypt, Encrypt, Encrypted, Hsm, HsmKeyId, KeyRef, KeySpec, Label, NewKey, Options, Sign, Usages,
};
use keymgmt::audit::{AuditLog, Filter, Record, Sync};
use keymgmt::managed::Settings;
use keymgmt::managed::record::{Protection, VersionMaterial};
use keymgmt::service::{Done, Managed, NewManaged, Parts, Rotation};
use keymgmt::store::{Place, Store};
use keymgmt::{Caller, Error, Hooks, KeyId, KeyService, ManagedId, Tokens};
use softhsm_test::Token;
use tempfile::TempDir;

/// How long a test waits for what happens in the background, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service on a token of its own, and all that it needs.
struct World {
    service: KeyService,
    store: Store,
    hsm: Hsm,
    audit: AuditLog,
    folder: TempDir,
    _token: Token,
}

impl World {
    fn new() -> World {
        World::with(settings())
    }

    fn with(settings: Settings) -> World {
        World::recording(settings, Sync::Always)
    }

    fn recording(settings: Settings, sync: Sync) -> World {
        let token = Token::softhsm();
        token.apply_env();
        let module = Module::load(token.module(), token.init_args()).unwrap();
        let mut options = Options {
            pin: Some(token.pin().into()),
            hidden: Some(keymgmt::managed::OWN_LABELS.into()),
            ..Options::default()
        };
        options.token.label = Some(token.label().to_owned());
        let hsm = Hsm::open(module, options).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let audit = AuditLog::open(&folder.path().join("audit"), sync).unwrap();
        let store = Store::open(Place::Sqlite(folder.path().join("store.sqlite"))).unwrap();
        let service = KeyService::new(Parts {
            tokens: Tokens::one(hsm.clone()),
            audit: audit.clone(),
            store: store.clone(),
            hooks: Hooks {
                describe: |_| (500, "failed"),
                observe: Arc::new(|_, _, _| {}),
            },
            settings,
        })
        .unwrap();
        World {
            service,
            store,
            hsm,
            audit,
            folder,
            _token: token,
        }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("store.sqlite")
    }

    fn make(&self, key: &str, spec: KeySpec, protection: Protection) -> Managed {
        let new = NewManaged {
            name: name(key),
            spec,
            protection,
            usages: Usages::default_for(spec.key_type()),
            token: None,
            rotation: Rotation::default(),
            tags: BTreeMap::new(),
        };
        wait(self.service.create_managed(&caller(), new, None)).unwrap()
    }

    fn rotate(&self, key: &str) -> Managed {
        wait(self.service.rotate(&caller(), &name(key), None)).unwrap()
    }

    fn encrypt(&self, key: &str, data: &[u8]) -> keymgmt::Result<(Done, Encrypted)> {
        let request = |key: KeyRef| Encrypt::new(key, data);
        wait(self.service.encrypt(&caller(), id(key), request))
    }

    fn decrypt(&self, key: &str, version: Option<u32>, encrypted: &Encrypted) -> keymgmt::Result<Vec<u8>> {
        let request = |key: KeyRef| Decrypt::new(key, encrypted.clone());
        let data = wait(self.service.decrypt(&caller(), id(key), version, request))?;
        Ok(data.to_vec())
    }

    fn sign(&self, key: &str, data: &[u8]) -> keymgmt::Result<Vec<u8>> {
        let (_, signed) = wait(self.service.sign(&caller(), id(key), |key| Sign::new(key, data)))?;
        Ok(signed.signature)
    }

    /// A key of the token that is none of a managed key.
    fn plain(&self, label: &str, spec: KeySpec) -> HsmKeyId {
        let call: Call<_> = self.hsm.generate(NewKey::new(spec, Label::parse(label).unwrap()));
        call.wait().unwrap().id
    }

    fn records(&self, action: &str) -> Vec<Record> {
        let filter = Filter {
            action: Some(action.into()),
            ..Filter::default()
        };
        self.audit.query(&filter).unwrap().records
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.service.close();
        self.audit.close();
        self.hsm.stop(Duration::from_secs(10));
    }
}

fn settings() -> Settings {
    Settings {
        stale: Duration::from_secs(300),
        cached_keys: 1000,
    }
}

/// The key of the token that a version is.
fn on_token(managed: &Managed, version: u32) -> HsmKeyId {
    match &managed.record.version(version).unwrap().material {
        VersionMaterial::OnToken(id) => id.clone(),
        other => panic!("{other:?}"),
    }
}

fn name(text: &str) -> ManagedId {
    ManagedId::parse(text).unwrap()
}

fn id(text: &str) -> KeyId {
    KeyId::parse(text).unwrap()
}

fn caller() -> Caller {
    Caller {
        request_id: "r-1".into(),
        subject: Some("alice".into()),
        client: None,
    }
}

const fn aes() -> KeySpec {
    KeySpec::Aes { bits: 256 }
}

fn p256() -> KeySpec {
    KeySpec::parse("EC", None, Some("P-256"), None).unwrap()
}

/// Tries until it is so.
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for a future without a runtime.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

macro_rules! refused {
    ($result:expr, $kind:pat) => {{
        let result = $result;
        assert!(matches!(&result, Err($kind)), "{:?}", result.map(|_| ()));
    }};
}
use refused;
