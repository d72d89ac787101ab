//! Steps on an NVIDIA GPU: activations in the base's precision, sums in f32, steps of few tokens from captured graphs.

mod ahead;
mod arena;
mod captured;
mod groups;
mod inputs;
mod machine;
mod matrix;
mod residents;
mod staging;
mod step;
mod warm;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Result;
use repertoire_kernels::cuda::{KvStore, MOST_RANK, MOST_SITES, Mark, copy_blocks, write_prefix};

use crate::adapter::apply::apply_head;
use crate::adapter::{Adapter, Head, SiteMap};
use crate::device::{Activations, Buffer, Placement, gpu_error};
use crate::model::load::LoadError;
use crate::model::{BaseModel, Batch, BlockId, Body, Called, KvShape, Output, Outputs, Pass, Row, Warm};

use captured::CapturedSteps;
use inputs::Inputs;
use machine::Machine;
use residents::Residents;
use staging::Staging;
use step::{Answer, Choices, Step};

/// A base that computes on a GPU.
pub struct GpuModel {
    body: Body,
    machine: Machine,
    residents: Residents,
    choices: Choices,
    captured: CapturedSteps,
    /// What steps that are not captured read.
    inputs: Staging,
    /// Scores of steps.
    scores: Staging,
    /// Steps launched and not finished, the first in front: no more than two.
    begun: VecDeque<Begun>,
    /// Of the next step: 0 and 1 in turn.
    turn: usize,
}

/// A step that was launched.
struct Begun {
    batch: Batch,
    answer: Answer,
    turn: usize,
    /// Its end.
    end: Mark,
}

impl GpuModel {
    /// A base without a store, whose weights were brought to `placement`.
    pub fn new(body: Body, placement: &Placement) -> std::result::Result<Self, LoadError> {
        let sites = body.sites().clone();
        check(&sites)?;
        let machine = Machine::new(placement, &sites).map_err(gpu_error)?;
        let choices = Choices::new(&placement.target.gpu, most_choices(1)).map_err(gpu_error)?;
        let captured = CapturedSteps::new(&placement.target.gpu, &sites);
        let residents = Residents::new(placement, sites)?;
        let (inputs, scores) = (Staging::default(), Staging::default());
        Ok(Self { body, machine, residents, choices, captured, inputs, scores, begun: VecDeque::new(), turn: 0 })
    }

    fn any(&mut self, batch: &Batch, turn: usize) -> Result<Answer> {
        let Self { body, machine, residents, choices, inputs, .. } = self;
        let inputs = Inputs::new(machine, residents, body.sites(), batch, (inputs, turn))?;
        body.forward(Step { machine, residents, inputs: &inputs, choices })
    }

    /// Runs a step alone.
    fn run(&mut self, batch: &Batch) -> Result<Outputs> {
        self.begin(batch.clone())?;
        self.finish()
    }

    /// Launches a step.
    fn launch(&mut self, batch: &Batch, turn: usize) -> Result<Answer> {
        let Self { body, machine, residents, choices, captured, .. } = self;
        match captured.run(body, machine, residents, choices, batch, turn)? {
            Some(answer) => Ok(answer),
            None => self.any(batch, turn),
        }
    }

    /// Brings a step's results to the host.
    fn outputs(&self, step: &Begun) -> Result<Outputs> {
        let Begun { batch, answer, turn, .. } = step;
        let asking: Vec<&Row> = batch.rows.iter().filter(|row| row.output.needs_logits()).collect();
        let (mut choices, mut logits, mut count) = (Vec::new(), Vec::new(), 0);
        let chosen = self.choices.read(*turn, asking.len());
        for (i, row) in asking.iter().enumerate() {
            match (row.output, &answer.logits) {
                (Output::Choice, _) => choices.push(chosen[i]),
                (_, Some(all)) => {
                    logits.extend(all.row(i).to_f32().map_err(gpu_error)?);
                    count += 1;
                }
                (_, None) => candle_core::bail!("a step's logits were not kept"),
            }
        }
        let logits = match count {
            0 => None,
            _ => {
                let vocab = logits.len() / count;
                Some(Activations::new(Buffer::from(logits), count, vocab)?)
            }
        };
        Ok(Outputs { logits, choices, scores: self.scores(step)? })
    }

