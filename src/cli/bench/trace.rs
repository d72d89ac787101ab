//! What became of every request, for programs that look closer than a point's figures: when its tokens came.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::Serialize;

use super::clients::Outcome;

/// A file of JSON lines, one for each request.
pub struct Trace {
    file: File,
    clock: Clock,
}

/// Turns moments into seconds since 1970, so that traces of several processes can be laid side by side.
#[derive(Clone, Copy)]
struct Clock {
    instant: Instant,
    seconds: f64,
}

#[derive(Serialize)]
struct Line<'a> {
    /// Which point of the run it belongs to, from 0.
    point: usize,
    adapter: Option<&'a str>,
    start: f64,
    tokens: Vec<f64>,
    end: f64,
    prompt_tokens: Option<usize>,
    /// Of these, tokens that the server did not compute anew.
    cached_tokens: Option<usize>,
    output_tokens: usize,
    error: Option<&'a str>,
}

impl Trace {
    /// A new file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { file, clock: Clock::new() })
    }

    /// Writes the requests of a point.
    pub fn point(&mut self, point: usize, outcomes: &[Outcome]) -> Result<()> {
        let mut lines = Vec::new();
        for outcome in outcomes {
            serde_json::to_writer(&mut lines, &line(point, outcome, self.clock))?;
            lines.push(b'\n');
        }
        // At once: who reads along finds whole lines.
        self.file.write_all(&lines)?;
        Ok(())
    }
}

fn line(point: usize, outcome: &Outcome, clock: Clock) -> Line<'_> {
    let heard = &outcome.heard;
    Line {
        point,
        adapter: outcome.adapter.as_deref(),
        start: clock.seconds(outcome.start),
        tokens: heard.at.iter().map(|&at| clock.seconds(at)).collect(),
        end: clock.seconds(outcome.end),
        prompt_tokens: heard.prompt_tokens,
        cached_tokens: heard.cached_tokens,
        output_tokens: heard.output_tokens,
        error: outcome.error.as_deref(),
    }
}

impl Clock {
    fn new() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        Self { instant: Instant::now(), seconds }
    }

    /// To a microsecond.
    fn seconds(&self, moment: Instant) -> f64 {
        // One of the two is zero.
        let after = moment.saturating_duration_since(self.instant).as_secs_f64();
        let before = self.instant.saturating_duration_since(moment).as_secs_f64();
        ((self.seconds + after - before) * 1e6).round() / 1e6
    }
}
