//! Reads a distinguished name as RFC 4514 writes it.

use std::collections::BTreeSet;

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Any, ObjectIdentifier, PrintableStringRef, SetOfVec};
use x509_cert::der::{Decode as _, Encode as _, Tag};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

use super::MAX_SUBJECT_BYTES;
use crate::error::{Error, Result};

const COUNTRY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.6");

/// The attribute types that have a name here (RFC 4514 §3, RFC 5280 §4.1.2.4), and how their values are written.
const TYPES: [(&str, ObjectIdentifier, Tag); 15] = [
    ("CN", ObjectIdentifier::new_unwrap("2.5.4.3"), Tag::Utf8String),
    ("SN", ObjectIdentifier::new_unwrap("2.5.4.4"), Tag::Utf8String),
    (
        "serialNumber",
        ObjectIdentifier::new_unwrap("2.5.4.5"),
        Tag::PrintableString,
    ),
    ("C", COUNTRY, Tag::PrintableString),
    ("L", ObjectIdentifier::new_unwrap("2.5.4.7"), Tag::Utf8String),
    ("ST", ObjectIdentifier::new_unwrap("2.5.4.8"), Tag::Utf8String),
    ("STREET", ObjectIdentifier::new_unwrap("2.5.4.9"), Tag::Utf8String),
    ("O", ObjectIdentifier::new_unwrap("2.5.4.10"), Tag::Utf8String),
    ("OU", ObjectIdentifier::new_unwrap("2.5.4.11"), Tag::Utf8String),
    ("title", ObjectIdentifier::new_unwrap("2.5.4.12"), Tag::Utf8String),
    ("GN", ObjectIdentifier::new_unwrap("2.5.4.42"), Tag::Utf8String),
    (
        "UID",
        ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1"),
        Tag::Utf8String,
    ),
    (
        "DC",
        ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.25"),
        Tag::Ia5String,
    ),
    (
        "emailAddress",
        ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1"),
        Tag::Ia5String,
    ),
    (
        "E",
        ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1"),
        Tag::Ia5String,
    ),
];

/// Reads a subject; blanks around the parts are passed over. Types without a name are written as their numbers.
pub(super) fn parse(text: &str) -> Result<Name> {
    if text.len() > MAX_SUBJECT_BYTES {
        return Err(invalid(&format!("at most {MAX_SUBJECT_BYTES} bytes")));
    }
    if text.trim().is_empty() {
        return Ok(Name::default());
    }
    // The last part stands first in the certificate (RFC 4514 §2.1).
    let mut parts = split(text, ',').map(relative_name).collect::<Result<Vec<_>>>()?;
    parts.reverse();
    let written = RdnSequence::from(parts).to_der();
    written
        .and_then(|der| Name::from_der(&der))
        .map_err(|_| invalid("it can't be written"))
}

fn relative_name(text: &str) -> Result<RelativeDistinguishedName> {
    let mut seen = BTreeSet::new();
    let mut values = SetOfVec::new();
    for part in split(text, '+') {
        let attribute = attribute(part)?;
        if !seen.insert(attribute.oid) {
            return Err(invalid("the parts between `+` must be of different types"));
        }
        let unordered = |_| invalid("the parts between `+` can't be put in order");
        values.insert(attribute).map_err(unordered)?;
    }
    Ok(RelativeDistinguishedName::from(values))
}

fn attribute(text: &str) -> Result<AttributeTypeAndValue> {
    let form = || invalid("parts of the form `CN=name`, with commas between them; a comma in a name is written `\\,`");
    let (name, value) = text.split_once('=').ok_or_else(form)?;
    let name = name.trim();
    let known = TYPES.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name));
    let (oid, tag) = match known {
        Some((_, oid, tag)) => (*oid, *tag),
        None => {
            let oid = ObjectIdentifier::new(name).map_err(|_| {
                let names: Vec<_> = TYPES.iter().map(|(name, ..)| *name).collect();
                invalid(&format!("types are {}, or a number like 2.5.4.97", names.join(", ")))
            })?;
            (oid, Tag::Utf8String)
        }
    };
    let value = unescape(without_blanks(value))?;
    if value.is_empty() || value.chars().any(char::is_control) {
        return Err(invalid("a value has at least one character and no control characters"));
    }
    let fits = match tag {
        Tag::PrintableString => PrintableStringRef::new(&value).is_ok(),
        Tag::Ia5String => value.is_ascii(),
        _ => true,
    };
    if !fits {
        return Err(invalid(
            "C, serialNumber, DC and emailAddress take ASCII letters, digits and few signs",
        ));
    }
    if oid == COUNTRY && !(value.len() == 2 && value.bytes().all(|byte| byte.is_ascii_uppercase())) {
        return Err(invalid("C is a country's code of two capital letters (ISO 3166)"));
    }
    let value = Any::new(tag, value.as_bytes()).map_err(|_| invalid("a value is too long"))?;
    Ok(AttributeTypeAndValue { oid, value })
}

