//! The way back to the client: responses, exactly one FINAL, true statistics.
//!
//! A [`Responder`] is made in Execute and belongs to one thread at a time: to
//! Triton's and an intake thread where they refuse a request, else to the
//! delivery thread. Whether the client is still there may be asked from any.

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Instant;

use super::api::{
    TRITONBACKEND_Response, TRITONBACKEND_ResponseFactory, TRITONSERVER_MEMORY_CPU,
    TRITONSERVER_MEMORY_GPU, TRITONSERVER_RESPONSE_COMPLETE_FINAL, api,
};
use super::clock::now_ns;
use super::datatype;
use super::error::{Code, Error};
use super::model::{Attached, call, discard};
use super::request::Request;
use super::shutdown::InFlight;
use crate::tensor::{Data, LENGTH_BYTES, Tensor};

/// When a request was worked on, on Triton's clock, for its statistics.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Times {
    /// Its first row was planned.
    pub(crate) scheduled_ns: Option<u64>,
    /// Its last token was sampled.
    pub(crate) computed_ns: Option<u64>,
}

/// What Triton makes a request's responses with.
///
/// # Invariants
///
/// The pointer is valid until Drop deletes it. A factory keeps its model from
/// being unloaded, so none may outlive its request's stream for long.
struct Factory(NonNull<TRITONBACKEND_ResponseFactory>);

// SAFETY: a factory belongs to no thread.
unsafe impl Send for Factory {}
// SAFETY: the only call made beside the owner's is IsCancelled, which reads an atomic.
unsafe impl Sync for Factory {}

impl Factory {
    fn new(request: &Request) -> Result<Self, Error> {
        let mut factory = ptr::null_mut();
        // SAFETY: the request is live; the factory is ours to delete.
        unsafe {
            call!(TRITONBACKEND_ResponseFactoryNew(
                &mut factory,
                request.as_ptr()
            ))
        }?;
        NonNull::new(factory)
            .map(Self)
            .ok_or_else(|| Error::new(Code::Internal, "Triton made no response factory"))
    }

    fn is_cancelled(&self) -> bool {
        let mut is_cancelled = false;
        // SAFETY: the factory is live and the flag may be written.
        let asked = unsafe {
            call!(TRITONBACKEND_ResponseFactoryIsCancelled(
                self.0.as_ptr(),
                &mut is_cancelled
            ))
        };
        asked.is_ok() && is_cancelled
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        // SAFETY: the factory is ours and is not used afterwards.
        discard(unsafe { api().TRITONBACKEND_ResponseFactoryDelete(self.0.as_ptr()) });
    }
}

/// A response that is to be sent.
///
/// Triton's front ends keep a place in the stream for each that was made, and wait for it: none is ever
/// deleted.
///
/// # Invariants
///
/// The pointer is valid and ours.
struct Response(NonNull<TRITONBACKEND_Response>);

// SAFETY: a response belongs to no thread.
unsafe impl Send for Response {}

impl Response {
    fn new(factory: &Factory) -> Result<Self, Error> {
        let mut response = ptr::null_mut();
        // SAFETY: the factory is live; the response is ours until it is sent.
        unsafe {
            call!(TRITONBACKEND_ResponseNewFromFactory(
                &mut response,
                factory.0.as_ptr()
            ))
        }?;
        NonNull::new(response)
            .map(Self)
            .ok_or_else(|| Error::new(Code::Internal, "Triton made no response"))
    }

    fn send(self, flags: u32) -> Result<(), Error> {
        // SAFETY: the response is ours, and Triton's from here on.
        unsafe {
            call!(TRITONBACKEND_ResponseSend(
                self.0.as_ptr(),
                flags,
                ptr::null_mut()
            ))
        }
    }

    /// Sends it with an error in place of tensors.
    fn send_error(self, flags: u32, error: &Error) {
        let raw_error = error.clone().into_raw();
        // SAFETY: the response is ours, and Triton's from here on; the error stays ours and is deleted
        // once, afterwards.
        unsafe {
            discard(api().TRITONBACKEND_ResponseSend(self.0.as_ptr(), flags, raw_error));
            api().TRITONSERVER_ErrorDelete(raw_error);
        }
    }
}

