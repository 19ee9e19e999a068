//! Good keys with bytes changed: whatever comes out, nothing panics, and what is taken can be told apart from nothing.

use super::*;

fn seeds() -> impl Strategy<Value = (KeyType, Format, Vec<u8>)> {
    let pairs = PAIRS.iter().flat_map(|(key_type, private, public)| {
        [
            (*key_type, Format::Pkcs8, der(private)),
            (*key_type, Format::Spki, der(public)),
        ]
    });
    let others = [
        (KeyType::SlhDsa, Format::Pkcs8, der(SLH_DSA)),
        (KeyType::MlKem, Format::Spki, der(ML_KEM_PUBLIC)),
    ];
    proptest::sample::select(pairs.chain(others).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_keys_do_not_panic(
        (key_type, format, mut bytes) in seeds(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::weighted(0.2, any::<proptest::sample::Index>()),
    ) {
        let unchanged = bytes.clone();
        for (at, byte) in changes {
            *at.get_mut(&mut bytes) = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let taken = import(key_type, format, &bytes);
        prop_assert!(bytes != unchanged || taken.is_ok());
        if let Ok(key) = taken {
            prop_assert_eq!(key.key_type(), key_type);
        }
    }

    #[test]
    fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for key_type in KeyType::ALL.iter().copied() {
            for format in Format::ALL.iter().copied() {
                let taken = import(key_type, format, &bytes).is_ok();
                prop_assert!(!taken || format == Format::Raw);
            }
        }
    }
}
