//! The frozen base: computes logits and scores for a [`Batch`]. Knows nothing of requests.

mod base;
mod batch;
mod bert;
mod gpt2;
mod kv;
mod layers;
mod llama;
pub mod load;
mod ops;

pub use base::{BaseModel, Outputs};
pub use batch::{Batch, Output, Row, RowSpec, Segment};
pub use kv::{BLOCK_TOKENS, BlockId, KvShape, KvStore};
