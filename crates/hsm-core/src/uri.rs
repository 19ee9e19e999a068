//! `pkcs11:` URIs (RFC 7512): which token is meant, and the name of a key for other programs.

use std::fmt;

const SCHEME: &str = "pkcs11:";

/// Which token is meant. What is not given matches every token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSelector {
    /// CK_TOKEN_INFO's label.
    pub label: Option<String>,
    /// CK_TOKEN_INFO's serial number.
    pub serial: Option<String>,
    /// The slot's number; some modules give a token another at every start.
    pub slot_id: Option<u64>,
    /// CK_TOKEN_INFO's manufacturer.
    pub manufacturer: Option<String>,
    /// CK_TOKEN_INFO's model.
    pub model: Option<String>,
}

/// What a token says of itself, to be held against a [`TokenSelector`]. The padding with blanks
/// that PKCS#11 prescribes may be there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenNames<'a> {
    /// CK_TOKEN_INFO's label.
    pub label: &'a str,
    /// CK_TOKEN_INFO's serial number.
    pub serial: &'a str,
    /// CK_TOKEN_INFO's manufacturer.
    pub manufacturer: &'a str,
    /// CK_TOKEN_INFO's model.
    pub model: &'a str,
}

/// Why a text selects no token. No attribute's value is in it: one may be a PIN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// Not `name=value` parts, or not percent-encoded UTF-8 (RFC 7512 §2.3).
    #[error("is not a pkcs11: URI (RFC 7512): the part {0:?} is malformed")]
    Malformed(String),
    /// One attribute twice.
    #[error("has the attribute {0:?} twice")]
    Repeated(String),
    /// `slot-id` is not a number.
    #[error("has a slot-id that is not a decimal number")]
    SlotId,
    /// `pin-value` or `pin-source`.
    #[error("has the attribute {0:?}: a PIN does not belong in a URI, it is configured by itself")]
    Pin(String),
    /// `object`, `id` or `type`.
    #[error("has the attribute {0:?}, which selects an object; a token is wanted")]
    Object(String),
    /// `module-name` or `module-path`.
    #[error("has the attribute {0:?}: the module is configured by its path, not in the URI")]
    Module(String),
    /// Passing one over could select a token that was not meant.
    #[error("has the attribute {0:?}, which is not supported; there are token, serial, slot-id, manufacturer, model")]
    Unknown(String),
}

impl TokenSelector {
    /// Reads a token's label, or a `pkcs11:` URI.
    ///
    /// An attribute that is not understood is an error, not passed over: a selector that says
    /// less than its writer meant may fit the wrong token.
    ///
    /// # Errors
    ///
    /// [`UriError`], for a URI that is malformed or says what does not belong in it.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.is_empty() {
            return Err(UriError::Empty);
        }
        let scheme = text.get(..SCHEME.len());
        if !scheme.is_some_and(|start| start.eq_ignore_ascii_case(SCHEME)) {
            return Ok(Self {
                label: Some(text.to_owned()),
                ..Self::default()
            });
        }
        let rest = text.get(SCHEME.len()..).unwrap_or_default();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut selector = Self::default();
        for part in path.split(';').chain(query.split('&')) {
            if !part.is_empty() {
                selector.add(part)?;
            }
        }
        Ok(selector)
    }

    /// Whether the token is one that is meant.
    pub fn matches(&self, slot_id: u64, token: TokenNames<'_>) -> bool {
        let Self {
            label,
            serial,
            slot_id: slot,
            manufacturer,
            model,
        } = self;
        let same = |wanted: &Option<String>, found: &str| {
            wanted
                .as_deref()
                .is_none_or(|wanted| unpadded(wanted) == unpadded(found))
        };
        same(label, token.label)
            && same(serial, token.serial)
            && same(manufacturer, token.manufacturer)
            && same(model, token.model)
            && slot.is_none_or(|wanted| wanted == slot_id)
    }

    fn add(&mut self, part: &str) -> Result<(), UriError> {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| UriError::Malformed(start_of(part)))?;
        let named = || name.to_owned();
        let field = match name {
            "token" => &mut self.label,
            "serial" => &mut self.serial,
            "manufacturer" => &mut self.manufacturer,
            "model" => &mut self.model,
            "slot-id" => return self.add_slot_id(value),
            "pin-value" | "pin-source" => return Err(UriError::Pin(named())),
            "object" | "id" | "type" => return Err(UriError::Object(named())),
            "module-name" | "module-path" => return Err(UriError::Module(named())),
            _ => return Err(UriError::Unknown(start_of(name))),
        };
        let value = decoded(value).ok_or_else(|| UriError::Malformed(named()))?;
        if field.replace(value).is_some() {
            return Err(UriError::Repeated(named()));
        }
        Ok(())
    }

    fn add_slot_id(&mut self, value: &str) -> Result<(), UriError> {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let number = value.parse().ok().filter(|_| digits);
        let number = number.ok_or(UriError::SlotId)?;
        if self.slot_id.replace(number).is_some() {
            return Err(UriError::Repeated("slot-id".to_owned()));
        }
        Ok(())
    }
}

