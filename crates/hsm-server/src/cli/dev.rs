//! `hsm-server dev`: a gateway with a token inside, for development, with nothing to set up.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use hsm_core::{Curve, HsmKeyId, KeyQuery, KeySpec, Label, NewKey};
use keymgmt::{Caller, KeyService};

use crate::app;
use crate::auth::mint;
use crate::config::{Config, Fault, Module, Purpose, environment};
use crate::embedded;
use crate::secrets::read_or_make;
use crate::serve::{Ready, make_folder, refuse};

/// Ports that are tried after the configured one.
const MORE_PORTS: u16 = 100;
/// Who the caller is.
const SUBJECT: &str = "dev";
const TOKEN_LASTS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Makes what is missing in the data folder, says where everything is, and serves.
pub fn run(output: &mut impl Write) -> ExitCode {
    let (mut config, warnings) = match Config::load(environment(), Purpose::Dev) {
        Ok(loaded) => loaded,
        Err(faults) => return refuse(&faults),
    };
    crate::start_logging(&config, &warnings);
    match prepare(&mut config).and_then(|ready| introduce(&config, &ready, output).map(|()| ready)) {
        Ok(ready) => ready.serve(),
        Err(faults) => refuse(&faults),
    }
}

fn prepare(config: &mut Config) -> Result<Ready, Vec<Fault>> {
    let one = |fault| vec![fault];
    make_folder(&config.data_dir, "HSM_DATA_DIR").map_err(one)?;
    let secret = |name: &str| {
        let path = config.data_dir.join(name);
        read_or_make(&path).map_err(|error| {
            vec![Fault::of(
                "data_dir",
                format!("HSM_DATA_DIR: {}: {error}", path.display()),
            )]
        })
    };
    if embedded::is_made(config) && !config.data_dir.join("pin").exists() {
        let text = format!(
            "HSM_DATA_DIR: {} has a token, but its PIN is gone (the file pin); put it back, or choose another folder",
            config.data_dir.display()
        );
        return Err(vec![Fault::of("data_dir", text)]);
    }
    let pin = secret("pin")?;
    let jwt_secret = secret("jwt-secret")?;
    if matches!(&config.library_path, Some(Module::File(_))) || !config.tokens.is_empty() {
        tracing::warn!(
            "dev uses the token inside this program; HSM_LIBRARY_PATH, HSM_TOKEN_LABEL, HSM_PIN and HSM_TOKENS__… are for `serve`"
        );
    }
    config.library_path = Some(Module::Embedded);
    config.token_label = None;
    config.tokens.clear();
    if config.store.url.take().is_some() {
        tracing::warn!("dev keeps managed keys in its data folder; HSM_STORE__URL is for `serve`");
    }
    config.pin = Some(pin);
    config.auth.jwt_secret.get_or_insert(jwt_secret);
    Ready::prepare(config, next_free(config.server.listen))
}

/// A listener on the address, or on the next port that is free.
fn next_free(address: SocketAddr) -> Result<TcpListener, String> {
    let first = app::listen(address);
    if address.port() == 0 {
        return first;
    }
    let more = (1..=MORE_PORTS).filter_map(|more| address.port().checked_add(more));
    first.or_else(|error| {
        more.map(|port| SocketAddr::new(address.ip(), port))
            .find_map(|next| TcpListener::bind(next).ok())
            .ok_or(error)
    })
}

fn introduce(config: &Config, ready: &Ready, output: &mut impl Write) -> Result<(), Vec<Fault>> {
    let fault = |text: String| vec![Fault::new(text)];
    let url = ready.url().map_err(|error| fault(error.to_string()))?;
    let token = mint(&config.auth, SUBJECT, "*", TOKEN_LASTS).map_err(fault)?;
    let service = ready.service();
    let keys = actix_web::rt::System::new().block_on(async {
        let signing = demo_key(service, "dev signing key", KeySpec::Curve(Curve::P256)).await?;
        Ok((
            signing,
            demo_key(service, "dev encryption key", KeySpec::Aes { bits: 256 }).await?,
        ))
    });
    let (signing, encrypting) = keys.map_err(|error: keymgmt::Error| fault(error.to_string()))?;
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| fault(error.to_string()))?;
    let label = format!("first-key-{:08x}", u32::from_be_bytes(random));
    let words = Words {
        url,
        token,
        signing,
        encrypting,
        label,
        folder: config.data_dir.display().to_string(),
    };
    words
        .write(output)
        .map_err(|error| fault(format!("can't write to stdout: {error}")))
}

/// The key with this label, made if it is not there.
async fn demo_key(service: &KeyService, label: &str, spec: KeySpec) -> keymgmt::Result<HsmKeyId> {
    let query = KeyQuery {
        limit: 1,
        label: Some(label.to_owned()),
        key_type: Some(spec.key_type()),
        after: None,
    };
    if let Some(info) = service.keys(query).await?.keys.into_iter().next() {
        return Ok(info.id);
    }
    let caller = Caller {
        request_id: "dev".to_owned(),
        subject: Some(SUBJECT.to_owned()),
        client: None,
    };
    Ok(service
        .create(&caller, None, NewKey::new(spec, Label::parse(label)?), None)
        .await?
        .id)
}

struct Words {
    url: String,
    token: String,
    signing: HsmKeyId,
    encrypting: HsmKeyId,
    label: String,
    folder: String,
}

impl Words {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Words {
            url,
            token,
            signing,
            encrypting,
            label,
            folder,
        } = self;
        let curl = |call: &str, body: &str| {
            format!(
                "curl -sS {url}/api/v1/hsm/{call} -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' -d '{body}'"
            )
        };
        writeln!(
            out,
            "*** FOR DEVELOPMENT ONLY: software keys, and the token below may do everything. Never use this for real keys. ***"
        )?;
        writeln!(out)?;
        writeln!(out, "Base URL:     {url}")?;
        writeln!(out, "Docs:         {url}/docs/")?;
        writeln!(out, "Bearer token: {token}")?;
        writeln!(out, "Data folder:  {folder}")?;
        writeln!(out)?;
        writeln!(out, "Make a key:")?;
        writeln!(
            out,
            "{}",
            curl(
                "keys",
                &format!(r#"{{"key_type":"EC","curve":"P-256","key_label":"{label}"}}"#)
            )
        )?;
        writeln!(out, "Sign with a key that is there:")?;
        writeln!(
            out,
            "{}",
            curl(
                "sign",
                &format!(r#"{{"key_id":"{signing}","data":"SGVsbG8gV29ybGQh"}}"#)
            )
        )?;
        writeln!(out, "Encrypt with a key that is there:")?;
        writeln!(
            out,
            "{}",
            curl(
                "encrypt",
                &format!(r#"{{"key_id":"{encrypting}","data":"SGVsbG8gV29ybGQh","algorithm":"AES-GCM"}}"#)
            )
        )?;
        out.flush()
    }
}
