//! Products of few lines that are normalised first, in one launch: `y = norm(x)·Wᵀ + bias`.

use super::gpu::Arg;
use super::product::ProductScratch;
use super::{Dtype, GatedProduct, Gpu, GpuError, Product, Slice};

/// Each block normalises all of x for itself, and keeps it.
const MOST_NUMBERS: usize = 4096;

/// RMS norm of f32 lines, by a weight `[inputs]` of the product's dtype.
#[derive(Clone, Copy)]
pub struct Rms<'a> {
    pub weight: &'a Slice,
    pub eps: f32,
}

/// Whether there is a [`normed_product`] and a [`normed_gated_product`] of so many lines.
pub fn norms_first(dtype: Dtype, lines: usize, inputs: usize) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::Bf16)
        && lines <= 8
        && inputs.is_multiple_of(8)
        && lines * inputs <= MOST_NUMBERS
}

/// Computes the [`super::product`] of [`super::norm`], where [`norms_first`]; to the bit. The product's x is f32.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn normed_product(
    gpu: &Gpu,
    rms: Rms<'_>,
    product: &Product<'_>,
    scratch: &ProductScratch,
) -> Result<(), GpuError> {
    let Product { lines, inputs, outputs, .. } = *product;
    let mode = product.check_with(Dtype::F32);
    if lines == 0 || outputs == 0 {
        return Ok(());
    }
    rms.check(product.weight.dtype(), lines, inputs);
    let (few, args) = product.few(gpu, mode, scratch);
    // SAFETY: these are the arguments of the normed products; shapes, scratch and alignment were checked.
    unsafe { few.launch_normed(gpu, lines, inputs, &rms.with(args)) }
}

/// Computes the [`super::gated_product`] of [`super::norm`], where [`norms_first`]; to the bit. The product's x is f32.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn normed_gated_product(
    gpu: &Gpu,
    rms: Rms<'_>,
    product: &GatedProduct<'_>,
    scratch: &ProductScratch,
) -> Result<(), GpuError> {
    let GatedProduct { lines, inputs, outputs, .. } = *product;
    product.check_with(Dtype::F32);
    if lines == 0 || outputs == 0 {
        return Ok(());
    }
    rms.check(product.weight.dtype(), lines, inputs);
    let (few, args) = product.few(gpu, scratch);
    // SAFETY: these are the arguments of the normed gated products; shapes, scratch and alignment were checked.
    unsafe { few.launch_normed(gpu, lines, inputs, &rms.with(args)) }
}

impl Rms<'_> {
    fn check(&self, dtype: Dtype, lines: usize, inputs: usize) {
        assert!(norms_first(dtype, lines, inputs), "{lines} lines of {inputs} {dtype:?}: there is no normed product");
        assert!((self.weight.dtype(), self.weight.len()) == (dtype, inputs), "a weight is [inputs]");
        assert!(self.weight.aligned(), "the norm's weight is aligned to 16 bytes");
    }

    /// A product's arguments, with the norm's after x.
    fn with(&self, mut args: Vec<Arg>) -> Vec<Arg> {
        args.splice(1..1, [Arg::slice(self.weight), Arg::F32(self.eps)]);
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Activation;
    use crate::cuda::checks::{Rng, assert_same, gpu, pick, poisoned, random, rng};
    use crate::cuda::product::tests::scratch;
    use crate::cuda::{Matrix, Norm, Store, gated_product, norm, product};

    #[test]
    #[ignore = "needs a GPU"]
    fn they_are_the_products_of_what_the_norm_leaves() {
        let (gpu, mut rng) = (gpu(), rng(16));
        for _ in 0..60 {
            let dtype = pick(&mut rng, &[Dtype::F16, Dtype::Bf16]);
            let inputs = pick(&mut rng, &[8, 40, 256, 264, 576, 2048, 2056, 4096]);
            let lines = rng.random_range(1..=(MOST_NUMBERS / inputs).min(8));
            let outputs = pick(&mut rng, &[4, 33, 64, 576, 1000, 2048, 9000]);
            let what = format!("{dtype:?} {lines} x {inputs} -> {outputs}");
            let sums = random(&gpu, &mut rng, Dtype::F32, lines * inputs, 3.0).slice;
            let rms_weight = random(&gpu, &mut rng, dtype, inputs, 1.0).slice;
            let rms = Rms { weight: &rms_weight, eps: 1e-5 };
            let weight = random(&gpu, &mut rng, dtype, 2 * outputs * inputs, 1.0).slice;
            let bias = random(&gpu, &mut rng, dtype, 2 * outputs, 1.0).slice;
            let normed = poisoned(&gpu, dtype, lines * inputs);
            let of = Norm::Rms { weight: &rms_weight, eps: 1e-5 };
            norm(&gpu, Matrix::new(&sums, inputs), of, Matrix::new(&normed, inputs)).expect("a launch");
            let scratch = scratch(&gpu, lines, inputs, 2 * outputs);

            let own = pick(&mut rng, &[dtype, Dtype::F32]);
            let [apart, at_once] = [&normed, &sums].map(|x| {
                let (y, half) = (poisoned(&gpu, own, lines * outputs), outputs * inputs);
                let (weight, bias) = (&weight.part(0..half), Some(&bias.part(0..outputs)));
                let (y_slice, store, pitch, ahead) = (&y, Store::Write, outputs, None);
                let call = Product { x, weight, bias, y: y_slice, pitch, store, lines, inputs, outputs, ahead };
                let launched = match x.dtype() {
                    Dtype::F32 => normed_product(&gpu, rms, &call, &scratch),
                    _ => product(&gpu, &call, &scratch),
                };
                launched.expect("a launch");
                y.to_f32().expect("numbers")
            });
            assert_same(&at_once, &apart, &what);

            let [apart, at_once] = [&normed, &sums].map(|x| {
                let y = poisoned(&gpu, dtype, lines * outputs);
                let (weight, bias, activation, y_slice, ahead) = (&weight, Some(&bias), Activation::Relu, &y, None);
                let call = GatedProduct { x, weight, bias, activation, y: y_slice, lines, inputs, outputs, ahead };
                let launched = match x.dtype() {
                    Dtype::F32 => normed_gated_product(&gpu, rms, &call, &scratch),
                    _ => gated_product(&gpu, &call, &scratch),
                };
                launched.expect("a launch");
                y.to_f32().expect("numbers")
            });
            assert_same(&at_once, &apart, &what);
        }
    }
}
