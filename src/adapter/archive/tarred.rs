//! `.tar.gz` archives.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use tar::{EntryType, PaxExtensions};

use super::{Files, MAX_ENTRIES, broken, link, member};
use crate::adapter::AdapterError;

/// What is only skipped must be decompressed too; together with what is kept it may be this many times the limit.
const MAX_SKIPPED: u64 = 4;
/// Most bytes of a long name or of extended headers. The tar crate alone would read as many as a header claims.
const MAX_EXTENSION: u64 = 64 << 10;

/// Takes what is wanted out of a gzipped tar file.
pub(super) fn read(archive: &[u8], files: &mut Files) -> Result<(), AdapterError> {
    let bound = files.max.saturating_mul(MAX_SKIPPED).saturating_add(1 << 20);
    let mut tar = tar::Archive::new(MultiGzDecoder::new(archive).take(bound));
    // The name that an extension gives to the entry after it.
    let mut named: Option<Vec<u8>> = None;
    for (count, entry) in tar.entries().map_err(broken)?.raw(true).enumerate() {
        if count >= MAX_ENTRIES {
            return Err(AdapterError::invalid(format!("an archive may have {MAX_ENTRIES} entries, and has more")));
        }
        let mut entry = entry.map_err(broken)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => {
                let mut name = extension(&mut entry)?;
                while name.last() == Some(&0) {
                    name.pop();
                }
                named = Some(name);
                continue;
            }
            EntryType::XHeader => {
                named = pax_path(&extension(&mut entry)?)?.or(named);
                continue;
            }
            EntryType::XGlobalHeader => continue,
            _ => {}
        }
        let path = named.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let path =
            String::from_utf8(path).map_err(|_| AdapterError::invalid("the archive has a name that is not UTF-8"))?;
        if kind.is_dir() {
            let path = path.trim_end_matches('/');
            if path != "." {
                member(path)?;
            }
        } else if kind.is_symlink() || kind.is_hard_link() || kind == EntryType::GNULongLink {
            return Err(link(&path));
        } else if !kind.is_file() && !kind.is_contiguous() {
            let shown: String = path.chars().take(160).collect();
            return Err(AdapterError::invalid(format!("the archive has {shown:?}, which is not a plain file")));
        } else if let Some(name) = files.wants(&path)? {
            let size = entry.size();
            if size > files.left {
                return Err(files.too_large());
            }
            files.keep(name.clone(), entry)?;
            if files.kept.get(&name).is_none_or(|content| content.len() as u64 != size) {
                return Err(AdapterError::invalid(format!("the archive ends inside {name}")));
            }
        }
    }
    Ok(())
}

fn extension(entry: &mut impl Read) -> Result<Vec<u8>, AdapterError> {
    let mut content = Vec::new();
    entry.take(MAX_EXTENSION + 1).read_to_end(&mut content).map_err(broken)?;
    if content.len() as u64 > MAX_EXTENSION {
        return Err(AdapterError::invalid(format!(
            "the archive has a name or header of more than {MAX_EXTENSION} bytes"
        )));
    }
    Ok(content)
}

/// The path in extended headers. Sizes there are for files over 8 GiB, and for sparse files: neither is read.
fn pax_path(content: &[u8]) -> Result<Option<Vec<u8>>, AdapterError> {
    let mut path = None;
    for record in PaxExtensions::new(content) {
        let record = record.map_err(broken)?;
        match record.key_bytes() {
            b"path" => path = Some(record.value_bytes().to_vec()),
            b"size" => return Err(AdapterError::invalid("the archive has a file with an extended size")),
            key if key.starts_with(b"GNU.sparse") => {
                return Err(AdapterError::invalid("the archive has a sparse file"));
            }
            _ => {}
        }
    }
    Ok(path)
}