impl fmt::Display for TokenSelector {
    /// As a `pkcs11:` URI.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot_id = self.slot_id.map(|number| number.to_string());
        let attributes = [
            ("token", &self.label),
            ("serial", &self.serial),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
            ("slot-id", &slot_id),
        ];
        let mut uri = UriText::new();
        for (name, value) in attributes {
            if let Some(value) = value {
                uri.text(name, value);
            }
        }
        formatter.write_str(&uri.0)
    }
}

/// A key's URI: which token, and which object on it. `class` is RFC 7512's `type`: `private`,
/// `public`, `secret-key`. An empty label or id is left out.
pub fn pkcs11_uri(token: TokenNames<'_>, id: &[u8], label: &str, class: &str) -> String {
    let mut uri = UriText::new();
    let names = [
        ("model", token.model),
        ("manufacturer", token.manufacturer),
        ("serial", token.serial),
        ("token", token.label),
    ];
    for (name, value) in names {
        uri.text(name, unpadded(value));
    }
    if !id.is_empty() {
        uri.bytes("id", id);
    }
    if !label.is_empty() {
        uri.text("object", label);
    }
    uri.text("type", class);
    uri.0
}

struct UriText(String);

impl UriText {
    fn new() -> Self {
        Self(SCHEME.to_owned())
    }

    /// Adds text; only RFC 3986's unreserved characters stand for themselves.
    fn text(&mut self, name: &str, value: &str) {
        self.start(name);
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.0.push(char::from(byte));
            } else {
                self.encoded(byte);
            }
        }
    }

    /// Adds bytes, every one of them encoded, as RFC 7512 §2.3 recommends for `id`.
    fn bytes(&mut self, name: &str, value: &[u8]) {
        self.start(name);
        for byte in value {
            self.encoded(*byte);
        }
    }

    fn start(&mut self, name: &str) {
        if self.0.len() > SCHEME.len() {
            self.0.push(';');
        }
        self.0.push_str(name);
        self.0.push('=');
    }

    fn encoded(&mut self, byte: u8) {
        self.0.push_str(&format!("%{byte:02X}"));
    }
}

/// Percent-decoded UTF-8.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let (high, low) = (hex_digit(rest.next()?)?, hex_digit(rest.next()?)?);
                high << 4 | low
            }
            literal => literal,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    let digit = char::from(byte).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// PKCS#11 pads its fixed-length texts with blanks; some modules use NUL.
fn unpadded(text: &str) -> &str {
    text.trim_end_matches([' ', '\0'])
}

