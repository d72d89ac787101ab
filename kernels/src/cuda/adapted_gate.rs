//! What adapters make of a gate and of what it lets through, for many lines: `y = activation(gate) ⊙ up`.

use super::elementwise::code;
use super::gpu::{Arg, instance};
use super::sources::ADAPTED_GATE;
use super::{Gpu, GpuError, LinesOf, Sites, Slice};
use crate::cpu::Activation;

/// The base's products at a gate and at what it lets through, and what they end as.
#[derive(Clone, Copy)]
pub struct GatedExpansion<'a> {
    /// [lines, 2 · outputs] of the activations' dtype: of gates, then of what they let through. Other numbers may be there afterwards.
    pub base: &'a Slice,
    /// The base's bias: `[2 · outputs]`, of the activations' dtype.
    pub bias: Option<&'a Slice>,
    pub activation: Activation,
    /// [lines, outputs], of the activations' dtype.
    pub y: &'a Slice,
}

/// `y = activation(g) ⊙ u`, where g and u are what [`super::expand`] makes of the base's products: two sites of equally many
/// outputs, and lines in tiles that were shrunk before.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn expand_gated(gpu: &Gpu, sites: &Sites<'_>, expansion: &GatedExpansion<'_>) -> Result<(), GpuError> {
    let GatedExpansion { base, bias, activation, y } = *expansion;
    let Some(first) = sites.check() else { return Ok(()) };
    let outputs = first.outputs();
    let [_, second] = sites.tables else { panic!("{} sites: a gate and what it lets through", sites.tables.len()) };
    assert!(matches!(sites.lines_of, LinesOf::Tiles(_)), "lines are in tiles");
    assert_eq!(second.outputs(), outputs, "two sites of equally many outputs");
    assert!(outputs < 1 << 30, "{outputs} outputs: fewer than 2³⁰ are needed");
    let fits = |slice: &Slice, len: usize| (slice.dtype(), slice.len()) == (sites.dtype, len);
    assert!(fits(base, sites.lines * 2 * outputs), "base is [lines, 2 · outputs]");
    assert!(fits(y, sites.lines * outputs), "y is [lines, outputs]");
    assert!(bias.is_none_or(|bias| fits(bias, 2 * outputs)), "bias is [2 · outputs]");
    let (lines_of, blocks) = sites.lines_of.blocks(sites.lines);
    let [gate, up, ..] = sites.tables();
    let numbers = [sites.lines, sites.most_rank(), outputs].map(Arg::count);
    let args = [
        &[Arg::slice(sites.shrunk), lines_of, gate, up, Arg::count(first.slots())][..],
        &[Arg::slice(base), Arg::optional(bias), Arg::slice(y)],
        &numbers,
        &[code(activation), Arg::count(sites.tiles()), Arg::count(sites.parts)],
    ]
    .concat();
    let grid = (outputs.div_ceil(256) as u32, blocks, 1);
    // SAFETY: these are the arguments of all three; shapes were checked, and kernels check slots and tiles.
    unsafe { gpu.launch(&ADAPTED_GATE, instance!("adapted_gate", sites.dtype), grid, 256, 0, &args) }
}

#[cfg(test)]
mod tests;
