//! `hsm-server check`: a doctor. Each step is ok or failed, and says what to do.

use std::io::{self, Write};
use std::process::ExitCode;

use hsm_core::backend::Backend;
use hsm_core::pkcs11::Module;
use hsm_core::{Hsm, Leftovers, Login, Stopped};

use crate::auth::Authenticator;
use crate::config::{Config, Fault, Purpose, environment};
use crate::serve::{load_module, open_token};
use crate::tls;

/// Runs the steps, as far as they can be run, and writes what came of each to `output`.
pub fn run(output: &mut impl Write) -> ExitCode {
    match examine(output) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn examine(out: &mut impl Write) -> io::Result<bool> {
    let config = match Config::load(environment(), Purpose::Check) {
        Ok((config, warnings)) => {
            ok(out, "configuration", "read")?;
            for warning in warnings {
                writeln!(out, "warning  {warning}")?;
            }
            config
        }
        Err(faults) => {
            for fault in faults {
                failed(out, "configuration", &fault.to_string())?;
            }
            return Ok(false);
        }
    };
    let settings = check_files(out, &config)?;
    let slots = |module: Module| {
        module
            .slots()
            .map(|slots| (module, slots))
            .map_err(|failure| Fault::new(failure.to_string()))
    };
    let module = match load_module(&config).and_then(slots) {
        Ok((module, slots)) => {
            let tokens = slots
                .iter()
                .filter_map(|slot| slot.token.as_ref())
                .filter(|token| token.initialized)
                .count();
            ok(
                out,
                "module",
                &format!("loaded; {} slots, {tokens} initialised tokens", slots.len()),
            )?;
            module
        }
        Err(fault) => {
            failed(out, "module", &fault.to_string())?;
            return Ok(false);
        }
    };
    let hsm = match open_token(&config, module) {
        Ok(hsm) => hsm,
        Err(fault) => {
            let step = if fault.is_pin() { "login" } else { "token" };
            failed(out, step, &fault.to_string())?;
            return Ok(false);
        }
    };
    let well = use_token(out, &hsm)?;
    if hsm.stop(config.shutdown_timeout()) == Stopped::Hanging {
        failed(
            out,
            "end",
            "a call hangs in the module, which was therefore not finalized",
        )?;
        return Ok(false);
    }
    Ok(well && settings)
}

/// What `serve` would refuse beside the token.
fn check_files(out: &mut impl Write, config: &Config) -> io::Result<bool> {
    let mut faults: Vec<(&str, Fault)> = Vec::new();
    let mut keep = |step, found: Vec<Fault>| faults.extend(found.into_iter().map(|fault| (step, fault)));
    keep(
        "authentication",
        Authenticator::from_config(&config.auth).err().unwrap_or_default(),
    );
    if let (Some(cert), Some(key)) = (&config.server.tls_cert, &config.server.tls_key) {
        keep("tls", tls::server_config(cert, key).err().unwrap_or_default());
    }
    if config.auth.jwt_secret.is_none() && config.auth.jwks_file.is_none() {
        let text = "not configured: `serve` does not start without HSM_AUTH__JWT_SECRET or HSM_AUTH__JWKS_FILE";
        writeln!(out, "warning  authentication: {text}")?;
    }
    for (step, fault) in &faults {
        failed(out, step, &fault.to_string())?;
    }
    Ok(faults.is_empty())
}

fn use_token(out: &mut impl Write, hsm: &Hsm) -> io::Result<bool> {
    let token = hsm.token();
    ok(
        out,
        "token",
        &format!(
            "`{}` ({} {}, serial {}, firmware {})",
            token.label, token.manufacturer, token.model, token.serial, token.firmware_version
        ),
    )?;
    let logged_in = match hsm.status().login {
        Login::LoggedIn => ok(out, "login", "the PIN is right").map(|()| true),
        Login::NotNeeded => ok(out, "login", "the token asks for none").map(|()| true),
        Login::NoPin => failed(out, "login", "no PIN is configured: set HSM_PIN or HSM_PIN_FILE").map(|()| false),
        Login::LoggedOut | Login::Refused => failed(out, "login", "the token does not let us log in").map(|()| false),
    }?;
    let mechanisms = hsm.mechanisms();
    let signs = mechanisms.iter().filter(|mechanism| mechanism.sign).count();
    ok(
        out,
        "mechanisms",
        &format!("{}, of which {signs} sign", mechanisms.len()),
    )?;
    let random = match hsm.random(32).wait() {
        Ok(_) => ok(out, "random", "32 bytes from the token").map(|()| true),
        Err(error) => failed(
            out,
            "random",
            &format!("{error}; a token whose generator fails must not be used"),
        )
        .map(|()| false),
    }?;
    if !logged_in {
        return Ok(false);
    }
    let round_trip = match hsm.round_trip().wait() {
        Ok(kind) => ok(
            out,
            "round trip",
            &format!("signed and verified with a session key ({kind})"),
        )
        .map(|()| true),
        Err(error) => failed(out, "round trip", &format!("{error}; look at the token's own log")).map(|()| false),
    }?;
    let leftovers = match hsm.leftovers().wait() {
        Ok(leftovers) => report_leftovers(out, leftovers)?,
        Err(error) => failed(out, "leftovers", &error.to_string()).map(|()| false)?,
    };
    Ok(random && round_trip && leftovers)
}

fn report_leftovers(out: &mut impl Write, leftovers: Leftovers) -> io::Result<bool> {
    let Leftovers {
        without_id,
        lone_private,
        lone_public,
    } = leftovers;
    let public = format!("{lone_public} public keys stand alone, which is nothing wrong");
    if without_id == 0 && lone_private == 0 {
        return ok(out, "leftovers", &format!("none; {public}")).map(|()| true);
    }
    let text = format!(
        "{without_id} key objects without CKA_ID and {lone_private} private keys without a public one: a key creation that crashed may have left them; look at them with the token's own tools (pkcs11-tool --list-objects) and give them an id, or delete them. {public}"
    );
    failed(out, "leftovers", &text).map(|()| false)
}

fn ok(out: &mut impl Write, step: &str, text: &str) -> io::Result<()> {
    writeln!(out, "ok       {step}: {text}")
}

fn failed(out: &mut impl Write, step: &str, text: &str) -> io::Result<()> {
    writeln!(out, "failed   {step}: {text}")
}
