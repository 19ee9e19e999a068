//! Managed keys: names with versions, rotation and states; and every key as `/api/v1/keys` shows it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Jwk, Key, Limit};
use crate::body::WrongValue;
use crate::names::{CurveName, KeyTypeName, ParameterSetName, ProtectionName, SettableState, StateName, UsageName};

/// A managed key: to be made, or, with `hsm_key_id`, a key of the token to be adopted as its first version.
///
/// To make one `key_type` must be there, and the size as for keys of the token. To adopt one, `hsm_key_id` stands in place
/// of `key_type`, size, `usages`, `protection` and `token`, which the key has already.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "orders", "key_type": "AES", "key_size": 256, "protection": "hsm", "rotation_period_days": 90, "tags": {"team": "billing"}}))]
pub struct CreateManagedKeyRequest {
    /// The key's id: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with a dot. It is never used again.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
    pub name: String,
    /// The type of the key.
    #[schema(value_type = Option<KeyTypeName>, nullable = false)]
    pub key_type: Option<String>,
    /// The size in bits. RSA: 2048, 3072, 4096; AES: 128, 192, 256; HMAC: 256 (the default) to 512 in steps of 8; EC:
    /// 256, 384, 521 for the NIST curves.
    #[schema(nullable = false, minimum = 128, maximum = 4096)]
    pub key_size: Option<u32>,
    /// The curve of an EC or ED key.
    #[schema(value_type = Option<CurveName>, nullable = false)]
    pub curve: Option<String>,
    /// The parameter set of a post-quantum key.
    #[schema(value_type = Option<ParameterSetName>, nullable = false)]
    pub parameter_set: Option<String>,
    /// Where the material lies. `hsm` (the default): each version is an object on the token. `wrapped`: it lies in the
    /// database, wrapped under a key that never leaves the token, and is used inside the token only.
    #[schema(nullable = false)]
    pub protection: Option<ProtectionName>,
    /// What the key may be used for; the default fits the type. No usage twice, and none that the type can't have.
    #[schema(value_type = Option<Vec<UsageName>>, nullable = false, min_items = 1)]
    pub usages: Option<Vec<String>>,
    /// The name of the further token that the versions are made on; the default token if not said.
    #[schema(nullable = false)]
    pub token: Option<String>,
    /// The key of the token that is to be version 1.
    #[schema(nullable = false)]
    pub hsm_key_id: Option<String>,
    /// A new version is made after so many days.
    #[schema(nullable = false, minimum = 1, maximum = 3650)]
    pub rotation_period_days: Option<u32>,
    /// A new version is made after so many operations since the last one.
    #[schema(nullable = false, minimum = 1, maximum = 4_294_967_296_u64)]
    pub rotate_after_operations: Option<u64>,
    /// Names with values, at most 50. A name has 1 to 128 bytes and no `:`, a value 256 bytes at most; neither has control
    /// characters.
    #[schema(value_type = Option<BTreeMap<String, String>>, nullable = false)]
    pub tags: Option<Tags>,
}

/// What is to be changed of a managed key. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"tags": {"team": "billing"}, "rotation_period_days": 30}))]
pub struct UpdateManagedKeyRequest {
    /// The tags that the key has from now on, in place of those that it has. At most 50; a name has 1 to 128 bytes and no
    /// `:`, a value 256 bytes at most; neither has control characters.
    #[schema(value_type = Option<BTreeMap<String, String>>, nullable = false)]
    pub tags: Option<Tags>,
    /// A new version is made after so many days; `null`: not by time.
    #[serde(default, deserialize_with = "null_or_value")]
    #[schema(value_type = Option<u32>, required = false, minimum = 1, maximum = 3650)]
    pub rotation_period_days: Option<Option<u32>>,
    /// A new version is made after so many operations since the last one; `null`: not by use.
    #[serde(default, deserialize_with = "null_or_value")]
    #[schema(value_type = Option<u64>, required = false, minimum = 1, maximum = 4_294_967_296_u64)]
    pub rotate_after_operations: Option<Option<u64>>,
    /// Whether the key can be used.
    #[schema(nullable = false)]
    pub state: Option<SettableState>,
    /// The version that encrypts and signs from now on; it must be enabled.
    #[schema(nullable = false, minimum = 1)]
    pub primary_version: Option<u32>,
}

