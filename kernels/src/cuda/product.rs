//! `y = x·Wᵀ + bias` for few lines, bound by reading the weights.

mod few;

use super::elementwise::code;
use super::gpu::Arg;
use super::sources::PRODUCT;
use super::{Dtype, Gpu, GpuError, Slice};
use crate::cpu::Activation;

use few::splits;
pub(super) use few::{Few, has_room, tile_bytes};

/// The most lines of a [`product`] or a [`gated_product`].
pub const FEW_LINES: usize = 64;

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
    /// What a later launch reads: it is brought nearer when this one has read its weights. Aligned to 16 bytes.
    pub ahead: Option<&'a Slice>,
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
    /// As [`Product::ahead`].
    pub ahead: Option<&'a Slice>,
}

/// Where the parts of a product meet whose k is split over blocks. All products of a GPU can share one.
pub struct ProductScratch {
    partials: Slice,
    /// Always 0 between launches, as are the two of `meeting`.
    counters: Slice,
    /// Where blocks of an adapted product meet.
    pub(super) meeting: Slice,
}

impl ProductScratch {
    /// For products of at most [`product_scratch_len`].
    pub fn new(gpu: &std::sync::Arc<Gpu>, len: usize) -> Result<Self, GpuError> {
        let [counters, meeting] = [COUNTERS, 2].map(|count| Slice::of_u32(gpu, &vec![0; count]));
        Ok(Self { partials: Slice::new(gpu, Dtype::F32, len)?, counters: counters?, meeting: meeting? })
    }

    /// Checks that there is room for a launch of so many lines.
    fn check(&self, lines: usize, few: &Few) {
        if few.splits > 1 {
            assert!(few.row_blocks <= COUNTERS, "{} outputs are too many to split", few.rows());
            assert!(self.partials.len() >= lines * few.rows() * few.splits, "scratch is as long as it has to be");
        }
    }

    fn args(&self) -> [Arg; 2] {
        [&self.partials, &self.counters].map(Arg::slice)
    }
}

/// How many numbers of scratch memory a product takes; a gated one as much as the plain one of all its rows.
pub fn product_scratch_len(gpu: &Gpu, lines: usize, inputs: usize, outputs: usize) -> usize {
    match splits(gpu, inputs, outputs) {
        1 => 0,
        splits => lines * outputs.next_multiple_of(64) * splits,
    }
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
    if product.x.dtype() == Dtype::F32 {
        return product.launch_f32(gpu, mode);
    }
    let (few, args) = product.few(gpu, mode, scratch);
    // SAFETY: these are the arguments of the products of 16-bit numbers; shapes, scratch and alignment were checked.
    unsafe { few.launch(gpu, &args) }
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
    if product.lines == 0 || product.outputs == 0 {
        return Ok(());
    }
    let (few, args) = product.few(gpu, scratch);
    // SAFETY: these are the arguments of the gated products; shapes, scratch and alignment were checked.
    unsafe { few.launch(gpu, &args) }
}

/// What a launch brings nearer, as kernels are told.
fn ahead(slice: Option<&Slice>) -> [Arg; 2] {
    let bytes = |slice: &Slice| slice.len() * slice.dtype().bytes();
    [Arg::optional(slice), Arg::count(slice.map_or(0, bytes))]
}

