//! Scopes: what a token allows its bearer to call.

use std::fmt;

/// Declares the scopes: name and the calls that it stands for.
macro_rules! scopes {
    ($( $scope:ident = $name:literal, $calls:literal; )+) => {
        /// What one kind of call needs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Scope {
            $( #[doc = $calls] $scope, )+
        }

        impl Scope {
            /// Every scope.
            pub const ALL: &[Self] = &[$( Self::$scope, )+];

            /// The name, as a token has it.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$scope => $name, )+ }
            }

            /// The calls that it allows.
            pub const fn calls(self) -> &'static str {
                match self { $( Self::$scope => $calls, )+ }
            }
        }
    };
}

scopes! {
    SlotsRead = "slots:read", "Slots, mechanisms, capabilities.";
    KeysRead = "keys:read", "List keys, get one, its public key set.";
    KeysCreate = "keys:create", "Create, import and adopt keys.";
    KeysUpdate = "keys:update", "Change, rotate and restore keys and their versions.";
    KeysDelete = "keys:delete", "Delete keys.";
    CryptoEncrypt = "crypto:encrypt", "Encrypt, data keys.";
    CryptoDecrypt = "crypto:decrypt", "Decrypt.";
    CryptoSign = "crypto:sign", "Sign, certificate requests.";
    CryptoVerify = "crypto:verify", "Verify.";
    CryptoWrap = "crypto:wrap", "Wrap keys.";
    CryptoUnwrap = "crypto:unwrap", "Unwrap keys.";
    CryptoDerive = "crypto:derive", "Derive, encapsulate and decapsulate keys.";
    CryptoRandom = "crypto:random", "Random bytes.";
    AuditRead = "audit:read", "Audit records, explanation of policies.";
    MetricsRead = "metrics:read", "Metrics.";
}

impl Scope {
    /// The scope of this name; wildcards are none.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scope| scope.name() == name)
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ScopeSet(u32);

impl ScopeSet {
    /// What one word of a token's `scope` stands for: a scope, `group:*` or `*`. None if it is
    /// unknown.
    pub fn parse(word: &str) -> Option<Self> {
        if word == "*" {
            return Some(Scope::ALL.iter().copied().collect());
        }
        let Some(group) = word.strip_suffix('*').filter(|group| group.ends_with(':')) else {
            return Scope::parse(word).map(|scope| Self(scope.bit()));
        };
        let members = Scope::ALL.iter().copied();
        let set: Self = members.filter(|scope| scope.name().starts_with(group)).collect();
        (set != Self::default()).then_some(set)
    }

    /// Whether `scope` is in the set.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether nothing is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The names, separated by spaces, as a token has them.
impl fmt::Display for ScopeSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = Scope::ALL.iter().filter(|scope| self.contains(**scope));
        let names: Vec<_> = members.map(|scope| scope.name()).collect();
        formatter.write_str(&names.join(" "))
    }
}

impl From<Scope> for ScopeSet {
    fn from(scope: Scope) -> Self {
        Self(scope.bit())
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | scope.bit()))
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = Scope::ALL.iter().filter(|scope| self.contains(**scope));
        formatter
            .debug_set()
            .entries(members.map(|scope| scope.name()))
            .finish()
    }
}

/// Every word that a token's `scope` may hold, wildcards included, for messages.
pub(super) fn words() -> Vec<String> {
    let mut words = vec!["*".to_owned()];
    for scope in Scope::ALL {
        let group = scope.name().split(':').next().unwrap_or_default();
        let wildcard = format!("{group}:*");
        if !words.contains(&wildcard) {
            words.push(wildcard);
        }
        words.push(scope.name().to_owned());
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn names(word: &str) -> Vec<&'static str> {
        let set = ScopeSet::parse(word).unwrap();
        let members = Scope::ALL.iter().filter(|scope| set.contains(**scope));
        members.map(|scope| scope.name()).collect()
    }

    #[test]
    fn wildcards_stand_for_their_group() {
        assert_eq!(names("crypto:sign"), ["crypto:sign"]);
        assert_eq!(names("slots:*"), ["slots:read"]);
        assert_eq!(
            names("keys:*"),
            ["keys:read", "keys:create", "keys:update", "keys:delete"]
        );
        assert_eq!(names("crypto:*").len(), 8);
        assert_eq!(names("*").len(), Scope::ALL.len());
    }

    #[test]
    fn anything_else_is_unknown() {
        for word in [
            "",
            ":",
            ":*",
            "**",
            "*:*",
            "keys",
            "keys:",
            "key*",
            "keys:r*",
            "Keys:read",
            "store:*",
            "keys:read ",
            "*:read",
        ] {
            assert_eq!(ScopeSet::parse(word), None, "{word}");
        }
    }

    #[test]
    fn every_word_is_understood() {
        assert!(words().iter().all(|word| ScopeSet::parse(word).is_some()));
        assert_eq!(words().len(), Scope::ALL.len() + 6);
    }
}
