//! Decides who runs in each step and streams what came out. One OS thread owns model, key-value store and scheduler.

pub mod beam;
mod beams;
mod blocks;
mod event;
mod group;
mod handle;
mod pace;
mod parameters;
mod sample;
pub mod sampler;
pub mod scheduler;
pub mod stop;
mod worker;

pub use event::{EngineError, Event, FinishReason, Token, TokenChoice, Usage};
pub use handle::{Engine, EngineOptions, EngineStats, EventStream, Request, Work};
pub use parameters::Parameters;
