//! Model files, contexts and sampling, on a tiny model that the test itself writes.
//!
//! The known answers of the demo model in `triton_repo` are checked too.

mod demo;
mod drafts;
mod files;
mod keys;
mod kinds;
mod leases;
mod mutants;
mod mutate;
mod rows;
mod running;
mod seeds;
mod sharing;
mod slots;
mod trial;
mod vocabularies;
mod writer;
