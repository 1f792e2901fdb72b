//! One request of Triton's, read into our types and released exactly once.
//!
//! Taken over in Execute, read on the intake thread, released by the delivery
//! thread just before the final response.

use std::ffi::{c_char, c_void};
use std::ptr::{self, NonNull};

use super::api::{
    TRITONBACKEND_Input, TRITONBACKEND_Request, TRITONSERVER_DataType, TRITONSERVER_MEMORY_GPU,
    TRITONSERVER_PARAMETER_BOOL, TRITONSERVER_PARAMETER_DOUBLE, TRITONSERVER_PARAMETER_INT,
    TRITONSERVER_PARAMETER_STRING, TRITONSERVER_REQUEST_RELEASE_ALL, TRITONSERVER_TYPE_BYTES,
    TRITONSERVER_TYPE_INVALID, api,
};
use super::error::{Code, Error, copy_c_str};
use super::model::{call, discard};
use crate::protocol::{MAX_SAMPLING_JSON_BYTES, ParamValue, RawRequest};

/// Bytes of the length in front of each element of a BYTES tensor.
pub(super) const LENGTH_BYTES: usize = 4;

/// A request that Triton gave to us.
///
/// # Invariants
///
/// The pointer is valid and ours until it is released, which Drop does once.
pub(crate) struct Request(NonNull<TRITONBACKEND_Request>);

// SAFETY: a request belongs to whoever holds it, not to a thread.
unsafe impl Send for Request {}

impl Request {
    /// Takes over a request that Execute was given.
    ///
    /// # Safety
    ///
    /// `raw` is null or a request that Triton passed to Execute, taken over once.
    pub(crate) unsafe fn adopt(raw: *mut TRITONBACKEND_Request) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    pub(super) fn as_ptr(&self) -> *mut TRITONBACKEND_Request {
        self.0.as_ptr()
    }

    /// Returns the id that the client chose; empty where it chose none.
    pub(crate) fn id(&self) -> String {
        let mut id = ptr::null();
        // SAFETY: the request is ours; the id lives as long as it does.
        unsafe {
            match call!(TRITONBACKEND_RequestId(self.as_ptr(), &mut id)) {
                Ok(()) => copy_c_str(id),
                Err(_) => String::new(),
            }
        }
    }

    /// Copies the inputs and the parameters out of the request.
    ///
    /// `max_prompt_bytes` bounds `text_input`; the other inputs have a limit of
    /// their own. Inputs of other names are passed over: Triton has checked them
    /// against the configuration already.
    ///
    /// # Errors
    ///
    /// INVALID_ARG naming the tensor that is too large or malformed.
    pub(crate) fn read(&self, max_prompt_bytes: usize) -> Result<RawRequest, Error> {
        let mut raw = RawRequest {
            parameters: self.parameters()?,
            ..RawRequest::default()
        };
        let mut n_inputs = 0;
        // SAFETY: the request is ours and the count may be written.
        unsafe {
            call!(TRITONBACKEND_RequestInputCount(
                self.as_ptr(),
                &mut n_inputs
            ))
        }?;
        for index in 0..n_inputs {
            let mut input = ptr::null_mut();
            // SAFETY: the request is ours; the input lives as long as it does.
            unsafe {
                call!(TRITONBACKEND_RequestInputByIndex(
                    self.as_ptr(),
                    index,
                    &mut input
                ))
            }?;
            let input = Input::of(input)?;
            let (slot, max_bytes) = match input.name.as_str() {
                "text_input" => (&mut raw.text_input, max_prompt_bytes),
                "sampling_parameters" => (&mut raw.sampling_parameters, MAX_SAMPLING_JSON_BYTES),
                "parameters" => (&mut raw.parameters_input, MAX_SAMPLING_JSON_BYTES),
                "stop" => (&mut raw.stop, MAX_SAMPLING_JSON_BYTES),
                _ => continue,
            };
            *slot = Some(split_elements(&input.name, &input.read(max_bytes)?)?);
        }
        Ok(raw)
    }

    fn parameters(&self) -> Result<Vec<(String, ParamValue)>, Error> {
        let mut n_parameters = 0;
        // SAFETY: the request is ours and the count may be written.
        unsafe {
            call!(TRITONBACKEND_RequestParameterCount(
                self.as_ptr(),
                &mut n_parameters
            ))
        }?;
        (0..n_parameters)
            .map(|index| self.parameter(index))
            .collect()
    }

