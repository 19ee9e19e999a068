//! The language of faults: one rule a line.
//!
//! ```text
//! C_Sign rv=0x30 count=1        answer this code; the real module is not called
//! C_GenerateKeyPair late_rv=0x30  call the real module, then answer this code
//! C_Sign delay_ms=500           wait, then call
//! C_Sign hang                   wait until the rules change, then call
//! C_Sign corrupt                flip a bit of what was answered
//! C_Sign length=3               say that what was answered is this long
//! C_GenerateRandom zero         answer zeros       (`repeat`: the same bytes each time)
//! C_GetTokenInfo flags=0x40000  set flags          (`max_sessions=2`: a limit; `bad_clock`: no digits)
//! C_GetMechanismList without=0x1087,0x1085
//! C_OpenSession room=2          no more sessions than these at a time: CKR_SESSION_COUNT
//! C_Login enter=1234            this PIN in place of the one that is passed, as one entered at the device
//! C_EncryptInit own_iv=0xd1            the device makes the IV of AES-GCM itself
//! C_SignInit mechanism=0x0d rv=0x70   only calls with this mechanism
//! * rv=0xE0                     any call but C_Initialize and C_Finalize
//! forget-sessions               close all sessions underneath, before the next call; once
//! logout                        log out underneath, before the next call; once
//! ```
//!
//! `skip=N` lets the first N matching calls pass, `count=N` ends a rule after N calls. Numbers are decimal or
//! `0x…`. An empty line and one that begins with `#` mean nothing.

/// What one rule does to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Answer this CKR code without calling the real module.
    Return(u64),
    /// Call the real module and answer this CKR code all the same.
    LateReturn(u64),
    /// Wait so many milliseconds before the call.
    DelayMs(u64),
    /// Wait until the rules change.
    Hang,
    /// Flip the last bit of the output.
    Corrupt,
    /// State this length of the output, in bytes.
    Length(u64),
    /// Fill the output with zeros.
    Zero,
    /// Fill the output with bytes that are the same at every call.
    Repeat,
    /// Set these flags in CK_TOKEN_INFO.
    Flags(u64),
    /// State this limit of sessions in CK_TOKEN_INFO.
    MaxSessions(u64),
    /// Put no digits in CK_TOKEN_INFO's clock, and say that there is one.
    BadClock,
    /// Write this byte all over the IV of AES-GCM before the call, as a device does that makes the IV itself.
    OwnIv(u8),
    /// Leave these mechanisms out of the list.
    Without(Vec<u64>),
    /// Refuse sessions beyond so many open ones.
    Room(u64),
    /// Log the user in with this PIN.
    Enter(String),
    /// Close all sessions underneath.
    ForgetSessions,
    /// Log out underneath.
    Logout,
}

impl Action {
    /// Whether it comes after the real call rather than before it or in its place.
    pub(crate) fn changes_the_answer(&self) -> bool {
        match self {
            Self::Return(_)
            | Self::DelayMs(_)
            | Self::Hang
            | Self::Room(_)
            | Self::OwnIv(_)
            | Self::Enter(_)
            | Self::ForgetSessions
            | Self::Logout => false,
            Self::LateReturn(_)
            | Self::Corrupt
            | Self::Length(_)
            | Self::Zero
            | Self::Repeat
            | Self::Flags(_)
            | Self::MaxSessions(_)
            | Self::BadClock
            | Self::Without(_) => true,
        }
    }
}

/// An action, and the calls that meet it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Name of a PKCS#11 function, or `*`.
    pub(crate) function: String,
    /// What happens.
    pub(crate) action: Action,
    /// Only calls that name this mechanism.
    pub(crate) mechanism: Option<u64>,
    /// So many matching calls pass first.
    pub(crate) skip: u64,
    /// So many matching calls meet it then; all without a number.
    pub(crate) count: Option<u64>,
}

impl Rule {
    /// Whether the rule is about a call of `function` with `mechanism`.
    pub(crate) fn is_about(&self, function: &str, mechanism: Option<u64>) -> bool {
        let named = match self.function.as_str() {
            "*" => !matches!(function, "C_Initialize" | "C_Finalize"),
            name => name == function,
        };
        named && (self.mechanism.is_none() || self.mechanism == mechanism)
    }