/// Enough of a part to find it, and no value.
fn start_of(part: &str) -> String {
    const SHOWN_CHARS: usize = 24;
    let name = part.split('=').next().unwrap_or_default();
    name.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const TOKEN: TokenNames<'static> = TokenNames {
        label: "my token                        ",
        serial: "0123abcd",
        manufacturer: "SoftHSM project",
        model: "SoftHSM v2",
    };

    fn parse(text: &str) -> TokenSelector {
        TokenSelector::parse(text).unwrap()
    }

    #[test]
    fn plain_text_is_a_label() {
        for label in ["my_token", "a;b=c", "100%", "pkcs11", "pkcs 11:token=a", "ü"] {
            let selector = parse(label);
            assert_eq!(selector.label.as_deref(), Some(label));
            assert_eq!(selector.serial, None);
        }
        assert_eq!(TokenSelector::parse(""), Err(UriError::Empty));
    }

    #[test]
    fn a_uri_names_what_it_means() {
        let selector = parse("pkcs11:token=my%20token;serial=0123abcd;slot-id=7;manufacturer=A%3bB;model=v2%C3%BC");
        assert_eq!(selector.label.as_deref(), Some("my token"));
        assert_eq!(selector.serial.as_deref(), Some("0123abcd"));
        assert_eq!(selector.slot_id, Some(7));
        assert_eq!(selector.manufacturer.as_deref(), Some("A;B"));
        assert_eq!(selector.model.as_deref(), Some("v2ü"));
        assert_eq!(parse(&selector.to_string()), selector);
        assert_eq!(parse("PKCS11:token=a").label.as_deref(), Some("a"));
        assert_eq!(parse("pkcs11:"), TokenSelector::default());
        assert_eq!(parse("pkcs11:token=").label.as_deref(), Some(""));
    }

    #[test]
    fn every_character_survives() {
        let all: String = ('\0'..='\u{2ff}').chain(['€', '😀']).collect();
        let selector = TokenSelector {
            label: Some(all.clone()),
            serial: Some(all.chars().rev().collect()),
            ..TokenSelector::default()
        };
        assert_eq!(parse(&selector.to_string()), selector);
    }

    #[test]
    fn what_is_given_must_fit() {
        for fits in [
            "my token",
            "pkcs11:",
            "pkcs11:token=my%20token",
            "pkcs11:serial=0123abcd;model=SoftHSM%20v2",
            "pkcs11:slot-id=5;manufacturer=SoftHSM%20project",
        ] {
            assert!(parse(fits).matches(5, TOKEN), "{fits}");
        }
        for does_not in [
            "my",
            "My token",
            "pkcs11:token=",
            "pkcs11:serial=0123ABCD",
            "pkcs11:slot-id=6",
            "pkcs11:token=my%20token;model=other",
            "pkcs11:manufacturer=SoftHSM",
        ] {
            assert!(!parse(does_not).matches(5, TOKEN), "{does_not}");
        }
    }

    #[test]
    fn what_does_not_belong_is_refused_without_its_value() {
        let refused = |text: &str| {
            let error = TokenSelector::parse(text).unwrap_err();
            assert!(!error.to_string().contains("4711"), "{error}");
            error
        };
        let name = |name: &str| name.to_owned();
        assert_eq!(
            refused("pkcs11:token=a?pin-value=4711"),
            UriError::Pin(name("pin-value"))
        );
        assert_eq!(
            refused("pkcs11:pin-source=file:4711"),
            UriError::Pin(name("pin-source"))
        );
        assert_eq!(refused("pkcs11:object=4711"), UriError::Object(name("object")));
        assert_eq!(
            refused("pkcs11:token=a?module-path=/4711.so"),
            UriError::Module(name("module-path"))
        );
        assert_eq!(refused("pkcs11:x-secret=4711"), UriError::Unknown(name("x-secret")));
        assert_eq!(refused("pkcs11:TOKEN=4711"), UriError::Unknown(name("TOKEN")));
        assert_eq!(refused("pkcs11:token=a;token=4711"), UriError::Repeated(name("token")));
        for number in ["", "x", "-1", "+1", "1.0", "99999999999999999999999"] {
            assert_eq!(refused(&format!("pkcs11:slot-id={number}")), UriError::SlotId);
        }
        for malformed in [
            "pkcs11:token",
            "pkcs11:token=%",
            "pkcs11:token=%4",
            "pkcs11:token=%zz",
            "pkcs11:token=%ff",
            "pkcs11:token=%+1",
        ] {
            assert_eq!(refused(malformed), UriError::Malformed(name("token")), "{malformed}");
        }
    }

    #[test]
    fn a_key_has_a_uri() {
        let uri = pkcs11_uri(TOKEN, &[0x12, 0xAB, 0x41], "my key;1/ü", "private");
        assert_eq!(
            uri,
            "pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=0123abcd;token=my%20token;id=%12%AB%41;object=my%20key%3B1%2F%C3%BC;type=private"
        );
        let bare = pkcs11_uri(TOKEN, &[], "", "secret-key");
        assert!(bare.ends_with(";token=my%20token;type=secret-key"), "{bare}");
    }
}
