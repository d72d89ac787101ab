//! Products with all adapters of a step, in one launch: `y = rescale ⊙ (scale ⊙ (x·Wᵀ + B(A·x)) + bias)`.

use super::gpu::Arg;
use super::product::{Few, ProductScratch};
use super::{Dtype, GatedProduct, Gpu, GpuError, LinesOf, Product, Sites, Slice};

/// Columns of y that are finished together: sites begin at multiples of it.
const TOGETHER: usize = 4;

/// Whether adapters of so many lines go into the product's own launch, at sites of so many outputs: 16-bit numbers, lines whose
/// slots kernels look up one by one, and neighbouring sites that begin at multiples of 4.
pub fn adapts(sites: &Sites<'_>) -> bool {
    let (_, before) = sites.tables.split_last().unwrap_or((&sites.tables[0], &[]));
    matches!(sites.dtype, Dtype::F16 | Dtype::Bf16)
        && matches!(sites.lines_of, LinesOf::Slots(_))
        && before.iter().all(|table| table.outputs().is_multiple_of(TOGETHER))
}

/// Computes a product of what [`adapts`]; its outputs are those of the sites, one after the other. `x` [lines, inputs] is what
/// adapters see: it differs from the product's where inputs were rescaled, and is absent where lines are shrunk already. What [`super::product`] asks and promises holds here
/// too; sums of the base are the same to the bit.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn adapted_product(
    gpu: &Gpu,
    product: &Product<'_>,
    sites: &Sites<'_>,
    x: Option<&Slice>,
    scratch: &ProductScratch,
) -> Result<(), GpuError> {
    let mode = product.check();
    if product.lines == 0 || product.outputs == 0 {
        return Ok(());
    }
    let (few, args) = product.few(gpu, mode, scratch);
    let patches = Patches::new(sites, x, product.lines, product.inputs, product.outputs, &few, scratch);
    patches.launch(gpu, &few, args)
}

/// Computes a gated product of what [`adapts`]: the sites are those of G and U, whose lines may be `shrunk` already.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn adapted_gated_product(
    gpu: &Gpu,
    product: &GatedProduct<'_>,
    sites: &Sites<'_>,
    shrunk: bool,
    scratch: &ProductScratch,
) -> Result<(), GpuError> {
    product.check();
    if product.lines == 0 || product.outputs == 0 {
        return Ok(());
    }
    let halves = sites.tables.iter().all(|table| table.outputs() == product.outputs) && sites.tables.len() == 2;
    assert!(halves, "two sites of {} outputs", product.outputs);
    let (few, args) = product.few(gpu, scratch);
    let patches = Patches::new(
        sites,
        (!shrunk).then_some(product.x),
        product.lines,
        product.inputs,
        2 * product.outputs,
        &few,
        scratch,
    );
    patches.launch(gpu, &few, args)
}

/// What adapters add to a product's arguments.
struct Patches {
    args: Vec<Arg>,
    /// Blocks that shrink lines.
    shrinking: usize,
}

impl Patches {
    fn new(
        sites: &Sites<'_>,
        x: Option<&Slice>,
        lines: usize,
        inputs: usize,
        outputs: usize,
        few: &Few,
        scratch: &ProductScratch,
    ) -> Self {
        assert!(adapts(sites), "{} lines of {:?} at {} sites", sites.lines, sites.dtype, sites.tables.len());
        let first = sites.check().expect("there are lines");
        assert_eq!((first.inputs(), sites.lines), (inputs, lines), "the sites' inputs and lines are the product's");
        assert!(x.is_none_or(|x| (x.dtype(), x.len()) == (sites.dtype, lines * inputs)), "x is [lines, inputs]");
        assert!(x.is_none_or(Slice::aligned), "x is aligned to 16 bytes");
        let mut end = 0;
        let mut ends = [0; super::MOST_SITES];
        for (i, ended) in ends.iter_mut().enumerate() {
            end += sites.tables.get(i).map_or(0, |table| table.outputs());
            *ended = end;
        }
        assert_eq!(end, outputs, "the sites' outputs are the product's");
        let (slots_of_lines, _) = sites.lines_of.blocks(lines);
        let pitch = sites.most_rank();
        assert!(pitch.is_multiple_of(4) || pitch < 4, "ranks up to {pitch}: a multiple of 4 is needed");
        // A block takes as many ranks as its threads make teams of, and then the next that no block has.
        let (chunks, count) = (pitch.div_ceil(few.team_ranks()).min(16), sites.tables.len());
        let shrinking = if x.is_some() { chunks * lines * count } else { 0 };
        let args = [
            &[Arg::optional(x), slots_of_lines][..],
            &sites.tables(),
            &ends.map(Arg::count),
            &[Arg::count(first.slots()), Arg::slice(sites.shrunk), Arg::count(pitch), Arg::slice(&scratch.meeting)],
            &[shrinking, chunks, count, few.splits].map(Arg::count),
        ]
        .concat();
        Self { args, shrinking }
    }

    fn launch(mut self, gpu: &Gpu, few: &Few, mut args: Vec<Arg>) -> Result<(), GpuError> {
        args.append(&mut self.args);
        // SAFETY: these are the arguments of the adapted products; shapes and scratch were checked, and kernels check slots.
        unsafe { few.launch_adapted(gpu, self.shrinking, &args) }
    }
}

#[cfg(test)]
mod tests;
