//! Loads that start when they are told to.

use std::io;

use anyhow::Result;

/// Says that all is ready, and waits for a line; false when none comes any more.
pub fn for_a_line() -> Result<bool> {
    eprintln!("waiting for a line on standard input");
    Ok(io::stdin().read_line(&mut String::new())? > 0)
}
