//! The engine: which tokens run in which step, and what text comes of them.
//!
//! A step is three statements, made by the worker thread, the only caller:
//!
//! ```text
//! let plan = scheduler.schedule(now);
//! let out = runner.run(&plan)?;           // on an error: scheduler.fail_running()
//! let events = scheduler.apply(&out, now);
//! ```
//!
//! A [`Plan`] is a plain value. The engine is pure: time and tokens come in, plans and events go
//! out. It knows nothing of FFI, I/O, clocks, threads or the other modules of this crate, so a test
//! can play any sequence of operations against it.
//!
//! | file | holds |
//! |---|---|
//! | `ids` | [`SequenceId`], [`SlotId`], [`Token`], [`BlockId`], [`Scope`] |
//! | `limits` | what the scheduler is given: [`Limits`], [`NewSequence`] |
//! | `plan` | what goes to the runner and comes back: [`Plan`], [`CacheOp`], [`Row`], [`Sampled`] |
//! | `event` | what goes back to the requests: [`Event`], [`Chosen`], [`Ended`] |
//! | `stats` | what is counted: [`Stats`] |
//! | `scheduler` | the policy: [`Scheduler`] |
//! | `rank` | the order of sequences |
//! | `sequence` | one request's tokens and progress |
//! | `plan_builder` | a plan while it is made |
//! | `prefix` | the beginnings that sequences share, each within its scope |
//! | `cache` | who holds which slot and how many cells of the KV cache, and what is shared |
//! | `prefix_tree` | which tokens the cache holds, and which lie in host memory |
//! | `chunk` | how many rows of a step each prompt gets |
//! | `step_time` | how long a step will take |
//! | `draft` | guesses at what comes next: [`Drafter`], [`PromptLookup`] |
//! | `text`, `stop` | bytes to text, and the search for stop strings |

mod cache;
mod chunk;
mod draft;
mod event;
mod ids;
mod limits;
mod plan;
mod plan_builder;
mod prefix;
mod prefix_tree;
mod rank;
mod scheduler;
mod sequence;
mod stats;
mod step_time;
mod stop;
mod text;

pub use draft::{Draft, Drafter, Drafting, PromptLookup};
pub use event::{Chosen, Ended, Event, FinishReason, Usage};
pub use ids::{BlockId, Scope, SequenceId, SlotId, Token};
pub use limits::{Limits, MAX_SLOTS, NewSequence, Sharing, SubmitError};
pub use plan::{CacheOp, Plan, Row, Sampled};
pub use scheduler::Scheduler;
pub use stats::Stats;
