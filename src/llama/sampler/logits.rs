//! A row of logits, read in segments of which only the changed ones are copied.
//!
//! The sampler makes one for each token, on any thread. Finds what is at the top of a row of any
//! length by looking at each segment's highest logit first.

use multiversion::multiversion;

use super::candidates::Candidate;
use crate::engine::Token;
use crate::llama::error::SampleError;

/// Logits of a segment.
pub(super) const SEGMENT: usize = 64;

/// Numbers computed with at a time: enough for any vector unit.
pub(super) const N_LANES: usize = 16;

/// Memory of a [`Logits`], kept from token to token.
#[derive(Default)]
pub(super) struct Segments {
    /// The highest logit of each segment.
    max: Vec<f32>,
    /// For each segment, which of `changed` has its place.
    place: Vec<Option<usize>>,
    changed: Vec<(usize, [f32; SEGMENT])>,
}

/// A row of logits that can be changed here and there.
pub struct Logits<'a> {
    row: &'a [f32],
    segments: &'a mut Segments,
}

impl<'a> Logits<'a> {
    pub(super) fn new(row: &'a [f32], segments: &'a mut Segments) -> Self {
        segments.changed.clear();
        segments.place.clear();
        segments.place.resize(row.len().div_ceil(SEGMENT), None);
        Self { row, segments }
    }

    /// The logit of a token, to be changed; none of a token that is not in the row.
    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut f32> {
        let index = usize::try_from(token.0).ok()?;
        if index >= self.row.len() {
            return None;
        }
        let segment_idx = index / SEGMENT;
        let segments = &mut *self.segments;
        let place = *segments.place[segment_idx].get_or_insert_with(|| {
            let mut copy = [f32::NEG_INFINITY; SEGMENT];
            let segment = &self.row[segment_idx * SEGMENT..];
            let segment = &segment[..segment.len().min(SEGMENT)];
            copy[..segment.len()].copy_from_slice(segment);
            segments.changed.push((segment_idx, copy));
            segments.changed.len() - 1
        });
        Some(&mut segments.changed[place].1[index % SEGMENT])
    }

    /// Reads the row, once it is as it shall be.
    pub(super) fn scan(self) -> Result<Scanned<'a>, SampleError> {
        let Self { row, segments } = self;
        let (full, rest) = row.as_chunks::<SEGMENT>();
        segments.max.clear();
        segments.max.resize(full.len(), f32::NEG_INFINITY);
        highest_of_each(full, &mut segments.max);
        if !rest.is_empty() {
            segments.max.push(highest(rest));
        }
        for (segment_idx, segment) in &segments.changed {
            segments.max[*segment_idx] = highest(segment);
        }
        let max = highest(&segments.max);
        if max.is_nan() || max == f32::INFINITY {
            return Err(SampleError::NotANumber);
        }
        if max == f32::NEG_INFINITY {
            return Err(SampleError::NoCandidates);
        }
        Ok(Scanned { row, segments, max })
    }
}

/// A row of which each segment's highest logit is known; all are numbers, and one is finite.
pub(super) struct Scanned<'a> {
    row: &'a [f32],
    segments: &'a Segments,
    max: f32,
}

