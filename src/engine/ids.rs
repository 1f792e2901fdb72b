//! Newtypes for the numbers that must not be mixed up; plain values, used on every thread.

/// One request's sequence, numbered by the caller and never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SequenceId(pub u64);

/// A place in the KV cache for one sequence, from 0: what llama.cpp calls a sequence id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SlotId(pub u16);

/// An entry of the model's vocabulary, numbered as llama.cpp does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Token(pub i32);

/// Keys and values that lie in host memory, numbered by the engine and never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BlockId(pub u64);

/// What keys and values depend on beside the tokens before them: sequences of different scopes share
/// none. The default is the model alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Scope(pub u64);
