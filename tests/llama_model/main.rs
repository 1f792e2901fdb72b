//! Model files, contexts and sampling, on a tiny model that the test itself writes.
//!
//! Where the demo model lies in `triton_repo`, its known answers are checked too.

mod demo;
mod files;
mod running;
mod writer;
