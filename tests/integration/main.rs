//! All integration tests in one binary: each would link candle again.

mod adapter_archive;
mod adapter_bases;
mod adapter_hostile;
mod adapter_read;
mod adapter_refusals;
mod architecture;
mod churn;
mod cli;
mod config;
mod golden;
mod http;
mod hub;
mod isolation;
mod memory;
mod registry;
mod text;
