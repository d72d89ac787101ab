//! All integration tests in one binary: each would link candle again.

mod architecture;
mod config;
mod golden;
mod http;
mod text;
