//! A key with its objects: one that was found on the token, or one that was loaded.

use std::sync::{Arc, OnceLock};

use crate::backend::{Class, Handle, Made, Object, Token};
use crate::key::{HsmKeyId, KeyInfo, KeySize, KeyType, PublicKey, Usages, WrappedKey};
use crate::software::PreparedKey;
use crate::uri::pkcs11_uri;
use crate::vault::{Grip, Tenure};

/// A key as the index knows it.
pub(crate) struct Key {
    /// What is told of it.
    pub info: KeyInfo,
    /// Unrelated objects share the id.
    pub ambiguous: bool,
    /// The private half asks for a login at each use (CKA_ALWAYS_AUTHENTICATE).
    pub always_authenticate: bool,
    secret: Option<Handle>,
    private: Option<Handle>,
    public: Option<Handle>,
    generation: u64,
    prepared: OnceLock<Option<PreparedKey>>,
    loaded: Option<Loaded>,
}

/// What a key has that lies wrapped outside the token.
pub(crate) struct Loaded {
    /// What it is unwrapped from.
    pub wrapped: Arc<WrappedKey>,
    /// Has its objects destroyed when nobody uses them any more.
    pub grip: Option<Grip>,
}

impl Key {
    /// A key that lies wrapped outside the token: loaded with these objects, or none yet.
    pub(crate) fn of_wrapped(
        wrapped: Arc<WrappedKey>,
        objects: Option<Made>,
        generation: u64,
        grip: Option<Grip>,
    ) -> Key {
        let (secret, private, public) = match objects {
            None => (None, None, None),
            Some(Made::Secret(secret)) => (Some(secret), None, None),
            Some(Made::Private(private)) => (None, Some(private), None),
            Some(Made::Public(public)) => (None, None, Some(public)),
            Some(Made::Pair { public, private }) => (None, Some(private), Some(public)),
        };
        Key {
            info: wrapped.info(),
            ambiguous: false,
            always_authenticate: false,
            secret,
            private,
            public,
            generation,
            prepared: OnceLock::new(),
            loaded: Some(Loaded { wrapped, grip }),
        }
    }

    /// What the key is unwrapped from, if it lies wrapped outside the token.
    pub(crate) fn wrapped(&self) -> Option<&Arc<WrappedKey>> {
        self.loaded.as_ref().map(|loaded| &loaded.wrapped)
    }

    /// Whether its objects were made by the session of `tenure`.
    pub(crate) fn hangs_on(&self, tenure: &Tenure) -> bool {
        let grip = self.loaded.as_ref().and_then(|loaded| loaded.grip.as_ref());
        grip.is_some_and(|grip| grip.hangs_on(tenure))
    }

    /// The object that encrypts, verifies, wraps: the public half, or the secret key.
    pub(crate) fn public(&self) -> Option<Handle> {
        self.public.or(self.secret)
    }

    /// The object that decrypts, signs, unwraps: the private half, or the secret key.
    pub(crate) fn private(&self) -> Option<Handle> {
        self.private.or(self.secret)
    }

    /// Whether the public half is an object.
    pub(crate) fn has_public_object(&self) -> bool {
        self.public.is_some()
    }

    /// [`Index::generation`](super::Index::generation) of its handles.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// All its objects.
    pub(crate) fn handles(&self) -> impl Iterator<Item = Handle> {
        [self.secret, self.private, self.public].into_iter().flatten()
    }

    /// Half a pair: the other half may come to light with the next search.
    pub(crate) fn is_half(&self) -> bool {
        self.secret.is_none() && (self.private.is_none() || self.public.is_none())
    }

    /// The public key in a form ready for operations beside the token.
    pub(crate) fn prepared(&self) -> Option<&PreparedKey> {
        self.prepared
            .get_or_init(|| self.info.public_key.as_ref().and_then(|key| PreparedKey::new(key).ok()))
            .as_ref()
    }
}

/// Makes one key of the objects that share an id: a secret key, a pair, or half of one. Anything else is ambiguous.
pub(super) fn merge(id: &HsmKeyId, objects: &[(Handle, Object)], generation: u64, token: Option<&Token>) -> Key {
    let of = |class: Class| objects.iter().filter(move |(_, object)| object.class == class);
    let one = |class: Class| of(class).next();
    let (secret, private, public) = (one(Class::Secret), one(Class::Private), one(Class::Public));
    let twins = Class::ALL.iter().any(|class| of(*class).count() > 1);
    let mixed = secret.is_some() && (private.is_some() || public.is_some());
    let strangers =
        matches!((private, public), (Some((_, private)), Some((_, public))) if !belong_together(private, public));
    let ambiguous = twins || mixed || strangers;

    // The objects are never empty here, and the secret or private one knows best what the key is.
    let parts: Vec<&Object> = [secret, private, public]
        .into_iter()
        .flatten()
        .map(|(_, object)| object)
        .collect();
    let main = parts.first().copied();
    let public_key = public
        .and_then(|(_, o)| o.public_key.clone())
        .or_else(|| private.and_then(|(_, o)| o.public_key.clone()));
    let label = parts
        .iter()
        .map(|object| object.label.as_str())
        .find(|label| !label.is_empty())
        .unwrap_or_default();
    let key_type = main.map_or(KeyType::Hmac, |object| object.key_type);
    let info = KeyInfo {
        id: id.clone(),
        key_type,
        size: size(&parts, public_key.as_ref()),
        label: label.to_owned(),
        extractable: main.is_some_and(|object| object.extractable),
        sensitive: main.is_some_and(|object| object.sensitive),
        usages: if ambiguous {
            Usages::NONE
        } else {
            let set = parts.iter().fold(Usages::NONE, |all, object| all.union(object.usages));
            // Some programs set flags that the type has no use for, such as CKA_ENCRYPT of an EC key.
            set.intersection(Usages::possible(key_type))
        },
        public_key,
        uri: token
            .map(|token| {
                pkcs11_uri(
                    token.names(),
                    id.as_bytes(),
                    label,
                    main.map_or(Class::Secret, |object| object.class).uri_type(),
                )
            })
            .unwrap_or_default(),
    };
    let handle = |part: Option<&(Handle, Object)>| part.map(|(handle, _)| *handle);
    Key {
        info,
        ambiguous,
        always_authenticate: parts.iter().any(|object| object.always_authenticate),
        secret: handle(secret),
        private: handle(private),
        public: handle(public),
        generation,
        prepared: OnceLock::new(),
        loaded: None,
    }
}

fn belong_together(private: &Object, public: &Object) -> bool {
    let same_modulus = match (&private.public_key, &public.public_key) {
        (Some(PublicKey::Rsa { modulus: a, .. }), Some(PublicKey::Rsa { modulus: b, .. })) => a == b,
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    let told = |object: &Object| object.size != KeySize::Unknown;
    let same_size = !told(private) || !told(public) || private.size == public.size;
    private.key_type == public.key_type && same_modulus && same_size
}

fn size(parts: &[&Object], public_key: Option<&PublicKey>) -> KeySize {
    let told = parts
        .iter()
        .map(|object| object.size)
        .find(|size| *size != KeySize::Unknown);
    told.or(public_key.map(PublicKey::size)).unwrap_or(KeySize::Unknown)
}
