//! What each module told when it was last run, and the table that `docs/MODULES.md` makes of it. `UPDATE_GOLDEN=1` writes
//! the former anew, and then, in a second run, the latter.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hsm_core::algorithm::ROWS;
use hsm_core::{KeySize, KeyType};

use crate::{Fixture, MODULES};

const BEGINS: &str = "<!-- made by the conformance tests: begin -->\n";
const ENDS: &str = "<!-- made by the conformance tests: end -->\n";

/// A column: one line a cell, `algorithm operation support why`.
pub(crate) fn check(fixture: &Fixture) {
    let mut text = String::new();
    for made in &fixture.capabilities.key_types {
        let sizes: Vec<_> = made.sizes.iter().map(size).collect();
        let sizes = if sizes.is_empty() { "-".into() } else { sizes.join(",") };
        let why = made.why.as_deref().unwrap_or_default();
        writeln!(text, "key|{}|{sizes}|{why}", made.key_type).unwrap();
    }
    for cell in &fixture.capabilities.algorithms {
        let why = cell.why.as_deref().unwrap_or_default();
        let name = cell.algorithm.name();
        writeln!(text, "{name}|{}|{}|{why}", cell.operation, cell.support).unwrap();
    }
    golden(&told(fixture.name), &text);
}

#[test]
fn the_page_shows_what_was_told() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/MODULES.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGINS).unwrap();
    let (_, after) = rest.split_once(ENDS).unwrap();
    golden(&page, &format!("{before}{BEGINS}{}{ENDS}{after}", tables()));
}

fn tables() -> String {
    let columns: Vec<_> = MODULES.iter().map(|name| column(name)).collect();
    let cell = |of: &[Vec<String>], what: &str, operation: &str| {
        let found = of.iter().find(|line| line[0] == what && line[1] == operation);
        found.map_or_else(|| "-".to_owned(), |line| line[2].clone())
    };
    let head = |first: &str| {
        let names: Vec<_> = MODULES.iter().map(|name| title(name)).collect();
        format!(
            "\n| {first} | {} |\n|{}\n",
            names.join(" | "),
            " --- |".repeat(1 + MODULES.len())
        )
    };
    let mut text = head("keys");
    for key_type in KeyType::ALL {
        let cells = columns.iter().map(|lines| {
            let found = lines.iter().find(|line| line[0] == "key" && line[1] == key_type.name());
            found.map_or("-".to_owned(), |line| line[2].replace(',', ", "))
        });
        let cells: Vec<_> = cells.collect();
        writeln!(text, "| {key_type} | {} |", cells.join(" | ")).unwrap();
    }
    text += &head("algorithm");
    for row in ROWS {
        for operation in row.operations {
            let cells: Vec<_> = columns
                .iter()
                .map(|lines| cell(lines, row.name, operation.name()))
                .collect();
            writeln!(text, "| {} {operation} | {} |", row.name, cells.join(" | ")).unwrap();
        }
    }
    text += "\nWhy not, in the modules' own words:\n\n";
    let mut reasons = BTreeSet::new();
    for (name, lines) in MODULES.iter().zip(&columns) {
        for line in lines.iter().filter(|line| line[3].contains("CKR_")) {
            let what = if line[0] == "key" {
                format!("{} keys", line[1])
            } else {
                line[0].clone()
            };
            reasons.insert(format!("- {}, {what}: {}", title(name), line[3]));
        }
    }
    reasons.iter().for_each(|reason| text += &format!("{reason}\n"));
    text
}

fn column(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(told(name)).unwrap();
    text.lines()
        .map(|line| line.splitn(4, '|').map(str::to_owned).collect())
        .collect()
}

fn title(name: &str) -> &'static str {
    match name {
        "softhsm" => "SoftHSM",
        "embedded" => "embedded token",
        "nss" => "NSS",
        "opencryptoki" => "openCryptoki",
        "tpm" => "TPM 2.0",
        "p11kit" => "SoftHSM over p11-kit",
        other => panic!("{other}"),
    }
}

fn size(size: &KeySize) -> String {
    match size {
        KeySize::Bits(bits) => bits.to_string(),
        KeySize::Curve(curve) => curve.to_string(),
        KeySize::ParameterSet(set) => set.to_string(),
        KeySize::Unknown => "?".into(),
    }
}

fn told(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/conformance/told/{name}.txt"))
}

fn golden(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "{} is not what is told now; UPDATE_GOLDEN=1 writes it:\n{text}",
        path.display()
    );
}