    fn scores(&self, step: &Begun) -> Result<Vec<Vec<f32>>> {
        let Begun { batch, answer, turn, .. } = step;
        let Some(pooled) = &answer.pooled else { return Ok(vec![]) };
        let width = answer.scores.as_ref().map_or(0, |scores| scores.width);
        let scores = self.scores.brought(*turn);
        let each = batch.rows_that_want(Output::Scores).enumerate().map(|(i, row)| {
            let Some(head) = row.adapter.as_ref().and_then(|adapter| adapter.head.as_ref()) else {
                candle_core::bail!("scores were asked of a row without a head");
            };
            match head.labels.len() {
                labels if on_gpu(head) && answer.scores.is_some() => biased(&scores[i * width..][..labels], head),
                _ => apply_head(&pooled.row(i).to_f32().map_err(gpu_error)?, head),
            }
        });
        each.collect()
    }
}

/// Choices of a step of `rows` rows, or of as many as it is padded to.
fn most_choices(rows: usize) -> usize {
    captured::SIZES.into_iter().fold(rows, usize::max)
}

/// Whether the GPU applies a head.
fn on_gpu(head: &Head) -> bool {
    head.labels.len() <= MOST_RANK
}

/// Scores, of which the bits are given, with the head's bias.
fn biased(scores: &[u32], head: &Head) -> Result<Vec<f32>> {
    let mut scores: Vec<f32> = scores.iter().map(|&bits| f32::from_bits(bits)).collect();
    if let Some(bias) = &head.bias {
        crate::device::with_floats(bias, |bias| repertoire_kernels::cpu::add_row(&mut scores, bias))?;
    }
    Ok(scores)
}

/// What kernels need of a base.
fn check(sites: &SiteMap) -> std::result::Result<(), LoadError> {
    let refuse = |what: String| Err(LoadError::Unsupported(format!("{what}; set device = \"cpu\"")));
    if !sites.head_dim.is_multiple_of(8) || sites.head_dim > 256 {
        return refuse(format!("head_dim {}: a GPU takes multiples of 8 up to 256", sites.head_dim));
    }
    match sites.linears.iter().find(|entry| !entry.inputs().is_multiple_of(8)) {
        Some(entry) => refuse(format!("{} has {} inputs: a GPU takes multiples of 8", entry.module, entry.inputs())),
        None => Ok(()),
    }
}

impl BaseModel for GpuModel {
    fn sites(&self) -> &Arc<SiteMap> {
        self.body.sites()
    }

    fn kv_shape(&self) -> Option<KvShape> {
        self.body.kv_shape(self.machine.dtype.bytes())
    }

    fn step_bytes(&self, tokens: usize, rows: usize) -> usize {
        let sites = self.body.sites();
        let of_activations = self.machine.dtype.bytes();
        let widest = groups::groups(sites).into_iter().map(|group| {
            let inputs = sites.linears[group.start].inputs();
            let outputs: usize = group.map(|site| sites.linears[site].outputs()).sum();
            let layer = if outputs == sites.vocab { 0 } else { outputs };
            // x, maybe scaled; the base's product, in f32 where it is added to a sum; y; what adapters shrink.
            2 * inputs * of_activations + layer * (size_of::<f32>() + of_activations)
        });
        let shrunk = MOST_SITES * MOST_RANK * size_of::<f32>();
        let line = widest.max().unwrap_or(0) + 2 * sites.hidden * size_of::<f32>() + shrunk;
        tokens * line + 2 * rows * sites.vocab * size_of::<f32>()
    }

    fn open_store(&mut self, blocks: usize) -> Result<()> {
        self.captured.forget();
        self.machine.store = None;
        let Some(KvShape { layers, kv_heads, head_dim, .. }) = self.kv_shape() else { return Ok(()) };
        let Machine { gpu, dtype, .. } = &self.machine;
        let store = KvStore::new(gpu, *dtype, layers, blocks, kv_heads, head_dim).map_err(gpu_error)?;
        self.machine.store = Some(store);
        Ok(())
    }

