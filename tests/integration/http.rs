//! The HTTP contract, in process: the real router, registry and engine over tiny real bases.

mod adapters;
mod auth;
mod classify;
mod drain;
mod errors;
mod generate;
mod golden;
pub mod harness;
mod mutations;
mod server;
mod stream;
