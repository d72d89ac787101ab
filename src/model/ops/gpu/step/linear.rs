//! Linear sites with the adapters of a step.

use candle_core::Result;
use repertoire_kernels::cpu::Activation;
use repertoire_kernels::cuda::{
    Dtype, Expansion, GatedProduct, Product, Sites, Slice, Store, Table, expand, gates, rescale_inputs, shrink,
};

use crate::device::Weight;
use crate::model::layers::Linear;
use crate::model::ops::gpu::inputs::Lines;
use crate::model::ops::gpu::matrix::Part;
use crate::model::ops::gpu::residents::SiteTable;

use super::{Step, gpu};

/// One product and what adapters change about it.
struct Call<'a> {
    /// [lines, inputs].
    x: &'a Slice,
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

impl Step<'_> {
    /// y of x at sites that read the same x, as `dtype`.
    pub(super) fn group<const N: usize>(
        &self,
        x: &Part,
        layers: [&Linear; N],
        lines: &Lines,
        dtype: Dtype,
    ) -> Result<[Part; N]> {
        let widths = layers.map(|layer| layer.weight.dims()[0]);
        let joined = Weight::joined(&layers.map(|layer| &layer.weight));
        let bias = match layers.map(|layer| layer.bias.as_ref()) {
            none if none.iter().all(Option::is_none) => Some(None),
            all => all.into_iter().collect::<Option<Vec<_>>>().and_then(|all| Weight::joined(&all)).map(Some),
        };
        // Inputs that are scaled for one site are not those of the others.
        let apart = N > 1 && lines.adapted && layers.iter().any(|layer| self.rescales(layer));
        let (Some(weight), Some(bias), false) = (joined, bias, apart) else {
            let each = layers.iter().map(|layer| {
                let [y] = self.group(x, [*layer], lines, dtype)?;
                Ok(y)
            });
            let each = each.collect::<Result<Vec<_>>>()?;
            return each.try_into().map_err(|_| candle_core::Error::Msg("as many results as layers".into()));
        };
        let outputs = widths.iter().sum();
        let y = self.take(dtype, lines.count, outputs)?;
        let (inputs, store) = (x.width(), Store::Write);
        self.call(&layers, Call { x: x.slice(), weight, bias, y: y.slice(), store, inputs, outputs, lines })?;
        let mut from = 0;
        Ok(widths.map(|width| {
            from += width;
            y.columns(from - width..from)
        }))
    }

    /// `activation(gate(x)) ⊙ up(x)` in one launch, where no adapter changes the sites and a kernel does that.
    pub(super) fn gated_at_once(&self, x: &Part, sites: [&Linear; 2], activation: Activation) -> Result<Option<Part>> {
        let Lines { count: lines, adapted, .. } = self.inputs.tokens;
        let patched = adapted && sites.iter().any(|layer| self.residents.tables.site(layer.site).is_some());
        let plain = sites.iter().all(|layer| layer.bias.is_none());
        let weight = Weight::joined(&sites.map(|layer| &layer.weight));
        let (Some(weight), true) = (weight, gates(self.machine.dtype, lines) && plain && !patched) else {
            return Ok(None);
        };
        let (inputs, outputs) = (x.width(), sites[0].weight.dims()[0]);
        let y = self.activations(outputs)?;
        let (x, weight, y_slice) = (x.slice(), &weight, y.slice());
        let product = GatedProduct { x, weight, bias: None, activation, y: y_slice, lines, inputs, outputs };
        self.machine.gated(&product).map_err(gpu)?;
        Ok(Some(y))
    }

    /// Adds to a sum what a site makes of x.
    pub(super) fn add(&self, sum: &Part, x: &Part, layer: &Linear, lines: &Lines) -> Result<()> {
        self.call(
            &[layer],
            Call {
                x: x.slice(),
                weight: layer.weight.on_gpu().clone(),
                bias: layer.bias.as_ref().map(|bias| bias.on_gpu().clone()),
                y: sum.slice(),
                store: Store::Add,
                inputs: x.width(),
                outputs: sum.width(),
                lines,
            },
        )
    }

    fn rescales(&self, layer: &Linear) -> bool {
        self.residents.tables.site(layer.site).is_some_and(|site| site.rescales_inputs)
    }

    fn call(&self, layers: &[&Linear], call: Call<'_>) -> Result<()> {
        let tables: Option<Vec<&SiteTable>> =
            layers.iter().map(|layer| self.residents.tables.site(layer.site)).collect();
        match tables.filter(|_| call.lines.adapted) {
            None => self.plain(&call, call.x, call.bias.as_ref(), call.y, call.store),
            Some(tables) => self.patched(layers, &tables, &call),
        }
    }

    fn plain(&self, call: &Call<'_>, x: &Slice, bias: Option<&Slice>, y: &Slice, store: Store) -> Result<()> {
        let Call { weight, inputs, outputs, lines, .. } = call;
        let (inputs, outputs, lines) = (*inputs, *outputs, lines.count);
        let product = Product { x, weight, bias, y, pitch: outputs, store, lines, inputs, outputs };
        self.machine.product(&product).map_err(gpu)
    }

    /// The base's product, then what adapters make of it.
    fn patched(&self, layers: &[&Linear], tables: &[&SiteTable], call: &Call<'_>) -> Result<()> {
        let Call { x, inputs, outputs, lines, .. } = *call;
        let (device, dtype) = (&self.machine.gpu, self.machine.dtype);
        let base = self.memory(Dtype::F32, lines.count * outputs)?;
        match tables {
            [site] if site.rescales_inputs => {
                let scaled = self.memory(dtype, lines.count * inputs)?;
                rescale_inputs(device, &site.table, &lines.slots, x, scaled.slice()).map_err(gpu)?;
                self.plain(call, scaled.slice(), None, base.slice(), Store::Write)?;
            }
            _ => self.plain(call, x, None, base.slice(), Store::Write)?,
        }
        self.replace(layers, call, base.slice())?;
        let tables: Vec<&Table> = tables.iter().map(|site| &site.table).collect();
        let most_rank = tables.iter().map(|table| table.most_rank()).max().unwrap_or(0);
        let shrunk = self.memory(Dtype::F32, tables.len() * lines.count * most_rank)?;
        let sites =
            Sites { tables: &tables, lines_of: lines.lines_of(), lines: lines.count, shrunk: shrunk.slice(), dtype };
        shrink(device, &sites, x).map_err(gpu)?;
        let expansion = Expansion { base: base.slice(), bias: call.bias.as_ref(), y: call.y, store: call.store };
        expand(device, &sites, &expansion).map_err(gpu)
    }

    /// Products of adapters' own weights, in place of the base's.
    fn replace(&self, layers: &[&Linear], call: &Call<'_>, base: &Slice) -> Result<()> {
        let Call { x, inputs, outputs: pitch, lines, .. } = *call;
        for (range, adapter) in &lines.replaced {
            let mut column = 0;
            for layer in layers {
                let outputs = layer.weight.dims()[0];
                let weight = self.residents.get(adapter).and_then(|resident| resident.weights.get(&layer.site));
                if let Some(weight) = weight {
                    let x = x.part(range.start * inputs..range.end * inputs);
                    let y = base.part(range.start * pitch + column..(range.end - 1) * pitch + column + outputs);
                    let (store, lines) = (Store::Write, range.len());
                    let product = Product { x: &x, weight, bias: None, y: &y, pitch, store, lines, inputs, outputs };
                    self.machine.product(&product).map_err(gpu)?;
                }
                column += outputs;
            }
        }
        Ok(())
    }
}