    fn warm_up(&mut self, tokens: usize, rows: usize) -> Result<Option<Warm>> {
        let started = Instant::now();
        // Where captured steps find them: before anything is captured.
        self.captured.forget();
        self.choices = Choices::new(&self.machine.gpu, most_choices(rows)).map_err(gpu_error)?;
        let blocks = self.machine.store.as_ref().map_or(0, |store| store.blocks);
        let batch = warm::prompts(self.body.sites(), tokens, blocks);
        let tokens = batch.tokens.len();
        // The first loads libraries and takes memory.
        self.run(&batch)?;
        let began = Instant::now();
        self.run(&batch)?;
        let took = began.elapsed();
        let captured = Instant::now();
        let decode = warm::decode_steps(self.body.sites(), rows, blocks);
        decode.iter().try_for_each(|batch| self.run(batch).map(drop))?;
        tracing::info!(
            took = ?started.elapsed(), prompt_tokens = tokens, prompt_tokens_took = ?took,
            decode_steps = decode.len(), captured_in = ?captured.elapsed(), "the GPU is warm"
        );
        Ok(Some(Warm { tokens, took }))
    }

    fn draws(&self) -> bool {
        true
    }

    fn call(&mut self, adapter: &Arc<Adapter>) -> Result<Called> {
        self.residents.call(adapter)
    }

    fn copy_blocks(&mut self, copies: &[(BlockId, BlockId)]) -> Result<()> {
        let Some(store) = &self.machine.store else { return Ok(()) };
        let copies: Vec<(u32, u32)> = copies.iter().map(|(from, to)| (from.0, to.0)).collect();
        copy_blocks(&self.machine.gpu, store, &copies).map_err(gpu_error)
    }

    fn write_prefix(&mut self, adapter: &Arc<Adapter>, blocks: &[BlockId], from: usize) -> Result<()> {
        self.residents.admit(std::iter::once(adapter))?;
        let (Some(store), Some(resident)) = (&self.machine.store, self.residents.get(adapter)) else { return Ok(()) };
        let blocks: Vec<u32> = blocks.iter().map(|block| block.0).collect();
        for (layer, (keys, values)) in resident.prefix.iter().enumerate() {
            write_prefix(&self.machine.gpu, keys, values, &store.layer(layer), &blocks, from).map_err(gpu_error)?;
        }
        Ok(())
    }

    fn follows(&self, adapter: Option<&Adapter>) -> bool {
        // Tokens that are made on the host have to be known there; so has what it applies a head to.
        adapter.is_none_or(|adapter| {
            let at_hand = adapter.embedding.is_none() && adapter.positions.is_none();
            at_hand && adapter.head.as_ref().is_none_or(on_gpu)
        })
    }

    fn advance(&mut self, _: &mut Pass) -> Result<()> {
        candle_core::bail!("a base on a GPU does not learn yet; set its device to \"cpu\"")
    }

    fn begin(&mut self, batch: Batch) -> Result<()> {
        let waits = |row: &Row| match row.output {
            Output::Choice | Output::Nothing => false,
            Output::Scores => !self.follows(row.adapter.as_deref()),
            Output::Logits => true,
        };
        if self.begun.len() > 1 || self.begun.iter().any(|step| step.batch.rows.iter().any(waits)) {
            candle_core::bail!("a step that has to be finished before another begins");
        }
        self.residents.admit(batch.segments.iter().filter_map(|segment| segment.adapter.as_ref()))?;
        let turn = self.turn;
        let launched = self.launch(&batch, turn);
        if launched.is_err() {
            // What was launched before still reads memory that the next step writes.
            let _ = self.machine.gpu.synchronize();
        }
        let mut answer = launched?;
        if answer.logits.is_some() {
            self.choices.bring(turn).map_err(gpu_error)?;
        }
        if let Some(scores) = &answer.scores {
            self.scores.bring(&self.machine.gpu, turn, &scores.slice).map_err(gpu_error)?;
        }
        // The next step may have the memory.
        answer.logits = answer.logits.filter(|_| batch.rows_that_want(Output::Logits).next().is_some());
        let end = self.machine.gpu.record().map_err(gpu_error)?;
        self.begun.push_back(Begun { batch, answer, turn, end });
        self.turn = 1 - turn;
        Ok(())
    }

    fn finish(&mut self) -> Result<Outputs> {
        let Some(step) = self.begun.pop_front() else { candle_core::bail!("no step has begun") };
        step.end.wait().map_err(gpu_error)?;
        self.outputs(&step)
    }
}
