//! Which linear layers are changed, and what PEFT calls them.

use crate::adapter::{Projection, SiteEntry, SiteMap};

use super::{Breadth, Made};

/// The layers that LoRA, DoRA or IA3 change.
pub struct Targeted<'m> {
    pub sites: Vec<&'m SiteEntry>,
    map: &'m SiteMap,
}

impl<'m> Targeted<'m> {
    /// PEFT's choice, or all but the output head; none where no layer is changed.
    pub fn of(map: &'m SiteMap, kind: Made, breadth: Breadth) -> Self {
        use Projection::*;
        let chosen: &[Projection] = match (kind, map.family.as_str()) {
            (Made::PromptTuning | Made::PrefixTuning, _) => return Self { sites: Vec::new(), map },
            (Made::Ia3, "bert") => &[Key, Value, AttentionOutput, Down],
            (Made::Ia3, "qwen2" | "qwen3") => &[Query, Value, Down],
            (Made::Ia3, _) => &[Key, Value, QueryKeyValue, Down],
            _ => &[Query, Value, QueryKeyValue],
        };
        let taken = |entry: &&SiteEntry| match breadth {
            Breadth::AllLinear => entry.site.projection != LmHead,
            Breadth::Default => chosen.contains(&entry.site.projection),
        };
        Self { sites: map.linears.iter().filter(taken).collect(), map }
    }

    /// Whether IA3 scales a layer's input: what `feedforward_modules` matches, `output.dense` in BERT's attention too.
    pub fn is_feedforward(&self, entry: &SiteEntry) -> bool {
        let bert = self.map.family == "bert" && entry.site.projection == Projection::AttentionOutput;
        entry.site.projection == Projection::Down || bert
    }

    /// For `target_modules`.
    pub fn names(&self) -> Vec<String> {
        self.names_of(|_| true)
    }

    /// For `feedforward_modules`, which PEFT wants among `target_modules`.
    pub fn feedforward_names(&self) -> Vec<String> {
        self.names_of(|entry| self.is_feedforward(entry))
    }

    fn names_of(&self, wanted: impl Fn(&SiteEntry) -> bool) -> Vec<String> {
        let wanted = self.sites.iter().filter(|entry| wanted(entry));
        let mut names: Vec<String> = wanted.map(|entry| self.name(entry)).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The last part of a module's name where all that end so are changed alike; else the whole name.
    fn name(&self, entry: &SiteEntry) -> String {
        let last = |entry: &SiteEntry| entry.module.rsplit('.').next().unwrap_or_default().to_owned();
        let short = last(entry);
        let alike = |other: &SiteEntry| {
            self.sites.iter().any(|site| site.site == other.site)
                && self.is_feedforward(other) == self.is_feedforward(entry)
        };
        let mut namesakes = self.map.linears.iter().filter(|other| last(other) == short);
        if namesakes.all(alike) { short } else { entry.module.clone() }
    }
}
