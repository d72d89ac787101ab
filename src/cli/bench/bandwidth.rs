//! How fast this machine reads memory: what a step that touches so many bytes can at best take.

use std::time::Instant;

use rayon::prelude::*;

/// Far more than any cache holds.
const BYTES: usize = 1 << 29;
/// Whole readings; the fastest is the least disturbed.
const READINGS: usize = 7;
/// Sums side by side, so that no addition waits for the one before.
const LANES: usize = 16;
/// Parts of the memory; more than there are threads, so that one that starts late is not waited for.
const PARTS: usize = 64;

/// Gigabytes (10^9) per second that the compute threads read together.
pub fn gigabytes_per_second() -> f64 {
    let memory: Vec<u64> = (0..(BYTES / size_of::<u64>()) as u64).into_par_iter().collect();
    let fastest = (0..READINGS).map(|_| {
        let start = Instant::now();
        let sum: u64 = memory.par_chunks(memory.len() / PARTS).map(sum).reduce(|| 0, u64::wrapping_add);
        std::hint::black_box(sum);
        start.elapsed().as_secs_f64()
    });
    BYTES as f64 / fastest.fold(f64::INFINITY, f64::min) / 1e9
}

fn sum(part: &[u64]) -> u64 {
    let mut sums = [0_u64; LANES];
    for line in part.chunks_exact(LANES) {
        for (sum, number) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(*number);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}