/// The parts between separators that are not escaped.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c: char| {
        let separates = c == separator && !escaped;
        escaped = c == '\\' && !escaped;
        separates
    })
}

/// Without the blanks around it; one that is escaped stays.
fn without_blanks(value: &str) -> &str {
    let value = value.trim_start_matches(' ');
    let trimmed = value.trim_end_matches(' ');
    let backslashes = trimmed.bytes().rev().take_while(|byte| *byte == b'\\').count();
    if backslashes % 2 == 1 && trimmed.len() < value.len() {
        return value.get(..=trimmed.len()).unwrap_or(value);
    }
    trimmed
}

/// Undoes `\,` and `\2C` (RFC 4514 §2.4).
fn unescape(value: &str) -> Result<String> {
    let wrong = || invalid("after `\\` comes one of ` \"#+,;<=>\\` or two hexadecimal digits");
    if value.starts_with('#') {
        return Err(invalid(
            "values in hexadecimal DER (`#…`) are not taken; a `#` that begins a value is written `\\#`",
        ));
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            if matches!(byte, b'"' | b';' | b'<' | b'>') {
                return Err(invalid(
                    "`\"`, `;`, `<` and `>` in a value are written with a `\\` before them",
                ));
            }
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let escaped = rest.next().ok_or_else(wrong)?;
        if b" \"#+,;<=>\\".contains(&escaped) {
            bytes.push(escaped);
        } else {
            let high = digit(escaped).ok_or_else(wrong)?;
            let low = rest.next().and_then(digit).ok_or_else(wrong)?;
            bytes.push(high << 4 | low);
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid("values are UTF-8"))
}

fn invalid(why: &str) -> Error {
    Error::invalid(
        "subject",
        format!("a name as RFC 4514 writes it (`CN=host.example,O=Example`): {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_read() {
        // Shown by another reader's hand, which writes types in capitals.
        for (text, shown) in [
            ("CN=host.example,O=Example", "CN=host.example,O=Example"),
            ("cn = host.example , o=Example", "CN=host.example,O=Example"),
            ("CN=Müller\\, Söhne", "CN=Müller\\, Söhne"),
            ("CN=M\\C3\\BCller", "CN=Müller"),
            ("CN=a\\\\,O=b", "CN=a\\\\,O=b"),
            ("CN=a\\\\\\,O=b", "CN=a\\\\\\,O=b"),
            ("CN=a\\ ", "CN=a\\ "),
            ("CN=\\#1=2", "CN=\\#1=2"),
            ("CN=a+OU=b,C=AT", "CN=a+OU=b,C=AT"),
            ("DC=host,DC=example", "DC=host,DC=example"),
            ("2.5.4.97=VATAT-1", "2.5.4.97=#0c0756415441542d31"),
            ("", ""),
            ("  ", ""),
        ] {
            let name = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(name.to_string(), shown, "{text}");
        }
        let name = parse("CN=a\\\\\\,O=b").unwrap();
        assert_eq!(name.len(), 1);
        assert_eq!(parse("CN=a\\\\,O=b").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_subject_is_refused() {
        let long = format!("CN={}", "a".repeat(MAX_SUBJECT_BYTES));
        for text in [
            "host.example",
            "CN=",
            "CN= ",
            "CN=a,",
            ",CN=a",
            "=a",
            "XX=a",
            "CN=a\\",
            "CN=a\\q",
            "CN=a\\4",
            "CN=\\ff",
            "CN=#0c0161",
            "CN=a;O=b",
            "CN=\"a\"",
            "C=Austria",
            "C=at",
            "CN=a\u{7}",
            "CN=a\\00",
            "E=ä@b",
            "CN=a+CN=b",
            "1=a",
            "CN=a+",
            &long,
        ] {
            let refused = parse(text);
            assert!(
                matches!(&refused, Err(Error::InvalidRequest { field: "subject", .. })),
                "{text}: {refused:?}"
            );
        }
    }
}