/// What is to be changed of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"state": "disabled"}))]
pub struct UpdateVersionRequest {
    /// Whether the version can be used.
    pub state: SettableState,
}

/// Tags: names with values, no name twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tags, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Tags;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tags, A::Error> {
                let mut tags = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if tags.insert(name, value).is_some() {
                        return Err(WrongValue::TagTwice.error());
                    }
                }
                Ok(Tags(tags))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

/// `name:value` in a query.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TagFilter {
    /// The tag's name.
    pub name: String,
    /// The value that it must have.
    pub value: String,
}

impl TryFrom<String> for TagFilter {
    type Error = WrongValue;

    fn try_from(text: String) -> Result<TagFilter, WrongValue> {
        let (name, value) = text
            .split_once(':')
            .filter(|(name, _)| !name.is_empty())
            .ok_or(WrongValue::Tag)?;
        Ok(TagFilter {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// A managed key. One of `key_size`, `curve` and `parameter_set` is there, as the type has it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "key_id": "orders",
    "protection": "hsm",
    "key_type": "AES",
    "key_size": 256,
    "usages": ["encrypt", "decrypt"],
    "token": null,
    "state": "enabled",
    "destroy_at": null,
    "primary_version": 1,
    "versions": [{"version": 1, "state": "enabled", "hsm_key_id": "hsm:1234567890abcdef", "created_at": "2026-01-31T08:00:00Z"}],
    "tags": {"team": "billing"},
    "rotation_period_days": 90,
    "rotate_after_operations": null,
    "next_rotation_at": "2026-05-01T08:00:00Z",
    "operations": 0,
    "last_used_at": null,
    "created_at": "2026-01-31T08:00:00Z"
}))]
pub struct ManagedKey {
    /// The id that its user chose.
    pub key_id: String,
    /// Where the material lies: `hsm` or `wrapped`.
    pub protection: ProtectionName,
    /// The type of every version.
    pub key_type: String,
    /// The size in bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub key_size: Option<u32>,
    /// The curve.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub curve: Option<String>,
    /// The parameter set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub parameter_set: Option<String>,
    /// What the key may be used for.
    pub usages: Vec<String>,
    /// The name of the further token that the versions are made on; `null` for the default token.
    #[schema(required)]
    pub token: Option<String>,
    /// The key's state.
    pub state: StateName,
    /// When it is destroyed; `null` unless it is scheduled for that.
    #[schema(required, format = DateTime)]
    pub destroy_at: Option<String>,
    /// The version that encrypts and signs.
    #[schema(minimum = 1)]
    pub primary_version: u32,
    /// Every version, 1 to n.
    pub versions: Vec<KeyVersion>,
    /// Names with values.
    pub tags: BTreeMap<String, String>,
    /// A new version is made after so many days; `null`: not by time.
    #[schema(required)]
    pub rotation_period_days: Option<u32>,
    /// A new version is made after so many operations since the last one; `null`: not by use.
    #[schema(required)]
    pub rotate_after_operations: Option<u64>,
    /// When a new version is made by time; `null`: not by time.
    #[schema(required, format = DateTime)]
    pub next_rotation_at: Option<String>,
    /// How often the key was used.
    pub operations: u64,
    /// When it was last used; `null`: never.
    #[schema(required, format = DateTime)]
    pub last_used_at: Option<String>,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created_at: String,
}

