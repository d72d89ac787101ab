//! All that learns of an adapter.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use crate::adapter::{Adapter, LinearPatch, OnDevice, SiteId, SiteMap, row_norms};
use crate::model::Gradients;

use super::{Moments, Parameter, Place};

/// The parameters of an adapter, and the adapter that they make.
#[derive(Clone, Debug)]
pub struct Parameters {
    all: Vec<Parameter>,
    /// Everything but the parameters' numbers.
    adapter: Adapter,
    sites: Arc<SiteMap>,
    /// By parameter: what DoRA divides its magnitude by, as of the last adapter that was made; a constant to gradients, as in PEFT.
    norms: Vec<Vec<f32>>,
}

impl Parameters {
    /// All parts of an adapter.
    pub fn of(adapter: &Adapter, sites: &Arc<SiteMap>) -> Result<Self> {
        let mut all = Vec::new();
        let mut add = |place: Place, tensor: &Tensor| -> Result<()> {
            let numbers = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            all.push(Parameter { place, shape: tensor.dims().into(), numbers, moments: Moments::default() });
            Ok(())
        };
        for (site, patch) in adapter.patches.iter().enumerate() {
            let (site, Some(patch)) = (SiteId(site), patch) else { continue };
            if let Some(low_rank) = &patch.low_rank {
                add(Place::LowRankA(site), &low_rank.a)?;
                add(Place::LowRankB(site), &low_rank.b)?;
            }
            let rows = [
                (Place::RescaleInput(site), &patch.rescale_input),
                (Place::RescaleOutput(site), &patch.rescale_output),
                (Place::Weight(site), &patch.weight),
                (Place::Bias(site), &patch.bias),
            ];
            for (place, tensor) in rows {
                tensor.as_ref().map_or(Ok(()), |tensor| add(place, tensor))?;
            }
            if let Some(scale) = &patch.output_scale {
                let norms = site_norms(sites, site, patch)?;
                let norms = Tensor::from_vec(norms, scale.dims(), &Device::Cpu)?;
                add(Place::Magnitude(site), &(scale.to_dtype(DType::F32)? * norms)?)?;
            }
        }
        if let Some(virtual_tokens) = &adapter.virtual_tokens {
            add(Place::VirtualTokens, &virtual_tokens.embeddings)?;
        }
        if let Some(prefix) = &adapter.prefix {
            for (layer, (keys, values)) in prefix.keys.iter().zip(&prefix.values).enumerate() {
                add(Place::PrefixKeys(layer), keys)?;
                add(Place::PrefixValues(layer), values)?;
            }
        }
        if let Some(head) = &adapter.head {
            add(Place::HeadWeight, &head.weight)?;
            head.bias.as_ref().map_or(Ok(()), |bias| add(Place::HeadBias, bias))?;
        }
        let norms = vec![Vec::new(); all.len()];
        // Clones of an adapter share whether it is on the device; this is another one.
        let adapter = Adapter { on_device: OnDevice::default(), ..adapter.clone() };
        Ok(Self { all, adapter, sites: sites.clone(), norms })
    }

    /// In a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.all.iter()
    }

    /// In the same order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.all.iter_mut()
    }

    /// How many numbers learn.
    pub fn count(&self) -> usize {
        self.all.iter().map(|parameter| parameter.numbers.len()).sum()
    }

    /// The adapter that they make now.
    pub fn adapter(&mut self) -> Result<Adapter> {
        let mut adapter = self.adapter.clone();
        // A patch's magnitude comes after its matrices: their norms are those of the new ones.
        for (parameter, norms) in self.all.iter().zip(&mut self.norms) {
            let mut numbers = parameter.numbers.clone();
            if let Place::Magnitude(site) = parameter.place {
                let patch = adapter.patch(site).ok_or_else(|| missing(parameter.place))?;
                *norms = site_norms(&self.sites, site, patch)?;
                numbers.iter_mut().zip(&*norms).for_each(|(m, norm)| *m /= norm);
            }
            let place = place_of(&mut adapter, parameter.place).ok_or_else(|| missing(parameter.place))?;
            *place = Tensor::from_vec(numbers, parameter.shape.as_slice(), &Device::Cpu)?;
        }
        Ok(adapter)
    }

    /// What a pass with the last adapter says of each parameter, in their order; zeros where it said nothing.
    pub fn gradients(&self, mut of: Gradients) -> Vec<Vec<f32>> {
        let each = self.all.iter().zip(&self.norms).map(|(parameter, norms)| {
            let mut gradient = take(&mut of, parameter.place).unwrap_or_else(|| vec![0.0; parameter.numbers.len()]);
            if let Place::Magnitude(_) = parameter.place {
                gradient.iter_mut().zip(norms).for_each(|(d, norm)| *d /= norm);
            }
            gradient
        });
        each.collect()
    }
}

