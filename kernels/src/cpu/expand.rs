//! The second half of a low-rank product, added to what is there: `y += scale · (shrunk·Bᵀ)`.

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
                        let dots = dot_eight(shrunk, b);
                        _mm256_storeu_ps(y, _mm256_add_ps(_mm256_loadu_ps(y), _mm256_mul_ps(scale, dots)));
                    } else {
                        for (i, b) in b.chunks_exact(rank).enumerate() {
                            *y.add(i) += self.scale * dot_one(shrunk, b);
                        }
                    }
                }
            }
            column += count;
        }
    }
}

/// Eight dot products of `x` with neighbouring rows of `w` [8, x.len()], each in the order of [`super::product`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_eight<W: Weight>(x: &[f32], w: &[W]) -> std::arch::x86_64::__m256 {
    use std::arch::x86_64::*;
    let (rank, whole) = (x.len(), x.len() - x.len() % 8);
    let mut sums = [_mm256_setzero_ps(); 8];
    let mut k = 0;
    while k < whole {
        // SAFETY: `k + 8` lies inside `x` and inside each row.
        unsafe {
            let value = _mm256_loadu_ps(x.as_ptr().add(k));
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_fmadd_ps(value, W::load8(w.as_ptr().add(i * rank + k)), *sum);
            }
        }
        k += 8;
    }
    let dots = add_lanes_of_eight(sums);
    if whole == rank {
        return dots;
    }
    let mut tails = [0f32; 8];
    for (tail, w) in tails.iter_mut().zip(w.chunks_exact(rank)) {
        for k in whole..rank {
            *tail += x[k] * w[k].widen();
        }
    }
    // SAFETY: eight numbers.
    _mm256_add_ps(dots, unsafe { _mm256_loadu_ps(tails.as_ptr()) })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_one<W: Weight>(x: &[f32], w: &[W]) -> f32 {
    use std::arch::x86_64::*;
    let whole = x.len() - x.len() % 8;
    let mut sum = _mm256_setzero_ps();
    let mut k = 0;
    while k < whole {
        // SAFETY: `k + 8` lies inside both.
        sum = unsafe { _mm256_fmadd_ps(_mm256_loadu_ps(x.as_ptr().add(k)), W::load8(w.as_ptr().add(k)), sum) };
        k += 8;
    }
    let mut tail = 0.0;
    for k in whole..x.len() {
        tail += x[k] * w[k].widen();
    }
    super::product::add_lanes(sum) + tail
}

/// The sums of the lanes of each of eight vectors, added in the order of [`super::product::add_lanes`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_lanes_of_eight(v: [std::arch::x86_64::__m256; 8]) -> std::arch::x86_64::__m256 {
    use std::arch::x86_64::*;
    // Four lanes of vector i in the lower half, of vector i + 4 in the upper one.
    let four = |i: usize| {
        _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(v[i], v[i + 4]), _mm256_permute2f128_ps::<0x31>(v[i], v[i + 4]))
    };
    // Two lanes of i, then two of i + 1.
    let two = |a, b| _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xEE>(a, b));
    let (low, high) = (two(four(0), four(1)), two(four(2), four(3)));
    _mm256_add_ps(_mm256_shuffle_ps::<0x88>(low, high), _mm256_shuffle_ps::<0xDD>(low, high))
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
