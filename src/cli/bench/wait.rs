//! Loads that start when they are told to.

use std::io;

use anyhow::Result;

/// Says that all is ready, and waits for a line; nothing when none comes any more.
pub fn for_a_line() -> Result<Option<String>> {
    eprintln!("waiting for a line on standard input");
    let mut line = String::new();
    Ok((io::stdin().read_line(&mut line)? > 0).then_some(line))
}
