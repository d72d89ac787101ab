//! One micro-batch of a training step, on its way through the layers and back, a piece at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Result;

use crate::adapter::{Adapter, SiteId};
use crate::device::Buffer;

use super::ops::tape::{Gradients, Tape, Tracked, Wanted};
use super::{Batch, Body};

/// What a micro-batch should answer.
#[derive(Clone, Debug)]
pub enum Targets {
    /// Tokens of the batch, by place, and the token that should follow each.
    Tokens(Vec<(usize, u32)>),
    /// Of each row the one label that it has; weights of labels.
    Label { of_rows: Vec<usize>, weights: Option<Vec<f32>> },
    /// Of each row whether it has each of the labels; weights of labels where rows have them.
    Labels { of_rows: Vec<Vec<bool>>, weights: Option<Vec<f32>> },
}

impl Targets {
    /// What the sum of losses is divided by for their mean: tokens, or labels, or the weights of rows' labels.
    pub fn weight(&self) -> f64 {
        match self {
            Self::Tokens(tokens) => tokens.len() as f64,
            Self::Label { of_rows, weights: None } => of_rows.len() as f64,
            Self::Label { of_rows, weights: Some(weights) } => {
                of_rows.iter().map(|&label| f64::from(weights[label])).sum()
            }
            Self::Labels { of_rows, .. } => of_rows.iter().map(Vec::len).sum::<usize>() as f64,
        }
    }
}

/// A micro-batch under way. All rows are of one adapter, whose parts are f32: what learns. The base stays as it is.
///
/// Layers' results are computed with the code that serves. Of each, its input is kept, or, as long as there is room, all that its way back
/// needs; otherwise that is computed once more on the way back.
pub struct Pass {
    batch: Arc<Batch>,
    targets: Targets,
    /// What the sum of losses is multiplied by before its gradient is taken; absent: there is no way back.
    scale: Option<f32>,
    /// Bytes that may be kept beside layers' inputs.
    room: usize,
    next: Piece,
    /// What goes into each layer, and at last out of them all: [tokens, hidden].
    between: Vec<Arc<Buffer>>,
    hidden: usize,
    /// By layer.
    kept: BTreeMap<usize, (Tape, Tracked)>,
    /// Of what the layer above reads.
    gradient: Option<Buffer>,
    loss: f64,
    gradients: Gradients,
}

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Embed,
    Layer(usize),
    Compare,
    LayerBack(usize),
    EmbedBack,
    Done,
}

/// What a pass found out.
#[derive(Debug)]
pub struct Learned {
    /// The sum of all losses, not scaled.
    pub loss: f64,
    /// Of the scaled sum, where there was a way back.
    pub gradients: Gradients,
}

impl Pass {
    /// A pass that says how far answers are from targets, and if there is a `scale`, the gradient of so many times their loss. Up to
    /// `room` bytes are kept to spare computing layers twice.
    pub fn new(batch: Batch, targets: Targets, scale: Option<f32>, room: usize) -> Self {
        Self {
            batch: Arc::new(batch),
            targets,
            scale,
            room,
            next: Piece::Embed,
            between: Vec::new(),
            hidden: 0,
            kept: BTreeMap::new(),
            gradient: None,
            loss: 0.0,
            gradients: Gradients::default(),
        }
    }

    /// Whether everything is done.
    pub fn is_done(&self) -> bool {
        self.next == Piece::Done
    }

    /// What it found out, once everything is done.
    pub fn learned(self) -> Learned {
        Learned { loss: self.loss, gradients: self.gradients }
    }

