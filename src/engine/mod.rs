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
//! | `ids` | [`SequenceId`], [`SlotId`], [`Token`] |
//! | `plan` | what goes to the runner and comes back: [`Plan`], [`Row`], [`Sampled`] |
//! | `event` | what goes back to the requests: [`Event`], [`Usage`] |
//! | `scheduler` | the policy: [`Scheduler`] |
//! | `sequence` | one request's tokens and progress |
//! | `cells` | who holds which slot and how many cells of the KV cache |
//! | `text`, `stop` | bytes to text, and the search for stop strings |

mod cells;
mod event;
mod ids;
mod plan;
mod scheduler;
mod sequence;
mod stop;
mod text;

pub use event::{Event, FinishReason, Usage};
pub use ids::{SequenceId, SlotId, Token};
pub use plan::{Plan, Row, Sampled};
pub use scheduler::{Limits, NewSequence, Scheduler, SubmitError};