impl Scanned<'_> {
    /// The highest logit.
    pub(super) fn max(&self) -> f32 {
        self.max
    }

    /// The token with the highest logit, the lowest of several.
    pub(super) fn best(&self) -> Token {
        let in_it = |logits: &[f32]| logits.iter().position(|&logit| logit == self.max);
        let found = in_it(&self.segments.max).and_then(|segment_idx| {
            let index = in_it(self.segment(segment_idx))?;
            Some(Token((segment_idx * SEGMENT + index) as i32))
        });
        found.expect("the maximum is one of the logits")
    }

    /// A logit that at least `n` tokens reach, 256 at most; as high a one as is easily found.
    pub(super) fn reached_by(&self, n: usize) -> f32 {
        let mut groups = [f32::NEG_INFINITY; 256];
        for maxima in self.segments.max.chunks(groups.len()) {
            for (group, &max) in groups.iter_mut().zip(maxima) {
                *group = higher(*group, max);
            }
        }
        let (_, nth, _) = groups.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a));
        *nth
    }

    /// The segments in their order.
    pub(super) fn segments(&self) -> impl Iterator<Item = &[f32]> {
        (0..self.segments.max.len()).map(|segment_idx| self.segment(segment_idx))
    }

    /// The tokens with a logit of at least `floor`, in their order.
    pub(super) fn at_least(&self, floor: f32) -> impl Iterator<Item = Candidate> {
        let maxima = self.segments.max.iter().enumerate();
        maxima
            .filter(move |(_, max)| **max >= floor)
            .flat_map(|(segment_idx, _)| self.candidates(segment_idx))
            .filter(move |candidate| candidate.logit >= floor)
    }

    /// Hands `visit` every candidate above `floor`, which it may raise, in the tokens' order.
    #[inline]
    pub(super) fn visit_above(&self, mut floor: f32, mut visit: impl FnMut(Candidate) -> f32) {
        for (segment_idx, &max) in self.segments.max.iter().enumerate() {
            if max > floor {
                for candidate in self.candidates(segment_idx) {
                    if candidate.logit > floor {
                        floor = visit(candidate);
                    }
                }
            }
        }
    }

    fn segment(&self, segment_idx: usize) -> &[f32] {
        let start = segment_idx * SEGMENT;
        let n_logits = SEGMENT.min(self.row.len() - start);
        match self.segments.place[segment_idx] {
            Some(place) => &self.segments.changed[place].1[..n_logits],
            None => &self.row[start..start + n_logits],
        }
    }

    /// The tokens of a segment.
    pub(super) fn candidates(&self, segment_idx: usize) -> impl Iterator<Item = Candidate> {
        let ids = (segment_idx * SEGMENT) as i32..;
        ids.zip(self.segment(segment_idx))
            .map(|(id, &logit)| Candidate {
                token: Token(id),
                logit,
            })
    }
}

/// The highest logit of each segment, see [`highest`].
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "x86_64+sse4.1"))]
fn highest_of_each(segments: &[[f32; SEGMENT]], max: &mut [f32]) {
    for (max, segment) in max.iter_mut().zip(segments) {
        *max = highest(segment);
    }
}

/// The highest of some logits; NaN if one is.
///
/// As whole numbers of the same order, of which a compiler may join the maxima in any order, and so
/// many at a time.
#[inline(always)]
fn highest(logits: &[f32]) -> f32 {
    let mut max = ordered(f32::NEG_INFINITY.to_bits() as i32);
    let mut size = 0;
    for logit in logits {
        let bits = logit.to_bits() as i32;
        max = max.max(ordered(bits));
        size = size.max(bits & i32::MAX);
    }
    if size > f32::INFINITY.to_bits() as i32 {
        return f32::NAN;
    }
    f32::from_bits(ordered(max) as u32)
}

/// A number's bits to a whole number of the same order, and back.
#[inline(always)]
fn ordered(bits: i32) -> i32 {
    bits ^ (bits >> 31 & i32::MAX)
}

/// The higher of two numbers; unlike `f32::max` it is one instruction.
#[inline(always)]
pub(super) fn higher(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// All lanes as one, halves upon halves rather than one after the other.
#[inline(always)]
pub(super) fn fold<T: Copy>(mut lanes: [T; N_LANES], join: impl Fn(T, T) -> T) -> T {
    let mut n_lanes = N_LANES;
    while n_lanes > 1 {
        n_lanes /= 2;
        for lane in 0..n_lanes {
            lanes[lane] = join(lanes[lane], lanes[lane + n_lanes]);
        }
    }
    lanes[0]
}
