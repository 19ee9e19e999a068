//! Random calls, and a model that says of each what it must answer.
//!
//! A failure prints the calls that it takes and its seed; `PROPTEST_RNG_SEED=<seed>` makes the same calls again.

use std::cell::{Cell, RefCell};

use hsm_core::{Decrypt, HsmKeyId, Sign, Verify};
use keymgmt::managed::record::{KeyState, VersionState};
use keymgmt::service::{Adopt, Update};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngSeed, TestCaseError, TestError, TestRunner};
use softhsm_test::Postgres;

use super::*;

/// How long new calls are made up.
const TIME: Duration = Duration::from_secs(9);
/// So few records are kept in memory that most are read again and again.
const CACHED: usize = 2;
/// Keys that push the others out of memory.
const FILLERS: [&str; 4] = ["filler-0", "filler-1", "filler-2", "filler-3"];

/// One of the names of a case.
type Key = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Aes,
    Ec,
}

/// Which version is named.
#[derive(Clone, Copy, Debug)]
enum With {
    /// The one that made it.
    Own,
    /// None.
    Primary,
    This(u32),
}

#[derive(Clone, Debug)]
enum Step {
    Create(Key, Kind, Protection),
    Adopt(Key, Kind),
    AdoptVersion(Key, Key, u32),
    Rotate(Key),
    SetState(Key, KeyState),
    SetVersion(Key, u32, VersionState),
    SetPrimary(Key, u32),
    Tag(Key, u8),
    Destroy(Key, u8),
    Restore(Key),
    Encrypt(Key),
    EncryptWithObject(Key, u32),
    DataKey(Key),
    Decrypt(Index, With),
    Rewrap(Index, With),
    Sign(Key),
    Verify(Index, With),
    DeleteObject(Key, u32),
    RotateKek,
    Restart,
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0..2_u8;
    let version = || 0..5_u32;
    let kind = || prop_oneof![2 => Just(Kind::Aes), 1 => Just(Kind::Ec)];
    let with = || prop_oneof![3 => Just(With::Own), 1 => Just(With::Primary), 1 => version().prop_map(With::This)];
    let protection = prop_oneof![Just(Protection::Hsm), Just(Protection::Wrapped)];
    let states = prop_oneof![
        5 => Just(KeyState::Enabled),
        3 => Just(KeyState::Disabled),
        1 => Just(KeyState::ScheduledForDestruction),
        1 => Just(KeyState::Destroyed),
    ];
    let version_states = prop_oneof![
        5 => Just(VersionState::Enabled),
        3 => Just(VersionState::Disabled),
        1 => Just(VersionState::Destroyed),
    ];
    let window = prop_oneof![1 => Just(0), 4 => Just(7), 1 => Just(31)];
    let step = prop_oneof![
        6 => (key(), kind(), protection).prop_map(|(key, kind, protection)| Step::Create(key, kind, protection)),
        3 => (key(), kind()).prop_map(|(key, kind)| Step::Adopt(key, kind)),
        1 => (key(), key(), version()).prop_map(|(key, of, version)| Step::AdoptVersion(key, of, version)),
        6 => key().prop_map(Step::Rotate),
        6 => (key(), states).prop_map(|(key, state)| Step::SetState(key, state)),
        4 => (key(), version(), version_states).prop_map(|(key, version, to)| Step::SetVersion(key, version, to)),
        3 => (key(), version()).prop_map(|(key, version)| Step::SetPrimary(key, version)),
        1 => (key(), 0..3_u8).prop_map(|(key, tag)| Step::Tag(key, tag)),
        5 => (key(), window).prop_map(|(key, days)| Step::Destroy(key, days)),
        8 => key().prop_map(Step::Restore),
        10 => key().prop_map(Step::Encrypt),
        3 => (key(), version()).prop_map(|(key, version)| Step::EncryptWithObject(key, version)),
        2 => key().prop_map(Step::DataKey),
        10 => (any::<Index>(), with()).prop_map(|(at, with)| Step::Decrypt(at, with)),
        4 => (any::<Index>(), with()).prop_map(|(at, with)| Step::Rewrap(at, with)),
        5 => key().prop_map(Step::Sign),
        5 => (any::<Index>(), with()).prop_map(|(at, with)| Step::Verify(at, with)),
        1 => (key(), version()).prop_map(|(key, version)| Step::DeleteObject(key, version)),
        1 => Just(Step::RotateKek),
        1 => Just(Step::Restart),
        2 => Just(Step::Forget),
    ];
    vec(step, 1..100)
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    NoKey,
    NoVersion,
    Disabled,
    Destroyed,
    Conflict,
    Invalid,
    WrongKey,
    DoesNotDecrypt,
    Other(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        match error {
            Error::KeyNotFound(_) => Refusal::NoKey,
            Error::VersionNotFound { .. } => Refusal::NoVersion,
            Error::KeyDisabled(_) => Refusal::Disabled,
            Error::KeyDestroyed(_) => Refusal::Destroyed,
            Error::Conflict(_) => Refusal::Conflict,
            Error::Invalid { .. } | Error::Hsm(hsm_core::Error::InvalidRequest { .. }) => Refusal::Invalid,
            Error::Hsm(hsm_core::Error::DecryptionFailed) => Refusal::DoesNotDecrypt,
            Error::Hsm(
                hsm_core::Error::KeyTypeMismatch(_)
                | hsm_core::Error::UsageNotPermitted(_)
                | hsm_core::Error::UnsupportedAlgorithm(_),
            ) => Refusal::WrongKey,
            error => Refusal::Other(format!("{error:?}")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Enabled,
    Disabled,
    /// `soon`: from now on it may be destroyed at any moment.
    Scheduled {
        was_enabled: bool,
        soon: bool,
    },
    Destroyed,
}

/// A managed key as it must be.
#[derive(Debug)]
struct Model {
    kind: Kind,
    protection: Protection,
    life: Life,
    /// Whether each version is enabled.
    versions: Vec<bool>,
    primary: u32,
    tags: BTreeMap<String, String>,
    operations: u64,
    /// The token's ids of the versions, which are not for the model to say.
    ids: Vec<HsmKeyId>,
}

impl Model {
    fn has(&self, version: u32) -> bool {
        (1..=self.versions.len()).contains(&(version as usize))
    }

    fn alive(&self) -> Result<(), Refusal> {
        match self.life {
            Life::Enabled | Life::Disabled => Ok(()),
            Life::Scheduled { .. } | Life::Destroyed => Err(Refusal::Destroyed),
        }
    }

    fn usable(&self, version: Option<u32>) -> Result<u32, Refusal> {
        self.alive()?;
        let version = version.unwrap_or(self.primary);
        if self.life == Life::Disabled {
            return Err(Refusal::Disabled);
        }
        if !self.has(version) {
            return Err(Refusal::NoVersion);
        }
        if !self.versions[version as usize - 1] {
            return Err(Refusal::Disabled);
        }
        Ok(version)
    }

    fn fits(&self, kind: Kind) -> Result<(), Refusal> {
        if self.kind == kind {
            Ok(())
        } else {
            Err(Refusal::WrongKey)
        }
    }

    fn is_going(&self) -> bool {
        matches!(self.life, Life::Scheduled { soon: true, .. } | Life::Destroyed)
    }
}

/// What a version made.
struct Made<T> {
    key: Key,
    version: u32,
    data: Vec<u8>,
    what: T,
}

/// The keys of one case.
#[derive(Default)]
struct Case {
    keys: BTreeMap<Key, Model>,
    ciphertexts: Vec<Made<Encrypted>>,
    signatures: Vec<Made<Vec<u8>>>,
}

/// What all cases share.
struct World {
    tokens: Tokens,
    folder: TempDir,
    place: fn(&Path, Option<&Postgres>) -> Place,
    gateway: Option<Gateway>,
    cases: usize,
    steps: usize,
    /// Destroyed at the end, or about to be.
    going: Vec<String>,
    /// Keys of the token that are no version.
    loose: Vec<HsmKeyId>,
    server: Option<Postgres>,
    token: Token,
}

type Checked<T = ()> = Result<T, TestCaseError>;

impl World {
    fn new(place: fn(&Path, Option<&Postgres>) -> Place, server: Option<Postgres>) -> World {
        let token = Token::softhsm();
        let tokens = Tokens::one(Where::of(&token).open());
        let mut world = World {
            tokens,
            folder: TempDir::new().unwrap(),
            place,
            gateway: None,
            cases: 0,
            steps: 0,
            going: Vec::new(),
            loose: Vec::new(),
            server,
            token,
        };
        world.restart();
        for filler in FILLERS {
            world.gateway().create(filler, Protection::Wrapped);
        }
        world
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    fn restart(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.close();
        }
        let place = (self.place)(self.folder.path(), self.server.as_ref());
        self.gateway = Some(Gateway::keeping(&self.tokens, self.folder.path(), place, CACHED));
    }

    fn text(&self, key: Key) -> String {
        format!("case-{}-{key}", self.cases)
    }

    fn name(&self, key: Key) -> ManagedId {
        name(&self.text(key))
    }

    fn id(&self, key: Key) -> KeyId {
        KeyId::Managed(self.name(key))
    }

    /// A new text, so that no two ciphertexts have the same.
    fn data(&mut self) -> Vec<u8> {
        self.steps += 1;
        format!("data {}", self.steps).into_bytes()
    }

    fn run<T>(&self, work: impl AsyncFnOnce(&KeyService) -> keymgmt::Result<T>) -> Result<T, Refusal> {
        let gateway = self.gateway();
        Ok(gateway.run(work(&gateway.service))?)
    }

    fn case(&mut self, steps: &[Step]) -> Checked {
        self.cases += 1;
        let mut case = Case::default();
        let done = steps.iter().try_for_each(|step| {
            let done = self.step(&mut case, step);
            done.map_err(|error| TestCaseError::fail(format!("{step:?} of the case {}: {error}", self.cases)))
        });
        let kept = done.and_then(|()| self.kept(&mut case));
        // Also after a failure, so that the next one says something.
        self.end(&case);
        kept
    }

    fn step(&mut self, case: &mut Case, step: &Step) -> Checked {
        match *step {
            Step::Create(key, kind, protection) => self.create(case, key, kind, protection),
            Step::Adopt(key, kind) => self.adopt(case, key, kind),
            Step::AdoptVersion(key, of, version) => self.adopt_version(case, key, of, version),
            Step::Rotate(key) => self.rotate(case, key),
            Step::SetState(..) | Step::SetPrimary(..) | Step::Tag(..) => self.update(case, step),
            Step::SetVersion(key, version, state) => self.set_version(case, key, version, state),
            Step::Destroy(key, days) => self.destroy(case, key, days),
            Step::Restore(key) => self.restore(case, key),
            Step::Encrypt(key) => self.encrypt(case, key),
            Step::EncryptWithObject(key, version) => self.encrypt_with_object(case, key, version),
            Step::DataKey(key) => self.datakey(case, key),
            Step::Decrypt(at, with) => self.decrypt(case, at, with),
            Step::Rewrap(at, with) => self.rewrap(case, at, with),
            Step::Sign(key) => self.sign(case, key),
            Step::Verify(at, with) => self.verify(case, at, with),
            Step::DeleteObject(key, version) => self.delete_object(case, key, version),
            Step::RotateKek => {
                let before = self
                    .gateway()
                    .run(self.gateway().service.kek_status())
                    .unwrap()
                    .keys
                    .len();
                let version = self.run(async |service| service.rotate_kek(&[], |_, _| ()).await);
                prop_assert_eq!(version, Ok(u32::try_from(before).unwrap() + 1));
                let status = self.gateway().run(self.gateway().service.kek_status()).unwrap();
                prop_assert_eq!(status.outdated, 0);
                Ok(())
            }
            Step::Restart => {
                self.restart();
                Ok(())
            }
            Step::Forget => {
                FILLERS
                    .iter()
                    .for_each(|filler| drop(self.gateway().encrypt(filler).unwrap()));
                Ok(())
            }
        }
    }

    fn create(&mut self, case: &mut Case, key: Key, kind: Kind, protection: Protection) -> Checked {
        let spec = spec(kind);
        let new = NewManaged {
            spec,
            usages: Usages::default_for(spec.key_type()),
            ..new_aes(&self.text(key), protection)
        };
        let made = self.run(async |service| service.create_managed(&caller(), new, None).await);
        self.born(case, key, (kind, protection), made).map(drop)
    }

    fn adopt(&mut self, case: &mut Case, key: Key, kind: Kind) -> Checked {
        self.steps += 1;
        let new = NewKey::new(spec(kind), Label::parse(&format!("loose {}", self.steps)).unwrap());
        let loose = self.run(async |service| service.create(&caller(), None, new, None).await);
        let id = loose.unwrap().id;
        let adopt = self.adoption(key, &id);
        let made = self.run(async |service| service.adopt(&caller(), adopt, None).await);
        if !self.born(case, key, (kind, Protection::Hsm), made)? {
            self.loose.push(id);
        }
        Ok(())
    }

    fn adopt_version(&mut self, case: &mut Case, key: Key, of: Key, version: u32) -> Checked {
        let Some(id) = object(case, of, version) else {
            return Ok(());
        };
        let adopt = self.adoption(key, &id);
        let adopted = self.run(async |service| service.adopt(&caller(), adopt, None).await);
        prop_assert_eq!(adopted.map(drop), Err(Refusal::Conflict));
        Ok(())
    }

    fn adoption(&self, key: Key, id: &HsmKeyId) -> Adopt {
        Adopt {
            name: self.name(key),
            hsm_key_id: id.clone(),
            rotation: Rotation::default(),
            tags: BTreeMap::new(),
        }
    }

    /// Answers whether it was made.
    fn born(
        &self,
        case: &mut Case,
        key: Key,
        (kind, protection): (Kind, Protection),
        made: Result<Managed, Refusal>,
    ) -> Checked<bool> {
        if case.keys.contains_key(&key) {
            prop_assert_eq!(made.map(drop), Err(Refusal::Conflict));
            return Ok(false);
        }
        let mut model = Model {
            kind,
            protection,
            life: Life::Enabled,
            versions: vec![true],
            primary: 1,
            tags: BTreeMap::new(),
            operations: 0,
            ids: Vec::new(),
        };
        let made = made.map_err(|refusal| TestCaseError::fail(format!("{refusal:?}")))?;
        model.ids = objects(&made.record);
        case.keys.insert(key, model);
        self.same(case, key, &made.record)?;
        Ok(true)
    }

    fn rotate(&mut self, case: &mut Case, key: Key) -> Checked {
        let expected = case.keys.get(&key).ok_or(Refusal::NoKey).and_then(|model| {
            model.alive()?;
            if model.life == Life::Disabled {
                Err(Refusal::Disabled)
            } else {
                Ok(())
            }
        });
        let name = self.name(key);
        let rotated = self.run(async |service| service.rotate(&caller(), &name, None).await);
        self.changed(case, key, &expected, rotated, |model, record| {
            model.versions.push(true);
            model.primary = u32::try_from(model.versions.len()).unwrap();
            model.ids = objects(record);
        })
    }

    fn update(&mut self, case: &mut Case, step: &Step) -> Checked {
        let mut update = Update::default();
        let key = match *step {
            Step::SetState(key, state) => {
                update.state = Some(state);
                key
            }
            Step::SetPrimary(key, version) => {
                update.primary_version = Some(version);
                key
            }
            Step::Tag(key, tag) => {
                update.tags = Some(tags(tag));
                key
            }
            _ => unreachable!("{step:?} is no update"),
        };
        let expected = case.keys.get(&key).ok_or(Refusal::NoKey).and_then(|model| match *step {
            Step::SetState(_, KeyState::ScheduledForDestruction | KeyState::Destroyed) => Err(Refusal::Invalid),
            Step::SetPrimary(_, version) => {
                model.alive()?;
                match model.versions.get((version as usize).wrapping_sub(1)) {
                    None => Err(Refusal::Invalid),
                    Some(false) => Err(Refusal::Disabled),
                    Some(true) => Ok(()),
                }
            }
            _ => model.alive(),
        });
        let name = self.name(key);
        let updated = self.run(async |service| service.update(&caller(), &name, update).await);
        self.changed(case, key, &expected, updated, |model, _| match *step {
            Step::SetState(_, KeyState::Enabled) => model.life = Life::Enabled,
            Step::SetState(..) => model.life = Life::Disabled,
            Step::SetPrimary(_, version) => model.primary = version,
            Step::Tag(_, tag) => model.tags = tags(tag),
            _ => {}
        })
    }

    fn set_version(&mut self, case: &mut Case, key: Key, version: u32, state: VersionState) -> Checked {
        let expected = case.keys.get(&key).ok_or(Refusal::NoKey).and_then(|model| {
            if state == VersionState::Destroyed {
                return Err(Refusal::Invalid);
            }
            model.alive()?;
            if model.has(version) {
                Ok(())
            } else {
                Err(Refusal::NoVersion)
            }
        });
        let name = self.name(key);
        let set = self.run(async |service| service.update_version(&caller(), &name, version, state).await);
        self.changed(case, key, &expected, set, |model, _| {
            model.versions[version as usize - 1] = state == VersionState::Enabled;
        })
    }

    fn destroy(&mut self, case: &mut Case, key: Key, days: u8) -> Checked {
        let expected = case.keys.get(&key).ok_or(Refusal::NoKey).and_then(|model| {
            if days > 30 {
                Err(Refusal::Invalid)
            } else {
                model.alive()
            }
        });
        let name = self.name(key);
        let scheduled = self.run(async |service| service.schedule_destruction(&caller(), &name, days).await);
        self.changed(case, key, &expected, scheduled, |model, _| {
            model.life = Life::Scheduled {
                was_enabled: model.life == Life::Enabled,
                soon: days == 0,
            };
        })
    }

    fn restore(&mut self, case: &mut Case, key: Key) -> Checked {
        let name = self.name(key);
        let restored = self.run(async |service| service.restore(&caller(), &name).await);
        let expected = match case.keys.get_mut(&key) {
            None => Err(Refusal::NoKey),
            Some(model) => match model.life {
                Life::Enabled | Life::Disabled => Err(Refusal::Conflict),
                Life::Destroyed => Err(Refusal::Destroyed),
                // Whether it is too late only the gateway knows.
                Life::Scheduled { soon: true, .. } if restored.is_err() => {
                    model.life = Life::Destroyed;
                    Err(Refusal::Destroyed)
                }
                Life::Scheduled { .. } => Ok(()),
            },
        };
        self.changed(case, key, &expected, restored, |model, _| {
            if let Life::Scheduled { was_enabled, .. } = model.life {
                model.life = if was_enabled { Life::Enabled } else { Life::Disabled };
            }
        })
    }

    /// Compares the answer of a change, and what is read afterwards.
    fn changed(
        &self,
        case: &mut Case,
        key: Key,
        expected: &Result<(), Refusal>,
        answer: Result<Managed, Refusal>,
        apply: impl FnOnce(&mut Model, &KeyRecord),
    ) -> Checked {
        prop_assert_eq!(&answer.as_ref().map(|_| ()).map_err(Clone::clone), expected);
        if let (Ok(answer), Some(model)) = (answer, case.keys.get_mut(&key)) {
            apply(model, &answer.record);
            self.same(case, key, &answer.record)?;
        }
        let name = self.name(key);
        match self.run(async |service| service.managed(&name).await) {
            Ok(managed) => self.same(case, key, &managed.record),
            Err(refusal) => {
                prop_assert_eq!(refusal, Refusal::NoKey);
                prop_assert!(!case.keys.contains_key(&key));
                Ok(())
            }
        }
    }

    fn same(&self, case: &Case, key: Key, record: &KeyRecord) -> Checked {
        let Some(model) = case.keys.get(&key) else {
            return Err(TestCaseError::fail(format!("there is no such key: {record:?}")));
        };
        let gone = record.state == KeyState::Destroyed;
        if model.is_going() && gone {
            return Ok(());
        }
        let (state, before) = match model.life {
            Life::Enabled => (KeyState::Enabled, None),
            Life::Disabled => (KeyState::Disabled, None),
            Life::Scheduled { was_enabled: true, .. } => (KeyState::ScheduledForDestruction, Some(KeyState::Enabled)),
            Life::Scheduled { .. } => (KeyState::ScheduledForDestruction, Some(KeyState::Disabled)),
            Life::Destroyed => (KeyState::Destroyed, None),
        };
        prop_assert_eq!((record.state, record.state_before), (state, before));
        prop_assert_eq!(record.destroy_at.is_some(), before.is_some());
        prop_assert_eq!(record.primary_version, model.primary);
        prop_assert_eq!(&record.tags, &model.tags);
        prop_assert_eq!(record.protection, model.protection);
        let versions = record.versions.iter().map(|one| (one.version, one.state));
        let states = model.versions.iter().map(|enabled| match enabled {
            true => VersionState::Enabled,
            false => VersionState::Disabled,
        });
        prop_assert!(
            versions.eq((1..).zip(states)),
            "{:?} instead of {:?}",
            record.versions,
            model.versions
        );
        prop_assert_eq!(&objects(record), &model.ids);
        let with_objects = if model.protection == Protection::Hsm {
            model.versions.len()
        } else {
            0
        };
        prop_assert_eq!(model.ids.len(), with_objects);
        let public = record
            .versions
            .iter()
            .all(|one| one.public_key.is_some() == (model.kind == Kind::Ec));
        prop_assert!(public);
        Ok(())
    }

    fn encrypt(&mut self, case: &mut Case, key: Key) -> Checked {
        let expected = primary(case, key, Kind::Aes);
        let data = self.data();
        let (id, plain) = (self.id(key), data.clone());
        let request = |key: KeyRef| Encrypt {
            algorithm: hsm_core::Algorithm::AesGcm.into(),
            ..Encrypt::new(key, plain)
        };
        let encrypted = self.run(async |service| service.encrypt(&caller(), id, request).await);
        self.encrypted(case, key, &expected, encrypted, data)
    }

    fn datakey(&mut self, case: &mut Case, key: Key) -> Checked {
        let expected = primary(case, key, Kind::Aes);
        let id = self.id(key);
        let made = self.run(async |service| service.datakey(&caller(), id, 256).await);
        let (made, data) = match made {
            Ok((done, encrypted, data)) => (Ok((done, encrypted)), data.to_vec()),
            Err(refusal) => (Err(refusal), Vec::new()),
        };
        self.encrypted(case, key, &expected, made, data)
    }

    fn rewrap(&mut self, case: &mut Case, at: Index, with: With) -> Checked {
        if case.ciphertexts.is_empty() {
            return Ok(());
        }
        let made = at.get(&case.ciphertexts);
        let (key, data) = (made.key, made.data.clone());
        let (version, opened) = opened(case, made, with);
        // That the primary version can be used is known before anything is decrypted.
        let expected = usable(case, key, version)
            .and_then(|_| primary(case, key, Kind::Aes))
            .and_then(|primary| opened.map(|()| primary));
        let (id, what) = (self.id(key), made.what.clone());
        let request = |key: KeyRef| Decrypt::new(key, what);
        let rewrapped = self.run(async |service| service.rewrap(&caller(), id, version, request).await);
        self.encrypted(case, key, &expected, rewrapped, data)
    }

    fn encrypted(
        &self,
        case: &mut Case,
        key: Key,
        expected: &Result<u32, Refusal>,
        answer: Result<(keymgmt::service::Done, Encrypted), Refusal>,
        data: Vec<u8>,
    ) -> Checked {
        let version = answer.as_ref().map(|(done, _)| done.key_version).map_err(Clone::clone);
        prop_assert_eq!(&version, &expected.clone().map(Some));
        if let (Ok((done, what)), Ok(version)) = (answer, expected.clone()) {
            prop_assert_eq!(done.key_id, self.text(key));
            used(case, key);
            case.ciphertexts.push(Made {
                key,
                version,
                data,
                what,
            });
        }
        Ok(())
    }

    fn encrypt_with_object(&mut self, case: &mut Case, key: Key, version: u32) -> Checked {
        let Some(object) = object(case, key, version) else {
            return Ok(());
        };
        let expected = usable(case, key, Some(version)).and_then(|_| case.keys[&key].fits(Kind::Aes));
        let data = self.data();
        let plain = data.clone();
        let request = |key: KeyRef| Encrypt {
            algorithm: hsm_core::Algorithm::AesGcm.into(),
            ..Encrypt::new(key, plain)
        };
        let encrypted = self.run(async |service| service.encrypt(&caller(), KeyId::Hsm(object), request).await);
        prop_assert_eq!(encrypted.as_ref().map(|_| ()).map_err(Clone::clone), expected);
        if let Ok((done, what)) = encrypted {
            prop_assert_eq!(done.key_version, None);
            used(case, key);
            case.ciphertexts.push(Made {
                key,
                version,
                data,
                what,
            });
        }
        Ok(())
    }

    fn decrypt(&mut self, case: &mut Case, at: Index, with: With) -> Checked {
        if case.ciphertexts.is_empty() {
            return Ok(());
        }
        let made = at.get(&case.ciphertexts);
        let key = made.key;
        let (version, opened) = opened(case, made, with);
        let expected = usable(case, key, version).and(opened).map(|()| made.data.clone());
        let (id, what) = (self.id(key), made.what.clone());
        let request = |key: KeyRef| Decrypt::new(key, what);
        let decrypted = self.run(async |service| service.decrypt(&caller(), id, version, request).await);
        let decrypted = decrypted.map(|data| data.to_vec());
        prop_assert_eq!(&decrypted, &expected);
        if decrypted.is_ok() {
            used(case, key);
        }
        Ok(())
    }

    fn sign(&mut self, case: &mut Case, key: Key) -> Checked {
        let expected = primary(case, key, Kind::Ec);
        let data = self.data();
        let (id, message) = (self.id(key), data.clone());
        let request = |key: KeyRef| Sign {
            algorithm: hsm_core::Algorithm::EcdsaSha256.into(),
            ..Sign::new(key, message)
        };
        let signed = self.run(async |service| service.sign(&caller(), id, request).await);
        let version = signed.as_ref().map(|(done, _)| done.key_version).map_err(Clone::clone);
        prop_assert_eq!(version, expected.clone().map(Some));
        if let (Ok((_, signed)), Ok(version)) = (signed, expected) {
            used(case, key);
            let what = signed.signature;
            case.signatures.push(Made {
                key,
                version,
                data,
                what,
            });
        }
        Ok(())
    }

    fn verify(&mut self, case: &mut Case, at: Index, with: With) -> Checked {
        if case.signatures.is_empty() {
            return Ok(());
        }
        let made = at.get(&case.signatures);
        let key = made.key;
        let (version, opened) = opened(case, made, with);
        let expected = usable(case, key, version).map(|_| opened.is_ok());
        let (id, message, signature) = (self.id(key), made.data.clone(), made.what.clone());
        let request = |key: KeyRef| Verify {
            signed: Sign {
                algorithm: hsm_core::Algorithm::EcdsaSha256.into(),
                ..Sign::new(key, message)
            },
            signature,
        };
        let valid = self.run(async |service| service.verify(&caller(), id, version, request).await);
        prop_assert_eq!(&valid, &expected);
        if valid.is_ok() {
            used(case, key);
        }
        Ok(())
    }

    fn delete_object(&mut self, case: &mut Case, key: Key, version: u32) -> Checked {
        let Some(object) = object(case, key, version) else {
            return Ok(());
        };
        let deleted = self.run(async |service| service.delete(&caller(), KeyId::Hsm(object)).await);
        prop_assert_eq!(deleted, Err(Refusal::Conflict));
        Ok(())
    }

    /// At the end of a case: every key is as it must be, what can be opened opens, and every use was counted.
    fn kept(&self, case: &mut Case) -> Checked {
        for made in &case.ciphertexts {
            if case.keys[&made.key].usable(Some(made.version)).is_err() {
                continue;
            }
            let (id, what) = (self.id(made.key), made.what.clone());
            let request = |key: KeyRef| Decrypt::new(key, what);
            let version = Some(made.version);
            let data = self.run(async |service| service.decrypt(&caller(), id, version, request).await);
            prop_assert_eq!(data.map(|data| data.to_vec()), Ok(made.data.clone()));
            case.keys.entry(made.key).and_modify(|model| model.operations += 1);
        }
        for (key, model) in &case.keys {
            let name = self.name(*key);
            let begun = Instant::now();
            loop {
                let managed = self.run(async |service| service.managed(&name).await);
                let managed = managed.map_err(|refusal| TestCaseError::fail(format!("{refusal:?}")))?;
                self.same(case, *key, &managed.record)?;
                if managed.operations == model.operations {
                    break;
                }
                // While counts are being written they may be read twice, or not at all.
                prop_assert!(
                    begun.elapsed() < Duration::from_secs(10),
                    "{name} counts {} operations instead of {}",
                    managed.operations,
                    model.operations
                );
                sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// All keys of a case go.
    fn end(&mut self, case: &Case) {
        for key in case.keys.keys() {
            let name = self.name(*key);
            // Whatever state it has.
            let _ = self.run(async |service| service.restore(&caller(), &name).await);
            let _ = self.run(async |service| service.schedule_destruction(&caller(), &name, 0).await);
            self.going.push(name.to_string());
        }
    }

    /// Nothing is left of them but what must be.
    fn nothing_is_left(self) {
        let gateway = self.gateway();
        let state = |key: &String| gateway.record(key).state;
        gateway.wait_until("every key is destroyed", |_| {
            self.going.iter().all(|key| state(key) == KeyState::Destroyed)
        });
        let own = gateway.run(gateway.service.kek_status()).unwrap().keys;
        let own = own.iter().flat_map(|keys| [&keys.kek, &keys.mac]);
        let expected: BTreeSet<String> = own
            .chain(&self.loose)
            .map(|id| id.to_string().replace("hsm:", ""))
            .collect();
        // What is loaded for use ends with the sessions.
        gateway.wait_until("nothing else is left on the token", |_| {
            let there = self
                .token
                .objects()
                .into_iter()
                .filter(|object| object.token == Some(true));
            there.map(|object| object.id).collect::<BTreeSet<_>>() == expected
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.close();
        }
    }
}

fn spec(kind: Kind) -> KeySpec {
    match kind {
        Kind::Aes => KeySpec::Aes { bits: 256 },
        Kind::Ec => KeySpec::parse("EC", None, Some("P-256"), None).unwrap(),
    }
}

fn tags(tag: u8) -> BTreeMap<String, String> {
    (0..tag).map(|at| (format!("tag-{at}"), at.to_string())).collect()
}

fn objects(record: &KeyRecord) -> Vec<HsmKeyId> {
    let id = |material: &VersionMaterial| match material {
        VersionMaterial::OnToken(id) => Some(id.clone()),
        VersionMaterial::Wrapped { .. } | VersionMaterial::Destroyed => None,
    };
    record.versions.iter().filter_map(|one| id(&one.material)).collect()
}

/// The object of a version, as long as it is there for certain.
fn object(case: &Case, key: Key, version: u32) -> Option<HsmKeyId> {
    let model = case.keys.get(&key).filter(|model| !model.is_going())?;
    model.ids.get((version as usize).checked_sub(1)?).cloned()
}

fn usable(case: &Case, key: Key, version: Option<u32>) -> Result<u32, Refusal> {
    case.keys.get(&key).ok_or(Refusal::NoKey)?.usable(version)
}

fn primary(case: &Case, key: Key, kind: Kind) -> Result<u32, Refusal> {
    let version = usable(case, key, None)?;
    case.keys[&key].fits(kind).map(|()| version)
}

/// The version that is named, and whether what was made opens with it.
fn opened<T>(case: &Case, made: &Made<T>, with: With) -> (Option<u32>, Result<(), Refusal>) {
    let version = match with {
        With::Own => Some(made.version),
        With::Primary => None,
        With::This(version) => Some(version),
    };
    let same = version.unwrap_or(case.keys[&made.key].primary) == made.version;
    (version, if same { Ok(()) } else { Err(Refusal::DoesNotDecrypt) })
}

fn used(case: &mut Case, key: Key) {
    case.keys.entry(key).and_modify(|model| model.operations += 1);
}

fn calls_are_answered_as_the_model_says(place: fn(&Path, Option<&Postgres>) -> Place, server: Option<Postgres>) {
    let mut config = ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        max_shrink_iters: 200,
        max_shrink_time: 30_000,
        ..ProptestConfig::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(getrandom::u64().unwrap());
    }
    let seed = config.rng_seed;
    let world = RefCell::new(World::new(place, server));
    let (begun, failed) = (Instant::now(), Cell::new(false));
    let done = TestRunner::new(config).run(&steps(), |steps| {
        if !failed.get() && begun.elapsed() > TIME {
            return Ok(());
        }
        let done = world.borrow_mut().case(&steps);
        failed.set(failed.get() || done.is_err());
        done
    });
    match done {
        Ok(()) => {}
        Err(TestError::Fail(why, steps)) => panic!("PROPTEST_RNG_SEED={seed}: {why}\nof {steps:#?}"),
        Err(TestError::Abort(why)) => panic!("PROPTEST_RNG_SEED={seed}: {why}"),
    }
    let world = world.into_inner();
    assert!(world.cases > 1, "too few cases: {}", world.cases);
    world.nothing_is_left();
}

#[test]
fn calls_are_answered_as_the_model_says_with_sqlite() {
    calls_are_answered_as_the_model_says(|folder, _| Place::Sqlite(folder.join("store.sqlite")), None);
}

#[test]
fn calls_are_answered_as_the_model_says_with_postgresql() {
    let place = |_: &Path, server: Option<&Postgres>| Place::Postgres(server.unwrap().url().into());
    calls_are_answered_as_the_model_says(place, Some(Postgres::start()));
}
