//! What the architecture page promises about the tree itself: who may name whom, sizes, unsafe code, and documents that
//! tell the truth about what is there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends where it fails"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Folders and files that hold nothing of ours, as in `.gitignore`.
const NOT_OURS: [&str; 6] = ["target", ".git", ".tools", "node_modules", "__pycache__", "hsm.toml"];

/// Largest source file, in lines.
const MAX_LINES: usize = 500;

/// Source files that may be longer, how long, and why.
const LONG_FILES: [(&str, usize, &str); 0] = [];

/// Crates that may be named in one place only: the crate, the packages that may depend on it, where in `crates` the code
/// may say its name.
const ARROWS: [(&str, &[&str], &[&str]); 8] = [
    ("cryptoki", &["hsm-core"], &["crates/hsm-core/src/pkcs11/"]),
    ("cryptoki-sys", &["hsm-core"], &["crates/hsm-core/src/pkcs11/"]),
    ("actix-web", &["hsm-server"], &["crates/hsm-server/"]),
    (
        "utoipa",
        &["hsm-openapi", "hsm-server"],
        &["crates/hsm-openapi/", "crates/hsm-server/"],
    ),
    ("utoipa-actix-web", &["hsm-server"], &["crates/hsm-server/"]),
    ("kryoptic-lib", &["embedded-token"], &["crates/embedded-token/"]),
    ("jsonwebtoken", &["hsm-server"], &["crates/hsm-server/"]),
    ("sqlx", &["keymgmt"], &["crates/keymgmt/src/store/"]),
];

/// Which of our packages each of our packages may stand on.
const LAYERS: [(&str, &[&str]); 6] = [
    ("embedded-token", &[]),
    ("hsm-core", &[]),
    ("hsm-fuzz", &["hsm-core"]),
    ("hsm-openapi", &["hsm-core"]),
    ("keymgmt", &["hsm-core"]),
    ("hsm-server", &["embedded-token", "hsm-core", "hsm-openapi", "keymgmt"]),
];

/// Where code may be unsafe.
const UNSAFE: [&str; 3] = [
    "crates/embedded-token/",
    "crates/hsm-core/src/pkcs11/raw.rs",
    "softhsm-test/",
];

struct File {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl File {
    /// Its lines with their numbers, without those that are comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(at, line)| (at + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn is_under(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path.starts_with(place))
    }
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

/// Every text file of the project.
fn files() -> Vec<File> {
    let root = root();
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        // What another process takes away meanwhile is not ours.
        let items = fs::read_dir(&folder).into_iter().flatten().flatten();
        for item in items {
            let path = item.path();
            let Ok(kind) = item.file_type() else { continue };
            if NOT_OURS.iter().any(|not_ours| item.file_name() == *not_ours) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file()
                && let Ok(text) = fs::read_to_string(&path)
            {
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                files.push(File { path, text });
            }
        }
    }
    assert!(files.iter().any(|file| file.path == "Cargo.toml"), "no files");
    files
}

fn ending(end: &str) -> Vec<File> {
    let mut files = files();
    files.retain(|file| file.path.ends_with(end));
    files
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// Fails with every finding at once.
#[track_caller]
fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

/// Whether `word` stands in `line` by itself.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part_of_a_word) && !after.is_some_and(part_of_a_word)
    })
}

/// The packages of the workspace, as cargo sees them.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// What a package is built with, tests aside.
fn dependencies(package: &Value) -> impl Iterator<Item = &Value> {
    let all = package["dependencies"].as_array().unwrap().iter();
    all.filter(|dependency| dependency["kind"].is_null())
}

#[test]
fn arrows_point_one_way() {
    let mut findings = Vec::new();
    for package in &packages() {
        let name = package["name"].as_str().unwrap();
        let layer = LAYERS.iter().find(|(layer, _)| *layer == name);
        let below = layer.map(|(_, below)| *below);
        for dependency in dependencies(package) {
            let on = dependency["name"].as_str().unwrap();
            if LAYERS.iter().any(|(layer, _)| *layer == on) && !below.is_some_and(|below| below.contains(&on)) {
                findings.push(format!("{name} must not stand on {on}"));
            }
            let arrow = ARROWS.iter().find(|(target, ..)| *target == on);
            if below.is_some() && arrow.is_some_and(|(_, owners, _)| !owners.contains(&name)) {
                findings.push(format!("{name} must not depend on {on}"));
            }
            if below.is_some() && on == "softhsm-test" {
                findings.push(format!("{name}: softhsm-test is for tests"));
            }
            if (name, on) == ("hsm-openapi", "hsm-core") {
                let plain = dependency["features"] == Value::Array(Vec::new())
                    && dependency["uses_default_features"] == Value::Bool(false);
                if !plain {
                    findings.push("hsm-openapi must use hsm-core without features".to_owned());
                }
            }
        }
    }
    none(&findings);
}

#[test]
fn crates_are_named_only_where_they_belong() {
    let mut findings = Vec::new();
    let sources = ending(".rs");
    for file in sources.iter().filter(|file| is_source(&file.path)) {
        for (target, _, places) in ARROWS {
            let word = target.replace('-', "_");
            if file.is_under(places) {
                continue;
            }
            let lines = file.code().filter(|(_, line)| has_word(line, &word));
            findings.extend(lines.map(|(at, _)| format!("{}:{at}: names {word}", file.path)));
        }
    }
    none(&findings);
}

fn is_source(path: &str) -> bool {
    path.starts_with("crates/") && path.contains("/src/")
}

