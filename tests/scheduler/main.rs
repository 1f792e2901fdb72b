//! Tests of the engine through its public face: tables, and random sequences of operations.

mod drafts;
mod fake;
mod operations;
mod parking;
mod policy;
mod random;
mod sharing;
mod show;
mod text;
mod time;