/// A version of a managed key.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KeyVersion {
    /// Its number, from 1.
    #[schema(minimum = 1)]
    pub version: u32,
    /// Its state: `enabled`, `disabled` or `destroyed`.
    pub state: StateName,
    /// The key of the token that it is; `null` for a wrapped or destroyed one.
    #[schema(required)]
    pub hsm_key_id: Option<String>,
    /// When it was made.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// The public key as PEM (SubjectPublicKeyInfo); asymmetric keys only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub public_key_pem: Option<String>,
    /// The public key as a JSON Web Key; asymmetric keys only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub public_key_jwk: Option<Jwk>,
}

/// A key of the token, among keys of every kind.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenKey {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// `enabled`; for a version of a managed key the state that keeps it from being used, if one does.
    pub state: StateName,
    /// `hsm`.
    pub protection: ProtectionName,
}

/// A key of any kind: a managed one, or one of the token.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names say it")]
pub enum AnyKey {
    Managed(Box<ManagedKey>),
    Token(Box<TokenKey>),
}

/// A page of keys of every kind: managed ones first, then those of the token that are no version of one.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AnyKeyList {
    /// The keys of this page.
    pub keys: Vec<AnyKey>,
    /// What to send as `cursor` for the next page; `null` on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Which keys to list. Filters are joined by "and".
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AnyKeyListQuery {
    /// How many keys a page has at most.
    #[param(value_type = Option<u32>, required = false, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<Limit>,
    /// The `next_cursor` of the page before.
    #[param(required = false, nullable = false)]
    pub cursor: Option<String>,
    /// Only keys of this type.
    #[param(value_type = Option<KeyTypeName>, required = false, nullable = false)]
    pub key_type: Option<String>,
    /// Only keys of the token with exactly this label; managed keys have none.
    #[param(required = false, nullable = false)]
    pub label: Option<String>,
    /// Only managed keys with this tag, `name:value`.
    #[param(value_type = Option<String>, required = false, nullable = false)]
    pub tag: Option<TagFilter>,
    /// Only keys in this state. Without it destroyed ones are left out.
    #[param(value_type = Option<StateName>, required = false, nullable = false)]
    pub state: Option<StateName>,
    /// Only keys whose material lies there.
    #[param(value_type = Option<ProtectionName>, required = false, nullable = false)]
    pub protection: Option<ProtectionName>,
}

/// How a key is destroyed.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DestroyQuery {
    /// After how many days a managed key is destroyed; 0: within ten seconds. Not for a key of the token, which is destroyed
    /// at once.
    #[param(value_type = Option<u32>, required = false, nullable = false, minimum = 0, maximum = 30, default = 7)]
    pub window_days: Option<WindowDays>,
}

/// 0 to 30 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct WindowDays(u8);

impl WindowDays {
    /// The days.
    pub const fn days(self) -> u8 {
        self.0
    }
}

impl Default for WindowDays {
    fn default() -> WindowDays {
        WindowDays(7)
    }
}

impl TryFrom<u32> for WindowDays {
    type Error = WrongValue;

    fn try_from(days: u32) -> Result<WindowDays, WrongValue> {
        let days = u8::try_from(days).ok().filter(|days| *days <= 30);
        days.map(WindowDays).ok_or(WrongValue::WindowDays)
    }
}

/// The public keys of a key's enabled versions (RFC 7517).
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": "...", "y": "...", "kid": "orders:1", "use": "sig", "alg": "ES256"}]}))]
pub struct JwkSet {
    /// The keys, by version.
    pub keys: Vec<NamedJwk>,
}

/// A public key with its name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NamedJwk {
    /// The name: `name:version`; for a key of the token its id.
    pub kid: String,
    /// `sig` or `enc`, where the key is for one of them only.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub public_use: Option<String>,
    /// The key; its `alg` is there where the key is for one algorithm only.
    #[serde(flatten)]
    pub key: Jwk,
}

