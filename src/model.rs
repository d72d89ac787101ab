//! The frozen base: computes logits and scores for a [`Batch`]. Knows nothing of requests.

mod base;
mod batch;
mod bert;
mod body;
mod gpt2;
mod kv;
mod layers;
mod llama;
pub mod load;
mod ops;
mod pass;

pub use base::{BaseModel, Called, Choice, Held, Outputs, Warm};
pub use batch::{Batch, Output, Row, RowSpec, Segment};
pub use body::Body;
pub use repertoire_kernels::cuda::Draw;

pub use kv::{BLOCK_TOKENS, BlockId, KvShape};
pub use ops::tape::{Gradients, HeadGradients, PatchGradients};
pub use ops::{CpuModel, GpuModel};
pub use pass::{Learned, Pass, Targets};
