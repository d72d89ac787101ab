//! Parses the command line and runs what it asks.

fn main() {}
