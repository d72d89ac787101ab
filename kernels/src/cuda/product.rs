//! `y = x·Wᵀ + bias` for few lines, bound by reading the weights.

use super::gpu::Arg;
use super::sources::PRODUCT;
use super::{Dtype, Gpu, GpuError, Slice};

/// The most lines of a [`product`].
pub const FEW_LINES: usize = 64;

/// k that warps share out among themselves; as in `cuda/tile.cuh`.
const UNIT: usize = 256;
/// Row blocks whose splits can be counted.
const COUNTERS: usize = 4096;

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// It is written over y, which is of the weights' dtype or f32.
    Write,
    /// It is added to y, which is f32.
    Add,
}

/// One product: `y = x·Wᵀ + bias`.
#[derive(Clone)]
pub struct Product<'a> {
    /// [lines, inputs].
    pub x: &'a Slice,
    /// [outputs, inputs], of x's dtype.
    pub weight: &'a Slice,
    /// `[outputs]`, of x's dtype.
    pub bias: Option<&'a Slice>,
    /// [lines, outputs]: numbers of a line lie together, lines `pitch` numbers apart.
    pub y: &'a Slice,
    /// At least `outputs`.
    pub pitch: usize,
    pub store: Store,
    pub lines: usize,
    pub inputs: usize,
    pub outputs: usize,
}

/// Where the parts of a product meet whose k is split over blocks. All products of a GPU can share one.
pub struct ProductScratch {
    partials: Slice,
    /// Always 0 between launches.
    counters: Slice,
}

impl ProductScratch {
    /// For products of at most [`product_scratch_len`].
    pub fn new(gpu: &std::sync::Arc<Gpu>, len: usize) -> Result<Self, GpuError> {
        let counters = Slice::of_u32(gpu, &[0; COUNTERS])?;
        Ok(Self { partials: Slice::new(gpu, Dtype::F32, len)?, counters })
    }
}

/// How many numbers of scratch memory a product takes.
pub fn product_scratch_len(gpu: &Gpu, lines: usize, inputs: usize, outputs: usize) -> usize {
    match splits(gpu, inputs, outputs) {
        1 => 0,
        splits => lines * outputs.next_multiple_of(64) * splits,
    }
}

/// Into how many parts k is split: enough that all multiprocessors have something to read.
///
/// It decides the order of summation, so it does not look at the lines.
fn splits(gpu: &Gpu, inputs: usize, outputs: usize) -> usize {
    let units = inputs.div_ceil(UNIT).max(1);
    let mut splits = 1;
    while splits < 16 && !fills(gpu, outputs.div_ceil(64) * splits) {
        splits *= 2;
    }
    splits.min(units)
}

/// Whether so many blocks keep all multiprocessors busy, or nearly all.
fn fills(gpu: &Gpu, blocks: usize) -> bool {
    blocks * 10 >= gpu.multiprocessors() as usize * 9
}

/// Computes a product of up to [`FEW_LINES`] lines. `inputs` is a multiple of 8 for 16-bit numbers, and matrices are aligned to
/// 16 bytes. A line's numbers do not depend on the other lines, nor on how many there are.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn product(gpu: &Gpu, product: &Product<'_>, scratch: &ProductScratch) -> Result<(), GpuError> {
    let mode = product.check();
    if product.lines == 0 || product.outputs == 0 {
        return Ok(());
    }
    assert!((1..=FEW_LINES).contains(&product.lines), "{} lines: up to {FEW_LINES} are taken", product.lines);
    let Product { lines, inputs, outputs, pitch, .. } = *product;
    let [x, weight, y] = [product.x, product.weight, product.y].map(Arg::slice);
    let operands = [x, weight, Arg::optional(product.bias), y];
    let [inputs_arg, outputs_arg, pitch_arg] = [inputs, outputs, pitch].map(|number| Arg::U32(number as u32));
    if product.x.dtype() == Dtype::F32 {
        let args = [&operands[..], &[inputs_arg, outputs_arg, pitch_arg, mode]].concat();
        let grid = (outputs.div_ceil(4) as u32, lines as u32, 1);
        // SAFETY: these are product_f32's arguments; the shapes were checked.
        return unsafe { gpu.launch(&PRODUCT, "product_f32", grid, 128, 0, &args) };
    }
    assert!(inputs.is_multiple_of(8), "{inputs} inputs: a multiple of 8 is needed");
    assert!(product.x.aligned() && product.weight.aligned(), "x and w are aligned to 16 bytes");
    let splits = splits(gpu, inputs, outputs);
    let kernel = Kernel::choose(gpu, product.x.dtype(), lines, outputs, splits);
    let blocks = outputs.div_ceil(kernel.rows);
    if splits > 1 {
        assert!(blocks <= COUNTERS, "{outputs} outputs are too many to split");
        assert!(scratch.partials.len() >= lines * blocks * kernel.rows * splits, "scratch is as long as it has to be");
    }
    let meeting = [&scratch.partials, &scratch.counters].map(Arg::slice);
    let numbers = [Arg::U32(lines as u32), inputs_arg, outputs_arg, pitch_arg, mode];
    let args = [&operands[..], &meeting, &numbers].concat();
    let grid = (blocks as u32, splits as u32, 1);
    // SAFETY: these are the arguments of the products of 16-bit numbers; shapes, scratch and alignment were checked.
    unsafe { gpu.launch(&PRODUCT, kernel.name, grid, kernel.threads(), kernel.shared_bytes(), &args) }
}

