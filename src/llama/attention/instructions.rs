//! Which vector instructions attention is computed with: the best that this processor has.
//!
//! Asked where a model is loaded and a context is made.

/// What a processor can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// What the library is built for.
    Scalar,
}

impl Instructions {
    /// Those of this architecture, the best first.
    const ALL: &[Self] = &[
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
        Self::Scalar,
    ];

    /// Those of this processor, the best first.
    pub(super) fn here() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|this| this.are_here())
    }

    /// The best of this processor.
    pub(super) fn best() -> Self {
        Self::here().next().unwrap_or(Self::Scalar)
    }

    fn are_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let has_avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => has_avx2 && is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => has_avx2,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            Self::Scalar => true,
        }
    }
}
