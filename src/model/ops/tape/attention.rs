//! Attention inside rows, without a store, and the way back. A row's key-value prefix stands before its own.

use std::ops::Range;

use candle_core::{DType, Result};
use rayon::prelude::*;
use repertoire_kernels::cpu::{self, AttentionGradients, HeadOf, Span, attend_back};

use crate::device::{Buffer, OpenTensor};
use crate::model::Batch;
use crate::model::layers::Heads;
use crate::model::ops::cpu::attention::{each_head, scale};

use super::Tape;
use super::gradients::Gradients;
use super::record::Record;
use super::tracked::Tracked;

/// What was attended to.
pub struct Attended {
    layer: usize,
    query: Tracked,
    key: Tracked,
    value: Tracked,
    heads: Heads,
    /// Whether a token sees those before it and itself, or its whole row.
    causal: bool,
    prefix: Option<Prefix>,
}

/// A layer's learned keys and values, each [count, kv_heads · head_dim].
struct Prefix {
    keys: Vec<f32>,
    values: Vec<f32>,
    count: usize,
}

impl Prefix {
    fn of(tape: &Tape, layer: usize) -> Result<Option<Self>> {
        let Some(prefix) = tape.prefix() else { return Ok(None) };
        let numbers = |tensor: &candle_core::Tensor| -> Result<Vec<f32>> {
            let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
            Ok(OpenTensor::new(&tensor).f32()?.to_vec())
        };
        let (keys, values) = (numbers(&prefix.keys[layer])?, numbers(&prefix.values[layer])?);
        Ok(Some(Self { keys, values, count: prefix.count }))
    }
}

/// Attention of each row's queries [tokens, heads · head_dim] over its own keys and values [tokens, kv_heads · head_dim].
pub fn attend(
    tape: &mut Tape,
    layer: usize,
    [query, key, value]: [Tracked; 3],
    heads: Heads,
    causal: bool,
) -> Result<Tracked> {
    let prefix = Prefix::of(tape, layer)?;
    let Heads { head_dim: dim, kv_heads, .. } = heads;
    let width = kv_heads * dim;
    let out = each_head(&query, heads, &tape.batch, |row, token, head, query, out| {
        let before = prefix.as_ref().map(|prefix| Span {
            keys: &prefix.keys[head * dim..],
            values: &prefix.values[head * dim..],
            tokens: prefix.count,
            stride: width,
        });
        let at = row.tokens.start * width + head * dim;
        let tokens = if causal { token + 1 } else { row.tokens.len() };
        let own = Span { keys: &key[at..], values: &value[at..], tokens, stride: width };
        cpu::attend(query, before.into_iter().chain([own]), scale(dim), out);
    });
    let matters = [&query, &key, &value].iter().any(|x| x.id.is_some()) || prefix.is_some();
    let width = query.width;
    Ok(tape.result(out, width, matters, |y| {
        let attended = Attended { layer, query, key, value, heads, causal, prefix };
        Record::Attend { attended: Box::new(attended), y }
    }))
}

impl Attended {
    /// Of queries, keys and values.
    pub fn ids(&self) -> [Option<usize>; 3] {
        [self.query.id, self.key.id, self.value.id]
    }

    /// Bytes kept of what was computed.
    pub fn kept_bytes(&self) -> usize {
        self.query.bytes() + self.key.bytes() + self.value.bytes()
    }

