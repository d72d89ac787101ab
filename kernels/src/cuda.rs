//! Kernels for NVIDIA GPUs (Ampere and later). Sources are in `cuda/`; here they are checked and launched.
//!
//! Everything runs in order on the one stream of a [`Gpu`]. Matrices are [`Slice`]s, row by row. Arithmetic is f32 wherever
//! more than one number is summed; weights and activations are f32, f16 or bf16.

#[cfg(test)]
mod checks;
mod gpu;
mod matrix;
mod memory;

pub use gpu::{Gpu, GpuError};
pub use matrix::{Heads, Matrix};
pub use memory::{Dtype, Slice};
