//! The vector instructions of aarch64 that attention is computed with.
//!
//! Every processor of this architecture has them: nobody needs to give a word for it.

use std::arch::aarch64::*;
use std::arch::asm;
use std::array;

use super::strip::{Eight, Load, STRIP, Strip};
use crate::llama::exp::Lanes;

/// Computes in registers: for intrinsics that take and give numbers and vectors, and no address.
macro_rules! in_registers {
    ($computed:expr) => {
        // SAFETY: without an address, all that an intrinsic asks for is that the processor has the instruction,
        // and every processor of this architecture has.
        unsafe { $computed }
    };
}

/// A strip, in registers of four numbers.
pub(super) type Neon = [float32x4_t; STRIP / 4];

/// From half precision.
#[inline(always)]
fn widened(halves: uint16x4_t) -> float32x4_t {
    let numbers;
    // The intrinsic is younger than the oldest compiler that we build with.
    // SAFETY: it computes one register from another.
    unsafe {
        asm!(
            "fcvtl {numbers:v}.4s, {halves:v}.4h",
            numbers = out(vreg) numbers,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    numbers
}

impl<const REGISTERS: usize> Load for [float32x4_t; REGISTERS] {
    type Here = ();
    const N: usize = 4 * REGISTERS;

    #[inline(always)]
    unsafe fn load((): (), numbers: *const f32) -> Self {
        // SAFETY: `at` is below `REGISTERS`, so these four end within the `N` that can be read, says the caller.
        array::from_fn(|at| unsafe { vld1q_f32(numbers.add(4 * at)) })
    }

    #[inline(always)]
    unsafe fn load_half((): (), numbers: *const u16) -> Self {
        // SAFETY: as above, of two bytes each.
        array::from_fn(|at| widened(unsafe { vld1_u16(numbers.add(4 * at)) }))
    }

    #[inline(always)]
    unsafe fn store(self, numbers: *mut f32) {
        for (at, four) in self.into_iter().enumerate() {
            // SAFETY: `at` is below `REGISTERS`, so these four end within the `N` that can be written, says the
            // caller.
            unsafe { vst1q_f32(numbers.add(4 * at), four) };
        }
    }
}

impl Lanes for Neon {
    #[inline(always)]
    fn all(self, number: f32) -> Self {
        Self::splat((), number)
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        array::from_fn(|at| add(self[at], other[at]))
    }

    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        array::from_fn(|at| in_registers!(vmulq_f32(self[at], other[at])))
    }

    #[inline(always)]
    fn multiply_add(self, factor: Self, summand: Self) -> Self {
        array::from_fn(|at| in_registers!(vfmaq_f32(summand[at], self[at], factor[at])))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        array::from_fn(|at| higher(self[at], other[at]))
    }

    #[inline(always)]
    fn power_of_lowest_bits(self) -> Self {
        self.map(|four| {
            in_registers!({
                let shifted = vshlq_n_s32::<23>(vreinterpretq_s32_f32(four));
                let one = vreinterpretq_s32_f32(vdupq_n_f32(1.0));
                vreinterpretq_f32_s32(vaddq_s32(shifted, one))
            })
        })
    }
}

impl Strip for Neon {
    type Eight = [float32x4_t; 2];

    #[inline(always)]
    fn eight((): ()) {}

    #[inline(always)]
    fn splat((): (), number: f32) -> Self {
        [in_registers!(vdupq_n_f32(number)); STRIP / 4]
    }

    #[inline(always)]
    fn where_bits(self, bits: u16, other: f32) -> Self {
        let places: [u32; STRIP] = array::from_fn(|at| 1 << at);
        array::from_fn(|at| {
            // SAFETY: `at` is below `STRIP / 4`, so four of the `STRIP` places can be read from there on.
            let places = unsafe { vld1q_u32(places.as_ptr().add(4 * at)) };
            in_registers!({
                let has = vtstq_u32(vdupq_n_u32(u32::from(bits)), places);
                vbslq_f32(has, self[at], vdupq_n_f32(other))
            })
        })
    }

    #[inline(always)]
    fn highest(self) -> f32 {
        fold(self, higher)
    }

    #[inline(always)]
    fn total(self) -> f32 {
        fold(self, add)
    }

    #[inline(always)]
    fn totals(strips: [Self; 4]) -> [f32; 4] {
        let mut totals = [0.0; 4];
        let fours = [0, 1].map(|half| {
            let [a, b, c, d] = strips.map(|strip| add(strip[half], strip[half + 2]));
            let (ab, cd) = in_registers!((
                add(vzip1q_f32(a, b), vzip2q_f32(a, b)),
                add(vzip1q_f32(c, d), vzip2q_f32(c, d)),
            ));
            add(low(ab, cd), high(ab, cd))
        });
        // SAFETY: the array has room for four numbers.
        unsafe { vst1q_f32(totals.as_mut_ptr(), add(fours[0], fours[1])) };
        totals
    }

    #[inline(always)]
    fn call<T>((): (), closure: impl FnOnce() -> T) -> T {
        closure()
    }
}

impl Eight for [float32x4_t; 2] {
    #[inline(always)]
    fn turn([a, b, c, d, e, f, g, h]: [Self; 8]) -> [Self; 8] {
        let quarter = |rows: [Self; 4], half: usize| turn_four(rows.map(|row| row[half]));
        let halves = [0, 1].map(|half| {
            let (above, below) = (quarter([a, b, c, d], half), quarter([e, f, g, h], half));
            array::from_fn::<_, 4, _>(|row| [above[row], below[row]])
        });
        array::from_fn(|row| halves[row / 4][row % 4])
    }
}

#[inline(always)]
fn turn_four([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let [even, odd, even_below, odd_below] = in_registers!([
        vtrn1q_f32(a, b),
        vtrn2q_f32(a, b),
        vtrn1q_f32(c, d),
        vtrn2q_f32(c, d),
    ]);
    [
        low(even, even_below),
        low(odd, odd_below),
        high(even, even_below),
        high(odd, odd_below),
    ]
}

/// The first halves of both.
#[inline(always)]
fn low(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    in_registers!(vcombine_f32(vget_low_f32(a), vget_low_f32(b)))
}

/// The last halves of both.
#[inline(always)]
fn high(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    in_registers!(vcombine_f32(vget_high_f32(a), vget_high_f32(b)))
}

#[inline(always)]
fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    in_registers!(vaddq_f32(a, b))
}

/// The larger one of each two, `b`'s where one of them is no number; `vmaxq_f32` is no number then.
#[inline(always)]
fn higher(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    in_registers!(vbslq_f32(vcgtq_f32(a, b), a, b))
}

/// All as one, half of them joined to the other half, and so on.
#[inline(always)]
fn fold([a, b, c, d]: Neon, join: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> f32 {
    let four = join(join(a, c), join(b, d));
    in_registers!({
        let two = join(four, vextq_f32::<2>(four, four));
        vgetq_lane_f32::<0>(join(two, vextq_f32::<1>(two, two)))
    })
}

/// Has what is at an address come nearer.
#[inline(always)]
pub(super) fn prefetch(address: *const u8) {
    // SAFETY: the instruction takes any address, and changes nothing that a program sees.
    unsafe {
        asm!(
            "prfm pldl2keep, [{address}]",
            address = in(reg) address,
            options(readonly, nostack, preserves_flags),
        );
    }
}
