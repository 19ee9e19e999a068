//! TLS from PEM files.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{Error, InconsistentKeys, ServerConfig};

use crate::config::Fault;

const CERT: &str = "server.tls_cert";
const KEY: &str = "server.tls_key";

/// What rustls needs to serve TLS 1.2 and 1.3 with HTTP/2 and HTTP/1.1, no client
/// certificates.
///
/// # Errors
///
/// Every fault of the two files, each naming the variable to set.
pub fn server_config(cert: &Path, key: &Path) -> Result<ServerConfig, Vec<Fault>> {
    let (chain, key) = match (read_chain(cert), read_key(key)) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => {
            return Err([chain.err(), key.err()].into_iter().flatten().collect());
        }
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| vec![refused(cert, &error)])?;
    // No HTTP/2: actix-web lets nobody bound its streams, and one client could open them without end.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let fault = |text: &str| fault(CERT, "HSM_SERVER__TLS_CERT", path, text);
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| fault(&explained(&error, "certificate")))?
        .collect();
    let certificates = certificates.map_err(|error| fault(&explained(&error, "certificate")))?;
    if certificates.is_empty() {
        return Err(fault("has no certificate in PEM format"));
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Fault> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        let text = explained(&error, "private key");
        fault(KEY, "HSM_SERVER__TLS_KEY", path, &text)
    })
}

/// What to say of a file. The reader's own text may quote it, so only its kind is told.
fn explained(error: &PemError, wanted: &str) -> String {
    match error {
        PemError::Io(error) => format!("can't be read: {error}"),
        PemError::NoItemsFound => format!("has no {wanted} in PEM format"),
        _ => "is not valid PEM".to_owned(),
    }
}

fn refused(cert: &Path, error: &Error) -> Fault {
    if matches!(error, Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) {
        let text = "is for another key than the one in HSM_SERVER__TLS_KEY";
        return fault(CERT, "HSM_SERVER__TLS_CERT", cert, text);
    }
    let text = format!("can't be used with the key in HSM_SERVER__TLS_KEY: {error}");
    fault(CERT, "HSM_SERVER__TLS_CERT", cert, &text)
}

fn fault(setting: &'static str, variable: &str, path: &Path, text: &str) -> Fault {
    Fault::of(setting, format!("{variable}: {}: {text}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use std::path::PathBuf;
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;

    /// A self-signed certificate for `localhost` and its key, made by OpenSSL.
    fn pair(folder: &TempDir, name: &str) -> (PathBuf, PathBuf) {
        let cert = folder.path().join(format!("{name}.crt"));
        let key = folder.path().join(format!("{name}.key"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:P-256", "-nodes", "-days", "1"])
            .args(["-subj", "/CN=localhost", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        (cert, key)
    }

    fn faults(cert: &Path, key: &Path) -> Vec<String> {
        let faults = server_config(cert, key).unwrap_err();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pair_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = pair(&folder, "a");
        let config = server_config(&cert, &key).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1"]);
        // Both in one file, as some tools write it.
        let both = folder.path().join("both.pem");
        let text = std::fs::read_to_string(&key).unwrap() + &std::fs::read_to_string(&cert).unwrap();
        std::fs::write(&both, text).unwrap();
        assert!(server_config(&both, &both).is_ok());
    }

    #[test]
    fn each_fault_names_its_variable() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = pair(&folder, "a");
        let (_, other_key) = pair(&folder, "b");
        let nowhere = folder.path().join("nowhere");

        let both = faults(&nowhere, &nowhere);
        assert!(both[0].starts_with("HSM_SERVER__TLS_CERT: ") && both[0].contains("can't be read"));
        assert!(both[1].starts_with("HSM_SERVER__TLS_KEY: ") && both[1].contains("can't be read"));
        let swapped = faults(&key, &cert);
        assert!(swapped[0].contains("has no certificate"), "{swapped:?}");
        assert!(swapped[1].contains("has no private key"), "{swapped:?}");
        let mismatch = faults(&cert, &other_key);
        assert!(mismatch[0].contains("another key"), "{mismatch:?}");

        let broken = folder.path().join("broken");
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").unwrap();
        assert!(faults(&broken, &key)[0].contains("not valid PEM"));
        std::fs::write(
            &broken,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        assert_eq!(faults(&broken, &key).len(), 1);
    }
}
