//! All integration tests in one binary: each would link candle again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adapter_archive;
mod adapter_bases;
mod adapter_hostile;
mod adapter_read;
mod adapter_refusals;
mod architecture;
mod bench;
mod churn;
mod cli;
mod config;
mod golden;
mod gpu;
mod http;
mod hub;
mod isolation;
mod learning;
mod memory;
mod registry;
mod stored_dtype;
mod text;
