//! `y = x·Wᵀ + bias` for few lines, bound by reading the weights.

use super::elementwise::code;
use super::gpu::Arg;
use super::sources::PRODUCT;
use super::{Dtype, Gpu, GpuError, Slice};
use crate::cpu::Activation;

/// The most lines of a [`product`] or a [`gated_product`].
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

/// A gate and what it lets through: `y = activation(x·Gᵀ + g) ⊙ (x·Uᵀ + u)`, with sums in f32, rounded only at the end.
#[derive(Clone)]
pub struct GatedProduct<'a> {
    /// [lines, inputs], of 16-bit numbers.
    pub x: &'a Slice,
    /// [2 · outputs, inputs], of x's dtype: the rows of G, then those of U.
    pub weight: &'a Slice,
    /// `[2 · outputs]`, of x's dtype: g, then u.
    pub bias: Option<&'a Slice>,
    pub activation: Activation,
    /// [lines, outputs], of x's dtype.
    pub y: &'a Slice,
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

    /// Checks that there is room for so many lines of `rows` sums, made by so many blocks.
    fn check(&self, lines: usize, rows: usize, blocks: usize, splits: usize) {
        if splits > 1 {
            assert!(blocks <= COUNTERS, "{rows} outputs are too many to split");
            assert!(self.partials.len() >= lines * rows * splits, "scratch is as long as it has to be");
        }
    }
}

/// How many numbers of scratch memory a product takes; a gated one as much as the plain one of all its rows.
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
    scratch.check(lines, blocks * kernel.rows, blocks, splits);
    let meeting = [&scratch.partials, &scratch.counters].map(Arg::slice);
    let numbers = [Arg::U32(lines as u32), inputs_arg, outputs_arg, pitch_arg, mode];
    let args = [&operands[..], &meeting, &numbers].concat();
    let grid = (blocks as u32, splits as u32, 1);
    // SAFETY: these are the arguments of the products of 16-bit numbers; shapes, scratch and alignment were checked.
    unsafe { gpu.launch(&PRODUCT, kernel.name, grid, kernel.threads(), kernel.shared_bytes(), &args) }
}

/// Whether there is a [`gated_product`] for so many lines of a dtype.
pub fn gates(dtype: Dtype, lines: usize) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::Bf16) && lines <= FEW_LINES
}

/// Computes a gated product of what [`gates`]. What [`product`] asks of inputs and alignment holds here too, and so does what it
/// promises: sums are those of the plain product of the same weights.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn gated_product(gpu: &Gpu, product: &GatedProduct<'_>, scratch: &ProductScratch) -> Result<(), GpuError> {
    product.check();
    let GatedProduct { lines, inputs, outputs, .. } = *product;
    if lines == 0 || outputs == 0 {
        return Ok(());
    }
    let kernel = Kernel::gated(product.x.dtype(), lines);
    let (rows, splits) = (2 * outputs, splits(gpu, inputs, 2 * outputs));
    let blocks = rows.div_ceil(kernel.rows);
    scratch.check(lines, blocks * kernel.rows, blocks, splits);
    let args = [
        Arg::slice(product.x),
        Arg::slice(product.weight),
        Arg::optional(product.bias),
        Arg::slice(product.y),
        Arg::slice(&scratch.partials),
        Arg::slice(&scratch.counters),
        Arg::count(lines),
        Arg::count(inputs),
        Arg::count(outputs),
        code(product.activation),
    ];
    let grid = (blocks as u32, splits as u32, 1);
    // SAFETY: these are the arguments of the gated products; shapes, scratch and alignment were checked.
    unsafe { gpu.launch(&PRODUCT, kernel.name, grid, kernel.threads(), kernel.shared_bytes(), &args) }
}

impl GatedProduct<'_> {
    /// Checks shapes and dtypes.
    fn check(&self) {
        let Self { lines, inputs, outputs, .. } = *self;
        let dtype = self.x.dtype();
        assert!(gates(dtype, lines), "{lines} lines of {dtype:?}: there is no gated product");
        assert_eq!(self.x.len(), lines * inputs, "x is [lines, inputs]");
        assert_eq!(self.weight.len(), 2 * outputs * inputs, "w is [2 · outputs, inputs]");
        assert_eq!(self.weight.dtype(), dtype, "w is of x's dtype");
        let bias_fits = |bias: &Slice| bias.len() == 2 * outputs && bias.dtype() == dtype;
        assert!(self.bias.is_none_or(bias_fits), "bias is [2 · outputs]");
        assert!(self.y.len() >= lines * outputs, "y is [lines, outputs]");
        assert_eq!(self.y.dtype(), dtype, "y is of x's dtype");
        assert!(outputs < 1 << 30 && inputs < 1 << 31, "numbers of a line can be counted");
        assert!(inputs.is_multiple_of(8), "{inputs} inputs: a multiple of 8 is needed");
        assert!(self.x.aligned() && self.weight.aligned(), "x and w are aligned to 16 bytes");
    }
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
        let class = class(lines);
        let names = if dtype == Dtype::F16 { F16_NAMES[class] } else { BF16_NAMES[class] };
        let fits = |&(_, rows): &(&str, usize)| fills(gpu, outputs.div_ceil(rows) * splits);
        let kernels = names.iter().copied().zip([16, 32, 64]);
        let (name, rows) = kernels.clone().rev().find(fits).unwrap_or((names[0], 16));
        Self { name, lines: 8 << class, rows }
    }

    /// The gated product's. Feed-forwards are wide: it comes in blocks of the most rows only.
    fn gated(dtype: Dtype, lines: usize) -> Self {
        let class = class(lines);
        let names = if dtype == Dtype::F16 { GATED_F16_NAMES } else { GATED_BF16_NAMES };
        Self { name: names[class], lines: 8 << class, rows: if class == 0 { 32 } else { 64 } }
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

/// Which kernels have room for so many lines: those for `8 << class`.
fn class(lines: usize) -> usize {
    match lines {
        0..=8 => 0,
        9..=16 => 1,
        17..=32 => 2,
        _ => 3,
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

/// By lines.
const GATED_F16_NAMES: [&str; 4] =
    ["gated_product_f16_8", "gated_product_f16_16", "gated_product_f16_32", "gated_product_f16_64"];
const GATED_BF16_NAMES: [&str; 4] =
    ["gated_product_bf16_8", "gated_product_bf16_16", "gated_product_bf16_32", "gated_product_bf16_64"];

#[cfg(test)]
mod tests;
