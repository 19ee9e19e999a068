//! Where settings come from: a TOML file, overridden by variables. What a source holds that is
//! no setting is found here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::PathBuf;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Num, Value};
use figment::{Figment, Metadata, Profile, Provider};
use hsm_core::key::TokenName;

use super::rule::{Given, NAME, Row, Rule, Setting};
use super::{Fault, Warning};

const DEFAULT_FILE: &str = "hsm.toml";
const ENVIRONMENT: &str = "the environment";
/// Says where the file is, so it can't be a setting in it.
const CONFIG_VARIABLE: &str = "HSM_CONFIG";
/// The section of further tokens, each a section of its own.
const TOKENS: &str = "tokens";
/// What variables of further tokens begin with, before the name, `__` and the field.
const TOKENS_VARIABLE: &str = "HSM_TOKENS__";
const NAMES: &str = "1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot";

/// A source's values, as figment wants them.
struct Layer {
    name: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// Both sources put together.
pub(super) struct Sources {
    merged: Figment,
    tokens: BTreeSet<TokenName>,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Warning>,
}

impl Sources {
    /// Reads the file that `environment` names, or the default one if it is there, and lays the
    /// variables over it. Everything that is no setting of `rows` is reported.
    pub(super) fn read(environment: &BTreeMap<String, String>, rows: &[Row]) -> Self {
        let mut faults = Vec::new();
        let file = read_file(environment.get(CONFIG_VARIABLE), &mut faults);
        let (of_tokens, rows): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.path.contains(NAME));
        let mut tokens = BTreeSet::new();
        unknown_in_file(&file, &rows, &mut faults);
        tokens_in_file(&file, &of_tokens, &mut tokens, &mut faults);
        let mut variables = read_variables(environment, &rows, &mut faults);
        let warnings = unknown_variables(environment, &rows, &mut faults);
        read_token_variables(environment, &of_tokens, &mut variables, &mut tokens, &mut faults);
        Self {
            merged: Figment::new().merge(file).merge(variables),
            tokens,
            faults,
            warnings,
        }
    }

    /// A reader over these sources that adds to their faults.
    pub(super) fn reader(&mut self) -> Reader<'_> {
        Reader {
            merged: &self.merged,
            tokens: &self.tokens,
            token: None,
            faults: &mut self.faults,
        }
    }

    /// Whether any source gives this setting, a faulty one included.
    pub(super) fn has(&self, path: &str) -> bool {
        self.merged.contains(path)
    }
}

/// Takes settings one by one and collects what is wrong with them.
pub(super) struct Reader<'a> {
    merged: &'a Figment,
    tokens: &'a BTreeSet<TokenName>,
    token: Option<&'a TokenName>,
    faults: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    /// The names of the further tokens.
    pub(super) fn tokens(&self) -> BTreeSet<TokenName> {
        self.tokens.clone()
    }

    /// A reader of the settings of one further token.
    pub(super) fn of_token<'b>(&'b mut self, name: &'b TokenName) -> Reader<'b> {
        Reader {
            merged: self.merged,
            tokens: self.tokens,
            token: Some(name),
            faults: self.faults,
        }
    }

    /// The setting's value; what stands in for an absent one if it is missing or faulty.
    pub(super) fn take<T>(&mut self, path: &'static str, rule: &Rule<T>) -> T {
        let Some(value) = self.find(path) else {
            return (rule.absent)();
        };
        let source = self
            .merged
            .get_metadata(value.tag())
            .map_or(ENVIRONMENT, |metadata| metadata.name.as_ref());
        let given = scalar(&value, source == ENVIRONMENT);
        if let Some(converted) = given.and_then(|given| (rule.convert)(given)) {
            return converted;
        }
        let setting = Setting {
            path,
            token: self.token,
        };
        let place = if source == ENVIRONMENT {
            setting.variable()
        } else {
            format!("{} in {source} ({})", setting.path(), setting.variable())
        };
        let found = match (rule.secret, given) {
            (true, _) => " (its value is not shown)".to_owned(),
            (false, given) => format!(", not {}", shown(given)),
        };
        let text = format!("{place}: must be {}{found}", rule.expected);
        self.faults.push(Fault::of(setting.path(), text));
        (rule.absent)()
    }

    /// A token's name may have dots, so that it can't be a part of a path.
    fn find(&self, path: &str) -> Option<Value> {
        let Some(token) = self.token else {
            return self.merged.find_value(path).ok();
        };
        let tokens = self.merged.find_value(TOKENS).ok()?.into_dict()?;
        let fields = tokens.get(token.as_str())?.as_dict()?;
        fields.get(field_of(path)).cloned()
    }
}

/// The last part of a declared path.
fn field_of(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, field)| field)
}

fn scalar(value: &Value, from_variable: bool) -> Option<Given<'_>> {
    match value {
        Value::String(_, text) if from_variable => Some(Given::Variable(text)),
        Value::String(_, text) => Some(Given::Text(text)),
        Value::Bool(_, flag) => Some(Given::Flag(*flag)),
        Value::Num(_, number) => whole(*number).map(Given::Number),
        Value::Char(..) | Value::Empty(..) | Value::Dict(..) | Value::Array(..) => None,
    }
}

