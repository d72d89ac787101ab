//! The frozen base: computes logits and scores for a [`Batch`]. Knows nothing of requests.

mod base;
mod batch;
mod kv;
pub mod load;

pub use base::{BaseModel, Outputs};
pub use batch::{Batch, BatchBuilder, Output, Row, Segment};
pub use kv::{BLOCK_TOKENS, BlockId, KvShape, KvStore};
