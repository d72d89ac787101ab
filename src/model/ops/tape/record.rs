//! What the way back of an operation needs.

use std::sync::Arc;

use candle_core::Result;
use repertoire_kernels::cpu::{self, Activation, Rotation};

use crate::device::{Buffer, Weight, with_floats};
use crate::model::Batch;
use crate::model::layers::Norm;

use super::attention::Attended;
use super::gradients::Gradients;
use super::linear::{Made, of_base};
use super::tracked::Tracked;

/// An operation that was computed. `y` is the number of its result.
pub enum Record {
    Embed {
        vocab: usize,
        y: usize,
    },
    Norm {
        x: Tracked,
        norm: Norm,
        y: usize,
    },
    /// A site where the adapter changes something.
    Linear {
        made: Box<Made>,
        y: usize,
    },
    /// One where it does not: nothing is kept of x.
    Base {
        x: Option<usize>,
        weight: Weight,
        y: usize,
    },
    Add {
        terms: [Option<usize>; 2],
        y: usize,
    },
    /// One of three equal parts of the columns.
    Third {
        x: Option<usize>,
        part: usize,
        width: usize,
        y: usize,
    },
    Rotate {
        x: Option<usize>,
        rotation: Arc<Rotation>,
        head_dim: usize,
        y: usize,
    },
    Attend {
        attended: Box<Attended>,
        y: usize,
    },
    Gate {
        gate: Tracked,
        up: Tracked,
        activation: Activation,
        y: usize,
    },
    Activate {
        x: Tracked,
        activation: Activation,
        y: usize,
    },
}

impl Record {
    /// Adds what the result's gradient says to those of the operation's inputs, and of the adapter's parts.
    pub fn back(self, batch: &Batch, of: &mut [Option<Buffer>], gradients: &mut Gradients) -> Result<()> {
        let Some(mut d) = of[self.y()].take() else { return Ok(()) };
        match self {
            Self::Embed { vocab, .. } => embed_back(batch, vocab, &d, gradients),
            Self::Norm { x, norm, .. } => {
                match &norm {
                    Norm::Rms { weight, eps } => {
                        with_floats(weight.on_host(), |weight| cpu::rms_norm_back(&x, weight, *eps, &mut d))?;
                    }
                    Norm::Layer { weight, eps, .. } => {
                        with_floats(weight.on_host(), |weight| cpu::layer_norm_back(&x, weight, *eps, &mut d))?;
                    }
                }
                add(of, x.id, d);
            }
            Self::Linear { made, .. } => {
                let id = made.x.id;
                if let Some(dx) = made.back(d, gradients)? {
                    add(of, id, dx);
                }
            }
            Self::Base { x, weight, .. } => add(of, x, of_base(weight.on_host(), &d)?),
            Self::Add { terms: [a, b], .. } => {
                if a.is_some() {
                    add(of, b, super::copy(&d));
                    add(of, a, d);
                } else {
                    add(of, b, d);
                }
            }
            Self::Third { x: Some(x), part, width, .. } => {
                let fused = of[x].get_or_insert_with(|| {
                    let mut zeros = Buffer::new(3 * d.len());
                    zeros.fill(0.0);
                    zeros
                });
                for (fused, d) in fused.chunks_exact_mut(3 * width).zip(d.chunks_exact(width)) {
                    cpu::add(&mut fused[part * width..][..width], d);
                }
            }
            Self::Third { x: None, .. } => {}
            Self::Rotate { x, rotation, head_dim, .. } => {
                cpu::rotate(&mut d, &rotation.back(), batch.tokens.len(), head_dim);
                add(of, x, d);
            }
            Self::Attend { attended, .. } => {
                let ids = attended.ids();
                let each = attended.back(batch, &d, gradients)?;
                ids.into_iter().zip(each).for_each(|(id, d)| add(of, id, d));
            }
            Self::Gate { gate, up, activation, .. } => {
                let mut of_gate = super::copy(&gate);
                cpu::gate_back(&mut of_gate, &up, activation, &mut d);
                add(of, gate.id, of_gate);
                add(of, up.id, d);
            }
            Self::Activate { x, activation, .. } => {
                cpu::activate_back(&x, activation, &mut d);
                add(of, x.id, d);
            }
        }
        Ok(())
    }

    fn y(&self) -> usize {
        match self {
            Self::Embed { y, .. }
            | Self::Norm { y, .. }
            | Self::Linear { y, .. }
            | Self::Base { y, .. }
            | Self::Add { y, .. }
            | Self::Third { y, .. }
            | Self::Rotate { y, .. }
            | Self::Attend { y, .. }
            | Self::Gate { y, .. }
            | Self::Activate { y, .. } => *y,
        }
    }

    /// Bytes of what was computed and is kept; what several records keep is counted as often.
    pub fn kept_bytes(&self) -> usize {
        match self {
            Self::Embed { .. } | Self::Base { .. } | Self::Add { .. } | Self::Third { .. } | Self::Rotate { .. } => 0,
            Self::Norm { x, .. } | Self::Activate { x, .. } => x.bytes(),
            Self::Linear { made, .. } => made.kept_bytes(),
            Self::Attend { attended, .. } => attended.kept_bytes(),
            Self::Gate { gate, up, .. } => gate.bytes() + up.bytes(),
        }
    }
}

/// Adds to the gradient of a matrix, if anybody asks for it.
fn add(of: &mut [Option<Buffer>], id: Option<usize>, d: Buffer) {
    let Some(id) = id else { return };
    match &mut of[id] {
        Some(sum) => cpu::add(sum, &d),
        none => *none = Some(d),
    }
}

/// The gradient of virtual tokens, wherever they stand.
fn embed_back(batch: &Batch, vocab: usize, d: &[f32], gradients: &mut Gradients) {
    let virtual_tokens = |row: &crate::model::Row| row.adapter.as_ref()?.virtual_tokens.as_ref().map(|v| v.count());
    let Some(count) = batch.rows.first().and_then(virtual_tokens) else { return };
    let hidden = d.len() / batch.tokens.len();
    let all = gradients.virtual_tokens.get_or_insert_with(|| vec![0.0; count * hidden]);
    for (&token, d) in batch.tokens.iter().zip(d.chunks_exact(hidden)) {
        if let Some(index) = (token as usize).checked_sub(vocab) {
            cpu::add(&mut all[index * hidden..][..hidden], d);
        }
    }
}