fn whole(number: Num) -> Option<i128> {
    number
        .to_i128()
        .or_else(|| number.to_u128().and_then(|number| number.try_into().ok()))
}

fn shown(given: Option<Given<'_>>) -> String {
    match given {
        Some(Given::Text("") | Given::Variable("")) => "empty".to_owned(),
        Some(Given::Text(text) | Given::Variable(text)) => quoted(text),
        Some(Given::Number(number)) => number.to_string(),
        Some(Given::Flag(flag)) => flag.to_string(),
        None => "a value of another kind".to_owned(),
    }
}

/// Short and on one line, whatever it is.
fn quoted(text: &str) -> String {
    const SHOWN_CHARS: usize = 64;
    let more = if text.chars().count() > SHOWN_CHARS { "…" } else { "" };
    let start: String = text.chars().take(SHOWN_CHARS).collect();
    format!("{start:?}{more}")
}

fn read_file(named: Option<&String>, faults: &mut Vec<Fault>) -> Layer {
    let path = PathBuf::from(named.map_or(DEFAULT_FILE, String::as_str));
    let name = path.display().to_string();
    let values = match std::fs::read_to_string(&path) {
        Ok(text) => parse_toml(&text).unwrap_or_else(|place| {
            faults.push(Fault::new(format!("{name}: not valid TOML{place}")));
            Dict::new()
        }),
        Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => Dict::new(),
        Err(error) => {
            let hint = if named.is_some() { "HSM_CONFIG: " } else { "" };
            faults.push(Fault::new(format!("{hint}{name} can't be read: {error}")));
            Dict::new()
        }
    };
    Layer { name, values }
}

/// Where the mistake is. The parser's own text quotes the line, which may hold a secret.
fn parse_toml(text: &str) -> Result<Dict, String> {
    let parsed = Toml::string(text).data().map_err(|error| {
        let text = error.to_string();
        text.split_once(" at ")
            .and_then(|(_, rest)| rest.lines().next())
            .filter(|place| place.starts_with("line "))
            .map_or_else(String::new, |place| format!(": {place}"))
    })?;
    Ok(parsed.into_values().next().unwrap_or_default())
}

fn unknown_in_file(file: &Layer, rows: &[&Row], faults: &mut Vec<Fault>) {
    let known: Vec<_> = rows.iter().map(|row| row.path.to_owned()).collect();
    for (key, value) in file.values.iter().filter(|(key, _)| *key != TOKENS) {
        let prefix = format!("{key}.");
        if !known.iter().any(|path| path.starts_with(&prefix)) {
            unknown_key(&file.name, key, &known, faults);
            continue;
        }
        let Some(fields) = section(&file.name, key, value, faults) else {
            continue;
        };
        for field in fields.keys() {
            unknown_key(&file.name, &format!("{prefix}{field}"), &known, faults);
        }
    }
}

/// The fields of a section.
fn section<'a>(file: &str, key: &str, value: &'a Value, faults: &mut Vec<Fault>) -> Option<&'a Dict> {
    let fields = value.as_dict();
    if fields.is_none() {
        let key = key.escape_debug();
        faults.push(Fault::new(format!("{key} in {file}: is a section, not a value")));
    }
    fields
}

/// Which further tokens the file has.
fn tokens_in_file(file: &Layer, rows: &[&Row], tokens: &mut BTreeSet<TokenName>, faults: &mut Vec<Fault>) {
    let sections = file.values.get(TOKENS);
    let sections = sections.and_then(|value| section(&file.name, TOKENS, value, faults));
    for (text, value) in sections.into_iter().flatten() {
        let key = format!("{TOKENS}.{text}");
        let shown = key.escape_debug();
        let Some(name) = TokenName::parse(text) else {
            let text = format!("{shown} in {}: a token's name must be {NAMES}", file.name);
            faults.push(Fault::new(text));
            continue;
        };
        if let Some(other) = same_but_for_case(tokens, text) {
            let text = format!(
                "{shown} in {}: the names `{other}` and `{name}` differ by case alone, and variables could not tell them apart",
                file.name
            );
            faults.push(Fault::new(text));
            continue;
        }
        if let Some(fields) = section(&file.name, &key, value, faults) {
            let token = Some(&name);
            let known: Vec<_> = rows
                .iter()
                .map(|row| Setting { path: row.path, token }.path())
                .collect();
            for field in fields.keys() {
                unknown_key(&file.name, &format!("{key}.{field}"), &known, faults);
            }
            tokens.insert(name);
        }
    }
}

fn same_but_for_case<'a>(tokens: &'a BTreeSet<TokenName>, text: &str) -> Option<&'a TokenName> {
    tokens.iter().find(|name| name.as_str().eq_ignore_ascii_case(text))
}

fn unknown_key(file: &str, key: &str, known: &[String], faults: &mut Vec<Fault>) {
    if known.iter().any(|path| path == key) {
        return;
    }
    let hint = suggestion(key, known);
    let key = key.escape_debug();
    faults.push(Fault::new(format!("{key} in {file}: unknown setting{hint}")));
}

