//! Reading bodies and queries: strict, and with an error that names the field and never repeats a value.
//!
//! A value in a body may be a plaintext, and serde's own messages quote what they do not like; so they are taken apart
//! here and only what is known to be harmless is kept.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeOwned};
use serde_json::error::Category;

/// Why a body or a query is not what it should be. Answered as 400 `invalid_request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyError {
    /// The field that is wrong, missing or not known; `None` where it is the body as a whole.
    pub field: Option<String>,
    /// What is wrong with it, without its value.
    pub detail: String,
}

impl BodyError {
    /// An error of one field, for checks that are made after reading.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> BodyError {
        BodyError {
            field: Some(field.into()),
            detail: detail.into(),
        }
    }

    pub(crate) fn whole(detail: impl Into<String>) -> BodyError {
        BodyError {
            field: None,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "`{field}`: {}", self.detail),
            None => f.write_str(&self.detail),
        }
    }
}

impl std::error::Error for BodyError {}

/// Reads a JSON body.
///
/// # Errors
/// What is no JSON object in UTF-8, has more behind it, a field twice, an unknown, a missing or a wrong one.
pub fn parse_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    match body.iter().find(|byte| !b" \t\r\n".contains(byte)) {
        None => return Err(BodyError::whole("the body is empty; it must be a JSON object")),
        // serde would read a list as the fields in their order.
        Some(byte) if *byte != b'{' => {
            return Err(BodyError::whole("the body must be a JSON object"));
        }
        Some(_) => {}
    }
    // The path costs allocations, so it is asked for only when there is an error to place.
    serde_json::from_slice(body).or_else(|_| placed(body))
}

fn placed<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        json_error(error.inner(), &path)
    })?;
    deserializer.end().map_err(|error| json_error(&error, "."))?;
    Ok(value)
}

fn json_error(error: &serde_json::Error, path: &str) -> BodyError {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let text = text
        .strip_suffix(&format!(" at line {line} column {column}"))
        .unwrap_or(&text);
    match error.classify() {
        Category::Data => data_error(text, path),
        Category::Syntax if text == "number out of range" => at(path, "must be a number that is in range".into()),
        // The texts of serde_json's syntax errors are fixed and hold nothing of the input.
        Category::Syntax | Category::Eof | Category::Io => {
            BodyError::whole(format!("the body is not JSON: {text} at line {line} column {column}"))
        }
    }
}

/// Reads a query string (`application/x-www-form-urlencoded`).
///
/// # Errors
/// A parameter that is twice there, unknown, missing, wrong or not in UTF-8.
pub fn parse_query<T: DeserializeOwned>(query: &str) -> Result<T, BodyError> {
    let pairs = || form_urlencoded::parse(query.as_bytes());
    // The decoder puts U+FFFD where the bytes are not UTF-8.
    let garbled = |text: &Cow<'_, str>| text.contains('\u{fffd}');
    if let Some((name, _)) = pairs().find(|(name, value)| garbled(name) || garbled(value)) {
        return Err(at(&name, "is not UTF-8".into()));
    }
    let deserializer = serde_urlencoded::Deserializer::new(pairs());
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        data_error(&error.inner().to_string(), &path)
    })
}

/// Says in our words what serde's `text` says, without the value that it may quote.
fn data_error(text: &str, path: &str) -> BodyError {
    if let Some(name) = quoted(text, "missing field ") {
        return BodyError::field(name, "is missing");
    }
    if let Some(name) = quoted(text, "duplicate field ") {
        return BodyError::field(name, "is there twice");
    }
    if let Some(rest) = text.strip_prefix("unknown field `") {
        return unknown_field(rest);
    }
    if let Some(wrong) = WrongValue::find(text) {
        return at(path, wrong.text().into());
    }
    if let Some(found) = text
        .strip_prefix("invalid type: ")
        .or_else(|| text.strip_prefix("invalid value: "))
    {
        return at(path, wrong_type(found));
    }
    if path != "."
        && (text.contains("digit found in string")
            || text.contains("integer from empty string")
            || text.contains("number too large"))
    {
        return at(path, "must be a whole number".into());
    }
    at(path, "is not what the documentation describes".into())
}

/// `x`, expected one of `a`, `b`` after `unknown field ``.
fn unknown_field(rest: &str) -> BodyError {
    match rest.rsplit_once("`, expected ") {
        Some((name, known)) => {
            let known = known.strip_prefix("one of ").unwrap_or(known);
            at(name, format!("is not known here; there are {known}"))
        }
        None => at(
            rest.trim_end_matches("`, there are no fields"),
            "is not known here; nothing is taken".into(),
        ),
    }
}

