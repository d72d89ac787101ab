//! Turns a data set into a published adapter. Knows how a job learns, and which parts of an adapter do; the model knows how far they
//! are off.

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
