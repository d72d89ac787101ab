//! Linear sites with the adapters of a step.

use candle_core::Result;
use repertoire_kernels::cpu::Activation;
use repertoire_kernels::cuda::{
    self, Dtype, Expansion, GatedExpansion, GatedProduct, Product, Rms, Sites, Slice, Store, Table, adapts, expand,
    expand_gated, gate, gates, norm_shrink, norms_first, rescale_inputs, shrink, shrink_parts, shrinks_norms,
};

use crate::device::Weight;
use crate::model::layers::{Linear, Norm};
use crate::model::ops::gpu::arena::Memory;
use crate::model::ops::gpu::inputs::Lines;
use crate::model::ops::gpu::matrix::Part;

use super::{Step, gpu, of};

/// What sites read.
pub struct Read<'a> {
    pub x: Part,
    /// What the sites' adapters make of it: f32 [sites, lines, most rank], where that was computed with it.
    shrunk: Option<Memory>,
    /// Of a sum that products normalise first.
    norm: Option<Rms<'a>>,
}

impl From<&Part> for Read<'_> {
    fn from(x: &Part) -> Self {
        Self { x: x.clone(), shrunk: None, norm: None }
    }
}

/// One product and what adapters change about it.
struct Call<'a> {
    /// [lines, inputs].
    x: &'a Read<'a>,
    /// [outputs, inputs].
    weight: Slice,
    /// `[outputs]`.
    bias: Option<Slice>,
    /// [lines, outputs].
    y: &'a Slice,
    store: Store,
    inputs: usize,
    outputs: usize,
    lines: &'a Lines,
}

impl<'a> Call<'a> {
    fn product(&'a self, x: &'a Slice, bias: Option<&'a Slice>, y: &'a Slice, store: Store) -> Product<'a> {
        let Self { weight, inputs, outputs, lines, .. } = self;
        let (inputs, outputs, lines) = (*inputs, *outputs, lines.count);
        Product { x, weight, bias, y, pitch: outputs, store, lines, inputs, outputs, ahead: None }
    }
}

