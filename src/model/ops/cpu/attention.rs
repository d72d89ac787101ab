//! Attention: causal over the paged store, or both ways inside a row.

use candle_core::{CpuStorage, CustomOp1, DType, InplaceOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use repertoire_kernels::cpu::{Span, attend};

use crate::adapter::KeyValuePrefix;
use crate::device::{Activations, Buffer, OpenTensor, f32_slice, f32_slice_mut, with_f32};
use crate::model::layers::Heads;
use crate::model::{BLOCK_TOKENS, Batch, KvShape, Row, Segment};
use crate::profile::{self, Part};

use super::store::{KvStore, slot};

/// Tokens that are enough work for all threads without cutting their heads apart.
const MANY_TOKENS: usize = 64;

/// Writes this step's keys and values, both [tokens, kv_heads · head_dim], into the blocks of their rows.
pub fn write_kv(keys: &Activations, values: &Activations, layer: usize, batch: &Batch, kv: &mut KvStore) -> Result<()> {
    let _timer = profile::time(Part::Attention);
    let write = KvWrite { batch, shape: kv.shape };
    kv.keys[layer].inplace_op2(keys, &write)?;
    kv.values[layer].inplace_op2(values, &write)
}

struct KvWrite<'a> {
    batch: &'a Batch,
    shape: KvShape,
}

impl InplaceOp2 for KvWrite<'_> {
    fn name(&self) -> &'static str {
        "write-kv"
    }

    fn cpu_fwd(&self, store: &mut CpuStorage, at: &Layout, new: &CpuStorage, layout: &Layout) -> Result<()> {
        let store = f32_slice_mut(store, at)?;
        let new = f32_slice(new, layout)?;
        let KvShape { kv_heads, head_dim: dim, .. } = self.shape;
        for row in &self.batch.rows {
            for (i, token) in row.tokens.clone().enumerate() {
                let position = row.start + i;
                let block = row.blocks[position / BLOCK_TOKENS];
                for head in 0..kv_heads {
                    let at = slot(self.shape, block, head, position % BLOCK_TOKENS);
                    store[at..at + dim].copy_from_slice(&new[(token * kv_heads + head) * dim..][..dim]);
                }
            }
        }
        Ok(())
    }
}

/// Causal attention of `query` [tokens, heads · head_dim] over what the store holds of each row.
pub fn attend_cached(
    query: &Activations,
    layer: usize,
    heads: Heads,
    batch: &Batch,
    kv: &KvStore,
) -> Result<Activations> {
    let _timer = profile::time(Part::Attention);
    let op = Cached { keys: &kv.keys[layer], values: &kv.values[layer], shape: kv.shape, heads, batch };
    query.apply_op1_no_bwd(&op).map(Activations::from)
}

struct Cached<'a> {
    keys: &'a Tensor,
    values: &'a Tensor,
    shape: KvShape,
    heads: Heads,
    batch: &'a Batch,
}

impl CustomOp1 for Cached<'_> {
    fn name(&self) -> &'static str {
        "attend-cached"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let query = f32_slice(storage, layout)?;
        let head_dim = self.heads.head_dim;
        with_f32(self.keys, |keys| {
            with_f32(self.values, |values| {
                let out = each_head(query, self.heads, self.batch, |row, token, head, query, out| {
                    let visible = row.start + token + 1;
                    let spans =
                        row.blocks.iter().enumerate().take(visible.div_ceil(BLOCK_TOKENS)).map(|(i, &block)| {
                            let at = slot(self.shape, block, head, 0);
                            let tokens = BLOCK_TOKENS.min(visible - i * BLOCK_TOKENS);
                            Span { keys: &keys[at..], values: &values[at..], tokens, stride: head_dim }
                        });
                    attend(query, spans, scale(head_dim), out);
                });
                Ok((CpuStorage::F32(out.into_vec()), layout.shape().clone()))
            })
        })
    }
}

/// Attention both ways inside each row: `query`, `keys`, `values` [tokens, heads · head_dim]. A row's key-value prefix stands before its own.
pub fn attend_both_ways(
    query: &Activations,
    keys: &Activations,
    values: &Activations,
    layer: usize,
    heads: Heads,
    batch: &Batch,
) -> Result<Activations> {
    let _timer = profile::time(Part::Attention);
    query.apply_op1_no_bwd(&BothWays { keys, values, layer, heads, batch }).map(Activations::from)
}

