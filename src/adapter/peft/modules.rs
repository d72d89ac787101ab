//! The modules of a base under the names that PEFT saw when the adapter was made.

use crate::adapter::tensors::TensorFile;
use crate::adapter::{SiteId, SiteMap};

use crate::adapter::Projection;

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::adapter) enum Place {
    Linear(SiteId),
    Embedding,
    Positions,
    /// Index into [`SiteMap::frozen`].
    Frozen(usize),
    /// The classification head.
    Head,
}

/// A module of the model that PEFT wrapped.
#[derive(Clone, Debug)]
pub(in crate::adapter) struct Module {
    /// As PEFT saw it, e.g. `model.layers.0.self_attn.q_proj`.
    pub(in crate::adapter) name: String,
    pub(in crate::adapter) place: Place,
}

/// How the adapter's file names modules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Naming {
    /// PEFT wrapped the bare backbone: names lack its `model.` or `bert.`.
    pub(super) bare: bool,
    /// The wrapped model classifies: it has a head in place of the output head.
    pub(super) classifies: bool,
}

impl Naming {
    /// Only adapters without a task type may have been made on the bare backbone; their tensors tell.
    pub(super) fn of(map: &SiteMap, file: &TensorFile<'_>, tasked: bool, classifies: bool) -> Self {
        let inside = format!("base_model.model.{}.", map.backbone);
        let prefixed = file.names().any(|name| name.starts_with(&inside));
        let any = file.names().any(|name| name.starts_with("base_model.model."));
        let bare = !tasked && !classifies && !prefixed && any && has_bare(map, file);
        Self { bare, classifies }
    }

    fn name<'m>(&self, module: &'m str, backbone: &str) -> Option<&'m str> {
        if !self.bare {
            return Some(module);
        }
        module.strip_prefix(backbone)?.strip_prefix('.')
    }

    /// All modules that the wrapped model has.
    pub(super) fn modules(&self, map: &SiteMap) -> Vec<Module> {
        let linears = map.linears.iter().enumerate().filter_map(|(id, entry)| {
            let absent = self.classifies && entry.site.projection == Projection::LmHead;
            (!absent).then_some((entry.module.as_str(), Place::Linear(SiteId(id))))
        });
        let embedding = std::iter::once((map.embedding.module.as_str(), Place::Embedding));
        let positions = map.positions.iter().map(|site| (site.module.as_str(), Place::Positions));
        let frozen = map.frozen.iter().enumerate().map(|(at, (name, _))| (name.as_str(), Place::Frozen(at)));
        let head = self.classifies.then_some((map.head.as_str(), Place::Head));
        linears
            .chain(embedding)
            .chain(positions)
            .chain(frozen)
            .chain(head)
            .filter_map(|(module, place)| {
                let name = self.name(module, &map.backbone)?.to_owned();
                Some(Module { name, place })
            })
            .collect()
    }
}

fn has_bare(map: &SiteMap, file: &TensorFile<'_>) -> bool {
    let backbone = format!("{}.", map.backbone);
    let bare: Vec<&str> = map.linears.iter().filter_map(|entry| entry.module.strip_prefix(&backbone)).collect();
    let embedding = map.embedding.module.strip_prefix(&backbone);
    file.names().filter_map(|name| name.strip_prefix("base_model.model.")).any(|name| {
        let under = |module: &str| name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'));
        embedding.is_some_and(under) || bare.iter().any(|module| under(module))
    })
}
