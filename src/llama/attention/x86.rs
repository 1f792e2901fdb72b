//! The vector instructions of x86-64 that attention is computed with.
//!
//! A vector is made of a word for it that the processor has its instructions, [`HasAvx2`] or [`HasAvx512`],
//! or of other vectors. So wherever one is, they are there.

use std::arch::x86_64::*;

use super::strip::{Eight, Load, Strip};
use crate::llama::exp::Lanes;

/// The processor has AVX2, FMA and F16C.
///
/// # Invariants
/// It is made where that is so, and nowhere else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HasAvx2(());

/// The processor also has AVX-512.
///
/// # Invariants
/// As for [`HasAvx2`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HasAvx512(HasAvx2);

impl HasAvx2 {
    /// `None` where it has not.
    pub(super) fn here() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has_all.then_some(Self(()))
    }
}

impl HasAvx512 {
    /// `None` where it has not.
    pub(super) fn here() -> Option<Self> {
        let has_avx2 = HasAvx2::here()?;
        is_x86_feature_detected!("avx512f").then_some(Self(has_avx2))
    }
}

/// Computes in registers: for intrinsics that take and give numbers and vectors, and no address.
macro_rules! in_registers {
    ($computed:expr) => {
        // SAFETY: without an address, all that an intrinsic asks for is that the processor has the instruction.
        // The function has a vector of this file or a word for its instructions, so it has.
        unsafe { $computed }
    };
}

/// One register of AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// Two registers of AVX.
#[derive(Clone, Copy)]
pub(super) struct Avx2(Avx, Avx);

/// One register of AVX, half a strip.
#[derive(Clone, Copy)]
pub(super) struct Avx(__m256);

