//! The token without the gateway: one session, one thread, keys found beforehand.

use std::time::{Duration, Instant};

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::Attribute;
use softhsm_test::Token;

use crate::cpu;

/// CPU microseconds an operation.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// C_SignInit and C_Sign with CKM_ECDSA over 32 bytes, P-256.
    pub(crate) sign_us: f64,
    /// C_EncryptInit and C_Encrypt with CKM_AES_GCM over 1 KiB.
    pub(crate) encrypt_us: f64,
}

/// Leaves its two keys on the token.
pub(crate) fn measure(token: &Token, time: Duration) -> Figures {
    // Object identifier of P-256, in DER.
    let p256 = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let common = |id: &str| {
        vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Id(id.into()),
        ]
    };
    token.with_session(|session| {
        let public = [
            common("raw ec"),
            vec![Attribute::EcParams(p256.to_vec()), Attribute::Verify(true)],
        ]
        .concat();
        let private = [
            common("raw ec"),
            vec![Attribute::Sensitive(true), Attribute::Sign(true)],
        ]
        .concat();
        let (_, signer) = session
            .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
            .unwrap();
        let secret = [
            common("raw aes"),
            vec![
                Attribute::Sensitive(true),
                Attribute::ValueLen(32.into()),
                Attribute::Encrypt(true),
            ],
        ]
        .concat();
        let cipher = session.generate_key(&Mechanism::AesKeyGen, &secret).unwrap();
        let digest = [7; 32];
        let data = vec![0; 1024];
        let mut number = 0_u64;
        Figures {
            sign_us: cpu_us(time, || {
                session.sign(&Mechanism::Ecdsa, signer, &digest).unwrap();
            }),
            encrypt_us: cpu_us(time, || {
                number += 1;
                let mut iv = [0; 12];
                iv[..8].copy_from_slice(&number.to_le_bytes());
                let parameters = GcmParams::new(&mut iv, &[], 128.into()).unwrap();
                session.encrypt(&Mechanism::AesGcm(parameters), cipher, &data).unwrap();
            }),
        }
    })
}

fn cpu_us(time: Duration, mut operation: impl FnMut()) -> f64 {
    let (started, before) = (Instant::now(), cpu("self"));
    let mut count = 0_u32;
    while started.elapsed() < time {
        operation();
        count += 1;
    }
    (cpu("self") - before).as_secs_f64() * 1e6 / f64::from(count)
}