/// `string "…", expected u32` → `must be a whole number, not a string`. What is expected never has `, expected ` in it,
/// so the last one is serde's, whatever the quoted value holds.
fn wrong_type(found: &str) -> String {
    let Some((found, expected)) = found.rsplit_once(", expected ") else {
        return "has the wrong type".into();
    };
    let expected = match expected {
        "u32" | "u64" => "a whole number that is not negative",
        "a sequence" => "a list",
        "a boolean" => "true or false",
        other => other,
    };
    let kind = found.split(['"', '`', '(']).next().unwrap_or_default().trim();
    match kind {
        "string" | "boolean" => format!("must be {expected}, not a {kind}"),
        "integer" if expected.starts_with("a whole") => format!("is out of range; it must be {expected}"),
        "integer" => format!("must be {expected}, not a number"),
        "floating point" => format!("must be {expected}, not a number with a fraction"),
        "map" => format!("must be {expected}, not an object"),
        "sequence" => format!("must be {expected}, not a list"),
        "null" => format!("must be {expected}, not null"),
        _ => format!("must be {expected}"),
    }
}

fn quoted<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    text.strip_prefix(before)?.strip_prefix('`')?.strip_suffix('`')
}

/// An error at a field, unless its name is one that only a client could have thought of.
fn at(name: &str, detail: String) -> BodyError {
    if name == "." {
        return BodyError::whole(format!("the body {detail}"));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        return BodyError::field(name, detail);
    }
    BodyError::whole(format!("a field {detail}"))
}

macro_rules! wrong_values {
    ($($variant:ident = $text:literal),* $(,)?) => {
        /// What the types of this crate say of a wrong value; other types' texts do not reach a client.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum WrongValue { $(#[doc = $text] $variant),* }

        impl WrongValue {
            const ALL: &'static [WrongValue] = &[$(WrongValue::$variant),*];

            const fn text(self) -> &'static str {
                match self { $(WrongValue::$variant => $text),* }
            }
        }
    };
}

wrong_values! {
    Base64 = "must be standard base64 with padding (RFC 4648 §4)",
    Limit = "must be a whole number from 1 to 1000",
    Time = "must be a time as in RFC 3339, such as 2026-01-31T08:00:00Z",
    MessageType = "must be `raw` or `digest`",
    SignatureFormat = "must be `der` or `p1363`",
    Batch = "must be a list of 1 to 1000 operations",
    BatchOperation = "must be `encrypt`, `decrypt`, `sign` or `verify`",
    AnyBatchOperation = "must be `encrypt`, `decrypt`, `sign`, `verify`, `rewrap` or `datakeys`",
    Protection = "must be `hsm` or `wrapped`",
    State = "must be `enabled` or `disabled`",
    AnyState = "must be `enabled`, `disabled`, `scheduled_for_destruction` or `destroyed`",
    Tag = "must be `name:value`",
    TagTwice = "must not have a name twice",
    DatakeySize = "must be 128, 192 or 256",
    WindowDays = "must be a whole number from 0 to 30",
}

impl WrongValue {
    pub(crate) fn error<E: de::Error>(self) -> E {
        E::custom(self.text())
    }

    fn find(text: &str) -> Option<WrongValue> {
        WrongValue::ALL.iter().copied().find(|wrong| wrong.text() == text)
    }
}

impl std::error::Error for WrongValue {}

