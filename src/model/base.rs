//! What the engine asks of a model.

use std::sync::Arc;
use std::time::Duration;

use candle_core::Result;

use crate::adapter::{Adapter, SiteMap};
use crate::device::Activations;

use super::{Batch, BlockId, KvShape, Pass};

/// A frozen base model on its device, with its store of keys and values. One step takes a ragged batch in which every row may
/// have its own adapter.
pub trait BaseModel: Send {
    /// Shape and names, for adapters and for admission.
    fn sites(&self) -> &Arc<SiteMap>;

    /// How keys and values are stored; `None` for encoders, which keep none.
    fn kv_shape(&self) -> Option<KvShape>;

    /// Bytes of device memory that a step of so many tokens takes, of which `rows` ask for a token; 0 where it does not matter.
    fn step_bytes(&self, tokens: usize, rows: usize) -> usize;

    /// Makes room for `blocks` blocks of keys and values; what was stored before is gone.
    fn open_store(&mut self, blocks: usize) -> Result<()>;

    /// Runs steps of up to `tokens` tokens and `rows` rows that nobody asked for, so that those asked for find everything loaded,
    /// taken and captured; whatever the store holds is then gone. Answers how long the largest took, where that tells something.
    fn warm_up(&mut self, tokens: usize, rows: usize) -> Result<Option<Warm>>;

    /// Whether rows may ask for drawn choices ([`super::Row::draw`]). Who computes on the CPU gives logits, and the engine draws.
    fn draws(&self) -> bool;

    /// Begins to bring an adapter to the base's device, where it is not, while steps go on. Until it has arrived, and while those that
    /// are kept leave no room for it, it has to be called again. A step whose adapters nobody called brings them itself, and waits.
    fn call(&mut self, adapter: &Arc<Adapter>) -> Result<Called>;

    /// Copies whole blocks (from, to), in all layers.
    fn copy_blocks(&mut self, copies: &[(BlockId, BlockId)]) -> Result<()>;

    /// Writes an adapter's key-value prefix, from position `from` on, at the start of a sequence whose first blocks are `blocks`.
    fn write_prefix(&mut self, adapter: &Arc<Adapter>, blocks: &[BlockId], from: usize) -> Result<()>;

    /// Whether a step may begin before one with rows of this adapter is finished, which asked for choices or scores; and with rows
    /// whose token that one chooses ([`super::Row::follows`]). Of the plain base: whether at all.
    fn follows(&self, adapter: Option<&Adapter>) -> bool;

    /// Does the next piece of a pass that learns: one layer, there or back. It writes no store, and may come between steps.
    fn advance(&mut self, pass: &mut Pass) -> Result<()>;

    /// Begins one step, which writes keys and values of decoder rows (in each layer those of all rows before any are read: a row
    /// may go on from what another row of the step computes).
    ///
    /// Steps, copies and prefixes take effect in the order in which they are asked for, whenever that is: a block may be somebody
    /// else's as soon as all steps that concern the one before have begun. While a step is not finished, one more may begin, if
    /// [`Self::follows`] allows it and no row of the first asked for logits. After an error nothing has begun.
    fn begin(&mut self, batch: Batch) -> Result<()>;

    /// Finishes the step that began first: waits for it, and answers what each row's [`super::Output`] asks. After an error the
    /// step is over too, and one that follows it has nothing to say.
    fn finish(&mut self) -> Result<Outputs>;
}

/// What came of calling an adapter.
#[derive(Clone, Debug)]
pub enum Called {
    /// It is there, and stays.
    Here(Held),
    /// It is on its way.
    Coming,
    /// Those that are kept leave no room.
    NoRoom,
}

/// Keeps an adapter on the base's device as long as somebody has it. Where nothing has to be brought, it is empty.
#[derive(Clone, Debug, Default)]
pub struct Held(pub Option<Arc<()>>);

/// A step of prompts alone, measured.
#[derive(Clone, Copy, Debug)]
pub struct Warm {
    pub tokens: usize,
    pub took: Duration,
}

/// A row's next token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub id: u32,
    /// By all logits; not finite if one of them is not a number, or infinite.
    pub logprob: f32,
}

/// What a step computed.
#[derive(Debug, Default)]
pub struct Outputs {
    /// [rows that asked for logits, vocab], f32, on the CPU, in row order.
    pub logits: Option<Activations>,
    /// For each row that asked for a choice, in row order.
    pub choices: Vec<Choice>,
    /// For each row that asked for scores, in row order: one raw number per label of its adapter's head.
    pub scores: Vec<Vec<f32>>,
}
