//! The server's own log: lines on stderr, JSON unless a person reads them.
//!
//! Foreign crates are logged at `info` and above, whatever is asked for: below that, actix-http,
//! h2 and rustls show request heads, frames and handshakes, and with them bearer tokens and
//! plaintext. Records of the crate `log` (cryptoki, rustls) are not collected at all.

use std::io::IsTerminal;

use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, FilterFn, LevelFilter};
use tracing_subscriber::layer::{Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};

/// Crates whose events are written by this project's rule: no secret at any level.
const OWN_CRATES: [&str; 5] = ["hsm_server", "hsm_core", "hsm_openapi", "keymgmt", "embedded_token"];

/// Parses what `log.level` or `RUST_LOG` asks for.
///
/// # Errors
///
/// A text that says what is wrong with it.
pub fn directives(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| format!("{text:?} is not a log level or a list of directives: {error}"))
}

/// Starts logging for the whole process.
///
/// # Errors
///
/// When logging was started before.
pub fn start(log: &Log) -> Result<(), TryInitError> {
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter(&log.level)))
        .try_init()
}

/// What is asked for, and never more than `info` of foreign crates.
fn filter<S>(level: &str) -> impl Filter<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let asked = directives(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let cap = FilterFn::new(|metadata| *metadata.level() <= Level::INFO || is_own(metadata.target()))
        .with_max_level_hint(LevelFilter::TRACE);
    asked.and(cap)
}

fn is_own(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or(target);
    OWN_CRATES.contains(&name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What is written when `level` is asked for and `log` logs.
    fn written(level: &str, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(lines.clone());
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter(level)));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn foreign_crates_are_never_logged_below_info() {
        for level in ["trace", "actix_http=trace,h2=debug,rustls=trace"] {
            let text = written(level, || {
                tracing::trace!(target: "actix_http::h1::dispatcher", "head of a request");
                tracing::debug!(target: "h2::codec", "frame");
                tracing::trace!(target: "rustls::server", "handshake");
                tracing::debug!(target: "hsm_server_evil", "not ours");
            });
            assert_eq!(text, "", "{level}");
        }
        let text = written("trace", || {
            tracing::warn!(target: "actix_server::worker", "restarting");
            tracing::trace!(target: "hsm_core::workers", "our own");
            tracing::trace!(target: "hsm_server", "our root");
        });
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn the_level_asked_for_holds() {
        let text = written("warn,hsm_core=debug", || {
            tracing::info!(target: "hsm_server", "quiet");
            tracing::warn!(target: "hsm_server", "loud");
            tracing::debug!(target: "hsm_core", "asked for");
            tracing::trace!(target: "hsm_core", "not asked for");
        });
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(directives("info").is_ok());
        assert!(directives("hsm_core=debug,warn").is_ok());
        assert!(directives("hsm_core=loud").is_err());
    }
}
