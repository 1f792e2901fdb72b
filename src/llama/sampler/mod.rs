//! From logits to a token: one [`Sampler`] for each sequence, in vLLM's terms.
//!
//! An intake thread makes a sampler for each sequence; the runner calls it once for each of its output
//! rows, on the worker thread or on one of the sampling threads. All comes in the order of llama.cpp's own
//! programs: penalties, DRY, bans, top_k, typical_p, top_p, min_p, XTC, temperature, draw. Mirostat stands in
//! place of the filters and the draw. What changes the row before them is a list of rules. Nothing here
//! reads a context, the clock or another sequence, so a seed gives the same tokens alone and in any batch,
//! as far as the logits are the same.
//!
//! | file | holds |
//! |---|---|
//! | `factory` | makes samplers: which rules, in which order |
//! | `vocabulary` | what rules are compiled from |
//! | `rules` | what changes a row: penalties, DRY, bans |
//! | `logits` | the row, and what is at its top |
//! | `draw` | filters, temperature and draw, or mirostat |
//! | `candidates` | tokens that may be chosen, and llama.cpp's samplers over them |
//! | `filters` | top_k, top_p, min_p |
//! | `exp` | exponentials of many logits at a time |
//! | `chance` | the draw with llama.cpp's random numbers |
//! | `mirostat` | mirostat's first version |
//! | `buffers`, `threads` | the memory and the threads to sample with |

mod buffers;
mod candidates;
mod chance;
mod draw;
mod exp;
mod factory;
mod filters;
mod logits;
mod mirostat;
mod rules;
mod threads;
mod vocabulary;

#[cfg(test)]
mod tests;

pub use self::buffers::Buffers;
use self::draw::Draw;
pub use self::factory::SamplerFactory;
use self::logits::Logits;
use self::rules::Rule;
pub use self::threads::SamplingThreads;
pub use self::vocabulary::Vocabulary;
use super::error::SampleError;
use crate::engine::Token;
use crate::protocol::SamplingParams;

/// Chooses the tokens of one sequence.
pub struct Sampler {
    /// Obeyed in this order.
    rules: Vec<Box<dyn Rule>>,
    /// `None` is greedy.
    draw: Option<Box<Draw>>,
}

impl Sampler {
    /// One that obeys these rules, then filters and draws as the parameters say.
    ///
    /// [`SamplerFactory`] knows which rules they ask for.
    pub fn new(params: &SamplingParams, rules: Vec<Box<dyn Rule>>, n_vocab: usize) -> Self {
        Self {
            rules,
            draw: (params.temperature > 0.0).then(|| Box::new(Draw::new(params, n_vocab))),
        }
    }

    /// Chooses the next token and remembers it.
    pub fn sample(&mut self, logits: &[f32], buffers: &mut Buffers) -> Result<Token, SampleError> {
        let mut logits = Logits::new(logits, &mut buffers.segments);
        for rule in &mut self.rules {
            rule.adjust(&mut logits);
        }
        let logits = logits.scan()?;
        let token = match &mut self.draw {
            None => logits.best(),
            Some(draw) => draw
                .token(&logits, &mut buffers.scratch)
                .ok_or(SampleError::NoCandidates)?,
        };
        for rule in &mut self.rules {
            rule.accept(token);
        }
        Ok(token)
    }
}
