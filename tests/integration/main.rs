//! All integration tests in one binary: each would link candle again.

mod adapter_bases;
mod adapter_read;
mod architecture;
mod config;
mod golden;
mod hub;
mod isolation;
mod registry;
mod text;