/// A field that may be left out, or be `null`, or have a value: three different things.
fn null_or_value<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parse_body, parse_query};

    fn update(body: &str) -> UpdateManagedKeyRequest {
        parse_body(body.as_bytes()).unwrap()
    }

    #[test]
    fn null_and_left_out_are_told_apart() {
        assert_eq!(update("{}"), UpdateManagedKeyRequest::default());
        assert_eq!(
            update(r#"{"rotation_period_days":null}"#).rotation_period_days,
            Some(None)
        );
        assert_eq!(
            update(r#"{"rotation_period_days":7}"#).rotation_period_days,
            Some(Some(7))
        );
        assert_eq!(
            update(r#"{"rotate_after_operations":null}"#).rotate_after_operations,
            Some(None)
        );
        assert_eq!(update(r#"{"state":"disabled"}"#).state, Some(SettableState::Disabled));
        assert_eq!(
            update(r#"{"state":null,"tags":null,"primary_version":null}"#),
            UpdateManagedKeyRequest::default()
        );
    }

    #[test]
    fn an_error_names_its_field() {
        for (body, expected) in [
            (r#"{"state":"destroyed"}"#, "`state`: must be `enabled` or `disabled`"),
            (
                r#"{"rotation_period_days":-1}"#,
                "`rotation_period_days`: is out of range; it must be a whole number that is not negative",
            ),
            (
                r#"{"rotation_period_days":"x"}"#,
                "`rotation_period_days`: must be a whole number that is not negative, not a string",
            ),
            (r#"{"tags":{"a":"1","a":"2"}}"#, "`tags`: must not have a name twice"),
            (r#"{"tags":{"a":1}}"#, "`tags.a`: must be a string, not a number"),
            (r#"{"tags":[]}"#, "`tags`: must be an object of strings, not a list"),
        ] {
            let error = parse_body::<UpdateManagedKeyRequest>(body.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), expected, "{body}");
        }
        let error = parse_body::<CreateManagedKeyRequest>(br#"{"name":"a","protection":"HSM"}"#).unwrap_err();
        assert_eq!(error.to_string(), "`protection`: must be `hsm` or `wrapped`");
    }

    #[test]
    fn filters_are_read_strictly() {
        let query: AnyKeyListQuery =
            parse_query("tag=team%3Abilling%3Aeu&state=scheduled_for_destruction&protection=wrapped").unwrap();
        let tag = query.tag.unwrap();
        assert_eq!((tag.name.as_str(), tag.value.as_str()), ("team", "billing:eu"));
        assert_eq!(query.state, Some(StateName::ScheduledForDestruction));
        assert_eq!(query.protection, Some(ProtectionName::Wrapped));
        let empty: AnyKeyListQuery = parse_query("tag=team:").unwrap();
        assert_eq!(empty.tag.unwrap().value, "");
        for (query, expected) in [
            ("tag=team", "`tag`: must be `name:value`"),
            ("tag=:x", "`tag`: must be `name:value`"),
            (
                "state=gone",
                "`state`: must be `enabled`, `disabled`, `scheduled_for_destruction` or `destroyed`",
            ),
            ("protection=", "`protection`: must be `hsm` or `wrapped`"),
        ] {
            let error = parse_query::<AnyKeyListQuery>(query).unwrap_err();
            assert_eq!(error.to_string(), expected, "{query}");
        }
        let window = |query: &str| parse_query::<DestroyQuery>(query).map(|query| query.window_days);
        assert_eq!(window("").unwrap().unwrap_or_default().days(), 7);
        assert_eq!(window("window_days=0").unwrap().unwrap_or_default().days(), 0);
        assert_eq!(window("window_days=30").unwrap().unwrap_or_default().days(), 30);
        for wrong in ["window_days=31", "window_days=256", "window_days=300"] {
            let error = window(wrong).unwrap_err();
            assert_eq!(
                error.to_string(),
                "`window_days`: must be a whole number from 0 to 30",
                "{wrong}"
            );
        }
    }
}