impl GatedProduct<'_> {
    /// How it is launched, and with what.
    pub(super) fn few(&self, gpu: &Gpu, scratch: &ProductScratch) -> (Few, Vec<Arg>) {
        let Self { lines, inputs, outputs, .. } = *self;
        let few = Few::gated(gpu, self.weight.dtype(), lines, inputs, outputs);
        scratch.check(lines, &few);
        let operands = [Arg::slice(self.x), Arg::slice(self.weight), Arg::optional(self.bias), Arg::slice(self.y)];
        let numbers = [lines, inputs, few.span, outputs].map(Arg::count);
        let args = [&operands[..], &scratch.args(), &numbers, &ahead(self.ahead), &[code(self.activation)]].concat();
        (few, args)
    }

    /// Checks shapes and dtypes.
    pub(super) fn check(&self) {
        self.check_with(self.weight.dtype());
    }

    /// The same for x of that dtype.
    pub(super) fn check_with(&self, x: Dtype) {
        let Self { lines, inputs, outputs, .. } = *self;
        let dtype = self.weight.dtype();
        assert_eq!(self.x.dtype(), x, "x is of w's dtype, or f32 where it is normalised first");
        assert!(gates(dtype, lines), "{lines} lines of {dtype:?}: there is no gated product");
        assert_eq!(self.x.len(), lines * inputs, "x is [lines, inputs]");
        assert_eq!(self.weight.len(), 2 * outputs * inputs, "w is [2 · outputs, inputs]");
        let bias_fits = |bias: &Slice| bias.len() == 2 * outputs && bias.dtype() == dtype;
        assert!(self.bias.is_none_or(bias_fits), "bias is [2 · outputs]");
        assert!(self.y.len() >= lines * outputs, "y is [lines, outputs]");
        assert_eq!(self.y.dtype(), dtype, "y is of w's dtype");
        assert!(outputs < 1 << 30 && inputs < 1 << 31, "numbers of a line can be counted");
        assert!(inputs.is_multiple_of(8), "{inputs} inputs: a multiple of 8 is needed");
        assert!(self.x.aligned() && self.weight.aligned(), "x and w are aligned to 16 bytes");
    }
}

impl Product<'_> {
    /// How it is launched with 16-bit numbers, and with what; `mode` is what [`Self::check`] answered.
    pub(super) fn few(&self, gpu: &Gpu, mode: Arg, scratch: &ProductScratch) -> (Few, Vec<Arg>) {
        let Self { lines, inputs, outputs, pitch, .. } = *self;
        assert!(inputs.is_multiple_of(8), "{inputs} inputs: a multiple of 8 is needed");
        assert!(self.x.aligned() && self.weight.aligned(), "x and w are aligned to 16 bytes");
        let few = Few::plain(gpu, self.weight.dtype(), lines, inputs, outputs);
        scratch.check(lines, &few);
        let numbers = [lines, inputs, few.span, outputs].map(Arg::count);
        let end = [Arg::count(pitch), mode];
        (few, [&self.operands()[..], &scratch.args(), &numbers, &ahead(self.ahead), &end].concat())
    }

    fn launch_f32(&self, gpu: &Gpu, mode: Arg) -> Result<(), GpuError> {
        let numbers = [self.inputs, self.outputs, self.pitch].map(Arg::count);
        let args = [&self.operands()[..], &numbers, &[mode]].concat();
        let grid = (self.outputs.div_ceil(4) as u32, self.lines as u32, 1);
        // SAFETY: these are product_f32's arguments; the shapes were checked.
        unsafe { gpu.launch(&PRODUCT, "product_f32", grid, 128, 0, &args) }
    }

    fn operands(&self) -> [Arg; 4] {
        [Arg::slice(self.x), Arg::slice(self.weight), Arg::optional(self.bias), Arg::slice(self.y)]
    }

    /// Checks shapes and dtypes; answers the kernels' number for what becomes of the product.
    pub(super) fn check(&self) -> Arg {
        self.check_with(self.weight.dtype())
    }

    /// The same for x of that dtype.
    pub(super) fn check_with(&self, x: Dtype) -> Arg {
        let Self { lines, inputs, outputs, pitch, .. } = *self;
        let dtype = self.weight.dtype();
        assert_eq!(self.x.dtype(), x, "x is of w's dtype, or f32 where it is normalised first");
        assert_ne!(dtype, Dtype::U32, "w is of floats");
        assert_eq!(self.x.len(), lines * inputs, "x is [lines, inputs]");
        assert_eq!(self.weight.len(), outputs * inputs, "w is [outputs, inputs]");
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

#[cfg(test)]
pub(super) mod tests;