struct BothWays<'a> {
    keys: &'a Tensor,
    values: &'a Tensor,
    layer: usize,
    heads: Heads,
    batch: &'a Batch,
}

impl CustomOp1 for BothWays<'_> {
    fn name(&self) -> &'static str {
        "attend-both-ways"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let query = f32_slice(storage, layout)?;
        let Heads { kv_heads, head_dim, .. } = self.heads;
        let width = kv_heads * head_dim;
        let segments = &self.batch.segments;
        let prefixes = segments.iter().map(|segment| self.prefix(segment)).collect::<Result<Vec<_>>>()?;
        let opened: Vec<_> = prefixes.iter().map(|prefix| prefix.as_ref().map(Prefix::open)).collect();
        let prefixes = opened.iter().map(|opened| opened.as_ref().map(|opened| opened.span(width)).transpose());
        let prefixes = prefixes.collect::<Result<Vec<_>>>()?;
        with_f32(self.keys, |keys| {
            with_f32(self.values, |values| {
                let out = each_head(query, self.heads, self.batch, |row, token, head, query, out| {
                    let segment = segments.partition_point(|s| s.lines.end <= row.tokens.start + token);
                    let prefix = prefixes[segment].map(|span| Span {
                        keys: &span.keys[head * head_dim..],
                        values: &span.values[head * head_dim..],
                        ..span
                    });
                    let at = row.tokens.start * width + head * head_dim;
                    let own =
                        Span { keys: &keys[at..], values: &values[at..], tokens: row.tokens.len(), stride: width };
                    attend(query, prefix.into_iter().chain([own]), scale(head_dim), out);
                });
                Ok((CpuStorage::F32(out.into_vec()), layout.shape().clone()))
            })
        })
    }
}

/// One layer's prefix of a segment's adapter in f32: the adapter's own tensors where they are f32, else widened once
/// for all rows of the segment.
struct Prefix {
    keys: Tensor,
    values: Tensor,
    count: usize,
}

/// A [`Prefix`] whose numbers can be read as long as this is held.
struct OpenPrefix<'a> {
    keys: OpenTensor<'a>,
    values: OpenTensor<'a>,
    count: usize,
}

impl BothWays<'_> {
    fn prefix(&self, segment: &Segment) -> Result<Option<Prefix>> {
        let prefix = segment.adapter.as_ref().and_then(|adapter| adapter.prefix.as_ref());
        let widen = |prefix: &KeyValuePrefix| {
            Ok(Prefix {
                keys: prefix.keys[self.layer].to_dtype(DType::F32)?,
                values: prefix.values[self.layer].to_dtype(DType::F32)?,
                count: prefix.count,
            })
        };
        prefix.map(widen).transpose()
    }
}

impl Prefix {
    fn open(&self) -> OpenPrefix<'_> {
        let Self { keys, values, count } = self;
        OpenPrefix { keys: OpenTensor::new(keys), values: OpenTensor::new(values), count: *count }
    }
}

impl OpenPrefix<'_> {
    /// All heads' keys and values, tokens `width` apart.
    fn span(&self, width: usize) -> Result<Span<'_>> {
        Ok(Span { keys: self.keys.f32()?, values: self.values.f32()?, tokens: self.count, stride: width })
    }
}

/// What scores are multiplied by.
pub fn scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// Calls `f(row, token in the row, key-value head, query, out)` for every head of every token, on all threads.
pub fn each_head(
    query: &[f32],
    heads: Heads,
    batch: &Batch,
    f: impl Fn(&Row, usize, usize, &[f32], &mut [f32]) + Sync,
) -> Buffer {
    let mut out = Buffer::new(query.len());
    let (dim, group) = (heads.head_dim, heads.heads / heads.kv_heads);
    // Heads that read the same keys go to one thread; with many tokens, all heads of a token.
    let together = if batch.tokens.len() >= MANY_TOKENS { heads.heads } else { group };
    let tasks = out.par_chunks_exact_mut(together * dim).zip(query.par_chunks_exact(together * dim));
    tasks.enumerate().for_each(|(i, (out, query))| {
        let (token, first) = (i * together / heads.heads, i * together % heads.heads);
        let row = &batch.rows[batch.token_rows[token]];
        let each = out.chunks_exact_mut(dim).zip(query.chunks_exact(dim)).zip(first..);
        for ((out, query), head) in each {
            f(row, token - row.tokens.start, head / group, query, out);
        }
    });
    out
}
