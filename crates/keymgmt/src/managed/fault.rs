//! Points at which a test has the process die, to see what is left. Not in release builds.

/// Every point. A test goes through all of them.
pub const POINTS: &[&str] = &[
    "create:after-intent",
    "create:after-token",
    "create:after-commit",
    "create:after-record",
    "rotate:after-intent",
    "rotate:after-token",
    "rotate:after-commit",
    "rotate:after-record",
    "token-key:after-intent",
    "token-key:after-token",
    "token-key:after-record",
    "token-key:after-end",
    "gateway-keys:after-intent",
    "gateway-keys:after-token",
    "gateway-keys:after-commit",
    "schedule-destruction:after-commit",
    "destroy:after-state",
    "destroy:between-objects",
    "destroy:after-token",
    "destroy:after-record",
    "destroy:after-commit",
    "rewrap:after-one",
    "recover:after-token",
];

/// Ends the process by SIGKILL if the variable `GATEWAY_FAULT_POINT` names this point.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &'static str) {
    use std::sync::OnceLock;

    static ASKED: OnceLock<Option<String>> = OnceLock::new();
    debug_assert!(POINTS.contains(&name), "{name} is not in the list");
    let asked = ASKED.get_or_init(|| std::env::var("GATEWAY_FAULT_POINT").ok());
    if asked.as_deref() == Some(name) {
        let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        tracing::error!(name, ?killed, "the process should have died here");
    }
}

#[cfg(not(debug_assertions))]
pub(crate) const fn point(_: &'static str) {}
