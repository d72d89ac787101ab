#![doc = include_str!("../docs/ARCHITECTURE.md")]

pub mod adapter;
pub mod app;
pub mod cli;
pub mod config;
pub mod device;
pub mod engine;
pub mod http;
pub mod hub;
pub mod model;
pub mod profile;
pub mod telemetry;
pub mod text;
pub mod train;
