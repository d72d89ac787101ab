//! Parses the command line and runs what it asks.

fn main() -> std::process::ExitCode {
    repertoire::cli::main()
}
