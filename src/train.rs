//! Teaches an adapter: which of its parts learn, how a step is made of micro-batches, and how the optimiser changes them. The model knows
//! how far they are off.

mod optimizer;
mod parameter;
mod parameters;
mod schedule;
mod step;

pub use optimizer::{AdamW, Moments};
pub use parameter::{Parameter, Place};
pub use parameters::Parameters;
pub use schedule::Schedule;
pub use step::{MicroBatch, Step, Stepped};
