//! The tables that kernels look into for what adapters change: one for each site, and one for heads.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use repertoire_kernels::cuda::{Gpu, GpuError, MOST_RANK, SitePatch, Table, set_slot};

use crate::adapter::{SiteId, SiteMap};
use crate::model::ops::gpu::groups::groups;

/// Slots of a table, the empty one included: adapters that can be on the GPU at once.
pub const SLOTS: usize = 513;
/// The least room that tables have for ranks.
const LEAST_RANK: usize = 16;

/// All tables of a base. Those of a group of sites are there from the first adapter on that changes one of them.
pub struct Tables {
    gpu: Arc<Gpu>,
    sites: Arc<SiteMap>,
    /// The group of each site.
    groups: Vec<Range<usize>>,
    by_site: Vec<Option<SiteTable>>,
    /// Heads are low-rank patches of which only the first half is computed.
    heads: Option<Table>,
    shape: u64,
}

/// A site's patches.
pub struct SiteTable {
    pub table: Table,
    /// Whether some adapter scaled the site's inputs since the server started.
    pub rescales_inputs: bool,
}

/// What an adapter changes.
#[derive(Default)]
pub struct Patches {
    /// With their sites.
    pub linears: Vec<(usize, SitePatch)>,
    pub head: Option<SitePatch>,
}

impl Tables {
    /// No table yet.
    pub fn new(gpu: &Arc<Gpu>, sites: Arc<SiteMap>) -> Self {
        let mut by_site = vec![0..0; sites.linears.len()];
        for group in groups(&sites) {
            by_site[group.clone()].fill(group);
        }
        let none = sites.linears.iter().map(|_| None).collect();
        Self { gpu: gpu.clone(), groups: by_site, by_site: none, sites, heads: None, shape: 0 }
    }

    /// Changes whenever launches of a step with adapters would no longer be the same: sites that were never changed before,
    /// inputs that were never scaled before, or ranks higher than all before.
    pub fn shape(&self) -> u64 {
        self.shape
    }

    /// The table of a site, if an adapter ever changed its group.
    pub fn site(&self, site: SiteId) -> Option<&SiteTable> {
        self.by_site[site.0].as_ref()
    }

    /// The heads' table, if an adapter ever had one.
    pub fn heads(&self) -> Option<&Table> {
        self.heads.as_ref()
    }

    /// Puts an adapter's patches into a slot. Ranks are at most [`MOST_RANK`].
    pub fn set(&mut self, slot: usize, patches: Patches) -> Result<(), GpuError> {
        for (site, patch) in &patches.linears {
            self.open(*site, rank(patch), patch.rescale_in.is_some())?;
        }
        if let Some(patch) = &patches.head {
            let room = room_for(rank(patch));
            match &mut self.heads {
                Some(heads) => drop(heads.allow_rank(room)),
                none => *none = Some(Table::new(&self.gpu, self.sites.hidden, 1, room, SLOTS)?),
            }
        }
        let Patches { linears, head } = patches;
        let mut linears: HashMap<usize, SitePatch> = linears.into_iter().collect();
        self.write(slot, |site| linears.remove(&site), head)
    }

    /// Empties a slot, and lets go of the memory that its patches were in. Nobody reads it until somebody else has it.
    pub fn clear(&mut self, slot: usize, sites: &[usize]) -> Result<(), GpuError> {
        let changed = |site| sites.binary_search(&site).is_ok().then(SitePatch::default);
        self.write(slot, changed, Some(SitePatch::default()))
    }

    /// Writes a slot of the sites' tables that are there and of the heads', where there is a patch for it.
    fn write(
        &mut self,
        slot: usize,
        mut of_site: impl FnMut(usize) -> Option<SitePatch>,
        head: Option<SitePatch>,
    ) -> Result<(), GpuError> {
        let tables = self.by_site.iter_mut().enumerate();
        let linears = tables.filter_map(|(i, site)| Some((&mut site.as_mut()?.table, of_site(i)?)));
        set_slot(&self.gpu, slot, linears.chain(self.heads.as_mut().zip(head)))
    }

    /// Sees that a site's group has tables with room for a rank.
    fn open(&mut self, site: usize, rank: usize, rescales_inputs: bool) -> Result<(), GpuError> {
        for member in self.groups[site].clone() {
            let entry = &self.sites.linears[member];
            let rescales_inputs = rescales_inputs && member == site;
            match &mut self.by_site[member] {
                Some(site) => {
                    let grows = site.table.allow_rank(room_for(rank));
                    let rescales = rescales_inputs && !site.rescales_inputs;
                    site.rescales_inputs |= rescales_inputs;
                    self.shape += u64::from(grows || rescales);
                }
                none => {
                    let table = Table::new(&self.gpu, entry.inputs(), entry.outputs(), room_for(rank), SLOTS)?;
                    *none = Some(SiteTable { table, rescales_inputs });
                    self.shape += 1;
                }
            }
        }
        Ok(())
    }
}

fn rank(patch: &SitePatch) -> usize {
    patch.low_rank.as_ref().map_or(0, |low_rank| low_rank.rank)
}

/// The rank that a table allows so that one of `rank` fits: few different ones, so that captured steps seldom become old.
fn room_for(rank: usize) -> usize {
    rank.next_power_of_two().clamp(LEAST_RANK, MOST_RANK)
}
