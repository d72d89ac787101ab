//! Activations, gates and biases.

use super::gpu::{Arg, count, instance};
use super::sources::ELEMENTWISE;
use super::{Dtype, Gpu, GpuError, Matrix, Slice};
use crate::cpu::Activation;

/// Threads of a block, each with eight numbers.
const THREADS: u32 = 256;

/// `out = f(gate) ⊙ up`, all [lines, n]; `out` may be `gate` or `up`.
pub fn gate(gpu: &Gpu, gate: Matrix<'_>, up: Matrix<'_>, f: Activation, out: Matrix<'_>) -> Result<(), GpuError> {
    let (dtype, lines, n) = (out.dtype(), out.lines(), out.width());
    assert!(gate.is(dtype, lines, n) && up.is(dtype, lines, n), "gate, up and out have one shape");
    let args = [
        gate.pointer(),
        gate.stride(),
        up.pointer(),
        up.stride(),
        out.pointer(),
        out.stride(),
        Arg::count(lines),
        Arg::count(n),
        code(f),
    ];
    // SAFETY: shapes and dtypes were checked; each number is read and written by one thread.
    unsafe { gpu.launch(&ELEMENTWISE, instance!("gate", dtype), grid(lines, n), THREADS, 0, &args) }
}

/// `x = f(x)`, [lines, n].
pub fn activate(gpu: &Gpu, x: Matrix<'_>, f: Activation) -> Result<(), GpuError> {
    let (lines, n) = (x.lines(), x.width());
    let args = [x.pointer(), x.stride(), Arg::count(lines), Arg::count(n), code(f)];
    // SAFETY: the matrix knows its shape; each number is read and written by one thread.
    unsafe { gpu.launch(&ELEMENTWISE, instance!("activate", x.dtype()), grid(lines, n), THREADS, 0, &args) }
}

/// Adds `row` `[n]` to every line of `x` [lines, n], which is of its dtype or f32.
pub fn add_row(gpu: &Gpu, x: Matrix<'_>, row: &Slice) -> Result<(), GpuError> {
    let (lines, n) = (x.lines(), x.width());
    assert_eq!(row.len(), n, "a row as wide as the matrix");
    let name = match (row.dtype(), x.dtype()) {
        (Dtype::F16, Dtype::F32) => "add_row_f16_to_f32",
        (Dtype::Bf16, Dtype::F32) => "add_row_bf16_to_f32",
        (dtype, own) => {
            assert_eq!(dtype, own, "a row of the matrix's dtype");
            instance!("add_row", dtype)
        }
    };
    let args = [x.pointer(), x.stride(), Arg::slice(row), Arg::count(lines), Arg::count(n)];
    // SAFETY: shapes and dtypes were checked; each number of x is read and written by one thread.
    unsafe { gpu.launch(&ELEMENTWISE, name, grid(lines, n), THREADS, 0, &args) }
}

/// The kernels' number for an activation.
pub(super) fn code(f: Activation) -> Arg {
    Arg::U32(match f {
        Activation::Gelu => 0,
        Activation::GeluTanh => 1,
        Activation::Relu => 2,
        Activation::Silu => 3,
        Activation::Tanh => 4,
    })
}

fn grid(lines: usize, n: usize) -> (u32, u32, u32) {
    // The kernel counts threads in 32 bits.
    let threads = count((lines * n.div_ceil(8)).next_multiple_of(THREADS as usize));
    (threads / THREADS, 1, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Dtype;
    use crate::cuda::checks::*;

    const ACTIVATIONS: [Activation; 5] =
        [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu, Activation::Tanh];

    fn exact(x: f32, f: Activation) -> f64 {
        let x = f64::from(x);
        match f {
            Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
            }
            Activation::Relu => x.max(0.0),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
        }
    }

    /// Enough that not all numbers lie where a GELU is nearly 0, of which f32 knows few digits.
    fn lines(rng: &mut StdRng, n: usize) -> usize {
        rng.random_range(if n == 1 { 8 } else { 1 }..70)
    }

    fn cases() -> impl Iterator<Item = (Dtype, usize, Activation)> {
        let widths = [1, 7, 8, 44, 63, 768, 1001, 4096];
        DTYPES.into_iter().flat_map(move |t| widths.into_iter().flat_map(move |n| ACTIVATIONS.map(|f| (t, n, f))))
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn gates_open() {
        let (gpu, mut rng) = (gpu(), rng(30));
        for (dtype, n, f) in cases() {
            let lines = lines(&mut rng, n);
            let both: Vec<f32> = uniform(&mut rng, lines * 2 * n).iter().map(|x| 6.0 * x).collect();
            let both = round(dtype, &both);
            let products = both.chunks(2 * n).flat_map(|line| {
                let (left, right) = line.split_at(n);
                left.iter().zip(right).map(|(g, u)| exact(*g, f) * f64::from(*u))
            });
            let products: Vec<f64> = products.collect();
            let device = Slice::of(&gpu, dtype, &both).expect("memory");
            let matrix = Matrix::new(&device, 2 * n);
            let (left, right) = (matrix.columns(0..n), matrix.columns(n..2 * n));
            let out = poisoned(&gpu, dtype, lines * n);
            let what = format!("{dtype:?} [{lines}, {n}] {f:?}");
            gate(&gpu, left, right, f, Matrix::new(&out, n)).expect("launch");
            assert_close(&out, &products, &what);
            assert_eq!(device.to_f32().expect("copy"), both, "{what}: what is read stays");
            gate(&gpu, left, right, f, left).expect("launch");
            let whole = products.chunks(n).zip(both.chunks(2 * n));
            let whole: Vec<f64> = whole.flat_map(|(new, old)| [new.to_vec(), wide(&old[n..])].concat()).collect();
            assert_close(&device, &whole, &what);
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn numbers_are_activated_and_rows_added() {
        let (gpu, mut rng) = (gpu(), rng(31));
        for (dtype, n, f) in cases() {
            let lines = lines(&mut rng, n);
            let x: Vec<f32> = uniform(&mut rng, lines * n).iter().map(|x| 6.0 * x).collect();
            let (x, row) = (round(dtype, &x), round(dtype, &uniform(&mut rng, n)));
            let what = format!("{dtype:?} [{lines}, {n}] {f:?}");
            let device = Slice::of(&gpu, dtype, &x).expect("memory");
            activate(&gpu, Matrix::new(&device, n), f).expect("launch");
            assert_close(&device, &x.iter().map(|x| exact(*x, f)).collect::<Vec<_>>(), &what);

            let device = Slice::of(&gpu, dtype, &x).expect("memory");
            let device_row = Slice::of(&gpu, dtype, &row).expect("memory");
            add_row(&gpu, Matrix::new(&device, n), &device_row).expect("launch");
            let sums = x.chunks(n).flat_map(|x| x.iter().zip(&row).map(|(x, r)| f64::from(*x) + f64::from(*r)));
            let sums: Vec<f64> = sums.collect();
            assert_close(&device, &sums, &what);
            let device = Slice::of(&gpu, Dtype::F32, &x).expect("memory");
            add_row(&gpu, Matrix::new(&device, n), &device_row).expect("launch");
            assert_close(&device, &sums, &what);
        }
    }
}
