//! The operations bodies are made of: coarse, so that kernels can fuse behind them. The only place that looks at adapters.

#![allow(clippy::disallowed_methods, reason = "the one place that knows which pass it is in")]

mod attention;
mod elementwise;
mod embed;
mod linear;
mod outputs;

pub use attention::{attend_both_ways, attend_cached, write_kv};
pub use elementwise::{activate, add, add_row, gate, norm, rotate};
pub use embed::{embed, embed_positions};
pub use linear::{head_scores, linear, linear_group};
pub use outputs::{decoder_outputs, lookup, split3};
