//! `docs/ERRORS.md` and the server's page `/docs/errors`, from the table of codes.

use std::fmt::Write as _;

use crate::problem::ProblemCode;

const INTRODUCTION: &str = "Every error is a problem document (RFC 9457, `application/problem+json`) with `type`, `title`, `status`, `detail`, `code` and `request_id`. The `code` is stable: programs act on it. The `detail` is for people and may change. The `request_id` is that of the header `x-request-id`, and finds the request in the server's log and in the audit log. A 503 says in `Retry-After` after how many seconds to try again.";

/// The text of `docs/ERRORS.md`.
pub fn errors_markdown() -> String {
    let mut page = format!(
        "# Errors\n\n<!-- Generated from crates/hsm-openapi/src/problem.rs. -->\n\n{INTRODUCTION}\n\n| status | code | what it means | what to do |\n| --- | --- | --- | --- |\n"
    );
    for code in ProblemCode::ALL {
        let (status, name) = (code.status(), code.name());
        // Writing to a String does not fail.
        let _ = writeln!(
            page,
            "| {status} | <a id=\"{name}\"></a>`{name}` | {} | {} |",
            code.meaning(),
            code.remedy()
        );
    }
    page
}

/// The page `/docs/errors`: complete in itself, with an anchor for each code.
pub fn errors_html() -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Errors</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>Errors</h1>\n<p>{}</p>\n",
        inline(INTRODUCTION)
    );
    for code in ProblemCode::ALL {
        let _ = writeln!(
            page,
            "<section id=\"{0}\">\n<h2><a href=\"#{0}\"><code>{0}</code></a> <small>{1}</small></h2>\n<p><strong>{2}.</strong> {3}</p>\n<p>{4}</p>\n</section>",
            code.name(),
            code.status(),
            inline(code.title()),
            inline(code.meaning()),
            inline(code.remedy()),
        );
    }
    page.push_str("</body>\n</html>\n");
    page
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}h2{margin-bottom:.25rem}h2 a{color:inherit;text-decoration:none}small{color:#666;font-weight:normal}section:target{background:#fff6d6;outline:.5rem solid #fff6d6}code{font-family:ui-monospace,monospace}@media(prefers-color-scheme:dark){body{color:#e8e8e8;background:#1b1b1b}small{color:#aaa}section:target{background:#3a3417;outline-color:#3a3417}}";

/// Text with `code` in backticks as HTML.
fn inline(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut html = String::with_capacity(escaped.len());
    for (i, part) in escaped.split('`').enumerate() {
        if i % 2 == 1 {
            let _ = write!(html, "<code>{part}</code>");
        } else {
            html.push_str(part);
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_an_anchor_and_the_page_needs_nothing_from_outside() {
        let page = errors_html();
        for code in ProblemCode::ALL {
            assert!(page.contains(&format!("id=\"{}\"", code.name())));
        }
        assert!(!page.contains("http") && !page.contains("src=") && !page.contains("<link"));
        assert!(page.contains("<code>Authorization: Bearer &lt;token&gt;</code>"));
    }
}
