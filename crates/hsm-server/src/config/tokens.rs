//! The tokens: the default one, whose settings stand at the top, and further ones, each with a name and a section.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use hsm_core::key::TokenName;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::rule::{NAME, Row, Rule, Setting, meaning, module, number, path, secret, settings, text};
use super::source::Reader;
use super::{Config, Fault, Module, QUEUE, SESSIONS};

settings! {
    /// A token beside the default one.
    FurtherToken in "tokens.<name>." {
        /// As `library_path`. One path is one module, loaded and initialised once for all of its tokens. `embedded` has
        /// one token, so one token alone may be on it.
        library_path: Option<Module> = module().described("the default token's module");
        /// As `token_label`.
        token_label: Option<String> = text("").optional();
        /// As `pin`.
        pin: Option<SecretString> = secret(1);
        /// As `pin_file`.
        pin_file: Option<std::path::PathBuf> = path().optional();
        /// As `init_args`; one module has one of them, whichever of its tokens says it.
        init_args: Option<String> = text("").optional().described("what another token of the module says");
        /// As `limits.max_sessions`, for this token.
        max_sessions: Option<u64> = number(SESSIONS, 1).optional().described("as `limits.max_sessions`");
        /// As `limits.queue`, for this token.
        queue: Option<u64> = number(QUEUE, 0).optional().described("as `limits.queue`");
    }
}

/// The further tokens by their names.
#[derive(Clone, Debug, Default)]
pub struct FurtherTokens(BTreeMap<TokenName, FurtherToken>);

impl FurtherTokens {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Leaves none.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let names = reader.tokens();
        let read = |name: TokenName| {
            let token = FurtherToken::read(&mut reader.of_token(&name));
            (name, token)
        };
        Self(names.into_iter().map(read).collect())
    }

    pub(super) fn rows() -> Vec<Row> {
        FurtherToken::rows()
    }
}

/// The settings of one token, the default one or a further one, with what a further one takes from elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct TokenSettings<'a> {
    /// The name; none for the default token.
    pub name: Option<&'a TokenName>,
    /// The token's label or URI.
    pub token_label: Option<&'a str>,
    /// The user PIN.
    pub pin: Option<&'a SecretString>,
    /// Worker sessions.
    pub max_sessions: usize,
    /// Calls that may wait.
    pub queue: usize,
    module: Option<&'a Module>,
    init_args: Option<&'a str>,
}

impl TokenSettings<'_> {
    /// A fault of a setting of this token, whose variable begins the text.
    pub fn fault(&self, field: &str, text: impl std::fmt::Display) -> Fault {
        let text = format!("{}: {text}", self.variable(field));
        Fault::of(token_path(self.name, field), text)
    }

    /// The variable of a setting of this token.
    pub fn variable(&self, field: &str) -> String {
        token_variable(self.name, field)
    }
}

/// The variable of a setting of the token of this name; without a name of the default one.
pub fn token_variable(name: Option<&TokenName>, field: &str) -> String {
    let path = declared(name, field);
    Setting {
        path: &path,
        token: name,
    }
    .variable()
}

fn token_path(name: Option<&TokenName>, field: &str) -> String {
    let path = declared(name, field);
    Setting {
        path: &path,
        token: name,
    }
    .path()
}

/// The path of a token's setting as it is declared.
fn declared(name: Option<&TokenName>, field: &str) -> String {
    match name {
        None => field.to_owned(),
        Some(_) => format!("tokens.{NAME}.{field}"),
    }
}

/// A module and its tokens.
#[derive(Clone, Debug)]
pub struct ModuleSettings<'a> {
    /// The module.
    pub module: &'a Module,
    /// Text for C_Initialize.
    pub init_args: Option<&'a str>,
    /// The first of its tokens, which is named where the module as a whole is at fault.
    pub first: TokenSettings<'a>,
    /// The others.
    pub others: Vec<TokenSettings<'a>>,
}

