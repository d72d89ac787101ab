//! Memory that will be read soon, brought into the cache while something else is computed.

use super::Floats;
use super::floats::each_type;

/// Bytes that come into the cache at a time.
const LINE: usize = 64;

/// Neighbouring bytes; never read through this pointer.
#[derive(Clone, Copy)]
pub(super) struct Stretch {
    at: *const u8,
    pub bytes: usize,
}

// SAFETY: the pointer is only a hint to the processor and is never read through.
unsafe impl Send for Stretch {}
// SAFETY: as above.
unsafe impl Sync for Stretch {}

/// A share of a list of stretches, fetched bit by bit. By default nothing.
#[derive(Default)]
pub(super) struct Ahead<'a> {
    stretches: &'a [Stretch],
    /// Where in the first stretch.
    at: usize,
    bytes: usize,
    /// Lines to fetch each time.
    lines: usize,
}

impl Stretch {
    /// A whole matrix.
    pub(super) fn new(matrix: Floats<'_>) -> Self {
        let at = each_type!(matrix, |w| w.as_ptr().cast());
        Self { at, bytes: matrix.len() * matrix.width() }
    }
}

impl<'a> Ahead<'a> {
    /// Bytes `from..to` of all `stretches` together, in about `times` times.
    pub(super) fn new(stretches: &'a [Stretch], from: usize, to: usize, times: usize) -> Self {
        let (mut stretches, mut at) = (stretches, from);
        while let Some((first, rest)) = stretches.split_first().filter(|(first, _)| at >= first.bytes) {
            (at, stretches) = (at - first.bytes, rest);
        }
        let bytes = to - from;
        Ahead { stretches, at, bytes, lines: bytes.div_ceil(LINE).div_ceil(times.max(1)).min(8) }
    }

    /// Fetches the next lines.
    #[inline(always)]
    pub(super) fn fetch(&mut self) {
        if self.bytes > 0 {
            self.fetch_lines();
        }
    }

    fn fetch_lines(&mut self) {
        for _ in 0..self.lines {
            let Some((first, rest)) = self.stretches.split_first() else { return self.bytes = 0 };
            #[cfg(target_arch = "x86_64")]
            fetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(first.at.wrapping_add(self.at), LINE);
            self.at += LINE;
            if self.at >= first.bytes {
                (self.at, self.stretches) = (0, rest);
            }
            self.bytes = self.bytes.saturating_sub(LINE);
        }
    }
}

/// Fetches some bytes into the cache that `HINT` says.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn fetch<const HINT: i32>(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(LINE) {
        // SAFETY: every x86-64 has it, and it is a hint: no address makes it fail.
        unsafe { std::arch::x86_64::_mm_prefetch::<HINT>(at.wrapping_add(line).cast()) };
    }
}
