//! An adapter on its way to the GPU: all its tensors in one piece.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{DType, Result, Tensor, TensorId};
use repertoire_kernels::cuda::{Dtype, Slice};

use crate::adapter::Adapter;

/// Bytes to which tensors are aligned.
const ALIGNMENT: usize = 256;

/// What of an adapter the GPU gets, and where in its piece of memory.
pub struct Upload {
    places: Vec<Place>,
    by_tensor: HashMap<TensorId, usize>,
    bytes: usize,
}

/// Some bytes of one of an upload's tensors.
pub struct Piece {
    /// Which.
    pub tensor: usize,
    pub bytes: Range<usize>,
    /// Where they belong.
    pub at: usize,
}

struct Place {
    tensor: Tensor,
    start: usize,
    /// What the numbers are there.
    dtype: Dtype,
}

impl Upload {
    /// What kernels read: low-rank matrices, virtual tokens and heads as stored, rows in f32, prefixes and weights in the base's
    /// dtype.
    pub fn of(adapter: &Adapter, base: Dtype) -> Self {
        let mut upload = Self { places: Vec::new(), by_tensor: HashMap::new(), bytes: 0 };
        for patch in adapter.patches.iter().flatten() {
            if let Some(low_rank) = &patch.low_rank {
                // Both are of one dtype on the GPU.
                let same = low_rank.a.dtype() == low_rank.b.dtype();
                let dtype = if same { stored(&low_rank.a) } else { Dtype::F32 };
                upload.add(&low_rank.a, dtype);
                upload.add(&low_rank.b, dtype);
            }
            let rows = [&patch.output_scale, &patch.rescale_output, &patch.rescale_input, &patch.bias];
            rows.into_iter().flatten().for_each(|row| upload.add(row, Dtype::F32));
            patch.weight.iter().for_each(|weight| upload.add(weight, base));
        }
        if let Some(virtual_tokens) = &adapter.virtual_tokens {
            upload.add(&virtual_tokens.embeddings, stored(&virtual_tokens.embeddings));
        }
        if let Some(prefix) = &adapter.prefix {
            prefix.keys.iter().chain(&prefix.values).for_each(|tensor| upload.add(tensor, base));
        }
        if let Some(head) = &adapter.head {
            upload.add(&head.weight, stored(&head.weight));
        }
        upload
    }

    fn add(&mut self, tensor: &Tensor, dtype: Dtype) {
        let start = self.bytes;
        self.bytes = (start + tensor.elem_count() * dtype.bytes()).next_multiple_of(ALIGNMENT);
        self.by_tensor.insert(tensor.id(), self.places.len());
        self.places.push(Place { tensor: tensor.clone(), start, dtype });
    }

    /// Bytes on the GPU.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The tensors, in the order of memory, with their numbers as the GPU has them.
    pub fn tensors(&self) -> Result<Vec<Tensor>> {
        let there = |Place { tensor, dtype, .. }: &Place| {
            let dtype = match dtype {
                Dtype::F16 => DType::F16,
                Dtype::Bf16 => DType::BF16,
                Dtype::F32 | Dtype::U32 => DType::F32,
            };
            tensor.to_dtype(dtype)?.contiguous()
        };
        self.places.iter().map(there).collect()
    }

    /// All tensors in pieces of at most `most` bytes, in the order of memory.
    pub fn pieces(&self, most: usize) -> Vec<Piece> {
        let each = self.places.iter().enumerate().flat_map(|(tensor, place)| {
            let bytes = place.tensor.elem_count() * place.dtype.bytes();
            let piece =
                move |from: usize| Piece { tensor, bytes: from..bytes.min(from + most), at: place.start + from };
            (0..bytes).step_by(most).map(piece)
        });
        each.collect()
    }

    /// Where one of the adapter's tensors is in `memory`.
    ///
    /// # Panics
    /// If it is none that the GPU gets.
    pub fn part(&self, memory: &Slice, tensor: &Tensor) -> Slice {
        let Place { tensor, start, dtype } = &self.places[self.by_tensor[&tensor.id()]];
        memory.part_as(*start, *dtype, tensor.elem_count())
    }
}

/// What a tensor's numbers are as they are stored, of those that kernels know.
fn stored(tensor: &Tensor) -> Dtype {
    match tensor.dtype() {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::Bf16,
        _ => Dtype::F32,
    }
}