impl Lanes for Avx512 {
    #[inline(always)]
    fn all(self, number: f32) -> Self {
        Self(in_registers!(_mm512_set1_ps(number)))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(in_registers!(_mm512_add_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        Self(in_registers!(_mm512_mul_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn multiply_add(self, factor: Self, summand: Self) -> Self {
        Self(in_registers!(_mm512_fmadd_ps(self.0, factor.0, summand.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(in_registers!(_mm512_max_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn power_of_lowest_bits(self) -> Self {
        Self(in_registers!({
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.0));
            let one = _mm512_castps_si512(_mm512_set1_ps(1.0));
            _mm512_castsi512_ps(_mm512_add_epi32(shifted, one))
        }))
    }
}

impl Load for Avx512 {
    type Here = HasAvx512;
    const N: usize = 16;

    #[inline(always)]
    unsafe fn load(_: HasAvx512, numbers: *const f32) -> Self {
        // SAFETY: the processor has AVX-512, and 16 numbers can be read, says the caller.
        Self(unsafe { _mm512_loadu_ps(numbers) })
    }

    #[inline(always)]
    unsafe fn load_half(_: HasAvx512, numbers: *const u16) -> Self {
        // SAFETY: the processor has AVX-512, and 16 numbers of two bytes can be read, says the caller: the 32
        // bytes that are loaded.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(numbers.cast())) })
    }

    #[inline(always)]
    unsafe fn store(self, numbers: *mut f32) {
        // SAFETY: there is a vector, so the processor has AVX-512; 16 numbers can be written, says the caller.
        unsafe { _mm512_storeu_ps(numbers, self.0) };
    }
}

impl Strip for Avx512 {
    type Eight = Avx;

    #[inline(always)]
    fn eight(here: HasAvx512) -> HasAvx2 {
        here.0
    }

    #[inline(always)]
    fn splat(_: HasAvx512, number: f32) -> Self {
        Self(in_registers!(_mm512_set1_ps(number)))
    }

    #[inline(always)]
    fn where_bits(self, bits: u16, other: f32) -> Self {
        Self(in_registers!(_mm512_mask_blend_ps(
            bits,
            _mm512_set1_ps(other),
            self.0
        )))
    }

    #[inline(always)]
    fn highest(self) -> f32 {
        in_registers!(_mm512_reduce_max_ps(self.0))
    }

    #[inline(always)]
    fn total(self) -> f32 {
        in_registers!(_mm512_reduce_add_ps(self.0))
    }

    #[inline(always)]
    fn totals(strips: [Self; 4]) -> [f32; 4] {
        let [a, b, c, d] = strips;
        totals([a.folded(), b.folded(), c.folded(), d.folded()])
    }

    #[inline(always)]
    fn call<T>(_: HasAvx512, closure: impl FnOnce() -> T) -> T {
        #[target_feature(enable = "avx512f,avx2,fma,f16c")]
        fn with_avx512<T>(closure: impl FnOnce() -> T) -> T {
            closure()
        }
        // SAFETY: the processor has what the function is compiled for.
        unsafe { with_avx512(closure) }
    }
}

impl Avx512 {
    /// One half added to the other.
    #[inline(always)]
    fn folded(self) -> Avx {
        Avx(in_registers!({
            let upper = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0));
            _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm256_castpd_ps(upper))
        }))
    }
}

impl Lanes for Avx {
    #[inline(always)]
    fn all(self, number: f32) -> Self {
        Self(in_registers!(_mm256_set1_ps(number)))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(in_registers!(_mm256_add_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        Self(in_registers!(_mm256_mul_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn multiply_add(self, factor: Self, summand: Self) -> Self {
        Self(in_registers!(_mm256_fmadd_ps(self.0, factor.0, summand.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(in_registers!(_mm256_max_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn power_of_lowest_bits(self) -> Self {
        Self(in_registers!({
            let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(self.0));
            let one = _mm256_castps_si256(_mm256_set1_ps(1.0));
            _mm256_castsi256_ps(_mm256_add_epi32(shifted, one))
        }))
    }
}

impl Load for Avx {
    type Here = HasAvx2;
    const N: usize = 8;

    #[inline(always)]
    unsafe fn load(_: HasAvx2, numbers: *const f32) -> Self {
        // SAFETY: the processor has AVX, and 8 numbers can be read, says the caller.
        Self(unsafe { _mm256_loadu_ps(numbers) })
    }

    #[inline(always)]
    unsafe fn load_half(_: HasAvx2, numbers: *const u16) -> Self {
        // SAFETY: the processor has F16C, and 8 numbers of two bytes can be read, says the caller: the 16 bytes
        // that are loaded.
        Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(numbers.cast())) })
    }

    #[inline(always)]
    unsafe fn store(self, numbers: *mut f32) {
        // SAFETY: there is a vector, so the processor has AVX; 8 numbers can be written, says the caller.
        unsafe { _mm256_storeu_ps(numbers, self.0) };
    }
}

impl Avx {
    /// These numbers where there is a bit, and `other` elsewhere.
    #[inline(always)]
    fn where_bits(self, bits: u16, other: f32) -> Self {
        Self(in_registers!({
            let places = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_and_si256(_mm256_set1_epi32(i32::from(bits)), places);
            let has = _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, places));
            _mm256_blendv_ps(_mm256_set1_ps(other), self.0, has)
        }))
    }
}

impl Lanes for Avx2 {
    #[inline(always)]
    fn all(self, number: f32) -> Self {
        let all = self.0.all(number);
        Self(all, all)
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0.add(other.0), self.1.add(other.1))
    }

    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        Self(self.0.multiply(other.0), self.1.multiply(other.1))
    }

    #[inline(always)]
    fn multiply_add(self, factor: Self, summand: Self) -> Self {
        Self(
            self.0.multiply_add(factor.0, summand.0),
            self.1.multiply_add(factor.1, summand.1),
        )
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(self.0.max(other.0), self.1.max(other.1))
    }

    #[inline(always)]
    fn power_of_lowest_bits(self) -> Self {
        Self(self.0.power_of_lowest_bits(), self.1.power_of_lowest_bits())
    }
}

impl Load for Avx2 {
    type Here = HasAvx2;
    const N: usize = 16;

    #[inline(always)]
    unsafe fn load(here: HasAvx2, numbers: *const f32) -> Self {
        // SAFETY: 16 numbers can be read, says the caller: 8, and 8 more behind them.
        unsafe { Self(Avx::load(here, numbers), Avx::load(here, numbers.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_half(here: HasAvx2, numbers: *const u16) -> Self {
        // SAFETY: as above, of two bytes each.
        unsafe {
            Self(
                Avx::load_half(here, numbers),
                Avx::load_half(here, numbers.add(8)),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(self, numbers: *mut f32) {
        // SAFETY: 16 numbers can be written, says the caller: 8, and 8 more behind them.
        unsafe {
            self.0.store(numbers);
            self.1.store(numbers.add(8));
        }
    }
}

impl Strip for Avx2 {
    type Eight = Avx;

    #[inline(always)]
    fn eight(here: HasAvx2) -> HasAvx2 {
        here
    }

    #[inline(always)]
    fn splat(_: HasAvx2, number: f32) -> Self {
        let all = Avx(in_registers!(_mm256_set1_ps(number)));
        Self(all, all)
    }

    #[inline(always)]
    fn where_bits(self, bits: u16, other: f32) -> Self {
        Self(
            self.0.where_bits(bits, other),
            self.1.where_bits(bits >> 8, other),
        )
    }

    #[inline(always)]
    fn highest(self) -> f32 {
        let Avx(eight) = self.0.max(self.1);
        in_registers!({
            let four = _mm_max_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }

    #[inline(always)]
    fn total(self) -> f32 {
        let Avx(eight) = self.0.add(self.1);
        in_registers!({
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        })
    }

    #[inline(always)]
    fn totals(strips: [Self; 4]) -> [f32; 4] {
        let [a, b, c, d] = strips;
        totals([a.0.add(a.1), b.0.add(b.1), c.0.add(c.1), d.0.add(d.1)])
    }

    #[inline(always)]
    fn call<T>(_: HasAvx2, closure: impl FnOnce() -> T) -> T {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn with_avx2<T>(closure: impl FnOnce() -> T) -> T {
            closure()
        }
        // SAFETY: the processor has what the function is compiled for.
        unsafe { with_avx2(closure) }
    }
}

/// All of each together.
#[inline(always)]
fn totals([a, b, c, d]: [Avx; 4]) -> [f32; 4] {
    let four = in_registers!({
        let ab = _mm256_add_ps(_mm256_unpacklo_ps(a.0, b.0), _mm256_unpackhi_ps(a.0, b.0));
        let cd = _mm256_add_ps(_mm256_unpacklo_ps(c.0, d.0), _mm256_unpackhi_ps(c.0, d.0));
        let low = _mm256_shuffle_ps::<0x44>(ab, cd);
        let high = _mm256_shuffle_ps::<0xEE>(ab, cd);
        let fours = _mm256_add_ps(low, high);
        let upper = _mm256_extractf128_ps::<1>(fours);
        _mm_add_ps(_mm256_castps256_ps128(fours), upper)
    });
    let mut totals = [0.0; 4];
    // SAFETY: every x86-64 has the instruction, and the array has room for four numbers.
    unsafe { _mm_storeu_ps(totals.as_mut_ptr(), four) };
    totals
}

impl Eight for Avx {
    #[inline(always)]
    fn turn(a: [Self; 8]) -> [Self; 8] {
        let b = [
            in_registers!(_mm256_unpacklo_ps(a[0].0, a[1].0)),
            in_registers!(_mm256_unpackhi_ps(a[0].0, a[1].0)),
            in_registers!(_mm256_unpacklo_ps(a[2].0, a[3].0)),
            in_registers!(_mm256_unpackhi_ps(a[2].0, a[3].0)),
            in_registers!(_mm256_unpacklo_ps(a[4].0, a[5].0)),
            in_registers!(_mm256_unpackhi_ps(a[4].0, a[5].0)),
            in_registers!(_mm256_unpacklo_ps(a[6].0, a[7].0)),
            in_registers!(_mm256_unpackhi_ps(a[6].0, a[7].0)),
        ];
        let c = [
            in_registers!(_mm256_shuffle_ps::<0x44>(b[0], b[2])),
            in_registers!(_mm256_shuffle_ps::<0xEE>(b[0], b[2])),
            in_registers!(_mm256_shuffle_ps::<0x44>(b[1], b[3])),
            in_registers!(_mm256_shuffle_ps::<0xEE>(b[1], b[3])),
            in_registers!(_mm256_shuffle_ps::<0x44>(b[4], b[6])),
            in_registers!(_mm256_shuffle_ps::<0xEE>(b[4], b[6])),
            in_registers!(_mm256_shuffle_ps::<0x44>(b[5], b[7])),
            in_registers!(_mm256_shuffle_ps::<0xEE>(b[5], b[7])),
        ];
        let mut turned = a;
        for row in 0..4 {
            let (above, below) = (c[row], c[row + 4]);
            turned[row].0 = in_registers!(_mm256_permute2f128_ps::<0x20>(above, below));
            turned[row + 4].0 = in_registers!(_mm256_permute2f128_ps::<0x31>(above, below));
        }
        turned
    }
}

/// Has what is at an address come nearer.
#[inline(always)]
pub(super) fn prefetch(address: *const u8) {
    // SAFETY: every x86-64 has the instruction, which takes any address and reads nothing that a program sees.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
}
