//! What a request may be at most.

/// Bytes of text one request may carry where the configuration does not say otherwise.
pub const DEFAULT_MAX_PROMPT_BYTES: usize = 8 * 1024 * 1024;
/// Messages one request may carry.
pub const MAX_MESSAGES: usize = 4096;
/// Bytes of the JSON that carries sampling parameters.
pub const MAX_SAMPLING_JSON_BYTES: usize = 64 * 1024;
/// Parameters in one request, or keys in its sampling JSON.
pub const MAX_PARAMETERS: usize = 64;
/// Stop strings of one request.
pub const MAX_STOP_STRINGS: usize = 32;
/// Bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 1024;

/// The limits that depend on the model and its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Tokens one sequence may hold; the upper end of `max_tokens`.
    pub n_ctx: u32,
    /// Bytes `text_input` may have.
    pub max_prompt_bytes: usize,
}
