//! Whole files in memory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use memmap2::MmapMut;

use crate::adapter::pieces::{self, PIECE};

/// Reads a file.
pub fn read(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if length < PIECE {
        return fs::read(path).map(Bytes::from);
    }
    let mut memory = MmapMut::map_anon(length)?;
    // Where there are large pages, few of them are faulted in.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    let places = memory.chunks_mut(PIECE).enumerate();
    pieces::try_each(places, |(i, piece)| file.read_exact_at(piece, (i * PIECE) as u64))?;
    Ok(Bytes::from_owner(memory))
}

/// Adds all of `content` to a checksum.
pub fn update(checksum: &mut crc32fast::Hasher, content: &[u8]) {
    if content.len() < PIECE {
        return checksum.update(content);
    }
    let mut parts = vec![crc32fast::Hasher::new(); content.len().div_ceil(PIECE)];
    pieces::each(content.chunks(PIECE).zip(&mut parts), |(piece, part)| part.update(piece));
    parts.iter().for_each(|part| checksum.combine(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    #[test]
    fn files_of_any_length_are_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 4096] {
            fs::write(&path, content(length)).unwrap();
            assert!(read(&path).unwrap() == content(length), "{length} bytes");
        }
        assert!(read(folder.path()).is_err());
        assert_eq!(read(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_checksum_by_pieces_is_that_of_the_whole() {
        for length in [0, 3, PIECE, 2 * PIECE + 5] {
            let (mut pieces, mut whole) = (crc32fast::Hasher::new(), crc32fast::Hasher::new());
            for hasher in [&mut pieces, &mut whole] {
                hasher.update(b"before");
            }
            update(&mut pieces, &content(length));
            whole.update(&content(length));
            assert_eq!(pieces.finalize(), whole.finalize(), "{length} bytes");
        }
    }
}
