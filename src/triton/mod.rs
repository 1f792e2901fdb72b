//! The only home of Triton's C API: everything outside speaks in our types.
//!
//! Owns the pointers that Triton hands us. Knows nothing of llama.cpp.

mod api;
mod backlog;
mod clock;
mod copies;
mod datatype;
mod error;
mod exit;
mod guard;
mod hangups;
mod log;
mod memory;
mod metrics;
mod model;
mod request;
mod response;
mod shutdown;
mod sockets;

pub(crate) use api::{
    TRITONBACKEND_Backend, TRITONBACKEND_BackendAttribute, TRITONBACKEND_Model,
    TRITONBACKEND_ModelInstance, TRITONBACKEND_Request, TRITONSERVER_Error,
};
pub(crate) use backlog::{Backlog, Lane};
pub(crate) use clock::now_ns;
pub(crate) use error::{Code, Error};
pub(crate) use exit::{stop_at_exit, while_running};
pub(crate) use guard::{guard, panic_text};
pub(crate) use hangups::Hangups;
pub(crate) use metrics::Series;
pub(crate) use model::{Attached, Backend, Instance, InstanceKind, Model, prefer_instances};
pub(crate) use request::Request;
pub(crate) use response::{Responder, Times};
pub(crate) use shutdown::{is_signalled, set_up as listen_to_signals};
