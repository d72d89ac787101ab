//! Token embeddings: the base's rows, virtual tokens, learned positions.

use std::sync::Arc;

use super::gpu::{Arg, count, instance};
use super::sources::EMBED;
use super::{Dtype, Gpu, GpuError, Slice};

/// u32 numbers of a token's entry in [`VirtualTokens`]: an address in two, a dtype, a count.
const ENTRY: usize = 4;

/// For each token of a step, the virtual tokens of its adapter. Made once, written for each step.
pub struct VirtualTokens {
    /// [tokens, ENTRY] u32.
    entries: Slice,
    /// What the entries point to stays as long as they do.
    held: Vec<Slice>,
    hidden: usize,
}

/// What a line is made of.
#[derive(Clone, Copy)]
pub struct Embedding<'a> {
    /// [vocab, hidden].
    pub table: &'a Slice,
    /// Learned positions: [context, hidden], and the tokens' `[tokens]` u32; positions beyond add nothing.
    pub positions: Option<(&'a Slice, &'a Slice)>,
    /// Added to all tokens: `[hidden]`.
    pub for_all: Option<&'a Slice>,
}

/// Tokens that were chosen on the GPU, and that the host may not know.
#[derive(Clone, Copy)]
pub struct Chosen<'a> {
    /// For each token which of the choices it is, u32 `[tokens]`; `u32::MAX`, or any that is not there: it is what its id says.
    pub which: &'a Slice,
    /// Ids, u32.
    pub choices: &'a Slice,
}

impl VirtualTokens {
    /// None, for `tokens` tokens of `hidden` numbers.
    pub fn new(gpu: &Arc<Gpu>, tokens: usize, hidden: usize) -> Result<Self, GpuError> {
        Ok(Self { entries: Slice::of_u32(gpu, &vec![0; tokens * ENTRY])?, held: Vec::new(), hidden })
    }

