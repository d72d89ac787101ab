//! `.zip` archives.

use std::io::Cursor;

use zip::ZipArchive;

use super::{Files, MAX_ENTRIES, broken, link, member};
use crate::adapter::AdapterError;

/// Takes what is wanted out of a zip file.
pub(super) fn read(archive: &[u8], files: &mut Files) -> Result<(), AdapterError> {
    let listed = listed_entries(archive)?;
    let mut zip = ZipArchive::new(Cursor::new(archive)).map_err(broken)?;
    if listed > MAX_ENTRIES {
        return Err(AdapterError::invalid(format!("an archive may have {MAX_ENTRIES} entries, given {listed}")));
    }
    if zip.len() != listed {
        // The reader keeps the last of entries with one name, and says nothing.
        return Err(AdapterError::invalid("the archive has two entries of one name"));
    }
    // The top first: then nothing that lies deeper is read in vain.
    let mut order: Vec<usize> = (0..zip.len()).collect();
    order.sort_by_key(|&at| zip.name_for_index(at).map_or(0, |name| name.matches('/').count()));
    for at in order {
        let raw = zip.by_index_raw(at).map_err(broken)?;
        let path = std::str::from_utf8(raw.name_raw())
            .map_err(|_| AdapterError::invalid("the archive has a name that is not UTF-8"))?;
        let path = path.to_owned();
        if raw.is_symlink() {
            return Err(link(&path));
        }
        if raw.is_dir() {
            member(path.trim_end_matches('/'))?;
            continue;
        }
        let encrypted = raw.encrypted();
        drop(raw);
        let Some(name) = files.wants(&path)? else { continue };
        if encrypted {
            return Err(AdapterError::invalid(format!("{name} is encrypted")));
        }
        let entry = zip.by_index(at).map_err(broken)?;
        files.keep(name, entry)?;
    }
    Ok(())
}

/// The number of entries that the end of a zip file states.
fn listed_entries(archive: &[u8]) -> Result<usize, AdapterError> {
    const END: usize = 22;
    let earliest = archive.len().saturating_sub(END + usize::from(u16::MAX));
    let last = archive.len().checked_sub(END);
    let ends = last.into_iter().flat_map(|last| (earliest..=last).rev());
    for at in ends {
        let end = &archive[at..at + END];
        let comment = usize::from(u16::from_le_bytes([end[20], end[21]]));
        if end.starts_with(b"PK\x05\x06") && at + END + comment == archive.len() {
            return Ok(u16::from_le_bytes([end[10], end[11]]).into());
        }
    }
    Err(AdapterError::invalid("the archive is not a whole zip file"))
}
