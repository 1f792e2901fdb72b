//! Memory that samplers work in, kept from token to token.

use super::draw::Scratch;
use super::logits::Segments;

/// Memory that all samplers of a thread share; it grows to one vocabulary at most and stays.
#[derive(Default)]
pub struct Buffers {
    pub(super) segments: Segments,
    pub(super) scratch: Scratch,
}
