//! Products with all adapters of a step, in one launch: `y = rescale ⊙ (scale ⊙ (x·Wᵀ + B(A·x)) + bias)`.

use super::gpu::Arg;
use super::product::{Few, ProductScratch, has_room};
use super::{Dtype, GatedProduct, Gpu, GpuError, LinesOf, MOST_RANK, MOST_SITES, Product, Sites, Slice};

/// Columns of y that are finished together: sites begin at multiples of it.
const TOGETHER: usize = 4;
/// Kernels count the numbers of B in 31 bits.
const MOST_OUTPUTS: usize = (1 << 31) / MOST_RANK;

/// Whether adapters of so many lines go into the product's own launch, at sites of so many outputs: 16-bit numbers, lines whose
/// slots kernels look up one by one and for which a block has room, and neighbouring sites that begin at multiples of 4.
pub fn adapts(sites: &Sites<'_>) -> bool {
    let (_, before) = sites.tables.split_last().unwrap_or((&sites.tables[0], &[]));
    matches!(sites.dtype, Dtype::F16 | Dtype::Bf16)
        && matches!(sites.lines_of, LinesOf::Slots(_))
        && has_room(sites.shrunk.gpu(), sites.lines)
        && before.iter().all(|table| table.outputs().is_multiple_of(TOGETHER))
        && sites.tables.iter().all(|table| table.outputs() < MOST_OUTPUTS)
}

/// Computes a product of what [`adapts`]; its outputs are those of the sites, one after the other. `x` [lines, inputs] is what
/// adapters see: it differs from the product's where inputs were rescaled, and is absent where lines were shrunk before. What
/// [`super::product`] asks and promises holds here too; sums of the base are the same to the bit.
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
    Patches { sites, x, lines: product.lines, inputs: product.inputs, outputs: product.outputs }
        .launch(gpu, &few, args, scratch)
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
    let x = (!shrunk).then_some(product.x);
    Patches { sites, x, lines: product.lines, inputs: product.inputs, outputs: 2 * product.outputs }
        .launch(gpu, &few, args, scratch)
}

/// What adapters change about a product of `lines` x `inputs` and `outputs` x `inputs`.
struct Patches<'a> {
    sites: &'a Sites<'a>,
    /// What is to be shrunk.
    x: Option<&'a Slice>,
    lines: usize,
    inputs: usize,
    outputs: usize,
}

impl Patches<'_> {
    fn launch(&self, gpu: &Gpu, few: &Few, mut args: Vec<Arg>, scratch: &ProductScratch) -> Result<(), GpuError> {
        let Self { sites, x, lines, inputs, outputs } = *self;
        assert!(adapts(sites), "{} lines of {:?} at {} sites", sites.lines, sites.dtype, sites.tables.len());
        let first = sites.check().expect("there are lines");
        assert_eq!((first.inputs(), sites.lines), (inputs, lines), "the sites' inputs and lines are the product's");
        assert!(x.is_none_or(|x| (x.dtype(), x.len()) == (sites.dtype, lines * inputs)), "x is [lines, inputs]");
        assert!(x.is_none_or(Slice::aligned), "x is aligned to 16 bytes");
        let of_sites: Vec<usize> = sites.tables.iter().map(|table| table.outputs()).collect();
        assert_eq!(of_sites.iter().sum::<usize>(), outputs, "the sites' outputs are the product's");
        let mut end = 0;
        let ends: [usize; MOST_SITES] = std::array::from_fn(|i| {
            end += of_sites.get(i).unwrap_or(&0);
            end
        });
        let (slots_of_lines, _) = sites.lines_of.blocks(lines);
        let pitch = sites.most_rank();
        let shape = few.patched(gpu, &of_sites, x.is_some());
        args.extend([Arg::optional(x), slots_of_lines]);
        args.extend(sites.tables());
        args.extend(ends.map(Arg::count));
        args.extend([Arg::count(first.slots()), Arg::slice(sites.shrunk), Arg::count(pitch)]);
        args.extend([Arg::slice(&scratch.meeting), Arg::count(shape.shrinkers), Arg::count(of_sites.len())]);
        // SAFETY: these are the arguments of the adapted products; shapes and scratch were checked, and kernels check slots.
        unsafe { few.launch_patched(gpu, &shape, &args) }
    }
}

#[cfg(test)]
mod tests;
