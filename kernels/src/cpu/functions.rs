//! Exponential, error function and tanh as polynomials: branch-free, so that loops over them become vector code. Each number's result
//! depends on that number alone, wherever in a loop it stands.

/// `eˣ` to two units in the last place; 0 and infinity only nearly where f32 ends. The polynomial is Cephes' `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Added and taken away again, it rounds; between, the sum's last bits are the integer.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let sum = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = sum - ROUND;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    y * f32::from_bits(sum.to_bits().wrapping_add(127) << 23)
}

/// `tanh x` to a few units in the last place: Eigen's rational function.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let c = x.clamp(-7.905_311, 7.905_311);
    let s = c * c;
    let p = -2.760_768_5e-16f32;
    let p = p.mul_add(s, 2.000_188e-13);
    let p = p.mul_add(s, -8.604_672e-11);
    let p = p.mul_add(s, 5.122_297e-8);
    let p = p.mul_add(s, 1.485_722_4e-5);
    let p = p.mul_add(s, 6.372_619e-4);
    let p = p.mul_add(s, 4.893_524_6e-3) * c;
    let q = 1.198_258_4e-6f32;
    let q = q.mul_add(s, 1.185_347_1e-4);
    let q = q.mul_add(s, 2.268_434_6e-3);
    let q = q.mul_add(s, 4.893_525e-3);
    p / q
}

/// `erf x` to a few units in the last place: Eigen's rational function.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let c = x.clamp(-4.0, 4.0);
    let s = c * c;
    let p = -2.726_142_3e-10f32;
    let p = p.mul_add(s, 2.770_681_4e-8);
    let p = p.mul_add(s, -2.101_024e-6);
    let p = p.mul_add(s, -5.692_506_5e-5);
    let p = p.mul_add(s, -7.349_906_3e-4);
    let p = p.mul_add(s, -2.954_6e-3);
    let p = p.mul_add(s, -1.609_603_3e-2) * c;
    let q = -1.456_607_2e-5f32;
    let q = q.mul_add(s, -2.133_740_5e-4);
    let q = q.mul_add(s, -1.682_827e-3);
    let q = q.mul_add(s, -7.373_329e-3);
    let q = q.mul_add(s, -1.426_473_9e-2);
    p / q
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error over a range, relative above 1 and absolute below.
    fn worst(range: std::ops::Range<f32>, f: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        let steps = 200_000;
        let error = |i: usize| {
            let x = range.start + (range.end - range.start) * i as f32 / steps as f32;
            let exact = exact(f64::from(x));
            (f64::from(f(x)) - exact).abs() / exact.abs().max(1.0)
        };
        (0..=steps).map(error).fold(0.0, f64::max)
    }

    #[test]
    fn they_are_as_exact_as_f32_allows() {
        assert!(worst(-90.0..88.0, exp, f64::exp) < 3e-7);
        assert!(worst(-12.0..12.0, tanh, f64::tanh) < 4e-7);
        assert!(worst(-6.0..6.0, erf, libm::erf) < 4e-7);
        let relative = |x: f32| (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
        assert!((-8000..8000).all(|i| relative(i as f32 / 100.0) < 3e-7));
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
    }
}
