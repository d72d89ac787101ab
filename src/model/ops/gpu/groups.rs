//! Which linear sites of a base read the same input, and are computed by one product.

use std::ops::Range;

use crate::adapter::{Projection, SiteMap};

/// Neighbouring sites that read the same input, as indices of [`SiteMap::linears`]; every site is in one group.
pub fn groups(sites: &SiteMap) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (at, entry) in sites.linears.iter().enumerate() {
        let follows = |group: &Range<usize>| {
            let first = &sites.linears[group.start].site;
            first.layer == entry.site.layer
                && entry.site.layer.is_some()
                && matches!(
                    (first.projection, entry.site.projection),
                    (Projection::Query, Projection::Key | Projection::Value) | (Projection::Gate, Projection::Up)
                )
        };
        match groups.last_mut() {
            Some(group) if follows(group) => group.end = at + 1,
            _ => groups.push(at..at + 1),
        }
    }
    groups
}
