//! What a setting's value must look like, and the macro that makes a field, its reader and its
//! line of the manual out of one declaration.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use hsm_core::key::TokenName;
use secrecy::SecretString;

use super::Module;

/// One value as a source gave it. A number or a truth value is one only if the file says so; a
/// variable is always text.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    Text(&'a str),
    /// Text from a variable: it may also be read as a number or a truth value.
    Variable(&'a str),
    Number(i128),
    Flag(bool),
}

impl<'a> Given<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) | Self::Variable(text) => Some(text),
            Self::Number(_) | Self::Flag(_) => None,
        }
    }

    fn number(self) -> Option<i128> {
        match self {
            Self::Number(number) => Some(number),
            // `+5` parses in Rust, and means nothing to anyone here.
            Self::Variable(text) if !text.starts_with('+') => text.parse().ok(),
            Self::Variable(_) | Self::Text(_) | Self::Flag(_) => None,
        }
    }

    fn flag(self) -> Option<bool> {
        match self {
            Self::Flag(flag) => Some(flag),
            Self::Variable(text) => text.parse().ok(),
            Self::Text(_) | Self::Number(_) => None,
        }
    }
}

type Convert<T> = Box<dyn Fn(Given<'_>) -> Option<T>>;

/// How one setting is read.
pub(super) struct Rule<T> {
    /// The default, as the manual shows it.
    pub(super) default: String,
    /// What is accepted, as a fault says it: "must be …".
    pub(super) expected: String,
    /// Whether a value may never be shown, a wrong one included.
    pub(super) secret: bool,
    pub(super) convert: Convert<T>,
    pub(super) absent: Box<dyn Fn() -> T>,
}

impl<T: 'static> Rule<T> {
    fn new(
        expected: impl Into<String>,
        default: impl Into<String>,
        absent: impl Fn() -> T + 'static,
        convert: impl Fn(Given<'_>) -> Option<T> + 'static,
    ) -> Self {
        Self {
            default: default.into(),
            expected: expected.into(),
            secret: false,
            convert: Box::new(convert),
            absent: Box::new(absent),
        }
    }

    /// The default in words, where it is worked out when the server starts.
    pub(super) fn described(mut self, default: &str) -> Self {
        self.default = default.to_owned();
        self
    }

    /// The same rule for a setting that may be left out.
    pub(super) fn optional(self) -> Rule<Option<T>> {
        let convert = self.convert;
        Rule {
            default: String::new(),
            expected: self.expected,
            secret: self.secret,
            convert: Box::new(move |given| convert(given).map(Some)),
            absent: Box::new(|| None),
        }
    }
}

/// Text, not empty, taken literally.
pub(super) fn text(default: &'static str) -> Rule<String> {
    Rule::new(
        "text that is not empty (in quotes in the file)",
        default,
        || default.to_owned(),
        |given| non_empty(given).map(str::to_owned),
    )
}

/// Text of at least `min_bytes` bytes that is never shown.
pub(super) fn secret(min_bytes: usize) -> Rule<Option<SecretString>> {
    let expected = if min_bytes > 1 {
        format!("text of at least {min_bytes} bytes (in quotes in the file)")
    } else {
        "text that is not empty (in quotes in the file)".to_owned()
    };
    let convert = move |given: Given<'_>| {
        let text = non_empty(given).filter(|text| text.len() >= min_bytes)?;
        Some(SecretString::from(text))
    };
    let mut rule = Rule::new(expected, "", || SecretString::from(""), convert).optional();
    rule.secret = true;
    rule
}

/// URL of a PostgreSQL database, which may hold a password and is never shown.
pub(super) fn database() -> Rule<Option<SecretString>> {
    let convert = |given: Given<'_>| {
        let url = non_empty(given)?;
        let rest = ["postgres://", "postgresql://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme))?;
        (!rest.is_empty()).then(|| SecretString::from(url))
    };
    let expected = "a URL that begins with postgres:// or postgresql://";
    let mut rule = Rule::new(expected, "", || SecretString::from(""), convert).optional();
    rule.secret = true;
    rule
}

/// Path of a file or folder.
pub(super) fn path() -> Rule<PathBuf> {
    Rule::new("a path (in quotes in the file)", "", PathBuf::new, |given| {
        non_empty(given).map(PathBuf::from)
    })
}

/// `embedded`, or the path of a PKCS#11 module.
pub(super) fn module() -> Rule<Option<Module>> {
    let convert = |given: Given<'_>| {
        Some(match non_empty(given)? {
            "embedded" => Module::Embedded,
            path => Module::File(PathBuf::from(path)),
        })
    };
    Rule::new(
        "the path of a PKCS#11 module, or `embedded`",
        "",
        || Module::Embedded,
        convert,
    )
    .optional()
}