#[test]
fn source_files_stay_short() {
    let mut findings = Vec::new();
    let sources = ending(".rs");
    for file in sources.iter().filter(|file| file.path.contains("src/")) {
        let lines = file.text.lines().count();
        let long = LONG_FILES.iter().find(|(path, ..)| *path == file.path);
        let most = long.map_or(MAX_LINES, |(_, most, _)| *most);
        if lines > most {
            findings.push(format!("{}: {lines} lines; {most} are the most", file.path));
        }
        if long.is_some() && lines <= MAX_LINES {
            findings.push(format!("{}: is short again; take it off the list", file.path));
        }
    }
    for (path, ..) in LONG_FILES {
        if !sources.iter().any(|file| file.path == path) {
            findings.push(format!("{path}: is gone; take it off the list"));
        }
    }
    none(&findings);
}

#[test]
fn nothing_is_put_off_in_a_comment() {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut findings = Vec::new();
    for file in files().iter().filter(|file| file.path != "Cargo.lock") {
        for (at, line) in file.text.lines().enumerate() {
            if words.iter().any(|word| has_word(line, word)) {
                findings.push(format!("{}:{}: {line}", file.path, at + 1));
            }
        }
    }
    none(&findings);
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    let word = concat!("un", "safe");
    let mut findings = Vec::new();
    for file in ending(".rs") {
        if file.is_under(&UNSAFE) {
            continue;
        }
        let lines = file
            .code()
            .filter(|(_, line)| has_word(line, word) || has_word(line, &format!("{word}_code")));
        findings.extend(lines.map(|(at, _)| format!("{}:{at}: {word} code", file.path)));
    }
    none(&findings);
}

#[test]
fn every_package_takes_the_workspaces_lints() {
    let mut findings = Vec::new();
    for package in &packages() {
        let manifest = fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        if !manifest.contains("[lints]\nworkspace = true\n") {
            findings.push(format!("{}: [lints] workspace = true is missing", package["name"]));
        }
    }
    none(&findings);
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let folders = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    // As a path of its own, not as a part of another.
    let has = |line: &str, folder: &str| {
        line.match_indices(folder)
            .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric()))
    };
    let mut findings = Vec::new();
    for file in files() {
        for (at, line) in file.text.lines().enumerate() {
            if folders.iter().any(|folder| has(line, folder)) {
                findings.push(format!("{}:{}: {line}", file.path, at + 1));
            }
        }
    }
    none(&findings);
}

/// The lines of a Markdown file, without its code blocks.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        (!in_code && !fence).then_some((at + 1, line))
    })
}

/// The anchors of a Markdown file: those that its headings get, and those that it sets itself.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        if let Some(heading) = line.strip_prefix('#') {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            anchors.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
        anchors.extend(between(line, "id=\"", "\"").map(str::to_owned));
    }
    anchors
}

/// What stands between `open` and the next `close`, each time.
fn between<'a>(line: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    line.split(open)
        .skip(1)
        .filter_map(move |rest| Some(rest.split_once(close)?.0))
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut findings = Vec::new();
    for file in ending(".md") {
        let folder = root().join(&file.path).parent().unwrap().to_owned();
        for (at, line) in prose(&file.text) {
            for link in between(line, "](", ")") {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                let (path, anchor) = link.split_once('#').map_or((link, None), |(path, a)| (path, Some(a)));
                let target = if path.is_empty() {
                    root().join(&file.path)
                } else {
                    folder.join(path)
                };
                let found = match anchor {
                    None => target.exists(),
                    Some(anchor) => fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor)),
                };
                if !found {
                    findings.push(format!("{}:{at}: {link} leads nowhere", file.path));
                }
            }
        }
    }
    none(&findings);
}

#[test]
fn documents_name_files_and_tests_that_are_there() {
    let sources = ending(".rs");
    let root = root();
    let mut findings = Vec::new();
    for file in ending(".md") {
        for (at, line) in prose(&file.text) {
            for code in line.split('`').skip(1).step_by(2) {
                let is_path = ["crates/", "docs/", "scripts/", "softhsm-test/"]
                    .iter()
                    .any(|folder| code.starts_with(folder));
                let path = code.split([' ', ':']).next().unwrap();
                if is_path && !path.contains(['*', '{', '<']) && !root.join(path).exists() {
                    findings.push(format!("{}:{at}: there is no {path}", file.path));
                }
                if let Some(test) = code.strip_prefix("test ") {
                    let known = sources.iter().any(|source| has_word(&source.text, test));
                    if !known {
                        findings.push(format!("{}:{at}: there is no test {test}", file.path));
                    }
                }
            }
        }
    }
    none(&findings);
}

/// Method, path and scopes of every call.
type Calls = BTreeSet<(String, String, String)>;

#[test]
fn the_readme_has_the_calls_of_the_openapi_document() {
    let document: Value = serde_json::from_str(&read("crates/hsm-openapi/openapi.json")).unwrap();
    let mut described = Calls::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let scopes = operation["security"][0]["bearer"].as_array().map(|scopes| {
                let names: Vec<_> = scopes.iter().filter_map(Value::as_str).collect();
                if names.is_empty() {
                    "any token".to_owned()
                } else {
                    names.join(", ")
                }
            });
            let scopes = scopes.unwrap_or_else(|| "none".to_owned());
            described.insert((method.to_uppercase(), path.clone(), scopes));
        }
    }
    let mut listed = Calls::new();
    for line in read("README.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        if let Some((method, path)) = cells[1].split_once(" /") {
            let call = (method.to_owned(), format!("/{path}"), cells[2].replace('`', ""));
            assert!(listed.insert(call), "twice: {line}");
        }
    }
    let mut findings = Vec::new();
    findings.extend(
        described
            .difference(&listed)
            .map(|call| format!("not in README.md: {call:?}")),
    );
    findings.extend(
        listed
            .difference(&described)
            .map(|call| format!("not in openapi.json: {call:?}")),
    );
    none(&findings);
}
