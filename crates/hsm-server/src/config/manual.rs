//! The manual page of the settings, made from their declarations.

use super::{Config, Row};

const INTRODUCTION: &str = "\
# Settings

This page is generated from the code (`UPDATE_GOLDEN=1 cargo test -p hsm-server`).

Settings come from a TOML file, `hsm.toml` in the working folder or the path in `HSM_CONFIG`, and
from variables, which win. A setting `field` of a `[section]` in the file is the variable
`HSM_SECTION__FIELD`. Variables are taken literally: `HSM_PIN=0123` is the PIN 0123; in the file,
text stands in quotes. An unknown key, in the file or in a variable with `__`, is an error that
names it; another unknown `HSM_…` variable is a warning.

A token beside the default one has a name of its own, 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning
with a dot, and a section `[tokens.<name>]`. In variables the name has upper-case letters and means
the section of that name in the file, whatever its case; where there is none, the name is that in
lower case. So no two names may differ by case alone.
";

/// The page, as committed in `docs/CONFIG.md`.
pub fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    let mut section = None;
    for row in Config::rows() {
        let own = row.path.rsplit_once('.').map_or("", |(section, _)| section);
        if section != Some(own) {
            section = Some(own);
            page.push_str(&heading(own));
        }
        page.push_str(&line(&row));
    }
    page
}

fn heading(section: &str) -> String {
    let title = if section.is_empty() {
        "## Token and data".to_owned()
    } else {
        format!("## `[{section}]`")
    };
    format!("\n{title}\n\n| in the file | variable | default | meaning |\n| --- | --- | --- | --- |\n")
}

fn line(row: &Row) -> String {
    let default = match row.default.as_str() {
        "" => "none".to_owned(),
        words if words.contains(' ') => words.to_owned(),
        value => format!("`{value}`"),
    };
    let secret = if row.secret { " Never shown." } else { "" };
    format!(
        "| `{}` | `{}` | {default} | {}{secret} |\n",
        row.path,
        row.variable(),
        row.meaning.replace('|', "\\|")
    )
}