impl Step<'_> {
    /// The normalised lines of a sum, for sites that read them: normalised by the products where these do that at once.
    pub(super) fn normed_for<'a, const N: usize>(
        &self,
        sum: &Part,
        norm: &'a Norm,
        layers: [&Linear; N],
    ) -> Result<Read<'a>> {
        let lines = &self.inputs.tokens;
        let (tables, together) = (self.tables(&layers, lines), self.together(&layers, lines).is_some());
        if let (cuda::Norm::Rms { weight, eps }, None, true) = (of(norm), &tables, together)
            && norms_first(self.machine.dtype, lines.count, sum.width())
        {
            return Ok(Read { x: sum.clone(), shrunk: None, norm: Some(Rms { weight, eps }) });
        }
        let x = self.activations(sum.width())?;
        if let Some(tables) = tables.filter(|_| together) {
            let shrunk = self.shrunk(&tables, lines)?;
            let sites = self.sites(&tables, lines, shrunk.slice());
            if shrinks_norms(&sites, x.width()) && lines.replaced.is_empty() && !self.rescale(&layers) {
                norm_shrink(&self.machine.gpu, sum.slice(), of(norm), x.slice(), &sites).map_err(gpu)?;
                return Ok(Read { x, shrunk: Some(shrunk), norm: None });
            }
        }
        cuda::norm(&self.machine.gpu, sum.matrix(), of(norm), x.matrix()).map_err(gpu)?;
        Ok(Read { x, shrunk: None, norm: None })
    }

    /// y of x at sites that read the same x, as `dtype`.
    pub(super) fn group<const N: usize>(
        &self,
        x: &Read<'_>,
        layers: [&Linear; N],
        lines: &Lines,
        dtype: Dtype,
    ) -> Result<[Part; N]> {
        let Some((weight, bias)) = self.together(&layers, lines) else {
            let each = layers.iter().map(|layer| {
                let [y] = self.group(x, [*layer], lines, dtype)?;
                Ok(y)
            });
            let each = each.collect::<Result<Vec<_>>>()?;
            return each.try_into().map_err(|_| candle_core::Error::Msg("as many results as layers".into()));
        };
        let widths = layers.map(|layer| layer.weight.dims()[0]);
        let outputs = widths.iter().sum();
        let y = self.take(dtype, lines.count, outputs)?;
        let (inputs, store) = (x.x.width(), Store::Write);
        self.call(&layers, Call { x, weight, bias, y: y.slice(), store, inputs, outputs, lines })?;
        let mut from = 0;
        Ok(widths.map(|width| {
            from += width;
            y.columns(from - width..from)
        }))
    }

    /// Weight and bias of sites that one product can compute.
    fn together<const N: usize>(&self, layers: &[&Linear; N], lines: &Lines) -> Option<(Slice, Option<Slice>)> {
        let weight = Weight::joined(&layers.map(|layer| &layer.weight))?;
        let bias = match layers.map(|layer| layer.bias.as_ref()) {
            none if none.iter().all(Option::is_none) => None,
            all => Some(Weight::joined(&all.into_iter().collect::<Option<Vec<_>>>()?)?),
        };
        // Inputs that are scaled for one site are not those of the others.
        let apart = N > 1 && lines.adapted && self.rescale(layers);
        (!apart).then_some((weight, bias))
    }

    /// `activation(gate(x)) ⊙ up(x)`: in one launch, where a kernel does that and no adapter scales the sites' inputs.
    pub(super) fn gated_of(&self, x: &Read<'_>, sites: [&Linear; 2], activation: Activation) -> Result<Part> {
        if let Some(y) = self.gated_at_once(x, sites, activation)? {
            return Ok(y);
        }
        if let Some(y) = self.gated_in_tiles(x, sites, activation)? {
            return Ok(y);
        }
        let [gated, up] = self.group(x, sites, &self.inputs.tokens, self.machine.dtype)?;
        let y = self.activations(gated.width())?;
        gate(&self.machine.gpu, gated.matrix(), up.matrix(), activation, y.matrix()).map_err(gpu)?;
        Ok(y)
    }

    fn gated_at_once(&self, x: &Read<'_>, sites: [&Linear; 2], activation: Activation) -> Result<Option<Part>> {
        let lines = &self.inputs.tokens;
        let Some((weight, None)) = self.together(&sites, lines) else { return Ok(None) };
        if !gates(self.machine.dtype, lines.count) {
            return Ok(None);
        }
        let tables = self.tables(&sites, lines);
        let own = match (&tables, &x.shrunk) {
            (Some(tables), None) => Some(self.shrunk(tables, lines)?),
            _ => None,
        };
        let shrunk = x.shrunk.as_ref().or(own.as_ref());
        let patches = tables.as_deref().zip(shrunk).map(|(tables, shrunk)| self.sites(tables, lines, shrunk.slice()));
        if patches.as_ref().is_some_and(|patches| !lines.replaced.is_empty() || !adapts(patches)) {
            return Ok(None);
        }
        let (inputs, outputs) = (x.x.width(), sites[0].weight.dims()[0]);
        let y = self.activations(outputs)?;
        let (slice, weight, y_slice, lines) = (x.x.slice(), &weight, y.slice(), lines.count);
        let product =
            GatedProduct { x: slice, weight, bias: None, activation, y: y_slice, lines, inputs, outputs, ahead: None };
        match x.norm {
            Some(norm) => self.machine.normed_gated(norm, &product),
            None => self.machine.gated(&product, patches.as_ref(), x.shrunk.is_some()),
        }
        .map_err(gpu)?;
        Ok(Some(y))
    }

    /// Where lines are in tiles: what adapters change about both sides, and the gate, in one launch.
    fn gated_in_tiles(&self, x: &Read<'_>, sites: [&Linear; 2], activation: Activation) -> Result<Option<Part>> {
        let lines = &self.inputs.tokens;
        let Some(tables) = self.tables(&sites, lines).filter(|_| lines.tiles.is_some()) else { return Ok(None) };
        let Some((weight, bias)) = self.together(&sites, lines) else { return Ok(None) };
        let (inputs, outputs) = (x.x.width(), sites[0].weight.dims()[0]);
        let (base, shrunk) = (self.activations(2 * outputs)?, self.shrunk(&tables, lines)?);
        let patches = self.sites(&tables, lines, shrunk.slice());
        let (base, store) = (base.slice(), Store::Write);
        let call = Call { x, weight, bias, y: base, store, inputs, outputs: 2 * outputs, lines };
        self.before_expanding(&sites, &patches, &call, x.x.slice(), base)?;
        let y = self.activations(outputs)?;
        let expansion = GatedExpansion { base, bias: call.bias.as_ref(), activation, y: y.slice() };
        expand_gated(&self.machine.gpu, &patches, &expansion).map_err(gpu)?;
        Ok(Some(y))
    }

    /// Adds to a sum what a site makes of x, with a bias that is the site's or none.
    pub(super) fn add(
        &self,
        sum: &Part,
        x: &Read<'_>,
        layer: &Linear,
        bias: Option<&Weight>,
        lines: &Lines,
    ) -> Result<()> {
        self.call(
            &[layer],
            Call {
                x,
                weight: layer.weight.on_gpu().clone(),
                bias: bias.map(|bias| bias.on_gpu().clone()),
                y: sum.slice(),
                store: Store::Add,
                inputs: x.x.width(),
                outputs: sum.width(),
                lines,
            },
        )
    }

    /// Whether some adapter scaled the inputs of some of the sites.
    fn rescale(&self, layers: &[&Linear]) -> bool {
        let rescales =
            |layer: &&Linear| self.residents.tables.site(layer.site).is_some_and(|site| site.rescales_inputs);
        layers.iter().any(rescales)
    }

    fn call(&self, layers: &[&Linear], call: Call<'_>) -> Result<()> {
        match self.tables(layers, call.lines) {
            None => self.plain(&call, call.x.x.slice(), call.bias.as_ref(), call.y, call.store),
            Some(tables) => self.patched(layers, &tables, &call),
        }
    }

    /// What adapters change about sites, if some line has an adapter and one ever changed them.
    fn tables(&self, layers: &[&Linear], lines: &Lines) -> Option<Vec<&Table>> {
        let tables = layers.iter().map(|layer| Some(&self.residents.tables.site(layer.site)?.table));
        lines.adapted.then(|| tables.collect()).flatten()
    }

    /// Whether adapters may change something about a site.
    pub(super) fn adapts(&self, layer: &Linear, lines: &Lines) -> bool {
        self.tables(&[layer], lines).is_some()
    }

    /// Memory for the lines that adapters shrink.
    fn shrunk(&self, tables: &[&Table], lines: &Lines) -> Result<Memory> {
        let most_rank = tables.iter().map(|table| table.most_rank()).max().unwrap_or(0);
        self.memory(Dtype::F32, self.parts(tables, lines) * tables.len() * lines.count * most_rank)
    }

    fn parts(&self, tables: &[&Table], lines: &Lines) -> usize {
        let inputs = tables.first().map_or(0, |table| table.inputs());
        shrink_parts(&self.machine.gpu, self.machine.dtype, lines.count, inputs, tables.len())
    }

    fn sites<'a>(&self, tables: &'a [&'a Table], lines: &'a Lines, shrunk: &'a Slice) -> Sites<'a> {
        let (parts, dtype) = (self.parts(tables, lines), self.machine.dtype);
        Sites { tables, lines_of: lines.lines_of(), lines: lines.count, shrunk, parts, dtype }
    }

    fn plain(&self, call: &Call<'_>, x: &Slice, bias: Option<&Slice>, y: &Slice, store: Store) -> Result<()> {
        let product = call.product(x, bias, y, store);
        match call.x.norm {
            Some(norm) => self.machine.normed(norm, &product),
            None => self.machine.product(&product),
        }
        .map_err(gpu)
    }

    /// The base's product and what adapters make of it: in one launch where there is a kernel for it.
    fn patched(&self, layers: &[&Linear], tables: &[&Table], call: &Call<'_>) -> Result<()> {
        let Call { inputs, outputs, lines, .. } = *call;
        let (device, dtype, x) = (&self.machine.gpu, self.machine.dtype, call.x.x.slice());
        let scaled = match layers {
            [_] if self.rescale(layers) => {
                let scaled = self.memory(dtype, lines.count * inputs)?;
                rescale_inputs(device, tables[0], &lines.slots, x, scaled.slice()).map_err(gpu)?;
                Some(scaled)
            }
            _ => None,
        };
        let of_base = scaled.as_ref().map_or(x, Memory::slice);
        let own = if call.x.shrunk.is_none() { Some(self.shrunk(tables, lines)?) } else { None };
        let Some(shrunk) = call.x.shrunk.as_ref().or(own.as_ref()) else {
            candle_core::bail!("lines are shrunk, or there is memory for it");
        };
        let sites = self.sites(tables, lines, shrunk.slice());
        if lines.replaced.is_empty() && adapts(&sites) {
            let product = call.product(of_base, call.bias.as_ref(), call.y, call.store);
            return self.machine.adapted(&product, &sites, own.is_some().then_some(x)).map_err(gpu);
        }
        // What is added to a sum is made apart; anything else is made where it stays.
        let apart = match call.store {
            Store::Add => Some(self.memory(Dtype::F32, lines.count * outputs)?),
            Store::Write => None,
        };
        let base = apart.as_ref().map_or(call.y, Memory::slice);
        self.before_expanding(layers, &sites, call, of_base, base)?;
        let expansion = Expansion { base, bias: call.bias.as_ref(), y: call.y, store: call.store };
        expand(device, &sites, &expansion).map_err(gpu)
    }

    /// What adapters expand: their inputs shrunk, and the base's products of `x` without a bias, or those of adapters' own weights.
    fn before_expanding(
        &self,
        layers: &[&Linear],
        sites: &Sites<'_>,
        call: &Call<'_>,
        x: &Slice,
        base: &Slice,
    ) -> Result<()> {
        self.plain(call, x, None, base, Store::Write)?;
        self.replace(layers, call, base)?;
        shrink(&self.machine.gpu, sites, call.x.x.slice()).map_err(gpu)
    }

    /// Products of adapters' own weights, in place of the base's.
    fn replace(&self, layers: &[&Linear], call: &Call<'_>, base: &Slice) -> Result<()> {
        let Call { inputs, outputs: pitch, lines, .. } = *call;
        let x = call.x.x.slice();
        for (range, adapter) in &lines.replaced {
            let mut column = 0;
            for layer in layers {
                let outputs = layer.weight.dims()[0];
                let weight = self.residents.get(adapter).and_then(|resident| resident.weights.get(&layer.site));
                if let Some(weight) = weight {
                    let x = x.part(range.start * inputs..range.end * inputs);
                    let y = base.part(range.start * pitch + column..(range.end - 1) * pitch + column + outputs);
                    let (store, lines) = (Store::Write, range.len());
                    let bias = None;
                    let product =
                        Product { x: &x, weight, bias, y: &y, pitch, store, lines, inputs, outputs, ahead: None };
                    self.machine.product(&product).map_err(gpu)?;
                }
                column += outputs;
            }
        }
        Ok(())
    }
}