    /// Sets those of the first tokens; the others have none. Each is [count, hidden], of any dtype.
    ///
    /// # Panics
    /// If there are more than there is room for.
    pub fn write(&mut self, tokens: &[Option<&Slice>]) -> Result<(), GpuError> {
        let hidden = self.hidden;
        let mut entries = vec![0u32; self.entries.len()];
        assert!(tokens.len() * ENTRY <= entries.len(), "{} tokens of {}", tokens.len(), entries.len() / ENTRY);
        for (entry, rows) in entries.chunks_mut(ENTRY).zip(tokens) {
            let Some(rows) = rows else { continue };
            assert!(rows.len().is_multiple_of(hidden), "virtual tokens of {hidden} numbers");
            let address = rows.pointer_for(&self.entries);
            entry.copy_from_slice(&[
                address as u32,
                (address >> 32) as u32,
                rows.dtype().number(),
                count(rows.len() / hidden),
            ]);
        }
        self.entries.write(&entries.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
        // What was held before is let go in the stream's order: after the kernels that read it.
        self.held = tokens.iter().flatten().map(|&rows| rows.clone()).collect();
        Ok(())
    }
}

/// `out` [tokens, hidden] f32 of `ids` `[tokens]` u32. Tokens that `chosen` says get their ids there and are then known: a further
/// launch, when choices are others, makes the same of them. Id `vocab + i` is virtual token `i` of the token's adapter, zero without one;
/// `u32::MAX` is padding: its line is zero.
pub fn embed(
    gpu: &Gpu,
    ids: &Slice,
    chosen: Option<Chosen<'_>>,
    embedding: Embedding<'_>,
    virtual_tokens: Option<&VirtualTokens>,
    hidden: usize,
    out: &Slice,
) -> Result<(), GpuError> {
    let Embedding { table, positions, for_all } = embedding;
    let (dtype, tokens) = (table.dtype(), ids.len());
    assert!(ids.dtype() == Dtype::U32 && out.dtype() == Dtype::F32 && out.len() == tokens * hidden, "a line per token");
    if let Some(Chosen { which, choices }) = chosen {
        assert!(which.dtype() == Dtype::U32 && which.len() == tokens, "which choice each token is");
        assert!(choices.dtype() == Dtype::U32, "choices are ids");
    }
    assert!(hidden > 0 && table.len().is_multiple_of(hidden), "a table of lines of {hidden}");
    if let Some((rows, positions)) = positions {
        assert!(rows.dtype() == dtype && rows.len().is_multiple_of(hidden), "learned positions like the table");
        assert!(positions.dtype() == Dtype::U32 && positions.len() == tokens, "a position per token");
    }
    assert!(for_all.is_none_or(|row| row.dtype() == dtype && row.len() == hidden), "a row like the table's");
    assert!(virtual_tokens.is_none_or(|v| v.entries.len() >= tokens * ENTRY), "room for each token's virtual tokens");
    assert!(virtual_tokens.is_none_or(|v| v.hidden == hidden), "virtual tokens of {hidden} numbers");
    let args = [
        Arg::slice(ids),
        Arg::optional(chosen.map(|chosen| chosen.which)),
        Arg::optional(chosen.map(|chosen| chosen.choices)),
        Arg::count(chosen.map_or(0, |chosen| chosen.choices.len())),
        Arg::slice(table),
        Arg::count(table.len() / hidden),
        Arg::optional(virtual_tokens.map(|v| &v.entries)),
        Arg::optional(positions.map(|(_, positions)| positions)),
        Arg::optional(positions.map(|(rows, _)| rows)),
        Arg::count(positions.map_or(0, |(rows, _)| rows.len() / hidden)),
        Arg::optional(for_all),
        Arg::slice(out),
        Arg::count(hidden),
    ];
    let threads = count(hidden.div_ceil(8).next_multiple_of(32).min(256));
    // SAFETY: shapes and dtypes were checked; ids, positions and choices that are not there are left out by the kernel; virtual
    // tokens are held, and as many as their entries say.
    unsafe { gpu.launch(&EMBED, instance!("embed", dtype), (count(tokens), 1, 1), threads, 0, &args) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::checks::*;

    #[test]
    #[ignore = "needs a GPU"]
    fn lines_come_from_their_tables() {
        let (gpu, mut rng) = (gpu(), rng(40));
        for (case, (dtype, hidden)) in
            DTYPES.into_iter().flat_map(|dtype| [1, 20, 64, 768, 1023, 4096].map(|n| (dtype, n))).enumerate()
        {
            let (tokens, vocab, context) = (rng.random_range(20..70), 50, 30);
            let table = round(dtype, &uniform(&mut rng, vocab * hidden));
            let learned = round(dtype, &uniform(&mut rng, context * hidden));
            let row = round(dtype, &uniform(&mut rng, hidden));
            let on_gpu = |dtype, x: &[f32]| Slice::of(&gpu, dtype, x).expect("memory");
            let extra: Vec<(Vec<f32>, Slice)> = DTYPES
                .into_iter()
                .map(|dtype| {
                    let numbers = round(dtype, &uniform(&mut rng, 5 * hidden));
                    let slice = on_gpu(dtype, &numbers);
                    (numbers, slice)
                })
                .collect();
            let owner = |token: usize| (token % 4 < 3).then_some(token % 4);
            let ids: Vec<u32> = (0..tokens)
                .map(|token| match token % 5 {
                    0 => u32::MAX,
                    // The sixth of five virtual tokens is none.
                    1 | 2 => (vocab + rng.random_range(0..6)) as u32,
                    _ => rng.random_range(0..vocab) as u32,
                })
                .collect();
            let positions: Vec<u32> = (0..tokens).map(|_| rng.random_range(0..context) as u32).collect();
            let (device_table, device_learned) = (on_gpu(dtype, &table), on_gpu(dtype, &learned));
            let device_row = on_gpu(dtype, &row);
            let [device_ids, device_positions] = [&ids, &positions].map(|x| Slice::of_u32(&gpu, x).expect("memory"));
            let mut virtual_tokens = VirtualTokens::new(&gpu, tokens + 3, hidden).expect("memory");
            let owned: Vec<Option<&Slice>> = (0..tokens).map(|t| owner(t).map(|i| &extra[i].1)).collect();
            virtual_tokens.write(&owned).expect("copy");
            let (learns, adds) = (case % 2 == 0, case % 3 == 0);
            let embedding = Embedding {
                table: &device_table,
                positions: learns.then_some((&device_learned, &device_positions)),
                for_all: adds.then_some(&device_row),
            };
            let out = poisoned(&gpu, Dtype::F32, tokens * hidden);
            // Every third token was chosen on the GPU, if there is that choice.
            let choices: Vec<u32> = (0..9).map(|_| rng.random_range(0..vocab) as u32).collect();
            let which: Vec<u32> =
                (0..tokens).map(|token| if token % 3 == 0 { rng.random_range(0..12) } else { u32::MAX }).collect();
            let id = |(&id, &which): (&u32, &u32)| choices.get(which as usize).copied().unwrap_or(id);
            let ids: Vec<u32> = ids.iter().zip(&which).map(id).collect();
            let [device_which, device_choices] = [&which, &choices].map(|x| Slice::of_u32(&gpu, x).expect("memory"));
            let chosen = Chosen { which: &device_which, choices: &device_choices };
            let launch = |out| embed(&gpu, &device_ids, Some(chosen), embedding, Some(&virtual_tokens), hidden, out);
            launch(&out).expect("launch");
            assert_eq!(device_ids.to_u32().expect("numbers"), ids, "the ids of what was chosen");
            // Once more, when choices are others: the tokens stay what they were.
            device_choices.zero().expect("launch");
            let out = poisoned(&gpu, Dtype::F32, tokens * hidden);
            launch(&out).expect("launch");

            let mut exact = vec![0f64; tokens * hidden];
            for (token, line) in exact.chunks_mut(hidden).enumerate().filter(|(token, _)| ids[*token] != u32::MAX) {
                let mut add = |from: &[f32]| line.iter_mut().zip(from).for_each(|(x, y)| *x += f64::from(*y));
                match (ids[token] as usize).checked_sub(vocab) {
                    None => add(&table[ids[token] as usize * hidden..][..hidden]),
                    Some(index) => {
                        if let Some(owner) = owner(token).filter(|_| index < 5) {
                            add(&extra[owner].0[index * hidden..][..hidden]);
                        }
                    }
                }
                if learns {
                    add(&learned[positions[token] as usize * hidden..][..hidden]);
                }
                if adds {
                    add(&row);
                }
            }
            assert_close(&out, &exact, &format!("{dtype:?} [{tokens}, {hidden}] learns {learns} adds {adds}"));
        }
    }
}
