//! Kernels for the CPU: f32 arithmetic over weights held as f32, bf16 or f16. AVX2 where the machine has it.

mod activation;
mod ahead;
mod attention;
#[cfg(target_arch = "x86_64")]
mod dots;
mod expand;
mod floats;
mod functions;
mod group;
mod linear;
mod log_softmax;
mod norm;
mod product;
mod rotary;
mod tasks;
mod vector;
mod weight;

pub use activation::{Activation, activate, gate};
pub use attention::{Span, attend};
pub use expand::expand;
pub use floats::Floats;
pub use group::{LowRank, Member, Patch, linear_group, scratch_len};
pub use linear::linear;
pub use log_softmax::{LogSoftmax, NotFinite, exp, max, sum_exp};
pub use norm::{layer_norm, rms_norm};
pub use rotary::{Rotation, rotate};
pub use vector::{add, add_row, scale_row};

use weight::Weight;