fn read_variables(environment: &BTreeMap<String, String>, rows: &[&Row], faults: &mut Vec<Fault>) -> Layer {
    let mut values = Dict::new();
    for row in rows {
        let name = row.variable();
        let Some(text) = environment.get(&name) else {
            continue;
        };
        if let Some(value) = variable_value(row.path, &name, text, faults) {
            insert(&mut values, row.path, value);
        }
    }
    Layer {
        name: ENVIRONMENT.to_owned(),
        values,
    }
}

/// Always text: figment's own parsing of variables would make a number of the PIN 0123.
fn variable_value(path: &str, name: &str, text: &str, faults: &mut Vec<Fault>) -> Option<Value> {
    if text.contains(char::REPLACEMENT_CHARACTER) {
        faults.push(Fault::of(path, format!("{name}: is not valid UTF-8")));
        return None;
    }
    Some(Value::from(text))
}

/// The settings of further tokens that variables give, and which tokens they name beside those of the file.
fn read_token_variables(
    environment: &BTreeMap<String, String>,
    rows: &[&Row],
    variables: &mut Layer,
    tokens: &mut BTreeSet<TokenName>,
    faults: &mut Vec<Fault>,
) {
    let mut set: BTreeMap<String, &str> = BTreeMap::new();
    let mut values = Dict::new();
    for (variable, text) in environment {
        let Some(rest) = variable.strip_prefix(TOKENS_VARIABLE) else {
            continue;
        };
        let shown = variable.escape_debug();
        let (written, field) = rest.rsplit_once("__").unwrap_or(("", rest));
        let Some(name) = TokenName::parse(&written.to_ascii_lowercase()) else {
            let text = format!(
                "{shown}: must be {TOKENS_VARIABLE}, a token's name, which is {NAMES}, then __ and one of its settings"
            );
            faults.push(Fault::new(text));
            continue;
        };
        let name = same_but_for_case(tokens, written).cloned().unwrap_or(name);
        let token = Some(&name);
        let settings: Vec<_> = rows.iter().map(|row| Setting { path: row.path, token }).collect();
        let Some(setting) = settings
            .iter()
            .find(|setting| field == field_of(setting.path).to_ascii_uppercase())
        else {
            let known: Vec<_> = settings.iter().map(|setting| setting.variable()).collect();
            let hint = suggestion(variable, &known);
            faults.push(Fault::new(format!("{shown}: unknown setting{hint}")));
            continue;
        };
        if let Some(other) = set.insert(setting.variable(), variable) {
            faults.push(Fault::of(
                setting.path(),
                format!("{shown}: is the same setting as {other}; unset one of them"),
            ));
            continue;
        }
        if let Some(value) = variable_value(&setting.path(), variable, text, faults) {
            let fields = values
                .entry(name.to_string())
                .or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, fields) = fields {
                fields.insert(field_of(setting.path).to_owned(), value);
            }
        }
        tokens.insert(name);
    }
    if !values.is_empty() {
        variables.values.insert(TOKENS.to_owned(), Value::from(values));
    }
}

fn insert(values: &mut Dict, path: &str, value: Value) {
    let Some((section, field)) = path.split_once('.') else {
        values.insert(path.to_owned(), value);
        return;
    };
    let entry = values
        .entry(section.to_owned())
        .or_insert_with(|| Value::from(Dict::new()));
    if let Value::Dict(_, fields) = entry {
        fields.insert(field.to_owned(), value);
    }
}

fn unknown_variables(environment: &BTreeMap<String, String>, rows: &[&Row], faults: &mut Vec<Fault>) -> Vec<Warning> {
    let mut known: Vec<_> = rows.iter().map(|row| row.variable()).collect();
    known.push(CONFIG_VARIABLE.to_owned());
    let mut warnings = Vec::new();
    for name in environment.keys() {
        let Some(setting) = name.strip_prefix("HSM_") else {
            continue;
        };
        if known.contains(name) || name.starts_with(TOKENS_VARIABLE) {
            continue;
        }
        let hint = suggestion(name, &known);
        let name = name.escape_debug();
        if setting.contains("__") {
            faults.push(Fault::new(format!("{name}: unknown setting{hint}")));
        } else {
            warnings.push(Warning(format!("{name}: unknown variable, ignored{hint}")));
        }
    }
    warnings
}

/// The nearest known name, if one is near enough to be meant.
fn suggestion(name: &str, known: &[String]) -> String {
    const NEAR: usize = 3;
    let lower = name.to_ascii_lowercase();
    known
        .iter()
        .map(|candidate| (distance(&lower, &candidate.to_ascii_lowercase()), candidate))
        .min()
        .filter(|(distance, _)| *distance <= NEAR)
        .map_or_else(String::new, |(_, candidate)| format!("; did you mean {candidate}?"))
}

/// Levenshtein's distance in characters.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(index + 1);
        for ((to, &above_left), &above) in right.chars().zip(&row).zip(row.iter().skip(1)) {
            let before = next.last().copied().unwrap_or_default();
            let replace = above_left + usize::from(from != to);
            next.push(replace.min(above + 1).min(before + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
