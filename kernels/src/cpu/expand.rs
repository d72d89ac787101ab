//! The second half of a low-rank product, added to what is there: `y += scale · (shrunk·Bᵀ)`.

#[cfg(target_arch = "x86_64")]
use super::dots::{dot_eight, dot_one};
use super::floats::each_type;
use super::{Floats, Weight};

/// The thin matrix of an expansion and where its result goes.
#[derive(Clone, Copy)]
pub(super) struct Expansion<'a> {
    /// [lines, rank].
    pub shrunk: &'a [f32],
    /// [outputs, rank].
    pub b: Floats<'a>,
    pub rank: usize,
    pub outputs: usize,
    pub scale: f32,
}

/// `y += scale · B·shrunk` for one line: `shrunk` `[rank]`, `b` [outputs, rank], `y` `[outputs]`.
///
/// # Panics
/// If a slice's length does not fit the shape.
pub fn expand(shrunk: &[f32], b: Floats<'_>, y: &mut [f32], scale: f32) {
    assert_eq!(b.len(), shrunk.len() * y.len(), "b is [outputs, rank]");
    let outputs = y.len();
    let expansion = Expansion { shrunk, b, rank: shrunk.len(), outputs, scale };
    // SAFETY: the shapes were checked, and `y` is borrowed for this.
    unsafe { expansion.add_to(y.as_mut_ptr(), 0, outputs) };
}

impl Expansion<'_> {
    /// Adds columns `from..to` to `y` [lines, outputs].
    ///
    /// # Safety
    /// The matrices have their shapes, and no other thread touches these columns of `y`.
    pub(super) unsafe fn add_to(&self, y: *mut f32, from: usize, to: usize) {
        // SAFETY: as the caller vouches.
        each_type!(self.b, |b| unsafe { self.typed(b, y, from, to) });
    }

    unsafe fn typed<W: Weight>(&self, b: &[W], y: *mut f32, from: usize, to: usize) {
        #[cfg(target_arch = "x86_64")]
        if super::product::wide() {
            // SAFETY: the features were detected; the rest as the caller vouches.
            return unsafe { self.add_avx2(b, y, from, to) };
        }
        for column in from..to {
            let b = &b[column * self.rank..][..self.rank];
            for (line, shrunk) in self.shrunk.chunks_exact(self.rank).enumerate() {
                // SAFETY: line and column lie inside `y`.
                let y = unsafe { &mut *y.add(line * self.outputs + column) };
                *y += self.scale * super::product::dot(shrunk, b);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_avx2<W: Weight>(&self, b: &[W], y: *mut f32, from: usize, to: usize) {
        use std::arch::x86_64::*;
        let (rank, scale) = (self.rank, _mm256_set1_ps(self.scale));
        let mut column = from;
        while column < to {
            let count = (to - column).min(8);
            let b = &b[column * rank..][..count * rank];
            for (line, shrunk) in self.shrunk.chunks_exact(rank).enumerate() {
                // SAFETY: columns `column..column + count` of the line lie inside `y`; with all eight, `b` has eight rows.
                unsafe {
                    let y = y.add(line * self.outputs + column);
                    if count == 8 {
                        let dots = dot_eight(shrunk, b.as_ptr(), rank);
                        _mm256_storeu_ps(y, _mm256_add_ps(_mm256_loadu_ps(y), _mm256_mul_ps(scale, dots)));
                    } else {
                        for (i, b) in b.chunks_exact(rank).enumerate() {
                            *y.add(i) += self.scale * dot_one(shrunk, b.as_ptr());
                        }
                    }
                }
            }
            column += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::cpu::linear;

    #[test]
    fn it_adds_the_bits_of_the_product() {
        let mut rng = StdRng::seed_from_u64(4);
        for (rank, outputs) in [(16, 64), (8, 30), (3, 17), (20, 41), (64, 8), (1, 1)] {
            let mut random = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random_range(-1.0..1.0)).collect() };
            let (shrunk, b, start) = (random(rank), random(outputs * rank), random(outputs));
            let halves: Vec<f16> = b.iter().map(|&b| f16::from_f32(b)).collect();
            for b in [Floats::F32(&b), Floats::F16(&halves)] {
                let (mut y, mut product) = (start.clone(), vec![0.0; outputs]);
                linear(&shrunk, b, &mut product, 1, rank, outputs);
                expand(&shrunk, b, &mut y, 0.3);
                let expected: Vec<f32> = start.iter().zip(&product).map(|(y, p)| y + 0.3 * p).collect();
                assert_eq!(y, expected, "rank {rank}, {outputs} outputs");
            }
        }
    }
}
