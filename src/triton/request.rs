//! One request of Triton's, its tensors and parameters read into our types, released exactly once.
//!
//! Taken over in Execute, read on an intake thread, released by the delivery
//! thread just before the final response.

use std::ffi::{c_char, c_void};
use std::ptr::{self, NonNull};

use super::api::{
    TRITONBACKEND_Input, TRITONBACKEND_Request, TRITONSERVER_DataType, TRITONSERVER_MEMORY_GPU,
    TRITONSERVER_PARAMETER_BOOL, TRITONSERVER_PARAMETER_DOUBLE, TRITONSERVER_PARAMETER_INT,
    TRITONSERVER_PARAMETER_STRING, TRITONSERVER_REQUEST_RELEASE_ALL, TRITONSERVER_TYPE_INVALID,
    api,
};
use super::datatype;
use super::error::{Code, Error, copy_c_str};
use super::model::{call, discard};
use crate::table::Given;
use crate::tensor::{
    Data, DataType, LENGTH_BYTES, Tensor, TensorError, check_length, split_elements,
};

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

    /// Bytes of all inputs together.
    pub(crate) fn n_bytes(&self) -> u64 {
        let Ok(n_inputs) = self.n_inputs() else {
            return 0;
        };
        let inputs = (0..n_inputs).filter_map(|index| self.input(index).ok());
        inputs.map(|input| input.n_bytes).sum()
    }

    /// Copies the inputs out of the request, those for whose names there is a limit.
    ///
    /// # Errors
    ///
    /// INVALID_ARG naming the tensor that is longer than its limit, or malformed.
    pub(crate) fn inputs(
        &self,
        max_bytes: impl Fn(&str) -> Option<usize>,
    ) -> Result<Vec<Tensor>, Error> {
        let mut tensors = Vec::new();
        for index in 0..self.n_inputs()? {
            let input = self.input(index)?;
            if let Some(max_bytes) = max_bytes(&input.name) {
                tensors.push(input.read(max_bytes)?);
            }
        }
        Ok(tensors)
    }

    fn n_inputs(&self) -> Result<u32, Error> {
        let mut n_inputs = 0;
        // SAFETY: the request is ours and the count may be written.
        unsafe {
            call!(TRITONBACKEND_RequestInputCount(
                self.as_ptr(),
                &mut n_inputs
            ))
        }?;
        Ok(n_inputs)
    }

    fn input(&self, index: u32) -> Result<Input, Error> {
        let mut input = ptr::null_mut();
        // SAFETY: the request is ours; the input lives as long as it does.
        unsafe {
            call!(TRITONBACKEND_RequestInputByIndex(
                self.as_ptr(),
                index,
                &mut input
            ))
        }?;
        Input::of(input)
    }

    /// Copies the parameters out of the request.
    ///
    /// # Errors
    ///
    /// INVALID_ARG naming the one that is of a kind unknown to us.
    pub(crate) fn parameters(&self) -> Result<Vec<(String, Given)>, Error> {
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

    fn parameter(&self, index: u32) -> Result<(String, Given), Error> {
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
                TRITONSERVER_PARAMETER_STRING => Given::Text(copy_c_str(value.cast())),
                TRITONSERVER_PARAMETER_INT => Given::Whole(value.cast::<i64>().read().into()),
                TRITONSERVER_PARAMETER_BOOL => Given::Flag(value.cast::<u8>().read() != 0),
                TRITONSERVER_PARAMETER_DOUBLE => Given::Number(value.cast::<f64>().read()),
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
    shape: Vec<i64>,
    n_bytes: u64,
    n_buffers: u32,
}

impl Input {
    fn of(raw: *mut TRITONBACKEND_Input) -> Result<Self, Error> {
        let mut name = ptr::null();
        let mut datatype = TRITONSERVER_TYPE_INVALID;
        let (mut shape, mut n_dims, mut n_bytes, mut n_buffers) = (ptr::null(), 0, 0, 0);
        // SAFETY: the input belongs to a live request; all pointers may be written. Name and shape, of as many
        // numbers as there are dimensions, live as long as the request.
        let (name, shape) = unsafe {
            call!(TRITONBACKEND_InputProperties(
                raw,
                &mut name,
                &mut datatype,
                &mut shape,
                &mut n_dims,
                &mut n_bytes,
                &mut n_buffers
            ))?;
            let shape = match shape.is_null() {
                true => &[],
                false => std::slice::from_raw_parts(shape, n_dims as usize),
            };
            (copy_c_str(name), shape.to_vec())
        };
        Ok(Self {
            raw,
            name,
            datatype,
            shape,
            n_bytes,
            n_buffers,
        })
    }

    /// Copies the tensor, unless it is too long.
    fn read(self, max_bytes: usize) -> Result<Tensor, Error> {
        let datatype = datatype::from_triton(self.datatype).ok_or_else(|| {
            let (name, number) = (&self.name, self.datatype);
            let message = format!("input '{name}' is of type {number}, which is unknown");
            Error::new(Code::InvalidArg, message)
        })?;
        let n_bytes = match datatype {
            // The length in front of a text is not the client's.
            DataType::Bytes => self.n_bytes.saturating_sub(LENGTH_BYTES as u64),
            _ => self.n_bytes,
        };
        check_length(&self.name, n_bytes, max_bytes)?;
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
                    let message = format!(
                        "input '{}' lies in GPU memory: must be CPU memory",
                        self.name
                    );
                    return Err(Error::new(Code::InvalidArg, message));
                }
                if n_bytes > 0 && !buffer.is_null() {
                    let n_bytes = usize::try_from(n_bytes).unwrap_or(usize::MAX);
                    bytes.extend_from_slice(std::slice::from_raw_parts(buffer.cast(), n_bytes));
                }
            }
        }
        let data = match datatype {
            DataType::Bytes => Data::Bytes(split_elements(&self.name, &bytes)?),
            datatype => Data::Numbers(datatype, bytes),
        };
        Ok(Tensor {
            name: self.name.into(),
            shape: self.shape,
            data,
        })
    }
}

impl From<TensorError> for Error {
    fn from(error: TensorError) -> Self {
        Self::new(Code::InvalidArg, error.to_string())
    }
}
