//! Each algorithm with each operation that it serves.

use hsm_core::algorithm::Scheme;
use hsm_core::encoding;
use hsm_core::software::{Message, PreparedKey};
use hsm_core::{
    Algorithm, Curve, Decapsulate, Decrypt, Derive, Encapsulate, Encrypt, Error, KeyInfo, KeySize, KeySpec, KeyType,
    MessageType, Operation, PublicKey, Result, Sign, Support, Unwrap, Usage, Verify, Wrap,
};

use crate::{Fixture, attributes, is_not_supported, told};

pub(crate) fn check(fixture: &Fixture) {
    let mut wrong = Vec::new();
    for cell in &fixture.capabilities.algorithms {
        let (algorithm, operation) = (cell.algorithm, cell.operation);
        let Some(spec) = key_for(fixture, algorithm) else {
            if cell.support != Support::No {
                wrong.push(format!(
                    "{} {}: told without such keys",
                    algorithm.name(),
                    operation.name()
                ));
            }
            continue;
        };
        let done = do_it(fixture, spec, algorithm, operation);
        let right = match cell.support {
            Support::Native | Support::Composed => done.is_ok(),
            Support::No => is_not_supported(&done),
        };
        if !right {
            let (name, operation) = (algorithm.name(), operation.name());
            wrong.push(format!(
                "{name} {operation} is told as {}: {}",
                cell.support,
                told(done)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", fixture.name);
}

/// The key that an algorithm is tried with.
pub(crate) fn key_for(fixture: &Fixture, algorithm: Algorithm) -> Option<KeySpec> {
    let key_type = algorithm.row().key_type;
    let sizes = fixture.sizes(key_type);
    match algorithm.scheme() {
        // Long enough for each hash.
        Scheme::Hmac(_) => sizes.last().map(|size| crate::spec(key_type, *size)),
        _ => fixture.some_spec(key_type),
    }
}

/// Does it, and what belongs to it, and checks what came of it.
fn do_it(fixture: &Fixture, spec: KeySpec, algorithm: Algorithm, operation: Operation) -> Result<()> {
    match operation {
        Operation::Encrypt | Operation::Decrypt => crypt(fixture, spec, algorithm, operation),
        Operation::Sign | Operation::Verify => sign(fixture, spec, algorithm, operation),
        Operation::Wrap | Operation::Unwrap => wrap(fixture, spec, algorithm, operation),
        Operation::Derive => derive(fixture, spec, algorithm),
        Operation::Encapsulate | Operation::Decapsulate => encapsulate(fixture, spec, operation),
    }
}

fn crypt(fixture: &Fixture, spec: KeySpec, algorithm: Algorithm, operation: Operation) -> Result<()> {
    let key = fixture.make(spec, &[Usage::Encrypt, Usage::Decrypt], false).unwrap();
    let aad = algorithm.is_aead().then(|| b"aad".to_vec());
    let data = b"seventeen bytes..";
    let encrypt = |data: &[u8]| {
        let request = Encrypt {
            algorithm: algorithm.into(),
            aad: aad.clone(),
            ..Encrypt::new(key.id.clone(), data)
        };
        fixture.hsm.encrypt(request).wait()
    };
    let encrypted = encrypt(data);
    let decrypt = |mut request: Decrypt| {
        request.aad = aad.clone();
        fixture.hsm.decrypt(request).wait()
    };
    let encrypted = match (encrypted, operation) {
        (Ok(encrypted), _) => encrypted,
        (Err(error), Operation::Encrypt) => return Err(error),
        // What can't be encrypted here may still be asked for.
        (Err(_), _) => {
            let iv = (algorithm.row().key_type == KeyType::Aes).then(|| match algorithm.is_aead() {
                true => vec![1; 12],
                false => vec![1; 16],
            });
            let length = match spec {
                KeySpec::Rsa { bits } => bits as usize / 8,
                _ => 32,
            };
            let request = Decrypt {
                key: key.id.clone().into(),
                algorithm: algorithm.into(),
                ciphertext: vec![7; length],
                iv,
                tag: algorithm.is_aead().then(|| vec![1; 16]),
                aad: None,
            };
            return decrypt(request).map(|_| ());
        }
    };
    assert_ne!(encrypted.ciphertext, data);
    let again = encrypt(data)?;
    assert_ne!(encrypted.ciphertext, again.ciphertext, "{algorithm:?}");
    let request = Decrypt::new(key.id.clone(), encrypted.clone());
    if operation == Operation::Encrypt {
        let decrypted = decrypt(request);
        assert!(decrypted.is_ok_and(|same| *same == data), "{algorithm:?}");
        return Ok(());
    }
    assert_eq!(*decrypt(request)?, data);
    assert_eq!(
        *decrypt(Decrypt::new(key.id.clone(), encrypt(b"")?))?,
        b"",
        "{algorithm:?}"
    );
    let mut changed = Decrypt::new(key.id.clone(), encrypted);
    changed.ciphertext[0] ^= 1;
    if algorithm.is_aead() || matches!(algorithm.scheme(), Scheme::Oaep(_)) {
        let refused = decrypt(changed);
        assert_eq!(refused.err(), Some(Error::DecryptionFailed), "{algorithm:?}");
    }
    Ok(())
}

fn sign(fixture: &Fixture, spec: KeySpec, algorithm: Algorithm, operation: Operation) -> Result<()> {
    let key = fixture.make(spec, &[Usage::Sign, Usage::Verify], false).unwrap();
    let contexts = match algorithm.takes_context() {
        true => vec![None, Some(b"context".to_vec())],
        false => vec![None],
    };
    for context in contexts {
        let request = |data: &[u8], message_type| Sign {
            algorithm: algorithm.into(),
            message_type,
            context: context.clone(),
            ..Sign::new(key.id.clone(), data)
        };
        let verify = |signed: Sign, signature: Vec<u8>| fixture.hsm.verify(Verify { signed, signature }).wait();
        let signed = match fixture.hsm.sign(request(b"data", MessageType::Raw)).wait() {
            Ok(signed) => signed,
            Err(error) if operation == Operation::Sign => return Err(error),
            Err(_) => return verify(request(b"data", MessageType::Raw), placeholder(&key, algorithm)).map(|_| ()),
        };
        if operation == Operation::Sign {
            check_elsewhere(&key, algorithm, &signed.signature);
            continue;
        }
        let raw = |data: &[u8]| request(data, MessageType::Raw);
        assert!(verify(raw(b"data"), signed.signature.clone())?, "{algorithm:?}");
        assert!(!verify(raw(b"other"), signed.signature.clone())?, "{algorithm:?}");
        for wrong in malformed(&signed.signature) {
            assert!(
                !verify(raw(b"data"), wrong.clone())?,
                "{algorithm:?} of {} bytes",
                wrong.len()
            );
        }
        if let Some(hash) = algorithm.digest() {
            let digest = encoding::digest(hash, b"data");
            let of_digest = request(&digest, MessageType::Digest);
            assert!(verify(of_digest.clone(), signed.signature)?, "{algorithm:?}");
            let signed = fixture.hsm.sign(of_digest).wait()?;
            assert!(verify(raw(b"data"), signed.signature)?, "{algorithm:?}");
        }
        if algorithm.takes_context() {
            let other = Sign {
                context: Some(b"another".to_vec()),
                ..raw(b"data")
            };
            let signed = fixture.hsm.sign(raw(b"data")).wait()?;
            assert!(!verify(other, signed.signature)?, "{algorithm:?}");
        }
    }
    Ok(())
}

/// Changed, cut, prolonged, and nothing at all.
fn malformed(signature: &[u8]) -> Vec<Vec<u8>> {
    let mut changed = signature.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    vec![
        changed,
        signature[1..].to_vec(),
        signature[..signature.len() - 1].to_vec(),
        [signature, &[0]].concat(),
        Vec::new(),
        vec![0; signature.len()],
    ]
}

/// A signature of the right length, to ask a token that can't sign.
fn placeholder(key: &KeyInfo, algorithm: Algorithm) -> Vec<u8> {
    match (algorithm.scheme(), key.size) {
        (Scheme::Hmac(hash), _) => vec![1; hash.len()],
        (Scheme::Cmac, _) => vec![1; 16],
        (Scheme::Ecdsa(_), KeySize::Curve(curve)) => {
            encoding::ecdsa_to_der(&vec![1; 2 * curve.field_bytes()], curve).unwrap()
        }
        (_, KeySize::Curve(curve)) => vec![1; 2 * curve.field_bytes()],
        (_, KeySize::ParameterSet(set)) => vec![1; set.output_bytes()],
        (_, KeySize::Bits(bits)) => vec![1; bits as usize / 8],
        (_, KeySize::Unknown) => Vec::new(),
    }
}

/// By another implementation, where there is one for this key.
fn check_elsewhere(key: &KeyInfo, algorithm: Algorithm, signature: &[u8]) {
    let Some(Ok(public)) = key.public_key.as_ref().map(PreparedKey::new) else {
        return;
    };
    let signature = match (algorithm.scheme(), key.size) {
        (Scheme::Ecdsa(_), KeySize::Curve(curve)) => encoding::ecdsa_from_der(signature, curve).unwrap(),
        _ => signature.to_vec(),
    };
    assert_eq!(
        public.verify(algorithm.scheme(), Message::Raw(b"data"), &signature),
        Ok(true),
        "{algorithm:?}"
    );
}

/// An HMAC key leaves and comes back as the same.
fn wrap(fixture: &Fixture, spec: KeySpec, algorithm: Algorithm, operation: Operation) -> Result<()> {
    let key = fixture.make(spec, &[Usage::Wrap, Usage::Unwrap], false).unwrap();
    // What can be made and then used to see that it is the same.
    let (target, key_type) = match fixture.some_spec(KeyType::Hmac) {
        Some(hmac) => (
            fixture.make(hmac, &[Usage::Sign, Usage::Verify], true).unwrap(),
            KeyType::Hmac,
        ),
        None => return Err(Error::NotSupported("nothing to wrap".into())),
    };
    let wrapped = fixture
        .hsm
        .wrap(Wrap {
            key: key.id.clone().into(),
            target: target.id.clone(),
            algorithm: algorithm.into(),
        })
        .wait();
    let unwrap = |wrapped_key: Vec<u8>| {
        fixture
            .hsm
            .unwrap(Unwrap {
                key: key.id.clone(),
                algorithm: algorithm.into(),
                wrapped_key,
                key_type,
                attributes: attributes(&[Usage::Sign, Usage::Verify]),
            })
            .wait()
    };
    let wrapped = match (wrapped, operation, spec) {
        (Ok(wrapped), _, _) => wrapped.wrapped_key,
        (Err(error), Operation::Wrap, _) => return Err(error),
        (Err(_), _, KeySpec::Rsa { bits }) if algorithm == Algorithm::RsaAesKeyWrap => {
            return unwrap(vec![1; bits as usize / 8 + 40]).map(|_| ());
        }
        (Err(_), _, KeySpec::Rsa { bits }) => return unwrap(vec![1; bits as usize / 8]).map(|_| ()),
        (Err(_), _, _) => return unwrap(vec![1; 40]).map(|_| ()),
    };
    let same = unwrap(wrapped.clone());
    if operation == Operation::Wrap {
        assert!(same.is_ok(), "{algorithm:?}: {same:?}");
        return Ok(());
    }
    let same = same?;
    assert_eq!(same.key_type, target.key_type, "{algorithm:?}");
    // Not every token measures what it unwraps.
    assert!([target.size, KeySize::Unknown].contains(&same.size), "{algorithm:?}");
    assert_eq!((same.extractable, same.sensitive), (false, true), "{algorithm:?}");
    let signed = fixture.hsm.sign(Sign::new(target.id, b"data")).wait().unwrap();
    let request = Sign {
        algorithm: signed.algorithm.into(),
        ..Sign::new(same.id, b"data")
    };
    let verified = fixture.hsm.verify(Verify {
        signed: request,
        signature: signed.signature,
    });
    assert!(verified.wait().unwrap(), "{algorithm:?}");
    let mut changed = wrapped.clone();
    *changed.last_mut().unwrap() ^= 1;
    for wrong in [
        changed,
        wrapped[..wrapped.len() - 8].to_vec(),
        vec![0; wrapped.len()],
        Vec::new(),
    ] {
        let refused = unwrap(wrong);
        assert!(
            matches!(refused, Err(Error::InvalidRequest { .. })),
            "{algorithm:?}: {refused:?}"
        );
    }
    Ok(())
}

/// Whether two secrets on the token are the same: the one signs, the other verifies.
fn same_secret(fixture: &Fixture, one: &KeyInfo, other: &KeyInfo) -> bool {
    let request = |key: &KeyInfo| Sign {
        algorithm: Algorithm::HmacSha256.into(),
        ..Sign::new(key.id.clone(), b"data")
    };
    let signature = fixture.hsm.sign(request(one)).wait().unwrap().signature;
    let signed = request(other);
    fixture.hsm.verify(Verify { signed, signature }).wait().unwrap()
}

fn derive(fixture: &Fixture, spec: KeySpec, algorithm: Algorithm) -> Result<()> {
    let secret = KeySpec::Hmac { bits: 256 };
    let key = fixture.make(spec, &[Usage::Derive], false).unwrap();
    let derive = |key: &KeyInfo, public_key: Option<PublicKey>, info: Option<Vec<u8>>| {
        fixture
            .hsm
            .derive(Derive {
                key: key.id.clone(),
                algorithm: algorithm.into(),
                public_key,
                salt: None,
                info,
                spec: secret,
                attributes: attributes(&[Usage::Sign, Usage::Verify]),
            })
            .wait()
    };
    if algorithm == Algorithm::Ecdh {
        let other = fixture.make(spec, &[Usage::Derive], false).unwrap();
        let one = derive(&key, other.public_key.clone(), None)?;
        let same = derive(&other, key.public_key.clone(), None)?;
        assert!(same_secret(fixture, &one, &same));
        let third = fixture.make(spec, &[Usage::Derive], false).unwrap();
        let stranger = derive(&third, key.public_key.clone(), None)?;
        assert!(!same_secret(fixture, &one, &stranger));
        let off_the_curve = match third.public_key {
            Some(PublicKey::Curve { curve, mut point }) => {
                *point.last_mut().unwrap() ^= 1;
                PublicKey::Curve { curve, point }
            }
            other => panic!("{other:?}"),
        };
        let refused = derive(&key, Some(off_the_curve), None);
        assert!(
            matches!(
                refused,
                Err(Error::InvalidRequest {
                    field: "public_key",
                    ..
                })
            ),
            "{refused:?}"
        );
        assert_ne!(spec, KeySpec::Curve(Curve::Ed25519));
        return Ok(());
    }
    let one = derive(&key, None, Some(b"info".to_vec()))?;
    let same = derive(&key, None, Some(b"info".to_vec()))?;
    let other = derive(&key, None, Some(b"other".to_vec()))?;
    assert!(same_secret(fixture, &one, &same));
    assert!(!same_secret(fixture, &one, &other));
    Ok(())
}

fn encapsulate(fixture: &Fixture, spec: KeySpec, operation: Operation) -> Result<()> {
    let usages = [Usage::Encapsulate, Usage::Decapsulate];
    let key = fixture.make(spec, &usages, false).unwrap();
    let secret = KeySpec::Hmac { bits: 256 };
    let encapsulated = fixture.hsm.encapsulate(Encapsulate {
        key: key.id.clone(),
        spec: secret,
        attributes: attributes(&[Usage::Sign, Usage::Verify]),
    });
    let (one, ciphertext) = encapsulated.wait()?;
    let decapsulate = |ciphertext: Vec<u8>| {
        let call = fixture.hsm.decapsulate(Decapsulate {
            key: key.id.clone(),
            ciphertext,
            spec: secret,
            attributes: attributes(&[Usage::Sign, Usage::Verify]),
        });
        call.wait()
    };
    let same = decapsulate(ciphertext.clone());
    if operation == Operation::Encapsulate {
        assert!(same.is_ok());
        return Ok(());
    }
    assert!(same_secret(fixture, &one, &same?));
    let mut changed = ciphertext.clone();
    changed[0] ^= 1;
    assert!(!same_secret(fixture, &one, &decapsulate(changed)?));
    let refused = decapsulate(ciphertext[1..].to_vec());
    assert!(
        matches!(
            refused,
            Err(Error::InvalidRequest {
                field: "ciphertext",
                ..
            })
        ),
        "{refused:?}"
    );
    Ok(())
}