impl fmt::Display for WrongValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{AuditQuery, CreateKeyRequest, KeyListQuery, SignRequest, VersionedDecryptRequest};

    fn sign(body: &str) -> String {
        parse_body::<SignRequest>(body.as_bytes()).unwrap_err().to_string()
    }

    fn list(query: &str) -> String {
        parse_query::<KeyListQuery>(query).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_json_object_is_refused_as_a_whole() {
        for (body, expected) in [
            ("", "the body is empty; it must be a JSON object"),
            (" \n", "the body is empty; it must be a JSON object"),
            ("[\"AA==\",\"hsm:00\"]", "the body must be a JSON object"),
            ("\"secret\"", "the body must be a JSON object"),
            ("null", "the body must be a JSON object"),
            (
                "{\"data\":\"AA==\",\"key_id\":\"k\"} {}",
                "the body is not JSON: trailing characters at line 1 column 30",
            ),
            (
                "{\"data\":\"AA==",
                "the body is not JSON: EOF while parsing a string at line 1 column 13",
            ),
            (
                "{\"data\":secret}",
                "the body is not JSON: expected value at line 1 column 9",
            ),
        ] {
            assert_eq!(sign(body), expected, "{body}");
        }
        let not_utf8 = parse_body::<SignRequest>(b"{\"key_id\":\"\xff\"}").unwrap_err();
        assert_eq!(
            not_utf8.detail,
            "the body is not JSON: invalid unicode code point at line 1 column 12"
        );
        let nested = "{\"aad\":".repeat(100_000);
        assert!(parse_body::<SignRequest>(nested.as_bytes()).is_err());
    }

    #[test]
    fn an_error_names_its_field() {
        for (body, expected) in [
            ("{}", "`data`: is missing"),
            ("{\"data\":null}", "`data`: must be a string, not null"),
            ("{\"data\":\"AA==\",\"data\":\"AA==\"}", "`data`: is there twice"),
            (
                "{\"data\":\"AA\"}",
                "`data`: must be standard base64 with padding (RFC 4648 §4)",
            ),
            ("{\"data\":[]}", "`data`: must be a string, not a list"),
            ("{\"data\":{}}", "`data`: must be a string, not an object"),
            (
                "{\"data\":1.5}",
                "`data`: must be a string, not a number with a fraction",
            ),
            ("{\"message_type\":\"x\"}", "`message_type`: must be `raw` or `digest`"),
            (
                "{\"message_type\":{\"raw\":null}}",
                "`message_type`: must be a string, not an object",
            ),
            (
                "{\"signature_format\":\"DER\"}",
                "`signature_format`: must be `der` or `p1363`",
            ),
            (
                "{\"datas\":1}",
                "`datas`: is not known here; there are `data`, `key_id`, `algorithm`, `message_type`, `signature_format`, `context`",
            ),
        ] {
            assert_eq!(sign(body), expected, "{body}");
        }
        let create = |body: &str| parse_body::<CreateKeyRequest>(body.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            create("{\"key_size\":-1}"),
            "`key_size`: is out of range; it must be a whole number that is not negative"
        );
        assert_eq!(
            create("{\"key_size\":\"2048\"}"),
            "`key_size`: must be a whole number that is not negative, not a string"
        );
        assert_eq!(
            create("{\"extractable\":0}"),
            "`extractable`: must be true or false, not a number"
        );
        assert_eq!(
            create("{\"usages\":\"sign\"}"),
            "`usages`: must be a list, not a string"
        );
        assert_eq!(
            create("{\"usages\":[\"sign\",7]}"),
            "`usages[1]`: must be a string, not a number"
        );
    }

    #[test]
    fn no_error_repeats_a_value() {
        let secret = "top, expected ` \\\" secret";
        for body in [
            format!("{{\"data\":\"{secret}\"}}"),
            format!("{{\"message_type\":\"{secret}\"}}"),
            format!("{{\"{secret}\":1}}"),
            format!("\"{secret}\""),
            format!("{{\"data\":\"AA==\",\"key_id\":\"k\"}} \"{secret}\""),
        ] {
            assert!(!sign(&body).contains("secret"), "{}", sign(&body));
        }
        let create = parse_body::<CreateKeyRequest>(format!("{{\"key_size\":\"{secret}\"}}").as_bytes());
        assert!(!create.unwrap_err().to_string().contains("secret"));
        let number = parse_body::<SignRequest>(b"{\"data\":123456789}")
            .unwrap_err()
            .to_string();
        assert_eq!(number, "`data`: must be a string, not a number");
    }

    #[test]
    fn null_is_the_same_as_absent_where_a_field_is_optional() {
        let body = br#"{"algorithm":null,"key_id":"hsm:00","key_version":null,"ciphertext":"","iv":null,"tag":null,"aad":null}"#;
        let (request, version) = parse_body::<VersionedDecryptRequest>(body).unwrap().split();
        assert_eq!(
            (request.algorithm, request.iv, request.tag, request.aad, version),
            (None, None, None, None, None)
        );
    }

    #[test]
    fn queries_are_read_as_strictly() {
        let query: KeyListQuery = parse_query("limit=7&label=a%20b+c&key_type=RSA").unwrap();
        assert_eq!(query.limit.unwrap_or_default().entries(), 7);
        assert_eq!(query.label.as_deref(), Some("a b c"));
        assert_eq!(
            parse_query::<KeyListQuery>("")
                .unwrap()
                .limit
                .unwrap_or_default()
                .entries(),
            100
        );
        for (query, expected) in [
            ("limit=0", "`limit`: must be a whole number from 1 to 1000"),
            ("limit=1001", "`limit`: must be a whole number from 1 to 1000"),
            ("limit=", "`limit`: must be a whole number"),
            ("limit=-1", "`limit`: must be a whole number"),
            ("limit=ten", "`limit`: must be a whole number"),
            ("limit=99999999999", "`limit`: must be a whole number"),
            ("limit=1&limit=2", "`limit`: is there twice"),
            ("label=%ff", "`label`: is not UTF-8"),
            (
                "page=2",
                "`page`: is not known here; there are `limit`, `cursor`, `key_type`, `label`",
            ),
        ] {
            assert_eq!(list(query), expected, "{query}");
        }
        let since: AuditQuery = parse_query("since=2026-01-31T08:00:00Z").unwrap();
        assert_eq!(
            since.since.map(|since| since.time().unix_timestamp()),
            Some(1_769_846_400)
        );
        let wrong = parse_query::<AuditQuery>("since=yesterday").unwrap_err();
        assert_eq!(wrong.field.as_deref(), Some("since"));
    }
}
