//! What llama.cpp makes of a cache type: its number, and the bytes of its blocks.
//!
//! Called where a model is read and a context is made, on any thread. The type itself, and what configurations
//! call it, is `config`'s.

use llama_cpp_sys_2 as sys;

use super::CacheType;

impl CacheType {
    /// The bytes of `n_values` numbers, whole blocks counted.
    pub(super) fn n_bytes(self, n_values: u64) -> u64 {
        let raw = self.raw();
        // SAFETY: both only look a valid type up in a constant table.
        let (block, bytes) = unsafe { (sys::ggml_blck_size(raw), sys::ggml_type_size(raw)) };
        n_values.div_ceil(block.max(1).unsigned_abs()) * bytes as u64
    }

    /// llama.cpp's number for it.
    pub(super) fn raw(self) -> sys::ggml_type {
        match self {
            Self::F32 => sys::GGML_TYPE_F32,
            Self::F16 => sys::GGML_TYPE_F16,
            Self::Bf16 => sys::GGML_TYPE_BF16,
            Self::Q8_0 => sys::GGML_TYPE_Q8_0,
            Self::Q5_1 => sys::GGML_TYPE_Q5_1,
            Self::Q5_0 => sys::GGML_TYPE_Q5_0,
            Self::Q4_1 => sys::GGML_TYPE_Q4_1,
            Self::Q4_0 => sys::GGML_TYPE_Q4_0,
            Self::Iq4Nl => sys::GGML_TYPE_IQ4_NL,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn every_configured_cache_type_is_known() {
        for kind in CacheType::ALL {
            // SAFETY: the number is a valid type's, and the name a constant C string.
            let name = unsafe { CStr::from_ptr(sys::ggml_type_name(kind.raw())) };
            assert_eq!(name.to_str(), Ok(kind.as_str()));
        }
    }
}
