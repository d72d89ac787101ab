//! What a step answers, still on the GPU.

use std::sync::Arc;

use repertoire_kernels::cpu::Activation;
use repertoire_kernels::cuda::{
    self, Choice, Dtype, Gpu, GpuError, Pinned, Sites, Slice, activate, choose, choose_scratch_len, gather, sample,
    sample_scratch_len, shrink,
};

use crate::model;
use crate::model::layers::{Linear, Norm};
use crate::model::ops::gpu::arena::Memory;
use crate::model::ops::gpu::inputs::Asked;
use crate::model::ops::gpu::matrix::Part;

use super::linear::Read;
use super::{Step, gpu, of};

/// Results of a step; what is not asked for is not there.
#[derive(Default)]
pub struct Answer {
    /// [rows that ask for a token, vocab], f32.
    pub logits: Option<Answered>,
    /// [rows that ask for scores, most labels], f32, without biases.
    pub scores: Option<Answered>,
    /// [rows that ask for scores, hidden], of the base's dtype: what heads read.
    pub pooled: Option<Answered>,
}

/// A matrix of results.
pub struct Answered {
    pub slice: Slice,
    pub width: usize,
    /// Absent in what a captured step answers: whoever asks for it has it before the next step begins.
    _memory: Option<Part>,
}

impl Answered {
    /// Where a row is.
    pub fn row(&self, row: usize) -> Slice {
        self.slice.part(row * self.width..(row + 1) * self.width)
    }

    /// The same place, without keeping others from it.
    pub fn place(&self) -> Self {
        Self { slice: self.slice.clone(), width: self.width, _memory: None }
    }
}

impl From<Part> for Answered {
    fn from(part: Part) -> Self {
        Self { slice: part.slice().clone(), width: part.width(), _memory: Some(part) }
    }
}

/// The tokens chosen for a step's rows; written by every step in place of those before.
pub struct Choices {
    /// u32 `[rows]`.
    pub tokens: Slice,
    /// f32 `[rows]`.
    pub logprobs: Slice,
    logsumexps: Slice,
    /// Tokens, then the bits of log-probabilities: u32 [2, rows].
    both: Slice,
    /// Copies of both, taken in turn: one is read while the next step's is written.
    copies: [Pinned; 2],
}

impl Choices {
    /// Room for so many rows.
    pub fn new(gpu: &Arc<Gpu>, rows: usize) -> Result<Self, GpuError> {
        let all = Slice::new(gpu, Dtype::U32, 3 * rows)?;
        let [tokens, logprobs, logsumexps] = [0, 1, 2].map(|i| all.part(i * rows..(i + 1) * rows));
        let [logprobs, logsumexps] = [logprobs, logsumexps].map(|x| x.part_as(0, Dtype::F32, rows));
        let copies = [Pinned::new(gpu, 8 * rows)?, Pinned::new(gpu, 8 * rows)?];
        Ok(Self { tokens, logprobs, logsumexps, both: all.part(0..2 * rows), copies })
    }

    /// Has the choices of the step launched last brought to the host, in the order of launches. `turn` is 0 or 1.
    pub fn bring(&mut self, turn: usize) -> Result<(), GpuError> {
        self.both.read_to(&mut self.copies[turn], 0)
    }

    /// The first `rows` choices brought in that turn, which are there: a mark made since is done.
    pub fn read(&self, turn: usize, rows: usize) -> Vec<model::Choice> {
        let (tokens, logprobs) = self.copies[turn].u32s().split_at(self.tokens.len());
        let each = tokens.iter().zip(logprobs).take(rows);
        each.map(|(&id, &bits)| model::Choice { id, logprob: f32::from_bits(bits) }).collect()
    }
}

impl Step<'_> {
    pub(super) fn decoder(self, sum: &Part, norm: &Norm, head: &Linear) -> candle_core::Result<Answer> {
        let mut answer = Answer::default();
        if let Some(asked) = &self.inputs.chosen {
            let x = self.normed(sum, norm, asked)?;
            let [logits] = self.group(&Read::from(&x), [head], &asked.whose, Dtype::F32)?;
            let (rows, vocab) = (asked.whose.count, logits.width());
            let Choices { tokens, logprobs, logsumexps, .. } = self.choices;
            let [tokens, logprobs, logsumexps] = [tokens, logprobs, logsumexps].map(|all| all.part(0..rows));
            let choice = Choice { tokens: &tokens, logprobs: &logprobs, logsumexps: &logsumexps };
            let device = &self.machine.gpu;
            match &self.inputs.draws {
                None => {
                    let scratch = self.memory(Dtype::F32, choose_scratch_len(rows, vocab))?;
                    choose(device, logits.slice(), vocab, &choice, scratch.slice()).map_err(gpu)?;
                }
                Some(draws) => {
                    let scratch = self.memory(Dtype::F32, sample_scratch_len(rows, vocab))?;
                    sample(device, logits.slice(), vocab, draws, &choice, scratch.slice()).map_err(gpu)?;
                }
            }
            answer.logits = Some(logits.into());
        }
        if let Some(asked) = &self.inputs.scored {
            let x = self.normed(sum, norm, asked)?;
            answer.scores = self.heads(&x, asked)?.map(Answered::from);
            answer.pooled = Some(x.into());
        }
        Ok(answer)
    }

    pub(super) fn encoder(self, x: &Part, pooler: &Linear) -> candle_core::Result<Answer> {
        let mut answer = Answer::default();
        if let Some(asked) = &self.inputs.scored {
            let firsts = self.gathered(x, asked)?;
            let [pooled] = self.group(&Read::from(&firsts), [pooler], &asked.whose, self.machine.dtype)?;
            activate(&self.machine.gpu, pooled.matrix(), Activation::Tanh).map_err(gpu)?;
            answer.scores = self.heads(&pooled, asked)?.map(Answered::from);
            answer.pooled = Some(pooled.into());
        }
        Ok(answer)
    }

    /// The lines asked for.
    fn gathered(&self, x: &Part, asked: &Asked) -> candle_core::Result<Part> {
        let Some(lines) = &asked.lines else { return Ok(x.clone()) };
        let gathered = self.take(x.dtype(), asked.whose.count, x.width())?;
        gather(&self.machine.gpu, x.slice(), lines, x.width(), gathered.slice()).map_err(gpu)?;
        Ok(gathered)
    }

    /// The lines of a sum that are asked for, normalised.
    fn normed(&self, sum: &Part, norm: &Norm, asked: &Asked) -> candle_core::Result<Part> {
        let x = self.gathered(sum, asked)?;
        let out = self.take(self.machine.dtype, asked.whose.count, x.width())?;
        cuda::norm(&self.machine.gpu, x.matrix(), of(norm), out.matrix()).map_err(gpu)?;
        Ok(out)
    }

    /// The scores of all rows by their adapters' heads, in one launch.
    fn heads(&self, x: &Part, asked: &Asked) -> candle_core::Result<Option<Part>> {
        let Some(table) = self.residents.tables.heads() else { return Ok(None) };
        let (lines, labels) = (asked.whose.count, table.most_rank());
        let scores: Memory = self.memory(Dtype::F32, lines * labels)?;
        let tables = [table];
        let lines_of = asked.whose.lines_of();
        let sites =
            Sites { tables: &tables, lines_of, lines, shrunk: scores.slice(), parts: 1, dtype: self.machine.dtype };
        shrink(&self.machine.gpu, &sites, x.slice()).map_err(gpu)?;
        Ok(Some(Part::whole(scores, labels)))
    }
}
