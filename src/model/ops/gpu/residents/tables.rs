//! The tables that kernels look into for what adapters change: one for each site, and one for heads.

use std::ops::Range;
use std::sync::Arc;

use repertoire_kernels::cuda::{Gpu, GpuError, MOST_RANK, SitePatch, Table};

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
        for (site, patch) in patches.linears {
            self.open(site, rank(&patch), patch.rescale_in.is_some())?;
            if let Some(site) = &mut self.by_site[site] {
                site.table.set(slot, patch)?;
            }
        }
        let Some(patch) = patches.head else { return Ok(()) };
        let room = room_for(rank(&patch));
        match &mut self.heads {
            Some(heads) => {
                heads.allow_rank(room);
                heads.set(slot, patch)
            }
            none => none.insert(Table::new(&self.gpu, self.sites.hidden, 1, room, SLOTS)?).set(slot, patch),
        }
    }

    /// Empties a slot, and lets go of the memory that its patches were in. Nobody reads it until somebody else has it.
    pub fn clear(&mut self, slot: usize, sites: &[usize]) -> Result<(), GpuError> {
        for &site in sites {
            if let Some(site) = &mut self.by_site[site] {
                site.table.set(slot, SitePatch::default())?;
            }
        }
        self.heads.as_mut().map_or(Ok(()), |heads| heads.set(slot, SitePatch::default()))
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
