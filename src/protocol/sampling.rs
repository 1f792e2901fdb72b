//! How the next token is chosen: what a request says of it.
//!
//! Filled by the table of parameters on an intake thread; the sampler of `llama` reads it.

/// Strings that may break a sequence for DRY: each costs a look at all of the vocabulary.
pub const MAX_BREAKERS: usize = 16;
/// Bytes of one, of which llama.cpp would read no more.
pub const MAX_BREAKER_BYTES: usize = 40;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub typical_p: f32,
    /// 0 is off.
    pub xtc_probability: f32,
    /// Above 0.5 is off.
    pub xtc_threshold: f32,
    pub mirostat: Mirostat,
    pub mirostat_tau: f32,
    pub mirostat_eta: f32,
    pub dry: DryParams,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// 0 is off.
    pub presence_penalty: f32,
    /// 0 is off.
    pub frequency_penalty: f32,
    /// `None` draws a new one for each request.
    pub seed: Option<u64>,
    /// Whether the model's end of text is no end.
    pub ignore_eos: bool,
    /// Tokens before which the end of text is no end; at most `max_tokens`.
    pub min_tokens: u32,
}

impl Default for SamplingParams {
    /// Draws from the model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            mirostat: Mirostat::Off,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            dry: DryParams::default(),
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            ignore_eos: false,
            min_tokens: 0,
        }
    }
}

/// Which mirostat draws, in place of the filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirostat {
    Off,
    V1,
    V2,
}

/// DRY, a penalty for tokens that would continue a repetition, in llama.cpp's terms.
#[derive(Clone, Debug, PartialEq)]
pub struct DryParams {
    /// 0 is off.
    pub multiplier: f32,
    pub base: f32,
    pub allowed_length: u32,
    /// 0 is off.
    pub penalty_last_n: u32,
    /// Each of 1 to [`MAX_BREAKER_BYTES`] bytes, at most [`MAX_BREAKERS`], without NUL.
    pub sequence_breakers: Vec<String>,
}

impl Default for DryParams {
    fn default() -> Self {
        Self {
            multiplier: 0.0,
            base: 1.75,
            allowed_length: 2,
            penalty_last_n: 64,
            sequence_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).into(),
        }
    }
}

impl DryParams {
    /// Whether it changes nothing.
    pub fn is_off(&self) -> bool {
        self.multiplier == 0.0 || self.penalty_last_n == 0
    }
}
