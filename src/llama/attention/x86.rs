//! The vector instructions of x86-64 that attention is computed with.
//!
//! All of it needs AVX2, FMA and F16C, [`Avx512`] also AVX-512: whoever calls it has made sure of that.

use std::arch::x86_64::*;

use super::strip::{Eight, Load, Strip};
use crate::llama::exp::Lanes;

/// One register.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// Two registers.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

impl Lanes for Avx512 {
    #[inline(always)]
    fn splat(number: f32) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        Self(unsafe { _mm512_set1_ps(number) })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn multiply_add(self, factor: Self, summand: Self) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, summand.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn power_of_lowest_bits(self) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.0));
            let one = _mm512_castps_si512(_mm512_set1_ps(1.0));
            Self(_mm512_castsi512_ps(_mm512_add_epi32(shifted, one)))
        }
    }
}

impl Load for Avx512 {
    #[inline(always)]
    unsafe fn load(numbers: *const f32) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        Self(unsafe { _mm512_loadu_ps(numbers) })
    }

    #[inline(always)]
    unsafe fn load_half(numbers: *const u16) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(numbers.cast())) })
    }

    #[inline(always)]
    unsafe fn store(self, numbers: *mut f32) {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe { _mm512_storeu_ps(numbers, self.0) };
    }
}

impl Strip for Avx512 {
    type Eight = __m256;

    #[inline(always)]
    fn where_bits(self, bits: u16, other: f32) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        Self(unsafe { _mm512_mask_blend_ps(bits, _mm512_set1_ps(other), self.0) })
    }

    #[inline(always)]
    fn highest(self) -> f32 {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    fn total(self) -> f32 {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn totals(strips: [Self; 4]) -> [f32; 4] {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            let mut halves = [_mm256_setzero_ps(); 4];
            for at in 0..4 {
                let strip = strips[at].0;
                let upper = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(strip));
                halves[at] = _mm256_add_ps(_mm512_castps512_ps256(strip), _mm256_castpd_ps(upper));
            }
            totals(halves)
        }
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    unsafe fn call<T>(closure: impl FnOnce() -> T) -> T {
        closure()
    }
}

impl Lanes for Avx2 {
    #[inline(always)]
    fn splat(number: f32) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        let all = unsafe { _mm256_set1_ps(number) };
        Self(all, all)
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            Self(
                _mm256_add_ps(self.0, other.0),
                _mm256_add_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            Self(
                _mm256_mul_ps(self.0, other.0),
                _mm256_mul_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    fn multiply_add(self, factor: Self, summand: Self) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            Self(
                _mm256_fmadd_ps(self.0, factor.0, summand.0),
                _mm256_fmadd_ps(self.1, factor.1, summand.1),
            )
        }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            Self(
                _mm256_max_ps(self.0, other.0),
                _mm256_max_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    fn power_of_lowest_bits(self) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        let half = |half| unsafe {
            let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(half));
            let one = _mm256_castps_si256(_mm256_set1_ps(1.0));
            _mm256_castsi256_ps(_mm256_add_epi32(shifted, one))
        };
        Self(half(self.0), half(self.1))
    }
}

impl Load for Avx2 {
    #[inline(always)]
    unsafe fn load(numbers: *const f32) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe { Self(_mm256_loadu_ps(numbers), _mm256_loadu_ps(numbers.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_half(numbers: *const u16) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            Self(
                __m256::load_half(numbers),
                __m256::load_half(numbers.add(8)),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(self, numbers: *mut f32) {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            _mm256_storeu_ps(numbers, self.0);
            _mm256_storeu_ps(numbers.add(8), self.1);
        }
    }
}

impl Strip for Avx2 {
    type Eight = __m256;

    #[inline(always)]
    fn where_bits(self, bits: u16, other: f32) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        let half = |half, bits: u16| unsafe {
            let places = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_and_si256(_mm256_set1_epi32(i32::from(bits)), places);
            let has = _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, places));
            _mm256_blendv_ps(_mm256_set1_ps(other), half, has)
        };
        Self(half(self.0, bits), half(self.1, bits >> 8))
    }

    #[inline(always)]
    fn highest(self) -> f32 {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn total(self) -> f32 {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn totals(strips: [Self; 4]) -> [f32; 4] {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            let mut halves = [_mm256_setzero_ps(); 4];
            for at in 0..4 {
                halves[at] = _mm256_add_ps(strips[at].0, strips[at].1);
            }
            totals(halves)
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn call<T>(closure: impl FnOnce() -> T) -> T {
        closure()
    }
}

/// All of each together.
#[inline(always)]
unsafe fn totals([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    let mut totals = [0.0; 4];
    // SAFETY: the processor has it, and the caller has made sure of the rest.
    unsafe {
        let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let low = _mm256_shuffle_ps::<0x44>(ab, cd);
        let high = _mm256_shuffle_ps::<0xEE>(ab, cd);
        let fours = _mm256_add_ps(low, high);
        let upper = _mm256_extractf128_ps::<1>(fours);
        _mm_storeu_ps(
            totals.as_mut_ptr(),
            _mm_add_ps(_mm256_castps256_ps128(fours), upper),
        );
    }
    totals
}

impl Load for __m256 {
    #[inline(always)]
    unsafe fn load(numbers: *const f32) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe { _mm256_loadu_ps(numbers) }
    }

    #[inline(always)]
    unsafe fn load_half(numbers: *const u16) -> Self {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(numbers.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, numbers: *mut f32) {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe { _mm256_storeu_ps(numbers, self) };
    }
}

impl Eight for __m256 {
    #[inline(always)]
    fn turn(a: [Self; 8]) -> [Self; 8] {
        // SAFETY: the processor has it, and the caller has made sure of the rest.
        unsafe {
            let b = [
                _mm256_unpacklo_ps(a[0], a[1]),
                _mm256_unpackhi_ps(a[0], a[1]),
                _mm256_unpacklo_ps(a[2], a[3]),
                _mm256_unpackhi_ps(a[2], a[3]),
                _mm256_unpacklo_ps(a[4], a[5]),
                _mm256_unpackhi_ps(a[4], a[5]),
                _mm256_unpacklo_ps(a[6], a[7]),
                _mm256_unpackhi_ps(a[6], a[7]),
            ];
            let c = [
                _mm256_shuffle_ps::<0x44>(b[0], b[2]),
                _mm256_shuffle_ps::<0xEE>(b[0], b[2]),
                _mm256_shuffle_ps::<0x44>(b[1], b[3]),
                _mm256_shuffle_ps::<0xEE>(b[1], b[3]),
                _mm256_shuffle_ps::<0x44>(b[4], b[6]),
                _mm256_shuffle_ps::<0xEE>(b[4], b[6]),
                _mm256_shuffle_ps::<0x44>(b[5], b[7]),
                _mm256_shuffle_ps::<0xEE>(b[5], b[7]),
            ];
            let mut turned = [_mm256_setzero_ps(); 8];
            for row in 0..4 {
                turned[row] = _mm256_permute2f128_ps::<0x20>(c[row], c[row + 4]);
                turned[row + 4] = _mm256_permute2f128_ps::<0x31>(c[row], c[row + 4]);
            }
            turned
        }
    }
}

/// Has what is at an address come nearer.
#[inline(always)]
pub(super) fn prefetch(address: *const u8) {
    // SAFETY: no address is wrong for this.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
}
