//! A TLS server whose key is in the token, and a client that talks to it.
//!
//! ```text
//! HSM_LIBRARY_PATH=/usr/lib/softhsm/libsofthsm2.so HSM_TOKEN_LABEL=my_token HSM_PIN=1234 \
//!     cargo run --example tls_server --features rustls,rcgen
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use hsm_core::{Curve, Hsm, KeyInfo, KeyQuery, KeySpec, Label, NewKey};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ResolvesServerCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream};

const LABEL: &str = "example TLS server";

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Opens the token that the environment names, serves one connection, and prints what the client was told.
pub(crate) fn main() -> Result<()> {
    let hsm = Hsm::builder()
        .module(env::var("HSM_LIBRARY_PATH")?)
        .token(env::var("HSM_TOKEN_LABEL")?)
        .pin(env::var("HSM_PIN")?);
    let hsm = match env::var("HSM_INIT_ARGS") {
        Ok(text) => hsm.init_args(text).open()?,
        Err(_) => hsm.open()?,
    };
    let key = key(&hsm)?;

    // Both are signed in the token: the certificate once, and every handshake.
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?
        .self_signed(&hsm.certificate_key(&key)?)?
        .der()
        .clone();
    let certified = CertifiedKey::new(vec![certificate.clone()], Arc::new(hsm.tls_key(&key)?));
    certified.keys_match()?;

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = thread::spawn(move || serve_one(&listener, certified).map_err(|error| error.to_string()));
    println!("the server said: {}", talk(TcpStream::connect(address)?, certificate)?);
    server.join().map_err(|_| "the server's thread panicked")??;
    Ok(())
}

fn key(hsm: &Hsm) -> Result<KeyInfo> {
    let with_label = KeyQuery {
        label: Some(LABEL.to_owned()),
        limit: 1,
        ..KeyQuery::default()
    };
    if let Some(key) = hsm.keys(with_label).wait()?.keys.pop() {
        return Ok(key);
    }
    let new = NewKey::new(KeySpec::Curve(Curve::P256), Label::parse(LABEL)?);
    Ok(hsm.generate(new).wait()?)
}

fn serve_one(listener: &TcpListener, certified: CertifiedKey) -> Result<()> {
    let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(certified));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    let mut connection = ServerConnection::new(Arc::new(config))?;
    let (mut socket, _) = listener.accept()?;
    let mut stream = Stream::new(&mut connection, &mut socket);
    stream.write_all(b"hello, by a key that never left its token")?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}

fn talk(mut socket: TcpStream, trusted: CertificateDer<'static>) -> Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted)?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
    let mut heard = String::new();
    Stream::new(&mut connection, &mut socket).read_to_string(&mut heard)?;
    Ok(heard)
}
