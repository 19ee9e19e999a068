//! What the actions do, before and after the real call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::thread::sleep;
use std::time::Duration;
use std::{ptr, slice};

use cryptoki_sys::{
    CK_FALSE, CK_FUNCTION_LIST, CK_MECHANISM, CK_MECHANISM_TYPE, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID, CK_TOKEN_INFO,
    CK_ULONG, CKF_CLOCK_ON_TOKEN, CKF_SERIAL_SESSION, CKR_FUNCTION_NOT_SUPPORTED, CKR_GENERAL_ERROR, CKR_OK,
    CKR_SESSION_COUNT, CKU_USER,
};
use cryptoki_sys::{CK_GCM_PARAMS, CKM_AES_GCM};

use crate::control::Action;
use crate::state;

/// Where a call leaves its answer.
#[derive(Clone, Copy)]
pub(crate) enum Output {
    /// Somewhere that no action touches.
    Elsewhere,
    /// A buffer, null when its length alone is asked for, and its length.
    Bytes(*mut u8, *mut CK_ULONG),
    /// A buffer that is always filled to its end.
    Filled(*mut u8, CK_ULONG),
    /// CK_TOKEN_INFO.
    TokenInfo(*mut CK_TOKEN_INFO),
    /// A list of mechanisms, null when its length alone is asked for, and its length.
    Mechanisms(*mut CK_MECHANISM_TYPE, *mut CK_ULONG),
}

impl Output {
    /// Whether the caller only asks how long the answer will be.
    fn asks_length(self) -> bool {
        match self {
            Self::Bytes(buffer, _) => buffer.is_null(),
            Self::Mechanisms(list, _) => list.is_null(),
            Self::Elsewhere | Self::Filled(..) | Self::TokenInfo(_) => false,
        }
    }
}

/// What the rules need to know of a call.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) function: &'static str,
    /// The session, for a function that has one.
    pub(crate) session: CK_SESSION_HANDLE,
    /// Null for a function without one.
    pub(crate) mechanism: *const CK_MECHANISM,
    pub(crate) output: Output,
}

/// Calls of the real module share it. SoftHSM crashes when sessions are closed under a call of another thread, which no
/// program that owns its sessions does.
static MODULE: RwLock<()> = RwLock::new(());

fn alone(act: impl FnOnce()) {
    let _nobody_else = MODULE.write().unwrap_or_else(PoisonError::into_inner);
    act();
}

/// Runs one call of the real module with everything that the rules put around it.
pub(crate) fn around(call: Call, forward: impl FnOnce(&CK_FUNCTION_LIST) -> Option<CK_RV>) -> CK_RV {
    let Some(real) = state::real() else {
        return CKR_GENERAL_ERROR;
    };
    // SAFETY: the caller of a function with a mechanism passes null or a valid one.
    let mechanism = unsafe { call.mechanism.as_ref() }.map(|mechanism| mechanism.mechanism);
    let actions = state::actions(call.function, mechanism, call.output.asks_length());
    for action in &actions {
        match action {
            Action::Return(rv) => {
                end_operation(real, call);
                return *rv;
            }
            Action::Room(room) if OPEN.load(Ordering::SeqCst) >= *room => return CKR_SESSION_COUNT,
            Action::Enter(pin) => return log_in(real, call.session, pin).unwrap_or(CKR_FUNCTION_NOT_SUPPORTED),
            Action::OwnIv(byte) => make_iv(call, *byte),
            Action::DelayMs(ms) => sleep(Duration::from_millis(*ms)),
            Action::Hang => hang(),
            Action::ForgetSessions => alone(|| on_each_slot(real, forget_sessions)),
            Action::Logout => alone(|| on_each_slot(real, log_out)),
            _ => {}
        }
    }
    let rv = {
        let _in_the_module = MODULE.read().unwrap_or_else(PoisonError::into_inner);
        forward(real).unwrap_or(CKR_FUNCTION_NOT_SUPPORTED)
    };
    if rv == CKR_OK {
        count_sessions(call.function);
    }
    for action in &actions {
        if let Action::LateReturn(rv) = action {
            return *rv;
        }
        if rv == CKR_OK {
            // SAFETY: the real module has just accepted and filled the same output.
            unsafe { change(call.output, action) };
        }
    }
    rv
}

fn make_iv(call: Call, byte: u8) {
    // SAFETY: the caller passes null or a valid mechanism, and AES-GCM's has parameters with an IV to write to.
    unsafe {
        let Some(mechanism) = call
            .mechanism
            .as_ref()
            .filter(|mechanism| mechanism.mechanism == CKM_AES_GCM)
        else {
            return;
        };
        let Some(params) = mechanism.pParameter.cast::<CK_GCM_PARAMS>().as_ref() else {
            return;
        };
        if !params.pIv.is_null() {
            params
                .pIv
                .write_bytes(byte, usize::try_from(params.ulIvLen).unwrap_or(0));
        }
    }
}

/// An error of C_Sign and its like ends the operation (PKCS#11 2.40 §5.11): end it underneath too, by doing it on a
/// few zeros.
fn end_operation(real: &CK_FUNCTION_LIST, call: Call) -> Option<()> {
    let (mut input, mut output, session) = ([0; 16], [0; 1024], call.session);
    let (input, output) = (input.as_mut_ptr(), output.as_mut_ptr());
    let mut length = 1024;
    // SAFETY: the buffers are as long as is said.
    unsafe {
        match call.function {
            "C_Sign" | "C_SignUpdate" | "C_SignFinal" => {
                real.C_Sign?(session, input, 16, output, &raw mut length);
            }
            "C_Verify" | "C_VerifyUpdate" | "C_VerifyFinal" => {
                real.C_Verify?(session, input, 16, output, 1);
            }
            "C_Encrypt" | "C_EncryptUpdate" | "C_EncryptFinal" => {
                real.C_Encrypt?(session, input, 16, output, &raw mut length);
            }
            "C_Decrypt" | "C_DecryptUpdate" | "C_DecryptFinal" => {
                real.C_Decrypt?(session, input, 16, output, &raw mut length);
            }
            _ => {}
        }
    }
    Some(())
}

