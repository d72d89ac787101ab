//! Dot products of one row with others, one or eight at a time with the same bits: each in the order of [`super::product`].

use std::arch::x86_64::*;

use super::Weight;
use super::product::add_lanes;

/// The dot product of `x` with `w` `[x.len()]`.
///
/// # Safety
/// `w` is readable for as many numbers as `x` has; the CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dot_one<W: Weight>(x: &[f32], w: *const W) -> f32 {
    let whole = x.len() - x.len() % 8;
    let mut sum = _mm256_setzero_ps();
    let mut k = 0;
    while k < whole {
        // SAFETY: `k + 8` lies inside both.
        sum = unsafe { _mm256_fmadd_ps(_mm256_loadu_ps(x.as_ptr().add(k)), W::load8(w.add(k)), sum) };
        k += 8;
    }
    // SAFETY: as the caller vouches.
    add_lanes(sum) + unsafe { tail(x, w) }
}

/// The dot products of `x` with eight rows `[x.len()]` that begin `stride` apart.
///
/// # Safety
/// Each row is readable; the CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dot_eight<W: Weight>(x: &[f32], w: *const W, stride: usize) -> __m256 {
    let whole = x.len() - x.len() % 8;
    let mut sums = [_mm256_setzero_ps(); 8];
    let mut k = 0;
    while k < whole {
        // SAFETY: `k + 8` lies inside `x` and inside each row.
        unsafe {
            let value = _mm256_loadu_ps(x.as_ptr().add(k));
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_fmadd_ps(value, W::load8(w.add(i * stride + k)), *sum);
            }
        }
        k += 8;
    }
    let dots = add_lanes_of_eight(sums);
    if whole == x.len() {
        return dots;
    }
    // SAFETY: as the caller vouches.
    let tails: [f32; 8] = std::array::from_fn(|i| unsafe { tail(x, w.add(i * stride)) });
    // SAFETY: eight numbers.
    _mm256_add_ps(dots, unsafe { _mm256_loadu_ps(tails.as_ptr()) })
}

/// What the last numbers, too few for a vector, add.
///
/// # Safety
/// `w` is readable for as many numbers as `x` has.
#[inline(always)]
unsafe fn tail<W: Weight>(x: &[f32], w: *const W) -> f32 {
    let mut tail = 0.0;
    for (k, x) in x.iter().enumerate().skip(x.len() - x.len() % 8) {
        // SAFETY: `k` lies inside both.
        tail += x * unsafe { (*w.add(k)).widen() };
    }
    tail
}

/// The sums of the lanes of each of eight vectors, added in the order of [`add_lanes`].
#[target_feature(enable = "avx2")]
fn add_lanes_of_eight(v: [__m256; 8]) -> __m256 {
    // Four lanes of vector i in the lower half, of vector i + 4 in the upper one.
    let four = |i: usize| {
        _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(v[i], v[i + 4]), _mm256_permute2f128_ps::<0x31>(v[i], v[i + 4]))
    };
    // Two lanes of i, then two of i + 1.
    let two = |a, b| _mm256_add_ps(_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xEE>(a, b));
    let (low, high) = (two(four(0), four(1)), two(four(2), four(3)));
    _mm256_add_ps(_mm256_shuffle_ps::<0x88>(low, high), _mm256_shuffle_ps::<0xDD>(low, high))
}
