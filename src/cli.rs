//! The command line. `serve` runs the server; `inspect` needs none; `bench` needs either; the rest are clients of a running one.

mod adapters;
mod ask;
mod bench;
mod classify;
mod client;
mod configuration;
mod events;
mod generate;
mod inspect;
mod push;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// One frozen base model, a whole repertoire of adapters: an inference server with hot-swappable adapters.
#[derive(Debug, Parser)]
#[command(name = "repertoire", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the bases and answer requests until ctrl-c
    Serve(serve::Serve),
    /// Publish an adapter folder or archive on a running server
    Push(push::Push),
    /// List adapters; show, roll back or delete one
    Adapters(adapters::Adapters),
    /// Generate text and print it as it comes
    Generate(generate::Generate),
    /// Classify texts
    Classify(classify::Classify),
    /// Say what an adapter or a base is, and whether it can be applied exactly; needs no server
    Inspect(inspect::Inspect),
    /// Put load on a server and measure what its clients see
    Bench(Box<bench::Bench>),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(command) => command.run(),
        Command::Push(command) => command.run(),
        Command::Adapters(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Classify(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Bench(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
