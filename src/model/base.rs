//! What the engine asks of a model.

use std::sync::Arc;

use candle_core::Result;

use crate::adapter::SiteMap;
use crate::device::Activations;

use super::{Batch, KvShape, KvStore};

/// A frozen base model. One step takes a ragged batch in which every row may have its own adapter.
pub trait BaseModel: Send + Sync {
    /// Shape and names, for adapters and for admission.
    fn sites(&self) -> &Arc<SiteMap>;

    /// How keys and values are stored; `None` for encoders, which keep none.
    fn kv_shape(&self) -> Option<KvShape>;

    /// Runs one step: writes keys and values of decoder rows (in each layer those of all rows before any are read: a row may
    /// go on from what another row of the step computes), answers what each row's [`super::Output`] asks.
    fn forward(&self, batch: &Batch, kv: &mut KvStore) -> Result<Outputs>;
}

/// What a step computed.
#[derive(Debug, Default)]
pub struct Outputs {
    /// [rows that asked for logits, vocab], f32, in row order.
    pub logits: Option<Activations>,
    /// For each row that asked for scores, in row order: one raw number per label of its adapter's head.
    pub scores: Vec<Vec<f32>>,
}
