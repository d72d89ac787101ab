//! Kernels for the CPU: f32 arithmetic over weights held as f32, bf16 or f16. AVX2 where the machine has it.

mod activation;
mod activation_back;
mod ahead;
mod attention;
mod attention_back;
#[cfg(test)]
mod differences;
#[cfg(target_arch = "x86_64")]
mod dots;
mod expand;
mod floats;
mod functions;
mod group;
mod linear;
mod log_softmax;
mod multiply;
mod norm;
mod norm_back;
mod product;
mod rotary;
mod tasks;
mod vector;
mod weight;

pub use activation::{Activation, activate, gate};
pub use activation_back::{activate_back, gate_back};
pub use attention::{Span, attend};
pub use attention_back::{AttentionGradients, HeadOf, attend_back};
pub use expand::expand;
pub use floats::Floats;
pub use group::{LowRank, Member, Patch, linear_group, scratch_len};
pub use linear::linear;
pub use log_softmax::{LogSoftmax, NotFinite, exp, max, sum_exp};
pub use multiply::{Matrix, linear_back, multiply};
pub use norm::{layer_norm, rms_norm};
pub use norm_back::{layer_norm_back, rms_norm_back};
pub use rotary::{Rotation, rotate};
pub use vector::{add, add_row, scale_row};

use weight::Weight;
