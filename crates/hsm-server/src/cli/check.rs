//! `hsm-server check`: a doctor. Each step is ok or failed, and says what to do.

mod keys;

use std::io::{self, Write};
use std::process::ExitCode;

use hsm_core::key::TokenName;
use hsm_core::{Hsm, Leftovers, Login, Operation, Stopped};

use crate::auth::Authenticator;
use crate::config::{Config, Fault, ModuleSettings, Purpose, TokenSettings, environment};
use crate::tls;
use crate::tokens::Loaded;
use keys::Kept;

/// Runs the steps, as far as they can be run, and writes what came of each to `output`.
pub fn run(output: &mut impl Write) -> ExitCode {
    match examine(output) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// Where steps are written, and the token that they are about if it is a further one.
struct Steps<'a, W> {
    out: &'a mut W,
    token: Option<&'a TokenName>,
}

impl<W: Write> Steps<'_, W> {
    fn of<'b>(&'b mut self, token: Option<&'b TokenName>) -> Steps<'b, W> {
        Steps { out: self.out, token }
    }

    /// Always true.
    fn ok(&mut self, step: &str, text: &str) -> io::Result<bool> {
        self.write("ok       ", step, text).map(|()| true)
    }

    /// Always false.
    fn failed(&mut self, step: &str, text: &str) -> io::Result<bool> {
        self.write("failed   ", step, text).map(|()| false)
    }

    /// Nothing that makes the check fail.
    fn warning(&mut self, step: &str, text: &str) -> io::Result<()> {
        self.write("warning  ", step, text)
    }

    fn write(&mut self, outcome: &str, step: &str, text: &str) -> io::Result<()> {
        match self.token {
            None => writeln!(self.out, "{outcome}{step}: {text}"),
            Some(name) => writeln!(self.out, "{outcome}{step} ({name}): {text}"),
        }
    }
}

fn examine(out: &mut impl Write) -> io::Result<bool> {
    let mut steps = Steps { out, token: None };
    let config = match Config::load(environment(), Purpose::Check) {
        Ok((config, warnings)) => {
            steps.ok("configuration", "read")?;
            for warning in warnings {
                writeln!(steps.out, "warning  {warning}")?;
            }
            config
        }
        Err(faults) => {
            for fault in faults {
                steps.failed("configuration", &fault.to_string())?;
            }
            return Ok(false);
        }
    };
    let mut well = check_files(&mut steps, &config)?;
    let kept = keys::check_store(&mut steps, &config)?;
    well &= kept.is_some();
    let mut kept = kept.unwrap_or_default();
    for module in config.modules() {
        well &= check_module(&mut steps, &config, module, &mut kept)?;
    }
    well &= keys::conclude(&mut steps, &kept)?;
    Ok(well)
}

/// What `serve` would refuse beside the tokens.
fn check_files<W: Write>(steps: &mut Steps<'_, W>, config: &Config) -> io::Result<bool> {
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
        writeln!(steps.out, "warning  authentication: {text}")?;
    }
    for (step, fault) in &faults {
        steps.failed(step, &fault.to_string())?;
    }
    Ok(faults.is_empty())
}

/// The steps of a module, and of each of its tokens.
fn check_module<W: Write>(
    steps: &mut Steps<'_, W>,
    config: &Config,
    settings: ModuleSettings<'_>,
    kept: &mut Kept,
) -> io::Result<bool> {
    let mut of_module = steps.of(settings.first.name);
    let loaded = match Loaded::load(config, settings) {
        Ok(loaded) => loaded,
        Err(fault) => return of_module.failed("module", &fault.to_string()),
    };
    let tokens = loaded.slots.iter().filter_map(|slot| slot.token.as_ref());
    let tokens = tokens.filter(|token| token.initialized).count();
    of_module.ok(
        "module",
        &format!("loaded; {} slots, {tokens} initialised tokens", loaded.slots.len()),
    )?;
    let mut well = true;
    // The module is finalized when the last token is stopped, so all are open before one is.
    let opened: Vec<_> = loaded
        .settings
        .tokens()
        .map(|token| (token, loaded.open_with_own_keys(config, token)))
        .collect();
    for (settings, opened) in &opened {
        let mut of_token = steps.of(settings.name);
        well &= match opened {
            Ok(hsm) => use_token(&mut of_token, hsm, settings)? & keys::check_token(&mut of_token, hsm, kept)?,
            Err(fault) => {
                let step = if fault.is_pin() { "login" } else { "token" };
                of_token.failed(step, &fault.to_string())?
            }
        };
    }
    for (settings, opened) in &opened {
        if let Ok(hsm) = opened
            && hsm.stop(config.shutdown_timeout()) == Stopped::Hanging
        {
            let text = "a call hangs in the module, which was therefore not finalized";
            well = steps.of(settings.name).failed("end", text)?;
        }
    }
    Ok(well)
}

fn use_token<W: Write>(steps: &mut Steps<'_, W>, hsm: &Hsm, settings: &TokenSettings<'_>) -> io::Result<bool> {
    let token = hsm.token();
    steps.ok(
        "token",
        &format!(
            "`{}` ({} {}, serial {}, firmware {})",
            token.label, token.manufacturer, token.model, token.serial, token.firmware_version
        ),
    )?;
    let logged_in = match hsm.status().login {
        Login::LoggedIn => steps.ok("login", "the PIN is right"),
        Login::NotNeeded => steps.ok("login", "the token asks for none"),
        Login::NoPin => {
            let [pin, pin_file] = ["pin", "pin_file"].map(|field| settings.variable(field));
            steps.failed("login", &format!("no PIN is configured: set {pin} or {pin_file}"))
        }
        Login::LoggedOut | Login::Refused => steps.failed("login", "the token does not let us log in"),
    }?;
    let mechanisms = hsm.mechanisms();
    let signs = mechanisms
        .iter()
        .filter(|mechanism| mechanism.does(Operation::Sign))
        .count();
    steps.ok("mechanisms", &format!("{}, of which {signs} sign", mechanisms.len()))?;
    let random = match hsm.random(32).wait() {
        Ok(_) => steps.ok("random", "32 bytes from the token"),
        Err(error) => {
            let text = format!("{error}; a token whose generator fails must not be used");
            steps.failed("random", &text)
        }
    }?;
    if !logged_in {
        return Ok(false);
    }
    let round_trip = match hsm.round_trip().wait() {
        Ok(kind) => {
            let text = format!("signed and verified with a session key ({kind})");
            steps.ok("round trip", &text)
        }
        Err(error) => steps.failed("round trip", &format!("{error}; look at the token's own log")),
    }?;
    let leftovers = match hsm.leftovers().wait() {
        Ok(leftovers) => report_leftovers(steps, leftovers),
        Err(error) => steps.failed("leftovers", &error.to_string()),
    }?;
    Ok(random && round_trip && leftovers)
}

fn report_leftovers<W: Write>(steps: &mut Steps<'_, W>, leftovers: Leftovers) -> io::Result<bool> {
    let Leftovers {
        without_id,
        lone_private,
        lone_public,
    } = leftovers;
    let public = format!("{lone_public} public keys stand alone, which is nothing wrong");
    if without_id == 0 && lone_private == 0 {
        return steps.ok("leftovers", &format!("none; {public}"));
    }
    let text = format!(
        "{without_id} key objects without CKA_ID and {lone_private} private keys without a public one: a key creation that crashed may have left them; look at them with the token's own tools (pkcs11-tool --list-objects) and give them an id, or delete them. {public}"
    );
    steps.failed("leftovers", &text)
}
