//! The one boundary that every export crosses.
//!
//! No panic leaves our code: it is logged with its place and becomes INTERNAL.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::ptr;
use std::sync::Once;

use super::api::{self, ApiError, TRITONSERVER_Error};
use super::error::{Code, Error};

/// Runs the body of an export and turns what it returns into Triton's error.
pub(crate) fn guard(
    export: &'static str,
    body: impl FnOnce() -> Result<(), Error>,
) -> *mut TRITONSERVER_Error {
    if let Err(error) = api::load() {
        return refuse_host(export, &error);
    }
    static SET_UP: Once = Once::new();
    SET_UP.call_once(|| {
        super::log::install();
        set_hook(Box::new(|panic| log::error!("triton-llm: {panic}")));
    });
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => ptr::null_mut(),
        Ok(Err(error)) => error.into_raw(),
        Err(payload) => {
            let message = format!("{export} panicked: {}", panic_text(payload.as_ref()));
            Error::new(Code::Internal, message).into_raw()
        }
    }
}

/// Reports a host whose API cannot be used, with what little of it there is.
fn refuse_host(export: &str, error: &ApiError) -> *mut TRITONSERVER_Error {
    let message = format!("{export}: {error}");
    api::internal_error(&super::error::c_string(&message)).unwrap_or_else(|| {
        // Without ErrorNew there is no way to hand Triton an error.
        eprintln!("triton-llm: {message}");
        ptr::null_mut()
    })
}

/// Reads the message out of a panic.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
