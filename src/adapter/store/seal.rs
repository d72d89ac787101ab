//! What is known of files whose digest was verified.

use std::sync::OnceLock;

use crate::adapter::{Digest, Package};

use super::whole;

/// A checksum of the files that passed the comparison with a digest. An adapter that is thrown out and read again is
/// compared with it, which costs far less than sha-256: the loads of a busy server take time from its steps. It shows
/// damage by accident, as sha-256 at the first reading does; nothing is for those who may write to the store.
#[derive(Debug, Default)]
pub struct Seal(OnceLock<u32>);

impl Seal {
    /// Whether a package is what `digest` says: by sha-256 the first time, by a CRC of what passed it from then on.
    pub fn confirms(&self, package: &Package, digest: &Digest) -> bool {
        let checksum = checksum(package);
        if let Some(sealed) = self.0.get() {
            return *sealed == checksum;
        }
        let confirmed = package.digest() == *digest;
        if confirmed {
            // Whoever was first has sealed the same content.
            let _ = self.0.set(checksum);
        }
        confirmed
    }
}

/// CRC-32 over names, lengths and contents of the files, and the canonical metadata.
fn checksum(package: &Package) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for (name, content) in &package.files {
        crc.update(format!("{name}\0{}\0", content.len()).as_bytes());
        whole::update(&mut crc, content);
    }
    crc.update(package.metadata.canonical().as_bytes());
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(content: &'static [u8]) -> Package {
        let mut package = Package::default();
        package.files.insert("prompt.json".into(), content.into());
        package
    }

    #[test]
    fn nothing_else_passes_before_or_after_the_content_was_seen() {
        let (right, wrong) = (package(b"{}"), package(b"[]"));
        let digest = right.digest();
        let seal = Seal::default();
        for _ in 0..2 {
            assert!(!seal.confirms(&wrong, &digest));
            assert!(seal.confirms(&right, &digest));
        }
    }

    #[test]
    fn names_and_metadata_are_part_of_it() {
        let mut renamed = package(b"{}");
        let content = renamed.files.remove("prompt.json").unwrap();
        renamed.files.insert("prompt.jso".into(), content);
        let mut described = package(b"{}");
        described.metadata.description = Some("other".into());
        for other in [renamed, described] {
            let seal = Seal::default();
            assert!(seal.confirms(&package(b"{}"), &package(b"{}").digest()));
            assert!(!seal.confirms(&other, &package(b"{}").digest()));
        }
    }
}
