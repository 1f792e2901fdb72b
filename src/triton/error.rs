//! Errors on their way to and from Triton.
//!
//! Every layer has typed errors of its own; here they become one of Triton's
//! codes and a message. The front ends map codes to HTTP: INVALID_ARG and
//! CANCELLED 400, NOT_FOUND 404, UNAVAILABLE 503, UNSUPPORTED 501, INTERNAL 500.

use std::ffi::{CStr, CString};
use std::fmt;

use super::api::{
    TRITONSERVER_ERROR_CANCELLED, TRITONSERVER_ERROR_INTERNAL, TRITONSERVER_ERROR_INVALID_ARG,
    TRITONSERVER_ERROR_NOT_FOUND, TRITONSERVER_ERROR_UNAVAILABLE, TRITONSERVER_ERROR_UNSUPPORTED,
    TRITONSERVER_Error, TRITONSERVER_Error_Code, api,
};

/// What kind of failure it is, in Triton's terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Code {
    /// A fault of ours or of the engine.
    Internal,
    /// Something named does not exist.
    NotFound,
    /// The caller or the configuration asked for something that cannot be.
    InvalidArg,
    /// Not now: the queue is full, or the model is going away.
    Unavailable,
    /// Something this build or model cannot do at all.
    Unsupported,
    /// The client took the request back.
    Cancelled,
}

/// A failure with Triton's code and a message for whoever caused it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Error {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Gives the error to Triton, which then owns it.
    pub(crate) fn into_raw(self) -> *mut TRITONSERVER_Error {
        let code: TRITONSERVER_Error_Code = match self.code {
            Code::Internal => TRITONSERVER_ERROR_INTERNAL,
            Code::NotFound => TRITONSERVER_ERROR_NOT_FOUND,
            Code::InvalidArg => TRITONSERVER_ERROR_INVALID_ARG,
            Code::Unavailable => TRITONSERVER_ERROR_UNAVAILABLE,
            Code::Unsupported => TRITONSERVER_ERROR_UNSUPPORTED,
            Code::Cancelled => TRITONSERVER_ERROR_CANCELLED,
        };
        let message = c_string(&self.message);
        // SAFETY: the message is a C string that Triton copies.
        unsafe { api().TRITONSERVER_ErrorNew(code, message.as_ptr()) }
    }

    /// Takes over what a Triton call returned: null is success.
    pub(crate) fn check(raw: *mut TRITONSERVER_Error) -> Result<(), Self> {
        if raw.is_null() {
            return Ok(());
        }
        // SAFETY: `raw` is an error that the caller owns; the message is copied
        // before the error is deleted, once.
        unsafe {
            let code = match api().TRITONSERVER_ErrorCode(raw) {
                TRITONSERVER_ERROR_NOT_FOUND => Code::NotFound,
                TRITONSERVER_ERROR_INVALID_ARG => Code::InvalidArg,
                TRITONSERVER_ERROR_UNAVAILABLE => Code::Unavailable,
                TRITONSERVER_ERROR_UNSUPPORTED => Code::Unsupported,
                TRITONSERVER_ERROR_CANCELLED => Code::Cancelled,
                _ => Code::Internal,
            };
            let message = copy_c_str(api().TRITONSERVER_ErrorMessage(raw));
            api().TRITONSERVER_ErrorDelete(raw);
            Err(Self { code, message })
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Makes a C string, with NUL characters shown as `\0`.
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\\0")).expect("no NUL is left")
}

/// Copies a C string that Triton lends us; null is the empty string.
///
/// # Safety
///
/// `text` is null or a C string that stays valid during the call.
pub(super) unsafe fn copy_c_str(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, so a C string by the caller's promise.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}
