//! Kernels for NVIDIA GPUs (Ampere and later). Sources are in `cuda/`; here they are checked and launched.
//!
//! Everything runs in order on the one stream of a [`Gpu`]. Matrices are [`Slice`]s, row by row. Arithmetic is f32 wherever
//! more than one number is summed; weights and activations are f32, f16 or bf16.
//!
//! The kernels themselves are in programs built with the feature `cuda`; in others [`Gpu::open`] says that they are not.

mod adapted;
mod adapted_gate;
mod adapters;
#[cfg(test)]
mod checks;
mod choose;
mod convert;
mod decode;
mod elementwise;
mod embed;
mod gather;
mod gemm;
mod gpu;
mod graph;
mod kv;
mod lane;
mod mark;
mod matrix;
mod memory;
mod norm;
mod norm_shrink;
mod normed;
mod pinned;
mod prefill;
mod product;
mod rotary;
mod sample;
mod sources;
mod table;

pub use adapted::{adapted_gated_product, adapted_product, adapts};
pub use adapted_gate::{GatedExpansion, expand_gated};
pub use adapters::{
    Expansion, LinesOf, MOST_SITES, MOST_SLOT_LINES, Sites, TILE_LINES, expand, rescale_inputs, shrink, shrink_parts,
    tiles,
};
pub use choose::{Choice, choose, choose_scratch_len};
pub use convert::convert;
pub use decode::{Decode, MOST_SPLITS, attend_decode, decode_counters_len, decode_scratch_len};
pub use elementwise::{activate, add_row, gate};
pub use embed::{Chosen, Embedding, VirtualTokens, embed};
pub use gather::gather;
pub use gemm::Gemm;
pub use gpu::{Gpu, GpuError};
pub use graph::Graph;
pub use kv::{BLOCK_TOKENS, KvLayer, KvStore, copy_blocks, write_prefix};
pub use lane::Lane;
pub use mark::Mark;
pub use matrix::{Heads, Matrix};
pub use memory::{Dtype, Slice};
pub use norm::{Back, Norm, add_norm, norm};
pub use norm_shrink::{norm_shrink, shrinks_norms};
pub use normed::{Rms, normed_gated_product, normed_product, norms_first};
pub use pinned::Pinned;
pub use prefill::{CutRows, KeyValues, PrefillRow, PrefillRows, attend_prefill};
pub use product::{
    FEW_LINES, GatedProduct, Product, ProductScratch, Store, gated_product, gates, product, product_scratch_len,
};
pub use rotary::{Rotary, rotate_store};
pub use sample::{Draw, sample, sample_scratch_len};
pub use table::{LowRank, MOST_RANK, SitePatch, Table, set_slot};