impl Product<'_> {
    /// Checks shapes and dtypes; answers the kernels' number for what becomes of the product.
    pub(super) fn check(&self) -> Arg {
        let Self { lines, inputs, outputs, pitch, .. } = *self;
        let dtype = self.x.dtype();
        assert_ne!(dtype, Dtype::U32, "x is of floats");
        assert_eq!(self.x.len(), lines * inputs, "x is [lines, inputs]");
        assert_eq!(self.weight.len(), outputs * inputs, "w is [outputs, inputs]");
        assert_eq!(self.weight.dtype(), dtype, "w is of x's dtype");
        assert!(self.bias.is_none_or(|bias| bias.len() == outputs && bias.dtype() == dtype), "bias is [outputs]");
        assert!(pitch >= outputs, "lines of y do not overlap");
        assert!(lines == 0 || self.y.len() >= (lines - 1) * pitch + outputs, "y is [lines, outputs]");
        assert!(pitch < 1 << 31 && inputs < 1 << 31, "numbers of a line can be counted");
        Arg::U32(mode(self.store, self.y, dtype))
    }
}

/// The kernels' number for what becomes of results for `y` where others are of `dtype`.
pub(super) fn mode(store: Store, y: &Slice, dtype: Dtype) -> u32 {
    match (store, y.dtype()) {
        (Store::Add, Dtype::F32) => 2,
        (Store::Write, Dtype::F32) => 1,
        (Store::Write, own) if own == dtype => 0,
        (store, own) => panic!("{store:?} to y of {own:?}, of products of {dtype:?}"),
    }
}

/// One of the kernels for 16-bit numbers.
struct Kernel {
    name: &'static str,
    /// Lines it has room for.
    lines: usize,
    /// Rows of w that a block takes.
    rows: usize,
}

impl Kernel {
    /// The most rows of a block that leave enough blocks: more rows mean that x is read less often.
    fn choose(gpu: &Gpu, dtype: Dtype, lines: usize, outputs: usize, splits: usize) -> Self {
        let class = match lines {
            0..=8 => 0,
            9..=16 => 1,
            17..=32 => 2,
            _ => 3,
        };
        let names = if dtype == Dtype::F16 { F16_NAMES[class] } else { BF16_NAMES[class] };
        let fits = |&(_, rows): &(&str, usize)| fills(gpu, outputs.div_ceil(rows) * splits);
        let kernels = names.iter().copied().zip([16, 32, 64]);
        let (name, rows) = kernels.clone().rev().find(fits).unwrap_or((names[0], 16));
        Self { name, lines: 8 << class, rows }
    }

    fn threads(&self) -> u32 {
        if self.rows == 16 { 128 } else { 256 }
    }

    /// As `cuda/tile.cuh` counts them: three stages of x, or the sums of four warps.
    fn shared_bytes(&self) -> u32 {
        let step = if self.lines == 64 || self.rows == 64 { UNIT } else { UNIT * 2 };
        let stages = 3 * self.lines * (step * 2 + 64);
        let sums = 4 * self.lines * (self.rows + 4) * 4;
        stages.max(sums) as u32
    }
}

/// By lines, then by rows of a block: 16, 32, 64. With up to 8 lines x is small, and smaller blocks start and end sooner.
type Names = [&'static [&'static str]; 4];

macro_rules! names {
    ($dtype:literal) => {
        [
            &[concat!("product_", $dtype, "_8_16"), concat!("product_", $dtype, "_8_32")],
            names!($dtype, "16"),
            names!($dtype, "32"),
            names!($dtype, "64"),
        ]
    };
    ($dtype:literal, $lines:literal) => {
        &[
            concat!("product_", $dtype, "_", $lines, "_16"),
            concat!("product_", $dtype, "_", $lines, "_32"),
            concat!("product_", $dtype, "_", $lines, "_64"),
        ]
    };
}

const F16_NAMES: Names = names!("f16");
const BF16_NAMES: Names = names!("bf16");

#[cfg(test)]
mod tests;