/// `address:port`; `localhost` stands for 127.0.0.1.
pub(super) fn address(default: &'static str) -> Rule<SocketAddr> {
    fn parse(text: &str) -> Option<SocketAddr> {
        match text.strip_prefix("localhost:") {
            Some(port) => Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into()),
            None => text.parse().ok(),
        }
    }
    Rule::new(
        "address:port, such as 127.0.0.1:8080 or [::1]:8080",
        default,
        move || parse(default).unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into()),
        |given| parse(non_empty(given)?),
    )
}

/// A whole number within `range`.
pub(super) fn number(range: RangeInclusive<u64>, default: u64) -> Rule<u64> {
    Rule::new(
        format!("a whole number from {} to {}", range.start(), range.end()),
        default.to_string(),
        move || default,
        move |given| {
            let number = u64::try_from(given.number()?).ok()?;
            range.contains(&number).then_some(number)
        },
    )
}

/// `true` or `false`; false by default.
pub(super) fn flag() -> Rule<bool> {
    let convert = |given: Given<'_>| given.flag();
    Rule::new("true or false", "false", || false, convert)
}

/// One of a few words; the first is the default.
pub(super) fn choice<T: Copy + 'static>(first: (&'static str, T), others: &'static [(&'static str, T)]) -> Rule<T> {
    let words: Vec<_> = std::iter::once(first.0)
        .chain(others.iter().map(|(word, _)| *word))
        .collect();
    Rule::new(
        format!("one of {}", words.join(", ")),
        first.0,
        move || first.1,
        move |given| {
            let text = given.text()?;
            std::iter::once(&first)
                .chain(others)
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value)
        },
    )
}

fn non_empty(given: Given<'_>) -> Option<&str> {
    given.text().filter(|text| !text.is_empty())
}

/// One line of the manual.
pub(super) struct Row {
    /// `section.field`, as in the file.
    pub(super) path: &'static str,
    /// Empty: none.
    pub(super) default: String,
    pub(super) meaning: String,
    pub(super) secret: bool,
}

impl Row {
    /// The variable that sets it: `HSM_`, and `__` between section and field.
    pub(super) fn variable(&self) -> String {
        variable(self.path)
    }
}

/// The variable that sets `path`.
fn variable(path: &str) -> String {
    format!("HSM_{}", path.to_ascii_uppercase().replace('.', "__"))
}

/// Stands in a declared path for the name of a further token.
pub(super) const NAME: &str = "<name>";

/// One setting: a declared path, and of which token it is if it is a further token's.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) path: &'a str,
    pub(super) token: Option<&'a TokenName>,
}

impl Setting<'_> {
    /// `section.field`, as in the file.
    pub(super) fn path(self) -> String {
        self.filled(self.path, str::to_owned)
    }

    /// The variable that sets it.
    pub(super) fn variable(self) -> String {
        self.filled(&variable(self.path), str::to_ascii_uppercase)
    }

    fn filled(self, declared: &str, written: impl Fn(&str) -> String) -> String {
        let Some(token) = self.token else {
            return declared.to_owned();
        };
        declared.replace(&written(NAME), &written(token.as_str()))
    }
}

/// The doc comment's lines as one text.
pub(super) fn meaning(lines: &[&str]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

/// Declares a group of settings: each is a field with a doc comment and a rule. Makes the
/// struct, `read` (from a `Reader`) and `rows` (for the manual).
macro_rules! settings {
    (
        $(#[$attribute:meta])*
        $name:ident in $prefix:literal {
            $( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $rule:expr; )+
            $( section $(#[doc = $section_doc:literal])+ $section:ident: $section_type:ident; )*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $type, )+
            $( $(#[doc = $section_doc])+ pub $section: $section_type, )*
        }

        impl $name {
            pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
                Self {
                    $( $field: reader.take(concat!($prefix, stringify!($field)), &$rule), )+
                    $( $section: $section_type::read(reader), )*
                }
            }

            pub(in crate::config) fn rows() -> Vec<Row> {
                let mut rows = Vec::new();
                $( {
                    let rule: Rule<$type> = $rule;
                    rows.push(Row {
                        path: concat!($prefix, stringify!($field)),
                        meaning: meaning(&[$($doc),+]),
                        secret: rule.secret,
                        default: rule.default,
                    });
                } )+
                $( rows.extend($section_type::rows()); )*
                rows
            }
        }
    };
}
pub(super) use settings;