fn missing(place: Place) -> candle_core::Error {
    candle_core::Error::Msg(format!("an adapter has no {place:?}"))
}

/// `‖W + scale·BA‖` of a site's rows.
fn site_norms(sites: &SiteMap, site: SiteId, patch: &LinearPatch) -> Result<Vec<f32>> {
    let Some(low_rank) = &patch.low_rank else { candle_core::bail!("a magnitude without low-rank matrices") };
    let own = patch.weight.clone().map(crate::device::Weight::from);
    let weight = own.as_ref().unwrap_or(&sites.linears[site.0].weight);
    row_norms(weight, low_rank).map_err(candle_core::Error::wrap)
}

fn place_of(adapter: &mut Adapter, place: Place) -> Option<&mut Tensor> {
    fn patch(adapter: &mut Adapter, site: SiteId) -> Option<&mut LinearPatch> {
        adapter.patches.get_mut(site.0)?.as_mut()
    }
    match place {
        Place::LowRankA(site) => Some(&mut patch(adapter, site)?.low_rank.as_mut()?.a),
        Place::LowRankB(site) => Some(&mut patch(adapter, site)?.low_rank.as_mut()?.b),
        Place::Magnitude(site) => patch(adapter, site)?.output_scale.as_mut(),
        Place::RescaleInput(site) => patch(adapter, site)?.rescale_input.as_mut(),
        Place::RescaleOutput(site) => patch(adapter, site)?.rescale_output.as_mut(),
        Place::Weight(site) => patch(adapter, site)?.weight.as_mut(),
        Place::Bias(site) => patch(adapter, site)?.bias.as_mut(),
        Place::VirtualTokens => Some(&mut adapter.virtual_tokens.as_mut()?.embeddings),
        Place::PrefixKeys(layer) => adapter.prefix.as_mut()?.keys.get_mut(layer),
        Place::PrefixValues(layer) => adapter.prefix.as_mut()?.values.get_mut(layer),
        Place::HeadWeight => Some(&mut adapter.head.as_mut()?.weight),
        Place::HeadBias => adapter.head.as_mut()?.bias.as_mut(),
    }
}

fn take(of: &mut Gradients, place: Place) -> Option<Vec<f32>> {
    match place {
        Place::LowRankA(site) => of.patches.get_mut(&site)?.a.take(),
        Place::LowRankB(site) => of.patches.get_mut(&site)?.b.take(),
        Place::Magnitude(site) => of.patches.get_mut(&site)?.output_scale.take(),
        Place::RescaleInput(site) => of.patches.get_mut(&site)?.rescale_input.take(),
        Place::RescaleOutput(site) => of.patches.get_mut(&site)?.rescale_output.take(),
        Place::Weight(site) => of.patches.get_mut(&site)?.weight.take(),
        Place::Bias(site) => of.patches.get_mut(&site)?.bias.take(),
        Place::VirtualTokens => of.virtual_tokens.take(),
        Place::PrefixKeys(layer) => of.prefix.get_mut(&layer).map(|[keys, _]| std::mem::take(keys)),
        Place::PrefixValues(layer) => of.prefix.get_mut(&layer).map(|[_, values]| std::mem::take(values)),
        Place::HeadWeight => of.head.as_mut().map(|head| std::mem::take(&mut head.weight)),
        Place::HeadBias => of.head.as_mut().map(|head| std::mem::take(&mut head.bias)),
    }
}
