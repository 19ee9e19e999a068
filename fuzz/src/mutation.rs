//! How bytes are changed: bits, bytes, pieces, and the lengths of DER.

use fastrand::Rng;

/// The longest input that is tried, in bytes.
const MAX_BYTES: usize = 8192;

/// Bytes at which readers tend to go wrong: signs, lengths, tags.
const TELLING: [u8; 16] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0a, 0x30, 0x7f, 0x80, 0x81, 0x82, 0xa0, 0xfe, 0xff,
];

/// Changes `input` in one to six ways; pieces may come from `other`.
pub(crate) fn mutate(rng: &mut Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..rng.usize(1..=6) {
        step(rng, &mut bytes, other);
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

fn step(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        bytes.push(rng.u8(..));
        return;
    }
    let at = rng.usize(..bytes.len());
    match rng.u8(..10) {
        0 => change(bytes, at, |byte| byte ^ (1 << rng.u8(..8))),
        1 => change(bytes, at, |_| rng.u8(..)),
        2 => change(bytes, at, |_| telling(rng)),
        3 => change(bytes, at, |byte| byte.wrapping_add(rng.u8(0..=4)).wrapping_sub(2)),
        4 => bytes.insert(at, telling(rng)),
        5 => drop(bytes.drain(at..piece_end(rng, bytes, at))),
        6 => {
            let piece = bytes.get(at..piece_end(rng, bytes, at)).unwrap_or_default().to_vec();
            put(rng, bytes, &piece);
        }
        7 if !other.is_empty() => {
            let from = rng.usize(..other.len());
            let piece = other.get(from..piece_end(rng, other, from)).unwrap_or_default();
            put(rng, bytes, piece);
        }
        8 => lengthen(rng, bytes, at),
        _ => bytes.truncate(at),
    }
}

fn change(bytes: &mut [u8], at: usize, how: impl FnOnce(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = how(*byte);
    }
}

fn telling(rng: &mut Rng) -> u8 {
    rng.choice(TELLING).unwrap_or_default()
}

fn piece_end(rng: &mut Rng, bytes: &[u8], at: usize) -> usize {
    at + rng.usize(1..=(bytes.len() - at).min(32))
}

/// Puts a piece in, or over what is there.
fn put(rng: &mut Rng, bytes: &mut Vec<u8>, piece: &[u8]) {
    let at = rng.usize(..=bytes.len());
    let end = if rng.bool() {
        at
    } else {
        (at + piece.len()).min(bytes.len())
    };
    bytes.splice(at..end, piece.iter().copied());
}

/// Adds bytes inside a value of DER near `at`, with lengths that take them in; so that what lies outside stays whole.
fn lengthen(rng: &mut Rng, bytes: &mut Vec<u8>, at: usize) {
    let added = rng.u8(1..=3);
    for place in 1..=at {
        let Some(length) = bytes.get(place).copied() else {
            return;
        };
        let header = bytes.get(place - 1).copied();
        let holds = matches!(header, Some(0x02..=0x06 | 0x30 | 0x31 | 0xa0..=0xa3));
        let end = place + 1 + usize::from(length);
        if holds && length < 0x7c && end > at && end <= bytes.len() {
            change(bytes, place, |length| length + added);
        }
    }
    for _ in 0..added {
        bytes.insert(at, telling(rng));
    }
}