impl<'a> ModuleSettings<'a> {
    /// All tokens of the module.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenSettings<'a>> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl Config {
    /// The default token, then the further ones by their names.
    pub fn all_tokens(&self) -> Vec<TokenSettings<'_>> {
        let entries = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let default = TokenSettings {
            name: None,
            token_label: self.token_label.as_deref(),
            pin: self.pin.as_ref(),
            max_sessions: self.max_sessions(),
            queue: entries(self.limits.queue),
            module: self.library_path.as_ref(),
            init_args: self.init_args.as_deref(),
        };
        let further = self.tokens.0.iter().map(|(name, token)| TokenSettings {
            name: Some(name),
            token_label: token.token_label.as_deref(),
            pin: token.pin.as_ref(),
            max_sessions: token.max_sessions.map_or(default.max_sessions, entries),
            queue: token.queue.map_or(default.queue, entries),
            module: token.library_path.as_ref().or(default.module),
            init_args: token.init_args.as_deref(),
        });
        std::iter::once(default).chain(further).collect()
    }

    /// The modules with their tokens, the default token's module first.
    pub fn modules(&self) -> Vec<ModuleSettings<'_>> {
        let mut modules: Vec<ModuleSettings<'_>> = Vec::new();
        for token in self.all_tokens() {
            let Some(module) = token.module else {
                continue;
            };
            if let Some(known) = modules.iter_mut().find(|known| is_same(known.module, module)) {
                known.init_args = known.init_args.or(token.init_args);
                known.others.push(token);
            } else {
                modules.push(ModuleSettings {
                    module,
                    init_args: token.init_args,
                    first: token,
                    others: Vec::new(),
                });
            }
        }
        modules
    }

    /// Puts the PINs of files in place.
    pub(super) fn read_pins(&mut self, faults: &mut Vec<Fault>) {
        read_pin_file(None, self.pin_file.as_deref(), &mut self.pin, faults);
        for (name, token) in &mut self.tokens.0 {
            read_pin_file(Some(name), token.pin_file.as_deref(), &mut token.pin, faults);
        }
    }

    /// What tokens that share a module must agree on.
    pub(super) fn validate_modules(&self, faults: &mut Vec<Fault>) {
        for module in self.modules() {
            for (at, token) in module.tokens().enumerate() {
                if at > 0 && *module.module == Module::Embedded {
                    let text = format!(
                        "must be set to the path of another module: `embedded` has one token, which is that of {}",
                        module.first.variable("library_path")
                    );
                    faults.push(token.fault("library_path", text));
                }
                let says_other = |before: &&TokenSettings<'_>| matches!((before.init_args, token.init_args), (Some(one), Some(other)) if one != other);
                if let Some(before) = module.tokens().take(at).find(says_other) {
                    let text = format!(
                        "must not differ from {}: both tokens are of one module, which is initialised once",
                        before.variable("init_args")
                    );
                    faults.push(token.fault("init_args", text));
                }
            }
        }
    }
}

/// Whether two settings mean one module: the same path, or two paths of one file.
fn is_same(one: &Module, other: &Module) -> bool {
    match (one, other) {
        (Module::Embedded, Module::Embedded) => true,
        (Module::File(one), Module::File(other)) => {
            let file = |path: &Path| std::fs::canonicalize(path).ok();
            one == other || file(one).is_some_and(|one| Some(one) == file(other))
        }
        (Module::Embedded, Module::File(_)) | (Module::File(_), Module::Embedded) => false,
    }
}

/// The file wins, and a PIN that is faulty beside it does not matter.
fn read_pin_file(
    name: Option<&TokenName>,
    file: Option<&Path>,
    pin: &mut Option<SecretString>,
    faults: &mut Vec<Fault>,
) {
    let Some(file) = file else {
        return;
    };
    match read_pin(file) {
        Ok(read) => {
            *pin = Some(read);
            let path = token_path(name, "pin");
            faults.retain(|fault| fault.path.as_ref() != Some(&path));
        }
        Err(cause) => {
            let variable = token_variable(name, "pin_file");
            let text = format!("{variable}: {}: {cause}", file.display());
            faults.push(Fault::of(token_path(name, "pin_file"), text));
        }
    }
}

/// The PIN in `path`, without one newline at its end.
fn read_pin(path: &Path) -> Result<SecretString, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("can't be read: {error}"))?;
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| "is not valid UTF-8".to_owned())?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line
        .strip_suffix('\r')
        .filter(|_| line.len() < text.len())
        .unwrap_or(line);
    let pin = SecretString::from(line);
    if pin.expose_secret().is_empty() {
        return Err("holds no PIN".to_owned());
    }
    Ok(pin)
}
