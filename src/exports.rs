//! Every function that Triton calls in this library, one line each.
//!
//! Runs on Triton's threads. All go through the guard: no panic crosses into
//! Triton. Anything but the hand-over of pointers belongs elsewhere.
//!
//! # Safety
//!
//! Triton calls these with pointers that are valid for the call, in the order
//! that its backend API lays down.

use crate::serving;
use crate::triton::{
    Backend, Instance, Model, Request, TRITONBACKEND_Backend, TRITONBACKEND_BackendAttribute,
    TRITONBACKEND_Model, TRITONBACKEND_ModelInstance, TRITONBACKEND_Request, TRITONSERVER_Error,
    guard, prefer_instances,
};

/// Defines exports: a name, Triton's arguments and a body that is guarded.
macro_rules! export {
    ($($name:ident($($argument:ident: $type:ty),*) => $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> *mut TRITONSERVER_Error {
            // SAFETY: the pointers are Triton's, as the module's contract says.
            guard(stringify!($name), || unsafe { $body })
        }
    )*};
}

export! {
    TRITONBACKEND_Initialize(backend: *mut TRITONBACKEND_Backend) => serving::initialize(Backend::from_raw(backend)?);
    TRITONBACKEND_Finalize(backend: *mut TRITONBACKEND_Backend) => serving::finalize(Backend::from_raw(backend)?);
    TRITONBACKEND_GetBackendAttribute(_backend: *mut TRITONBACKEND_Backend, attributes: *mut TRITONBACKEND_BackendAttribute) => prefer_instances(attributes, serving::prefers_gpus());
    TRITONBACKEND_ModelInitialize(model: *mut TRITONBACKEND_Model) => serving::load(Model::from_raw(model)?);
    TRITONBACKEND_ModelFinalize(model: *mut TRITONBACKEND_Model) => serving::unload(Model::from_raw(model)?);
    TRITONBACKEND_ModelInstanceInitialize(instance: *mut TRITONBACKEND_ModelInstance) => serving::attach(Instance::from_raw(instance)?);
    TRITONBACKEND_ModelInstanceFinalize(instance: *mut TRITONBACKEND_ModelInstance) => serving::detach(Instance::from_raw(instance)?);
    TRITONBACKEND_ModelInstanceExecute(instance: *mut TRITONBACKEND_ModelInstance, requests: *mut *mut TRITONBACKEND_Request, request_count: u32) => serving::execute(Instance::from_raw(instance)?, (0..request_count as usize).map(|index| Request::adopt(*requests.add(index))));
}
