//! All integration tests in one binary: each would link candle again.

mod architecture;
mod golden;
mod hub;
mod text;
