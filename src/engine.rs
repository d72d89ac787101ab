//! Decides who runs in each step and streams what came out. One OS thread owns model, key-value store and scheduler.

pub mod beam;
mod event;
mod handle;
mod parameters;
pub mod sampler;
pub mod stop;

pub use event::{EngineError, Event, FinishReason, Token, TokenChoice, Usage};
pub use handle::{Engine, EngineOptions, EngineStats, EventStream, Request, Work};
pub use parameters::Parameters;