    /// Whether the matching call number `nth`, counted from 1, meets the rule.
    pub(crate) fn fires_at(&self, nth: u64) -> bool {
        let past = nth.saturating_sub(self.skip);
        past > 0 && self.count.is_none_or(|count| past <= count)
    }
}

/// Reads a text of rules.
///
/// # Errors
///
/// The first line that is not a rule, with what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Vec<Rule>, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| rule(line).map_err(|why| format!("fault rule {line:?}: {why}")))
        .collect()
}

fn rule(line: &str) -> Result<Rule, String> {
    let mut words = line.split_whitespace();
    let first = words.next().unwrap_or_default();
    let (function, mut action, mut count) = match first {
        "forget-sessions" => ("*", Some(Action::ForgetSessions), Some(1)),
        "logout" => ("*", Some(Action::Logout), Some(1)),
        name if name == "*" || name.starts_with("C_") => (name, None, None),
        _ => return Err("does not begin with a function".into()),
    };
    let (mut mechanism, mut skip) = (None, 0);
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "count" => count = Some(number(value)?),
            "skip" => skip = number(value)?,
            "mechanism" => mechanism = Some(number(value)?),
            _ if action.is_some() => return Err(format!("a second action, {word:?}")),
            _ => action = Some(self::action(key, value)?),
        }
    }
    Ok(Rule {
        function: function.to_owned(),
        action: action.ok_or("has no action")?,
        mechanism,
        skip,
        count,
    })
}

fn action(key: &str, value: &str) -> Result<Action, String> {
    let action = match (key, value) {
        ("hang", "") => Action::Hang,
        ("corrupt", "") => Action::Corrupt,
        ("zero", "") => Action::Zero,
        ("repeat", "") => Action::Repeat,
        ("bad_clock", "") => Action::BadClock,
        ("rv", _) => Action::Return(number(value)?),
        ("late_rv", _) => Action::LateReturn(number(value)?),
        ("delay_ms", _) => Action::DelayMs(number(value)?),
        ("length", _) => Action::Length(number(value)?),
        ("room", _) => Action::Room(number(value)?),
        ("own_iv", _) => Action::OwnIv(number(value)?.to_le_bytes()[0]),
        ("enter", _) => Action::Enter(value.to_owned()),
        ("flags", _) => Action::Flags(number(value)?),
        ("max_sessions", _) => Action::MaxSessions(number(value)?),
        ("without", _) => Action::Without(value.split(',').map(number).collect::<Result<_, _>>()?),
        _ => return Err(format!("unknown action {key:?}")),
    };
    Ok(action)
}

fn number(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .map_err(|_| format!("{text:?} is no number"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    #[test]
    fn rules_are_read() {
        let rules = parse("# why\nC_Sign rv=0x30 count=2 skip=1\n\n* hang\nforget-sessions\n").unwrap();
        assert_eq!(rules[0].action, Action::Return(0x30));
        assert_eq!(
            (1..=4).map(|nth| rules[0].fires_at(nth)).collect::<Vec<_>>(),
            [false, true, true, false]
        );
        assert!(rules[0].is_about("C_Sign", Some(1)) && !rules[0].is_about("C_SignInit", None));
        assert!(rules[1].is_about("C_Login", None) && !rules[1].is_about("C_Initialize", None));
        assert_eq!((&rules[2].action, rules[2].count), (&Action::ForgetSessions, Some(1)));
    }

    #[test]
    fn a_rule_may_be_about_one_mechanism() {
        let rules = parse("C_SignInit mechanism=0x0d rv=0x70").unwrap();
        assert!(rules[0].is_about("C_SignInit", Some(13)));
        assert!(!rules[0].is_about("C_SignInit", Some(14)));
    }

    #[test]
    fn what_is_no_rule_is_named() {
        for wrong in ["sign rv=1", "C_Sign", "C_Sign rv=x", "C_Sign fly", "C_Sign hang zero"] {
            assert!(parse(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }
}
