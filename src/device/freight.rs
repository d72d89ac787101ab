//! Weights on their way to a GPU, and back where somebody on the host asks for some.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Result;
use parking_lot::Mutex;
use rayon::prelude::*;
use repertoire_kernels::cuda::{Gpu, GpuError, Lane, Pinned, Slice};

use super::{Cargo, gpu_error};

/// Copies under way at once. A core fills page-locked memory at several GB/s, PCIe takes some 50: while one travels, others
/// are filled.
const BERTHS: usize = 8;
/// Bytes of a copy.
const STAGED: usize = 4 << 20;

/// Page-locked memory, and streams of its own, through which weights are copied on all threads.
pub struct Freight {
    berths: Mutex<Vec<Berth>>,
    gpu: Arc<Gpu>,
}

struct Berth {
    lane: Lane,
    staging: Pinned,
}

impl fmt::Debug for Freight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Freight")
    }
}

impl Freight {
    /// Takes page-locked memory, enough for the transport of a whole base.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        let berths = (0..BERTHS.min(rayon::current_num_threads())).map(|_| Berth::new(gpu));
        let berths = berths.collect::<std::result::Result<_, _>>().map_err(gpu_error)?;
        Ok(Self { berths: Mutex::new(berths), gpu: gpu.clone() })
    }

    /// Copies each cargo to the GPU, rounded to what numbers are there, and waits for it.
    pub fn bring(&self, loads: &[(Cargo<'_>, Slice)]) -> Result<()> {
        // The lanes do not know when memory was taken.
        self.gpu.synchronize().map_err(gpu_error)?;
        let pieces = pieces(loads.iter().map(|(cargo, to)| (cargo.len(), STAGED / to.dtype().bytes())));
        share(&mut self.berths.lock(), &pieces, |Berth { lane, staging }, piece| {
            let (cargo, to) = &loads[piece.of];
            let size = to.dtype().bytes();
            let bytes = 0..piece.len * size;
            cargo.copy(piece.from, to.dtype(), &mut staging[bytes.clone()])?;
            lane.copy(to, piece.from * size, staging, bytes).map_err(gpu_error)?;
            lane.wait().map_err(gpu_error)
        })
    }

    /// Reads back the numbers of a slice that nobody writes any more; while the GPU works, or a graph is captured, too.
    ///
    /// # Panics
    /// If `out` is longer than they are.
    pub fn fetch(&self, from: &Slice, out: &mut [u8]) -> Result<()> {
        let mut berths = self.berths.lock();
        let Berth { lane, staging } = berths.first_mut().expect("one berth stays");
        for (at, out) in (0..).step_by(STAGED).zip(out.chunks_mut(STAGED)) {
            lane.read(from, at, staging, 0..out.len()).map_err(gpu_error)?;
            out.copy_from_slice(&staging[..out.len()]);
        }
        Ok(())
    }

    /// Gives back what only the transport of a whole base needs.
    pub fn settle(&self) {
        self.berths.lock().truncate(1);
    }
}

impl Berth {
    fn new(gpu: &Arc<Gpu>) -> std::result::Result<Self, GpuError> {
        Ok(Self { lane: Lane::new(gpu)?, staging: Pinned::new(gpu, STAGED)? })
    }
}

/// Neighbouring numbers of one cargo among several.
#[derive(Debug, PartialEq)]
struct Piece {
    of: usize,
    from: usize,
    len: usize,
}

/// All numbers of cargos of (so many, pieces of at most so many).
fn pieces(cargos: impl Iterator<Item = (usize, usize)>) -> Vec<Piece> {
    let each = cargos.enumerate().flat_map(|(of, (len, most))| {
        (0..len).step_by(most).map(move |from| Piece { of, from, len: most.min(len - from) })
    });
    each.collect()
}

/// Has each berth, on a thread of its own, carry the next piece that nobody carries yet.
fn share<B: Send, P: Sync>(
    berths: &mut [B],
    pieces: &[P],
    carry: impl Fn(&mut B, &P) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    berths.par_iter_mut().with_max_len(1).try_for_each(|berth| {
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            carry(berth, piece)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use repertoire_kernels::cuda::Dtype;

    use super::*;

    #[test]
    fn berths_carry_every_number_to_its_place() {
        let bytes: Vec<Vec<u8>> =
            [1000, 0, 1, 4097].map(|len| (0..4 * len).map(|i| (i * 7 % 60) as u8).collect()).into();
        let cargos: Vec<_> = bytes.iter().map(|bytes| Cargo::stored(&[bytes.len() / 4], bytes, Dtype::F32)).collect();
        // A destination here, in place of a GPU's memory.
        let there: Vec<_> = bytes.iter().map(|bytes| Mutex::new(vec![255; bytes.len()])).collect();
        let mut berths = vec![vec![0; 64]; 3];
        share(&mut berths, &pieces(cargos.iter().map(|cargo| (cargo.len(), 16))), |staging, piece| {
            let staged = &mut staging[..4 * piece.len];
            cargos[piece.of].copy(piece.from, Dtype::F32, staged)?;
            there[piece.of].lock()[4 * piece.from..][..staged.len()].copy_from_slice(staged);
            Ok(())
        })
        .unwrap();
        assert_eq!(there.into_iter().map(Mutex::into_inner).collect::<Vec<_>>(), bytes);
    }

    #[test]
    fn pieces_are_no_longer_than_a_berth() {
        let piece = |of, from, len| Piece { of, from, len };
        assert_eq!(
            pieces([(5, 2), (0, 2), (2, 4)].into_iter()),
            [piece(0, 0, 2), piece(0, 2, 2), piece(0, 4, 1), piece(2, 0, 2)]
        );
    }

    #[test]
    fn a_failure_is_told() {
        let failing = |_: &mut (), &piece: &usize| match piece {
            7 => candle_core::bail!("piece {piece}"),
            _ => Ok(()),
        };
        let told = share(&mut [(); 4], &(0..20).collect::<Vec<_>>(), failing).unwrap_err();
        assert!(told.to_string().starts_with("piece 7"), "{told}");
    }
}
