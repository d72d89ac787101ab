//! One training step: some micro-batches, and then the optimiser, a piece at a time.

use std::sync::Arc;

use candle_core::Result;

use crate::adapter::Adapter;
use crate::model::{BaseModel, Batch, Output, Pass, RowSpec, Targets};

use super::{AdamW, Parameters};

/// Rows of a micro-batch, virtual tokens included, and what they should answer.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    pub rows: Vec<Vec<u32>>,
    pub targets: Targets,
}

/// A step under way. All its micro-batches learn from the adapter that its parameters made before it.
pub struct Step {
    adapter: Arc<Adapter>,
    /// In reverse order.
    waiting: Vec<MicroBatch>,
    /// What the sum of losses is multiplied by: the mean over the whole step.
    scale: f32,
    /// Bytes that a pass may keep.
    room: usize,
    pass: Option<Pass>,
    loss: f64,
    gradients: Option<Vec<Vec<f32>>>,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stepped {
    /// The mean loss.
    pub loss: f64,
    /// The gradients' norm before it was shortened; if it is not finite, nothing was learned.
    pub gradient_norm: f64,
}

impl Step {
    /// A step of the mean loss of some micro-batches.
    pub fn new(parameters: &mut Parameters, mut batches: Vec<MicroBatch>, room: usize) -> Result<Self> {
        let weight: f64 = batches.iter().map(|batch| batch.targets.weight()).sum();
        if weight <= 0.0 {
            candle_core::bail!("a step has nothing to learn from");
        }
        batches.reverse();
        let adapter = Arc::new(parameters.adapter()?);
        let scale = (1.0 / weight) as f32;
        Ok(Self { adapter, waiting: batches, scale, room, pass: None, loss: 0.0, gradients: None })
    }

    /// Does the next piece; answers what the step came to when the optimiser has changed the parameters.
    pub fn advance(
        &mut self,
        model: &mut dyn BaseModel,
        parameters: &mut Parameters,
        optimizer: &AdamW,
        learning_rate: f64,
        step: u64,
    ) -> Result<Option<Stepped>> {
        if self.pass.is_none() {
            self.pass = self.waiting.pop().map(|batch| self.begin(batch));
        }
        if let Some(mut pass) = self.pass.take() {
            model.advance(&mut pass)?;
            if !pass.is_done() {
                self.pass = Some(pass);
                return Ok(None);
            }
            let learned = pass.learned();
            self.loss += learned.loss * f64::from(self.scale);
            let more = parameters.gradients(learned.gradients);
            match &mut self.gradients {
                Some(sum) => sum.iter_mut().zip(&more).for_each(|(sum, more)| {
                    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
                }),
                none => *none = Some(more),
            }
            if !self.waiting.is_empty() {
                return Ok(None);
            }
        }
        let gradients = self.gradients.take().unwrap_or_default();
        let gradient_norm = optimizer.step(parameters, &gradients, learning_rate, step);
        Ok(Some(Stepped { loss: self.loss, gradient_norm }))
    }

    fn begin(&self, batch: MicroBatch) -> Pass {
        let start = self.adapter.prefix_len();
        let spec = |tokens: Vec<u32>| RowSpec {
            adapter: Some(self.adapter.clone()),
            tokens,
            start,
            blocks: vec![],
            output: Output::Nothing,
            draw: None,
            follows: None,
        };
        let (rows, _) = Batch::group(batch.rows.into_iter().map(spec).collect());
        Pass::new(rows, batch.targets, Some(self.scale), self.room)
    }
}
