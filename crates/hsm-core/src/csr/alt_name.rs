//! Reads subject alternative names (RFC 5280 §4.2.1.6).

use std::net::IpAddr;

use x509_cert::der::asn1::{Ia5String, OctetString};
use x509_cert::ext::pkix::name::GeneralName;

use super::MAX_ALT_NAMES;
use crate::error::{Error, Result};

const MAX_BYTES: usize = 255;
const MAX_URI_BYTES: usize = 2048;

pub(super) fn parse_all(names: &[impl AsRef<str>]) -> Result<Vec<GeneralName>> {
    if names.len() > MAX_ALT_NAMES {
        return Err(invalid(&format!("at most {MAX_ALT_NAMES}")));
    }
    names.iter().map(|name| parse(name.as_ref())).collect()
}

fn parse(name: &str) -> Result<GeneralName> {
    if let Ok(address) = name.parse::<IpAddr>() {
        let octets = match address {
            IpAddr::V4(address) => OctetString::new(address.octets()),
            IpAddr::V6(address) => OctetString::new(address.octets()),
        };
        return octets.map(GeneralName::IpAddress).map_err(|_| invalid(FORMS));
    }
    let text =
        || Ia5String::new(name).map_err(|_| invalid("ASCII only; a host name of other letters in its `xn--` form"));
    if is_uri(name) {
        return text().map(GeneralName::UniformResourceIdentifier);
    }
    if let Some((local, domain)) = name.split_once('@') {
        if is_local_part(local) && name.len() <= MAX_BYTES && is_host(domain) {
            return text().map(GeneralName::Rfc822Name);
        }
        return Err(invalid("an e-mail address is `local@host.example`"));
    }
    // In place of the first label, and never of a top-level domain (RFC 6125 §7.2).
    let host = name
        .strip_prefix("*.")
        .filter(|rest| rest.contains('.'))
        .unwrap_or(name);
    if is_host(host) {
        return text().map(GeneralName::DnsName);
    }
    Err(invalid(FORMS))
}

const FORMS: &str = "each a host name (letters, digits, hyphens and dots; other letters in their `xn--` form), an IP \
                     address, an e-mail address, or a URI with its scheme";

/// The preferred form of RFC 1034 §3.5 with the change of RFC 1123 §2.1; all digits at the end would be an address.
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// `scheme:…` (RFC 3986 §3), of the characters that a URI has; `host:8080` is none.
fn is_uri(name: &str) -> bool {
    let Some((scheme, rest)) = name.split_once(':') else {
        return false;
    };
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let in_uri = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte);
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(in_scheme)
        && (1..=MAX_URI_BYTES).contains(&rest.len())
        && rest.bytes().all(in_uri)
        && !rest.bytes().all(|byte| byte.is_ascii_digit())
}

/// A dot-atom of RFC 5322 §3.2.3.
fn is_local_part(local: &str) -> bool {
    let in_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    local.len() <= 64
        && local
            .split('.')
            .all(|atom| !atom.is_empty() && atom.bytes().all(in_atom))
}

fn invalid(why: &str) -> Error {
    Error::invalid("subject_alt_names", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let kind = |text: &str| match parse(text) {
            Ok(GeneralName::DnsName(_)) => "host",
            Ok(GeneralName::IpAddress(octets)) if octets.as_bytes().len() == 4 => "IPv4",
            Ok(GeneralName::IpAddress(octets)) if octets.as_bytes().len() == 16 => "IPv6",
            Ok(GeneralName::Rfc822Name(_)) => "e-mail",
            Ok(GeneralName::UniformResourceIdentifier(_)) => "URI",
            Err(Error::InvalidRequest {
                field: "subject_alt_names",
                ..
            }) => "none",
            other => panic!("{text}: {other:?}"),
        };
        let a63 = "a".repeat(63);
        for (expected, texts) in [
            (
                "host",
                vec![
                    "host.example",
                    "localhost",
                    "*.host.example",
                    "xn--mller-kva.example",
                    "1.example",
                    &a63,
                ],
            ),
            ("IPv4", vec!["10.1.2.3"]),
            ("IPv6", vec!["::1", "2001:db8::1", "::ffff:1.2.3.4"]),
            ("e-mail", vec!["a@b.example", "first.last+tag@b.example"]),
            (
                "URI",
                vec![
                    "https://host.example/path?x=1",
                    "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
                    "spiffe://a/b",
                ],
            ),
            (
                "none",
                vec![
                    "",
                    " ",
                    "müller.example",
                    "host..example",
                    "-a.example",
                    "a-.example",
                    "a b",
                    "*",
                    "*.example",
                    "a.*.example",
                    "256.1.1.1",
                    "1.2.3",
                    "host.example.",
                    "a_b.example",
                    "@b",
                    "a@",
                    "a@@b",
                    "ä@b",
                    ".a@b",
                    "https:",
                    "1a:b",
                    "https://ä",
                    "a\0b",
                    "host.example:8080",
                ],
            ),
        ] {
            for text in texts {
                assert_eq!(kind(text), expected, "{text}");
            }
        }
        assert_eq!(kind(&"a".repeat(64)), "none");
    }

    #[test]
    fn there_are_not_too_many() {
        let names = |count| vec!["host.example".to_owned(); count];
        assert_eq!(parse_all(&names(MAX_ALT_NAMES)).unwrap().len(), MAX_ALT_NAMES);
        assert!(parse_all(&names(MAX_ALT_NAMES + 1)).is_err());
    }
}