    /// The gradients of queries, keys and values; those of a prefix are added to `gradients`.
    pub fn back(self, batch: &Batch, d: &[f32], gradients: &mut Gradients) -> Result<[Buffer; 3]> {
        let Heads { heads, kv_heads, head_dim: dim } = self.heads;
        let group = heads / kv_heads;
        // A row and a head of its keys, with all heads that read it.
        let tasks = batch.rows.iter().flat_map(|row| (0..kv_heads).map(move |head| (row.tokens.clone(), head)));
        let tasks: Vec<(Range<usize>, usize)> = tasks.collect();
        let done: Vec<_> = tasks.into_par_iter().map(|(lines, head)| self.head_back(d, lines, head)).collect();

        let mut all = [&self.query, &self.key, &self.value].map(|x| Buffer::new(x.len()));
        let before = self.prefix.as_ref().map_or(0, |prefix| prefix.count);
        for HeadDone { lines, head, of_queries, of } in done {
            let [queries, keys, values] = &mut all;
            for (i, of_queries) in of_queries.iter().enumerate() {
                put(queries, heads * dim, lines.clone(), (head * group + i) * dim, of_queries, dim);
            }
            put(keys, kv_heads * dim, lines.clone(), head * dim, &of.keys[before * dim..], dim);
            put(values, kv_heads * dim, lines, head * dim, &of.values[before * dim..], dim);
            if before > 0 {
                let len = before * kv_heads * dim;
                let sums = gradients.prefix.entry(self.layer).or_insert_with(|| [0, 1].map(|_| vec![0.0; len]));
                for (sum, d) in sums.iter_mut().zip([&of.keys, &of.values]) {
                    for (line, d) in d.chunks_exact(dim).take(before).enumerate() {
                        cpu::add(&mut sum[(line * kv_heads + head) * dim..][..dim], d);
                    }
                }
            }
        }
        Ok(all)
    }

    fn head_back(&self, d: &[f32], lines: Range<usize>, head: usize) -> HeadDone {
        let Heads { heads, kv_heads, head_dim: dim } = self.heads;
        let group = heads / kv_heads;
        let before = self.prefix.as_ref().map_or(0, |prefix| prefix.count);
        let own = |learned: fn(&Prefix) -> &[f32], x: &[f32]| {
            let mut all = Vec::with_capacity((before + lines.len()) * dim);
            if let Some(prefix) = &self.prefix {
                gather(&mut all, learned(prefix), kv_heads * dim, 0..before, head * dim, dim);
            }
            gather(&mut all, x, kv_heads * dim, lines.clone(), head * dim, dim);
            all
        };
        let (keys, values) = (own(|prefix| &prefix.keys, &self.key), own(|prefix| &prefix.values, &self.value));
        let mut of =
            AttentionGradients { queries: vec![], keys: vec![0.0; keys.len()], values: vec![0.0; values.len()] };
        let of_queries = (head * group..(head + 1) * group).map(|head| {
            let some = |x: &[f32]| {
                let mut all = Vec::with_capacity(lines.len() * dim);
                gather(&mut all, x, heads * dim, lines.clone(), head * dim, dim);
                all
            };
            let seen = before + if self.causal { 1 } else { lines.len() };
            let (causal, scale) = (self.causal, scale(dim));
            let queries = &some(&self.query);
            let one = HeadOf { queries, keys: &keys, values: &values, dim, seen, causal, scale };
            let one = attend_back(&one, &some(d));
            cpu::add(&mut of.keys, &one.keys);
            cpu::add(&mut of.values, &one.values);
            one.queries
        });
        let of_queries = of_queries.collect();
        HeadDone { lines, head, of_queries, of }
    }
}

/// The gradients of a head of some row's keys and values, a prefix's included, and of the queries that read them.
struct HeadDone {
    lines: Range<usize>,
    head: usize,
    of_queries: Vec<Vec<f32>>,
    of: AttentionGradients,
}

/// Adds some lines of `dim` columns of a matrix.
fn gather(to: &mut Vec<f32>, x: &[f32], width: usize, lines: Range<usize>, column: usize, dim: usize) {
    lines.for_each(|line| to.extend_from_slice(&x[line * width + column..][..dim]));
}

/// Writes them.
fn put(to: &mut [f32], width: usize, lines: Range<usize>, column: usize, x: &[f32], dim: usize) {
    for (line, x) in lines.zip(x.chunks_exact(dim)) {
        to[line * width + column..][..dim].copy_from_slice(x);
    }
}
