//! Our log records and llama.cpp's go to Triton's log.
//!
//! Called from any thread; Triton serialises the lines itself.

use log::{LevelFilter, Log, Metadata, Record};

use super::api::{
    TRITONSERVER_LOG_ERROR, TRITONSERVER_LOG_INFO, TRITONSERVER_LOG_VERBOSE, TRITONSERVER_LOG_WARN,
    TRITONSERVER_LogLevel, api,
};
use super::error::c_string;

struct TritonLog;

/// Sends the `log` crate's records to Triton from now on.
pub(super) fn install() {
    // A second logger cannot be: the guard calls this once.
    if log::set_logger(&TritonLog).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
}

fn triton_level(level: log::Level) -> TRITONSERVER_LogLevel {
    match level {
        log::Level::Error => TRITONSERVER_LOG_ERROR,
        log::Level::Warn => TRITONSERVER_LOG_WARN,
        log::Level::Info => TRITONSERVER_LOG_INFO,
        log::Level::Debug | log::Level::Trace => TRITONSERVER_LOG_VERBOSE,
    }
}

impl Log for TritonLog {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // SAFETY: takes a plain value, may be called from any thread.
        unsafe { api().TRITONSERVER_LogIsEnabled(triton_level(metadata.level())) }
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let file = c_string(record.file().unwrap_or(record.target()));
        let line = record.line().unwrap_or(0).try_into().unwrap_or(0);
        let message = c_string(&record.args().to_string());
        // SAFETY: both are C strings that outlive the call.
        let error = unsafe {
            api().TRITONSERVER_LogMessage(
                triton_level(record.level()),
                file.as_ptr(),
                line,
                message.as_ptr(),
            )
        };
        if !error.is_null() {
            // SAFETY: the error is ours and is not used afterwards.
            unsafe { api().TRITONSERVER_ErrorDelete(error) };
        }
    }

    fn flush(&self) {}
}
