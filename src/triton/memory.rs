//! The report of how much memory a model takes, which Triton shows and places models by.
//!
//! Called on the thread that loads the model, once it is loaded.

use std::collections::BTreeMap;
use std::ptr;

use super::api::{
    TRITONSERVER_BufferAttributes, TRITONSERVER_MEMORY_CPU, TRITONSERVER_MEMORY_GPU, api,
};
use super::error::Error;
use super::model::{Model, call, discard};

impl Model {
    /// Reports bytes for each GPU, by its number, and for host memory, which is `None`.
    ///
    /// What was reported before is forgotten.
    pub(crate) fn report_memory(self, bytes: &BTreeMap<Option<u32>, u64>) -> Result<(), Error> {
        let attributes = bytes
            .iter()
            .map(|(&gpu, &n_bytes)| Attributes::new(gpu, n_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<_> = attributes.iter().map(|owned| owned.0).collect();
        // SAFETY: the handle is valid, the pointers are those of live attributes, and Triton copies
        // what they say.
        unsafe {
            call!(TRITONBACKEND_ModelReportMemoryUsage(
                self.as_ptr(),
                pointers.as_mut_ptr(),
                pointers.len() as u32
            ))
        }
    }
}

/// What Triton is told of a piece of memory.
///
/// # Invariants
///
/// The pointer is from `TRITONSERVER_BufferAttributesNew`, and deleted once.
struct Attributes(*mut TRITONSERVER_BufferAttributes);

impl Attributes {
    fn new(gpu: Option<u32>, n_bytes: u64) -> Result<Self, Error> {
        let mut raw = ptr::null_mut();
        // SAFETY: the pointer may be written.
        unsafe { call!(TRITONSERVER_BufferAttributesNew(&mut raw)) }?;
        let attributes = Self(raw);
        let (kind, id) = match gpu {
            Some(index) => (TRITONSERVER_MEMORY_GPU, i64::from(index)),
            None => (TRITONSERVER_MEMORY_CPU, 0),
        };
        // SAFETY: the attributes are live and ours.
        unsafe {
            call!(TRITONSERVER_BufferAttributesSetMemoryType(raw, kind))?;
            call!(TRITONSERVER_BufferAttributesSetMemoryTypeId(raw, id))?;
            call!(TRITONSERVER_BufferAttributesSetByteSize(
                raw,
                n_bytes as usize
            ))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: the pointer is ours by the type's invariant, and not used again.
        discard(unsafe { api().TRITONSERVER_BufferAttributesDelete(self.0) });
    }
}