/// One request and its responses.
///
/// Whatever happens, dropping it ends the stream with one FINAL and releases
/// the request.
pub(crate) struct Responder {
    /// `None` once it is released.
    request: Option<Request>,
    factory: Arc<Factory>,
    instance: Arc<Attached>,
    /// Whether shapes begin with the dimension of batches, which is 1.
    batched: bool,
    /// One that could not be filled, and why: the error at the end of the stream goes in it.
    unfilled: Option<(Response, Error)>,
    arrived: Instant,
    _in_flight: InFlight,
}

impl Responder {
    /// Prepares to answer `request`, which `instance` was given.
    ///
    /// # Errors
    ///
    /// Triton's, where it has no response factory for us; the request is then
    /// released without an answer, there being no way to send one.
    pub(crate) fn new(
        request: Request,
        instance: Arc<Attached>,
        batched: bool,
    ) -> Result<Self, Error> {
        let factory = Arc::new(Factory::new(&request)?);
        Ok(Self {
            request: Some(request),
            factory,
            instance,
            batched,
            unfilled: None,
            arrived: Instant::now(),
            _in_flight: InFlight::begin(),
        })
    }

    pub(crate) fn request(&self) -> &Request {
        self.request
            .as_ref()
            .expect("the request is released at the end of its stream")
    }

    /// When Triton handed the request over.
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Makes a probe that says whether the client has gone away.
    pub(crate) fn cancel_probe(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let factory = Arc::clone(&self.factory);
        move || factory.is_cancelled()
    }

    /// Sends one response that is not the last; none follows one that could not be filled.
    pub(crate) fn send(&mut self, tensors: &[Tensor]) -> Result<(), Error> {
        self.prepare(tensors)?.send(0)
    }

    /// Sends the last response.
    pub(crate) fn complete(&mut self, tensors: &[Tensor], times: Times) {
        let response = match self.prepare(tensors) {
            Ok(response) => response,
            Err(error) => return self.fail(&error, times),
        };
        self.release(true, times);
        if let Err(error) = response.send(TRITONSERVER_RESPONSE_COMPLETE_FINAL) {
            self.send_error(&error);
        }
    }

    /// Ends the stream with an error.
    pub(crate) fn fail(&mut self, error: &Error, times: Times) {
        self.release(false, times);
        self.send_error(error);
    }

    fn prepare(&mut self, tensors: &[Tensor]) -> Result<Response, Error> {
        if let Some((_, error)) = &self.unfilled {
            return Err(error.clone());
        }
        let response = Response::new(&self.factory)?;
        let filled = tensors.iter().try_for_each(|tensor| {
            // SAFETY: the response is live, and not sent before it is filled.
            unsafe { self.write(response.0.as_ptr(), tensor) }
        });
        match filled {
            Ok(()) => Ok(response),
            Err(error) => {
                self.unfilled = Some((response, error.clone()));
                Err(error)
            }
        }
    }

