//! Which vector instructions attention is computed with: the best that this processor has.
//!
//! Asked where a model is loaded and a context is made.

#[cfg(target_arch = "x86_64")]
use super::x86::{HasAvx2, HasAvx512};

/// What a processor can do; there is none of a kind that this one has not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512(HasAvx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(HasAvx2),
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// What the library is built for.
    Scalar,
}

impl Instructions {
    /// Those of this processor, the best first.
    pub(super) fn here() -> impl Iterator<Item = Self> {
        let all = [
            #[cfg(target_arch = "x86_64")]
            HasAvx512::here().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            HasAvx2::here().map(Self::Avx2),
            #[cfg(target_arch = "aarch64")]
            Some(Self::Neon),
            Some(Self::Scalar),
        ];
        all.into_iter().flatten()
    }

    /// The best of this processor.
    pub(super) fn best() -> Self {
        Self::here().next().unwrap_or(Self::Scalar)
    }
}