    fn parameter(&self, index: u32) -> Result<(String, ParamValue), Error> {
        let mut key: *const c_char = ptr::null();
        let mut value: *const c_void = ptr::null();
        let mut kind = TRITONSERVER_PARAMETER_STRING;
        // SAFETY: the request is ours; key and value live as long as it does,
        // and the kind says what the value points to.
        unsafe {
            call!(TRITONBACKEND_RequestParameter(
                self.as_ptr(),
                index,
                &mut key,
                &mut kind,
                &mut value
            ))?;
            let key = copy_c_str(key);
            if value.is_null() {
                let message = format!("parameter '{key}' has no value");
                return Err(Error::new(Code::InvalidArg, message));
            }
            let value = match kind {
                TRITONSERVER_PARAMETER_STRING => ParamValue::String(copy_c_str(value.cast())),
                TRITONSERVER_PARAMETER_INT => ParamValue::Int(value.cast::<i64>().read()),
                TRITONSERVER_PARAMETER_BOOL => ParamValue::Bool(value.cast::<u8>().read() != 0),
                TRITONSERVER_PARAMETER_DOUBLE => ParamValue::Double(value.cast::<f64>().read()),
                _ => {
                    let message = format!(
                        "parameter '{key}' is of kind {kind}: must be a string, an integer, \
                         a boolean or a double"
                    );
                    return Err(Error::new(Code::InvalidArg, message));
                }
            };
            Ok((key, value))
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: the request is ours and is not used afterwards.
        discard(unsafe {
            api().TRITONBACKEND_RequestRelease(self.as_ptr(), TRITONSERVER_REQUEST_RELEASE_ALL)
        });
    }
}

/// An input tensor of a live request, which may lie in several buffers.
struct Input {
    raw: *mut TRITONBACKEND_Input,
    name: String,
    datatype: TRITONSERVER_DataType,
    byte_size: u64,
    n_buffers: u32,
}

impl Input {
    fn of(raw: *mut TRITONBACKEND_Input) -> Result<Self, Error> {
        let mut name = ptr::null();
        let mut datatype = TRITONSERVER_TYPE_INVALID;
        let (mut shape, mut n_dims, mut byte_size, mut n_buffers) = (ptr::null(), 0, 0, 0);
        // SAFETY: the input belongs to a live request; all pointers may be written.
        let name = unsafe {
            call!(TRITONBACKEND_InputProperties(
                raw,
                &mut name,
                &mut datatype,
                &mut shape,
                &mut n_dims,
                &mut byte_size,
                &mut n_buffers
            ))?;
            copy_c_str(name)
        };
        Ok(Self {
            raw,
            name,
            datatype,
            byte_size,
            n_buffers,
        })
    }

    /// Copies the tensor, unless it is not text or too long.
    fn read(&self, max_bytes: usize) -> Result<Vec<u8>, Error> {
        let name = &self.name;
        let invalid = |problem| {
            let message = format!("input '{name}' {problem}");
            Error::new(Code::InvalidArg, message)
        };
        if self.datatype != TRITONSERVER_TYPE_BYTES {
            return Err(invalid("must be of type BYTES".to_owned()));
        }
        // The length in front of the text is not the client's.
        let n_text_bytes = self.byte_size.saturating_sub(LENGTH_BYTES as u64);
        if n_text_bytes > max_bytes as u64 {
            let problem = format!("has {n_text_bytes} bytes: at most {max_bytes} are allowed");
            return Err(invalid(problem));
        }
        let mut bytes = Vec::new();
        for index in 0..self.n_buffers {
            let (mut buffer, mut n_bytes, mut memory, mut memory_id) = (ptr::null(), 0, 0, 0);
            // SAFETY: the input belongs to a live request; the buffer lives as long as that
            // and holds `n_bytes` bytes, which the CPU may read unless it lies in GPU memory.
            unsafe {
                call!(TRITONBACKEND_InputBuffer(
                    self.raw,
                    index,
                    &mut buffer,
                    &mut n_bytes,
                    &mut memory,
                    &mut memory_id
                ))?;
                if memory == TRITONSERVER_MEMORY_GPU {
                    return Err(invalid("lies in GPU memory: must be CPU memory".to_owned()));
                }
                if n_bytes > 0 && !buffer.is_null() {
                    let n_bytes = usize::try_from(n_bytes).unwrap_or(usize::MAX);
                    bytes.extend_from_slice(std::slice::from_raw_parts(buffer.cast(), n_bytes));
                }
            }
        }
        Ok(bytes)
    }
}

/// Splits a BYTES tensor: each element is its length (4 bytes, little endian)
/// and that many bytes.
fn split_elements(name: &str, mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        let (element, rest) = bytes
            .split_first_chunk::<LENGTH_BYTES>()
            .and_then(|(length, rest)| {
                rest.split_at_checked(u32::from_le_bytes(*length).try_into().ok()?)
            })
            .ok_or_else(|| {
                let n_elements = elements.len();
                let message = format!("input '{name}' ends within element {n_elements}");
                Error::new(Code::InvalidArg, message)
            })?;
        elements.push(element.to_vec());
        bytes = rest;
    }
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_a_bytes_tensor() {
        let check = |bytes: &[u8], expected: Result<&[&[u8]], &str>| {
            let found = split_elements("stop", bytes);
            let found: Result<Vec<&[u8]>, &str> = match &found {
                Ok(elements) => Ok(elements.iter().map(Vec::as_slice).collect()),
                Err(error) => Err(&error.message),
            };
            assert_eq!(found, expected.map(<[&[u8]]>::to_vec), "{bytes:?}");
        };
        check(b"", Ok(&[]));
        check(b"\0\0\0\0", Ok(&[b""]));
        check(b"\x02\0\0\0hi", Ok(&[b"hi"]));
        check(b"\x02\0\0\0hi\0\0\0\0\x01\0\0\0!", Ok(&[b"hi", b"", b"!"]));
        check(b"\x02\0\0", Err("input 'stop' ends within element 0"));
        check(
            b"\x02\0\0\0hi\x02\0\0\0h",
            Err("input 'stop' ends within element 1"),
        );
        check(
            b"\xff\xff\xff\xffhi",
            Err("input 'stop' ends within element 0"),
        );
    }
}
