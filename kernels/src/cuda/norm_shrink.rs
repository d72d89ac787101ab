//! A norm and what adapters' first matrices make of it, in one launch.

use super::adapted::adapts;
use super::gpu::{Arg, instance};
use super::sources::NORM_SHRINK;
use super::{Dtype, Gpu, GpuError, MOST_SITES, Norm, Sites, Slice};

/// The widest line: 256 threads that keep 32 numbers each.
const WIDEST: usize = 8 << 10;

/// Numbers of weights behind whose reading a product hides that it shrinks lines itself: then a norm only loses by it.
const HIDING: usize = 1 << 25;

/// Whether [`norm_shrink`] is the way for lines of `width`: of what [`adapts`], where sites are not large.
pub fn shrinks_norms(sites: &Sites<'_>, width: usize) -> bool {
    let outputs: usize = sites.tables.iter().map(|table| table.outputs()).sum();
    adapts(sites) && width.is_multiple_of(8) && width <= WIDEST && outputs * width < HIDING
}

/// `out` [lines, n] = norm of `x` [lines, n], which is f32; and `shrunk = alpha · out·Aᵀ` for every line and site with a low-rank
/// patch, as [`super::shrink`] leaves it.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn norm_shrink(gpu: &Gpu, x: &Slice, norm: Norm<'_>, out: &Slice, sites: &Sites<'_>) -> Result<(), GpuError> {
    let (weight, bias, eps) = match norm {
        Norm::Rms { weight, eps } => (weight, None, eps),
        Norm::Layer { weight, bias, eps } => (weight, Some(bias), eps),
    };
    let (lines, n, dtype) = (sites.lines, weight.len(), sites.dtype);
    assert!(shrinks_norms(sites, n), "lines of {n}, {} sites of {dtype:?}", sites.tables.len());
    let Some(first) = sites.check() else { return Ok(()) };
    assert_eq!(first.inputs(), n, "sites read what is normalised");
    assert_eq!((x.dtype(), x.len()), (Dtype::F32, lines * n), "x is [lines, n]");
    assert_eq!((out.dtype(), out.len()), (dtype, lines * n), "a norm keeps its shape");
    assert!(x.aligned() && out.aligned(), "lines are aligned to 16 bytes");
    assert!(weight.dtype() == dtype && bias.is_none_or(|bias| bias.dtype() == dtype && bias.len() == n), "weights");
    assert!(weight.aligned() && bias.is_none_or(|bias| bias.aligned()), "weights are aligned to 16 bytes");
    let (slots_of_lines, _) = sites.lines_of.blocks(lines);
    let columns: [Arg; MOST_SITES] =
        std::array::from_fn(|i| Arg::count(sites.tables.get(i).map_or(0, |table| table.outputs())));
    let args = [
        &[Arg::slice(x), Arg::slice(weight), Arg::optional(bias), Arg::slice(out), Arg::count(n), Arg::F32(eps)][..],
        &[slots_of_lines],
        &sites.tables(),
        &columns,
        &[Arg::count(first.slots()), Arg::slice(sites.shrunk), Arg::count(sites.most_rank())],
    ]
    .concat();
    let grid = (sites.tables.len() as u32, lines as u32, 1);
    let name = instance!("norm_shrink", dtype);
    // SAFETY: these are the arguments of both; shapes, dtypes and alignment were checked, and kernels check slots.
    unsafe { gpu.launch(&NORM_SHRINK, name, grid, 256, (n * dtype.bytes()) as u32, &args) }
}

#[cfg(test)]
mod tests;