    /// Writes an output of a response.
    ///
    /// # Safety
    ///
    /// `response` is live and not sent yet.
    unsafe fn write(
        &self,
        response: *mut TRITONBACKEND_Response,
        tensor: &Tensor,
    ) -> Result<(), Error> {
        let name = CString::new(tensor.name.as_ref())
            .map_err(|_| Error::new(Code::Internal, "the name of an output holds a NUL"))?;
        let batch = self.batched.then_some(1);
        let shape: Vec<i64> = batch
            .into_iter()
            .chain(tensor.shape.iter().copied())
            .collect();
        let n_bytes = n_bytes(&tensor.data)?;
        let mut output = ptr::null_mut();
        let mut buffer = ptr::null_mut();
        let (mut memory, mut memory_id) = (TRITONSERVER_MEMORY_CPU, 0);
        // SAFETY: the response is live; name and shape outlive the calls; the
        // buffer holds `n_bytes` bytes and is the CPU's where that is checked.
        let buffer = unsafe {
            call!(TRITONBACKEND_ResponseOutput(
                response,
                &mut output,
                name.as_ptr(),
                datatype::to_triton(tensor.datatype()),
                shape.as_ptr(),
                shape.len() as u32
            ))?;
            call!(TRITONBACKEND_OutputBuffer(
                output,
                &mut buffer,
                n_bytes as u64,
                &mut memory,
                &mut memory_id
            ))?;
            if n_bytes > 0 && (memory == TRITONSERVER_MEMORY_GPU || buffer.is_null()) {
                let message = format!("output '{}' must be in CPU memory", tensor.name);
                return Err(Error::new(Code::Unsupported, message));
            }
            if n_bytes == 0 {
                return Ok(());
            }
            // So that there are values to make a slice of.
            ptr::write_bytes(buffer.cast::<u8>(), 0, n_bytes);
            slice::from_raw_parts_mut(buffer.cast::<u8>(), n_bytes)
        };
        copy(&tensor.data, buffer);
        Ok(())
    }

    /// Sends an error as the final response.
    fn send_error(&mut self, error: &Error) {
        let flags = TRITONSERVER_RESPONSE_COMPLETE_FINAL;
        let response = match self.unfilled.take() {
            Some((response, _)) => Ok(response),
            None => Response::new(&self.factory),
        };
        match response {
            Ok(response) => response.send_error(flags, error),
            Err(reason) => {
                log::error!("triton-llm: no response for an error ({reason}): {error}");
                let factory = self.factory.0.as_ptr();
                // SAFETY: the factory is live.
                discard(unsafe { api().TRITONBACKEND_ResponseFactorySendFlags(factory, flags) });
            }
        }
    }

    /// Reports the request to Triton's statistics and releases it.
    ///
    /// Before FINAL, so that a client that has read it finds its request counted.
    fn release(&mut self, success: bool, times: Times) {
        let Some(request) = self.request.take() else {
            return;
        };
        let end = now_ns();
        let scheduled = times.scheduled_ns.unwrap_or(end);
        let computed = times.computed_ns.unwrap_or(end).max(scheduled);
        self.instance.with(|instance| {
            let instance = instance.as_ptr();
            // SAFETY: instance and request are live.
            unsafe {
                discard(api().TRITONBACKEND_ModelInstanceReportStatistics(
                    instance,
                    request.as_ptr(),
                    success,
                    scheduled,
                    scheduled,
                    computed,
                    end,
                ));
                if success {
                    discard(api().TRITONBACKEND_ModelInstanceReportBatchStatistics(
                        instance, 1, scheduled, scheduled, computed, end,
                    ));
                }
            }
        });
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.request.is_some() {
            let error = Error::new(
                Code::Internal,
                "the request was dropped before it was answered",
            );
            self.fail(&error, Times::default());
        }
    }
}

/// Bytes that a tensor takes in a response.
fn n_bytes(data: &Data) -> Result<usize, Error> {
    match data {
        Data::Numbers(_, bytes) => Ok(bytes.len()),
        Data::Bytes(elements) => elements.iter().try_fold(0, |n_bytes, element| {
            let is_short = u32::try_from(element.len()).is_ok();
            let error = || {
                let n_bytes = element.len();
                let message = format!("a response of {n_bytes} bytes is too long for Triton");
                Error::new(Code::Internal, message)
            };
            let element = is_short.then(|| LENGTH_BYTES + element.len());
            Ok(n_bytes + element.ok_or_else(error)?)
        }),
    }
}

/// Writes them; the buffer has as many bytes as [`n_bytes`] says.
fn copy(data: &Data, mut buffer: &mut [u8]) {
    let mut put = |bytes: &[u8]| {
        let (place, rest) = std::mem::take(&mut buffer).split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        buffer = rest;
    };
    match data {
        Data::Numbers(_, bytes) => put(bytes),
        Data::Bytes(elements) => {
            for element in elements {
                put(&(element.len() as u32).to_le_bytes());
                put(element);
            }
        }
    }
}
