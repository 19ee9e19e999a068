//! Where settings come from: a TOML file, overridden by variables. What a source holds that is
//! no setting is found here.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Num, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::rule::{Given, Row, Rule, variable};
use super::{Fault, Warning};

const DEFAULT_FILE: &str = "hsm.toml";
const ENVIRONMENT: &str = "the environment";
/// Says where the file is, so it can't be a setting in it.
const CONFIG_VARIABLE: &str = "HSM_CONFIG";

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
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Warning>,
}

impl Sources {
    /// Reads the file that `environment` names, or the default one if it is there, and lays the
    /// variables over it. Everything that is no setting of `rows` is reported.
    pub(super) fn read(environment: &BTreeMap<String, String>, rows: &[Row]) -> Self {
        let mut faults = Vec::new();
        let file = read_file(environment.get(CONFIG_VARIABLE), &mut faults);
        unknown_in_file(&file, rows, &mut faults);
        let variables = read_variables(environment, rows, &mut faults);
        let warnings = unknown_variables(environment, rows, &mut faults);
        Self {
            merged: Figment::new().merge(file).merge(variables),
            faults,
            warnings,
        }
    }

    /// A reader over these sources that adds to their faults.
    pub(super) fn reader(&mut self) -> Reader<'_> {
        Reader {
            merged: &self.merged,
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
    faults: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    /// The setting's value; what stands in for an absent one if it is missing or faulty.
    pub(super) fn take<T>(&mut self, path: &'static str, rule: &Rule<T>) -> T {
        let Ok(value) = self.merged.find_value(path) else {
            return (rule.absent)();
        };
        let source = self
            .merged
            .find_metadata(path)
            .map_or(ENVIRONMENT, |metadata| metadata.name.as_ref());
        let given = scalar(&value, source == ENVIRONMENT);
        if let Some(converted) = given.and_then(|given| (rule.convert)(given)) {
            return converted;
        }
        let place = if source == ENVIRONMENT {
            variable(path)
        } else {
            format!("{path} in {source} ({})", variable(path))
        };
        let found = match (rule.secret, given) {
            (true, _) => " (its value is not shown)".to_owned(),
            (false, given) => format!(", not {}", shown(given)),
        };
        let text = format!("{place}: must be {}{found}", rule.expected);
        self.faults.push(Fault::of(path, text));
        (rule.absent)()
    }
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

fn unknown_in_file(file: &Layer, rows: &[Row], faults: &mut Vec<Fault>) {
    let known: Vec<_> = rows.iter().map(|row| row.path.to_owned()).collect();
    for (key, value) in &file.values {
        let prefix = format!("{key}.");
        if !known.iter().any(|path| path.starts_with(&prefix)) {
            unknown_key(&file.name, key, &known, faults);
            continue;
        }
        let Value::Dict(_, fields) = value else {
            let text = format!("{key} in {}: is a section, not a value", file.name);
            faults.push(Fault::new(text));
            continue;
        };
        for field in fields.keys() {
            unknown_key(&file.name, &format!("{prefix}{field}"), &known, faults);
        }
    }
}

fn unknown_key(file: &str, key: &str, known: &[String], faults: &mut Vec<Fault>) {
    if known.iter().any(|path| path == key) {
        return;
    }
    let hint = suggestion(key, known);
    let key = key.escape_debug();
    faults.push(Fault::new(format!("{key} in {file}: unknown setting{hint}")));
}

fn read_variables(environment: &BTreeMap<String, String>, rows: &[Row], faults: &mut Vec<Fault>) -> Layer {
    let mut values = Dict::new();
    for row in rows {
        let name = row.variable();
        let Some(text) = environment.get(&name) else {
            continue;
        };
        if text.contains(char::REPLACEMENT_CHARACTER) {
            faults.push(Fault::of(row.path, format!("{name}: is not valid UTF-8")));
            continue;
        }
        // Always text: figment's own parsing of variables would make a number of the PIN 0123.
        insert(&mut values, row.path, Value::from(text.clone()));
    }
    Layer {
        name: ENVIRONMENT.to_owned(),
        values,
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

fn unknown_variables(environment: &BTreeMap<String, String>, rows: &[Row], faults: &mut Vec<Fault>) -> Vec<Warning> {
    let mut known: Vec<_> = rows.iter().map(Row::variable).collect();
    known.push(CONFIG_VARIABLE.to_owned());
    let mut warnings = Vec::new();
    for name in environment.keys() {
        let Some(setting) = name.strip_prefix("HSM_") else {
            continue;
        };
        if known.contains(name) {
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
