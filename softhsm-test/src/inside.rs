//! The token as it is: attributes read by PKCS#11 itself, in this process.

use std::ffi::CString;
use std::fmt::Write;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use crate::Token;

/// What kind of object it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// CKO_PUBLIC_KEY
    PublicKey,
    /// CKO_PRIVATE_KEY
    PrivateKey,
    /// CKO_SECRET_KEY
    SecretKey,
}

/// What the token says of one key object. `None`: the object has no such attribute, or keeps it to itself.
#[derive(Clone, Debug)]
pub struct ObjectFacts {
    /// CKA_CLASS
    pub class: Class,
    /// CKA_ID in lower-case hex.
    pub id: String,
    /// CKA_LABEL
    pub label: String,
    /// CKA_KEY_TYPE, by its PKCS#11 name: `CKK_RSA`.
    pub key_type: String,
    /// CKA_TOKEN
    pub token: Option<bool>,
    /// CKA_PRIVATE
    pub private: Option<bool>,
    /// CKA_SENSITIVE
    pub sensitive: Option<bool>,
    /// CKA_EXTRACTABLE
    pub extractable: Option<bool>,
    /// CKA_ALWAYS_SENSITIVE
    pub always_sensitive: Option<bool>,
    /// CKA_NEVER_EXTRACTABLE
    pub never_extractable: Option<bool>,
    /// CKA_LOCAL
    pub local: Option<bool>,
    /// CKA_ENCRYPT
    pub encrypt: Option<bool>,
    /// CKA_DECRYPT
    pub decrypt: Option<bool>,
    /// CKA_SIGN
    pub sign: Option<bool>,
    /// CKA_VERIFY
    pub verify: Option<bool>,
    /// CKA_WRAP
    pub wrap: Option<bool>,
    /// CKA_UNWRAP
    pub unwrap: Option<bool>,
    /// CKA_DERIVE
    pub derive: Option<bool>,
    /// CKA_VALUE, where the token gives it away.
    pub value: Option<Vec<u8>>,
}

impl Token {
    /// Every key object with this CKA_ID (hex): none, one, or the halves of a pair.
    pub fn attributes(&self, id: &str) -> Vec<ObjectFacts> {
        let id = unhex(id);
        self.with_session(|session| facts(session, &[Attribute::Id(id)]))
    }

    /// Every key object on the token.
    pub fn objects(&self) -> Vec<ObjectFacts> {
        self.with_session(|session| facts(session, &[]))
    }

    /// Puts `count` AES keys on the token, fast: ids `ff000000`, `ff000001` …, labels `many 0` …
    pub fn make_many_keys(&self, count: u32) {
        self.with_session(|session| {
            for number in 0..count {
                let template = [
                    Attribute::Token(true),
                    Attribute::Private(true),
                    Attribute::Sensitive(true),
                    Attribute::Extractable(false),
                    Attribute::Encrypt(true),
                    Attribute::Decrypt(true),
                    Attribute::ValueLen(32.into()),
                    Attribute::Id((0xff00_0000 + number).to_be_bytes().to_vec()),
                    Attribute::Label(format!("many {number}").into_bytes()),
                ];
                session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
            }
        });
    }

    /// Runs `act` with a read-write session of this token, logged in as its user.
    ///
    /// The module is loaded into this process. If the process uses it already it stays initialised and logged in as
    /// it was, else it is finalised afterwards.
    pub fn with_session<T>(&self, act: impl FnOnce(&Session) -> T) -> T {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        self.apply_env();
        let module = Pkcs11::new(self.module()).unwrap();
        let ours = self.initialise_module(&module);
        let slot = module
            .get_slots_with_token()
            .unwrap()
            .into_iter()
            .find(|slot| match module.get_token_info(*slot) {
                Ok(info) => info.token_initialized() && info.label().trim_end() == self.label(),
                // openCryptoki states a time that is none; its token is the only one.
                Err(why) => !matches!(why, Error::Pkcs11(..)),
            })
            .expect("the token is there");
        let session = module.open_rw_session(slot).unwrap();
        let logged_in = match session.login(UserType::User, Some(&AuthPin::from(self.pin()))) {
            Ok(()) => true,
            Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => false,
            Err(why) => panic!("C_Login: {why}"),
        };
        let result = act(&session);
        if logged_in {
            session.logout().unwrap();
        }
        drop(session);
        if ours {
            module.finalize().unwrap();
        }
        result
    }

    /// Whether the module was not initialised before.
    #[allow(
        unsafe_code,
        reason = "the crate cryptoki takes the reserved argument as a bare pointer"
    )]
    fn initialise_module(&self, module: &Pkcs11) -> bool {
        let flags = CInitializeFlags::OS_LOCKING_OK;
        let reserved = self.init_args().map(|text| CString::new(text).unwrap());
        let args = match &reserved {
            None => CInitializeArgs::new(flags),
            Some(text) => {
                let start = NonNull::new(text.as_ptr().cast_mut().cast()).unwrap();
                // SAFETY: `reserved` outlives the call below, and modules only read it.
                unsafe { CInitializeArgs::new_with_reserved(flags, start) }
            }
        };
        match module.initialize(args) {
            Ok(()) => true,
            Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => false,
            Err(why) => panic!("C_Initialize: {why}"),
        }
    }
}

fn facts(session: &Session, template: &[Attribute]) -> Vec<ObjectFacts> {
    let classes = [
        (ObjectClass::PUBLIC_KEY, Class::PublicKey),
        (ObjectClass::PRIVATE_KEY, Class::PrivateKey),
        (ObjectClass::SECRET_KEY, Class::SecretKey),
    ];
    let mut all = Vec::new();
    for (number, class) in classes {
        let template = [&[Attribute::Class(number)], template].concat();
        for object in session.find_objects(&template).unwrap() {
            all.push(facts_of(session, object, class));
        }
    }
    all
}

fn facts_of(session: &Session, object: ObjectHandle, class: Class) -> ObjectFacts {
    let read = |kind: AttributeType| {
        let found = session.get_attributes(object, &[kind]).unwrap_or_default();
        found.into_iter().next()
    };
    macro_rules! flag {
        ($name:ident) => {
            match read(AttributeType::$name) {
                Some(Attribute::$name(value)) => Some(value),
                _ => None,
            }
        };
    }
    let key_type = match read(AttributeType::KeyType) {
        Some(Attribute::KeyType(kind)) => kind.to_string(),
        _ => String::new(),
    };
    let id = match read(AttributeType::Id) {
        Some(Attribute::Id(id)) => hex(&id),
        _ => String::new(),
    };
    let label = match read(AttributeType::Label) {
        Some(Attribute::Label(label)) => String::from_utf8_lossy(&label).into_owned(),
        _ => String::new(),
    };
    ObjectFacts {
        class,
        id,
        label,
        key_type,
        token: flag!(Token),
        private: flag!(Private),
        sensitive: flag!(Sensitive),
        extractable: flag!(Extractable),
        always_sensitive: flag!(AlwaysSensitive),
        never_extractable: flag!(NeverExtractable),
        local: flag!(Local),
        encrypt: flag!(Encrypt),
        decrypt: flag!(Decrypt),
        sign: flag!(Sign),
        verify: flag!(Verify),
        wrap: flag!(Wrap),
        unwrap: flag!(Unwrap),
        derive: flag!(Derive),
        value: flag!(Value),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text:?} is no hex");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}