/// Waits until the file of rules changes.
fn hang() {
    let before = state::control_text();
    while state::control_text() == before {
        sleep(Duration::from_millis(5));
    }
}

fn on_each_slot(real: &CK_FUNCTION_LIST, act: fn(&CK_FUNCTION_LIST, CK_SLOT_ID) -> Option<()>) {
    let Some(list) = real.C_GetSlotList else {
        return;
    };
    let mut slots = [0; 64];
    let mut count = 64;
    // SAFETY: the array is as long as the count says.
    if unsafe { list(CK_FALSE, slots.as_mut_ptr(), &raw mut count) } != CKR_OK {
        return;
    }
    let count = usize::try_from(count).unwrap_or(0);
    for slot in slots.into_iter().take(count) {
        act(real, slot);
    }
}

/// Sessions that the program has open, of all tokens.
static OPEN: AtomicU64 = AtomicU64::new(0);

fn count_sessions(function: &str) {
    match function {
        "C_OpenSession" => drop(OPEN.fetch_add(1, Ordering::SeqCst)),
        "C_CloseSession" => drop(OPEN.fetch_sub(1, Ordering::SeqCst)),
        "C_CloseAllSessions" | "C_Finalize" => OPEN.store(0, Ordering::SeqCst),
        _ => {}
    }
}

fn log_in(real: &CK_FUNCTION_LIST, session: CK_SESSION_HANDLE, pin: &str) -> Option<CK_RV> {
    let length = CK_ULONG::try_from(pin.len()).ok()?;
    // SAFETY: the PIN is as long as is said, and is only read.
    Some(unsafe { real.C_Login?(session, CKU_USER, pin.as_ptr().cast_mut(), length) })
}

fn forget_sessions(real: &CK_FUNCTION_LIST, slot: CK_SLOT_ID) -> Option<()> {
    // SAFETY: takes a number, refuses one that it does not know.
    unsafe { real.C_CloseAllSessions?(slot) };
    OPEN.store(0, Ordering::SeqCst);
    Some(())
}

/// The login belongs to all sessions of a token, so one that is opened for it will do.
fn log_out(real: &CK_FUNCTION_LIST, slot: CK_SLOT_ID) -> Option<()> {
    let mut session = 0;
    // SAFETY: plain calls of a loaded module with a handle that it gave.
    unsafe {
        let opened = real.C_OpenSession?(slot, CKF_SERIAL_SESSION, ptr::null_mut(), None, &raw mut session);
        (opened == CKR_OK).then_some(())?;
        real.C_Logout?(session);
        real.C_CloseSession?(session);
    }
    Some(())
}

/// # Safety
///
/// `output` is what the real module has just accepted and answered with CKR_OK.
unsafe fn change(output: Output, action: &Action) {
    // SAFETY: as the function's own.
    unsafe {
        match output {
            Output::Elsewhere => {}
            Output::Filled(buffer, length) => change_bytes(bytes(buffer, length), action),
            Output::Bytes(buffer, length) => {
                if buffer.is_null() || length.is_null() {
                    return;
                }
                change_bytes(bytes(buffer, *length), action);
                if let Action::Length(said) = action {
                    *length = *said;
                }
            }
            Output::TokenInfo(info) => {
                if let Some(info) = info.as_mut() {
                    change_token_info(info, action);
                }
            }
            Output::Mechanisms(list, count) => {
                if let (Action::Without(left_out), false) = (action, list.is_null() || count.is_null()) {
                    let length = usize::try_from(*count).unwrap_or(0);
                    let all = slice::from_raw_parts_mut(list, length);
                    let kept: Vec<_> = all.iter().copied().filter(|one| !left_out.contains(one)).collect();
                    for (place, one) in all.iter_mut().zip(&kept) {
                        *place = *one;
                    }
                    *count = kept.len() as CK_ULONG;
                }
            }
        }
    }
}

unsafe fn bytes<'a>(buffer: *mut u8, length: CK_ULONG) -> &'a mut [u8] {
    if buffer.is_null() {
        return &mut [];
    }
    // SAFETY: the real module has filled so many bytes.
    unsafe { slice::from_raw_parts_mut(buffer, usize::try_from(length).unwrap_or(0)) }
}

fn change_bytes(bytes: &mut [u8], action: &Action) {
    match action {
        Action::Zero => bytes.fill(0),
        Action::Repeat => {
            for (byte, value) in bytes.iter_mut().zip((1..=255).cycle()) {
                *byte = value;
            }
        }
        Action::Corrupt => {
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
        }
        _ => {}
    }
}

fn change_token_info(info: &mut CK_TOKEN_INFO, action: &Action) {
    match action {
        Action::Flags(flags) => info.flags |= flags,
        Action::MaxSessions(limit) => {
            info.ulMaxSessionCount = *limit;
            info.ulMaxRwSessionCount = *limit;
        }
        Action::BadClock => {
            info.flags |= CKF_CLOCK_ON_TOKEN;
            info.utcTime = *b"no time at all! ";
        }
        _ => {}
    }
}
