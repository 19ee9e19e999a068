//! Certification requests and random bytes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::binary::SecretBase64;
use crate::names::SignAlgorithmName;

/// Whom a certificate is asked for.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"subject": "CN=host.example,O=Example", "subject_alt_names": ["host.example", "10.1.2.3"]}))]
pub struct CsrRequest {
    /// The subject as RFC 4514 writes it; it may be empty where there are alternative names.
    #[schema(max_length = 1024)]
    pub subject: String,
    /// Host names, IP addresses, e-mail addresses, URIs; 64 at most.
    #[schema(nullable = false, max_items = 64)]
    pub subject_alt_names: Option<Vec<String>>,
    /// The algorithm; that of the key's type and curve if not said, for RSA keys RSA-PKCS1-SHA256.
    #[schema(value_type = Option<SignAlgorithmName>, nullable = false)]
    pub algorithm: Option<String>,
}

/// Whom a certificate is asked for, with a version of the key.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"subject": "CN=host.example,O=Example", "subject_alt_names": ["host.example", "10.1.2.3"], "key_version": 2}))]
pub struct VersionedCsrRequest {
    /// The subject as RFC 4514 writes it; it may be empty where there are alternative names.
    #[schema(max_length = 1024)]
    pub subject: String,
    /// Host names, IP addresses, e-mail addresses, URIs; 64 at most.
    #[schema(nullable = false, max_items = 64)]
    pub subject_alt_names: Option<Vec<String>>,
    /// The algorithm; that of the key's type and curve if not said, for RSA keys RSA-PKCS1-SHA256.
    #[schema(value_type = Option<SignAlgorithmName>, nullable = false)]
    pub algorithm: Option<String>,
    /// The version of the key; the primary one if not said. A key of the token has none.
    #[schema(nullable = false, minimum = 1)]
    pub key_version: Option<u32>,
}

impl VersionedCsrRequest {
    /// The request for the key itself, and the version that it names.
    pub fn split(self) -> (CsrRequest, Option<u32>) {
        let Self {
            subject,
            subject_alt_names,
            algorithm,
            key_version,
        } = self;
        let request = CsrRequest {
            subject,
            subject_alt_names,
            algorithm,
        };
        (request, key_version)
    }
}

/// A certification request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CsrResponse {
    /// The request (PKCS#10, RFC 2986) as PEM.
    #[schema(example = "-----BEGIN CERTIFICATE REQUEST-----\n...\n-----END CERTIFICATE REQUEST-----\n")]
    pub csr_pem: String,
}

/// Random bytes that are asked for.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"length": 32}))]
pub struct RandomRequest {
    /// How many bytes.
    #[schema(minimum = 1, maximum = 4096)]
    pub length: u32,
    /// The name of the further token that is asked; the default token if not said.
    #[schema(nullable = false)]
    pub token: Option<String>,
}

/// Random bytes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"data": "mYDn2W8mVnPjRnXqH1Yw3Q=="}))]
pub struct RandomResponse {
    /// The bytes, made by the token.
    pub data: SecretBase64,
}
