//! What changes a row of logits before it is drawn from, one file for each kind.
//!
//! The factory makes the rules of a sequence; its sampler obeys them in their order, on any thread. A rule
//! knows no other sequence. Those here change few tokens of a row, each by itself; what [`Logits`] can do for
//! rules is written for that.
//!
//! | file | holds |
//! |---|---|
//! | `penalties` | repetition, presence and frequency penalty |
//! | `dry` | the penalty for repetitions of several tokens |
//! | `ban` | tokens that may not come |

mod ban;
mod dry;
mod penalties;

pub(super) use self::ban::Ban;
pub(super) use self::dry::{Breakers, Dry};
pub(super) use self::penalties::Penalties;
use super::logits::Logits;
use crate::engine::Token;

/// What changes the logits of one sequence.
pub trait Rule: Send {
    /// Changes a row before a token is chosen.
    fn adjust(&mut self, logits: &mut Logits);

    /// Notes the token that was chosen.
    fn accept(&mut self, token: Token);
}