    /// Does the next piece, on the CPU.
    pub(super) fn advance(&mut self, body: &Body) -> Result<()> {
        let layers = body.sites().layers;
        self.next = match self.next {
            Piece::Embed => {
                let x = body.embed(&mut &mut Tape::forward(&self.batch))?;
                self.hidden = x.width;
                self.between.push(x.numbers);
                if layers == 0 { Piece::Compare } else { Piece::Layer(0) }
            }
            Piece::Layer(layer) => {
                self.layer(body, layer)?;
                if layer + 1 < layers { Piece::Layer(layer + 1) } else { Piece::Compare }
            }
            Piece::Compare => {
                self.compare(body)?;
                match (self.scale, self.lowest(body)) {
                    (Some(_), lowest) if layers > 0 && lowest.is_none_or(|lowest| lowest < layers) => {
                        Piece::LayerBack(layers - 1)
                    }
                    _ => Piece::Done,
                }
            }
            Piece::LayerBack(layer) => {
                self.layer_back(body, layer)?;
                match self.lowest(body) {
                    None if layer == 0 => Piece::EmbedBack,
                    Some(lowest) if layer <= lowest => Piece::Done,
                    _ => Piece::LayerBack(layer - 1),
                }
            }
            Piece::EmbedBack => {
                let mut tape = Tape::recording(&self.batch);
                let x = body.embed(&mut &mut tape)?;
                if let Some(gradient) = self.gradient.take() {
                    tape.back(&x, gradient, &mut self.gradients)?;
                }
                Piece::Done
            }
            Piece::Done => Piece::Done,
        };
        if self.is_done() {
            (self.between, self.gradient) = (Vec::new(), None);
        }
        Ok(())
    }

    /// Computes a layer.
    fn layer(&mut self, body: &Body, layer: usize) -> Result<()> {
        let learns = self.scale.is_some() && self.lowest(body).is_none_or(|lowest| layer >= lowest);
        if !learns || self.room == 0 {
            let mut tape = Tape::forward(&self.batch);
            let x = tape.take(self.between[layer].clone(), self.hidden, false);
            let y = body.layer(&mut &mut tape, layer, x)?;
            self.between.push(y.numbers);
            return Ok(());
        }
        let (tape, y) = self.recorded(body, layer)?;
        self.between.push(y.numbers.clone());
        match self.room.checked_sub(tape.kept_bytes()) {
            Some(room) => {
                self.room = room;
                self.kept.insert(layer, (tape, y));
            }
            None => self.room = 0,
        }
        Ok(())
    }

    fn recorded(&self, body: &Body, layer: usize) -> Result<(Tape, Tracked)> {
        let mut tape = Tape::recording(&self.batch);
        // Nobody asks for what would be said of layers in which nothing learns.
        let wanted = self.lowest(body).is_none_or(|lowest| layer > lowest);
        let x = tape.take(self.between[layer].clone(), self.hidden, wanted);
        let y = body.layer(&mut &mut tape, layer, x)?;
        Ok((tape, y))
    }

    /// How far answers are from targets, and the first step back.
    fn compare(&mut self, body: &Body) -> Result<()> {
        let mut tape = Tape::forward(&self.batch);
        let last = self.between.pop().ok_or_else(|| candle_core::Error::Msg("no layer was computed".into()))?;
        let x = tape.take(last, self.hidden, false);
        let end = body.answer(&mut tape, x)?;
        let below = self.scale.is_some() && self.lowest(body).is_none_or(|lowest| lowest < body.sites().layers);
        let wanted = Wanted { scale: self.scale, below };
        let compared = end.compare(&self.batch, &self.targets, wanted, &mut self.gradients)?;
        self.loss = compared.loss;
        self.gradient = below.then_some(compared.gradient);
        Ok(())
    }

    fn layer_back(&mut self, body: &Body, layer: usize) -> Result<()> {
        let (tape, y) = match self.kept.remove(&layer) {
            Some(kept) => kept,
            None => self.recorded(body, layer)?,
        };
        self.between.truncate(layer);
        if let Some(gradient) = self.gradient.take() {
            self.gradient = tape.back(&y, gradient, &mut self.gradients)?;
        }
        Ok(())
    }

    /// The lowest layer that has to be gone back to; `None`: further, to the embedding. As many as there are layers: to none.
    fn lowest(&self, body: &Body) -> Option<usize> {
        let adapter = self.batch.rows.first().and_then(|row| row.adapter.as_deref());
        adapter.map_or(Some(body.sites().layers), |adapter| lowest_layer(adapter, body))
    }
}

fn lowest_layer(adapter: &Adapter, body: &Body) -> Option<usize> {
    if adapter.virtual_tokens.is_some() {
        return None;
    }
    let sites = body.sites();
    if adapter.prefix.is_some() {
        return Some(0);
    }
    let patched = adapter.patches.iter().enumerate().filter(|(_, patch)| patch.is_some());
    let layers = patched.filter_map(|(site, _)| sites.linears[SiteId(site).0].site.layer);
    Some(layers.min().unwrap_or(sites.layers))
}
