//! The real module, the rules in force and the list of calls.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{env, fs, process, ptr};

use cryptoki_sys::{CK_FUNCTION_LIST, CK_RV, CKR_OK};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::control::{self, Action, Rule};

/// The real module's functions; `None` when it cannot be loaded.
pub(crate) fn real() -> Option<&'static CK_FUNCTION_LIST> {
    static REAL: OnceLock<Option<&'static CK_FUNCTION_LIST>> = OnceLock::new();
    *REAL.get_or_init(load)
}

fn load() -> Option<&'static CK_FUNCTION_LIST> {
    let path = env::var_os("FAULT_MODULE")?;
    let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
    // SAFETY: loading a PKCS#11 module runs its initialisers and nothing else, and the symbol has the type that the
    // standard gives it. The library is never unloaded, so the table stays.
    unsafe {
        let library = Library::open(Some(path), RTLD_NOW | RTLD_LOCAL).ok()?;
        let entry = library
            .get::<unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV>(b"C_GetFunctionList\0")
            .ok()?
            .into_raw();
        std::mem::forget(library);
        let entry: unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV = std::mem::transmute(entry);
        (entry(&raw mut list) == CKR_OK).then_some(())?;
        list.as_ref()
    }
}

#[derive(Default)]
struct Plan {
    text: String,
    rules: Vec<(Rule, u64)>,
}

/// The actions that a call of `function` meets now; each call counts. One that only asks for the length of an answer
/// does not count for rules that change the answer.
pub(crate) fn actions(function: &str, mechanism: Option<u64>, asks_length: bool) -> Vec<Action> {
    static PLAN: Mutex<Plan> = Mutex::new(Plan {
        text: String::new(),
        rules: Vec::new(),
    });
    note(function);
    let text = control_text();
    let mut plan = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
    if plan.text != text {
        let rules = control::parse(&text).unwrap_or_else(|why| {
            // Nothing that the module could answer would be understood as this.
            eprintln!("{why}");
            process::abort()
        });
        plan.rules = rules.into_iter().map(|rule| (rule, 0)).collect();
        plan.text = text;
    }
    plan.rules
        .iter_mut()
        .filter(|(rule, _)| rule.is_about(function, mechanism))
        .filter(|(rule, _)| !(asks_length && rule.action.changes_the_answer()))
        .filter_map(|(rule, calls)| {
            *calls += 1;
            rule.fires_at(*calls).then(|| rule.action.clone())
        })
        .collect()
}

/// The rules as they stand in the file.
pub(crate) fn control_text() -> String {
    static PATH: OnceLock<Option<std::ffi::OsString>> = OnceLock::new();
    PATH.get_or_init(|| env::var_os("FAULT_CONTROL"))
        .as_ref()
        .and_then(|path| fs::read_to_string(path).ok())
        .unwrap_or_default()
}

fn note(function: &str) {
    static CALLS: OnceLock<Option<File>> = OnceLock::new();
    let file = CALLS.get_or_init(|| {
        let path = env::var_os("FAULT_CALLS")?;
        OpenOptions::new().append(true).create(true).open(path).ok()
    });
    if let Some(mut file) = file.as_ref() {
        // One short write to the end of a file, so lines of several threads do not mix.
        let _ = file.write_all(format!("{function}\n").as_bytes());
    }
}
