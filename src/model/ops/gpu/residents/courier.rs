//! Brings adapters to the GPU while it works.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use repertoire_kernels::cuda::{Gpu, Lane, Mark, Pinned, Slice};

use crate::device::{gpu_error, with_bytes};

use super::upload::{Piece, Upload};

/// Bytes of each half of the page-locked memory that copies go through.
const HALF: usize = 16 << 20;
/// Bytes that a thread copies at a time.
const PIECE: usize = 1 << 18;

/// A thread that copies. Dropping it ends the thread once it has copied what it was given.
pub struct Courier(Sender<Errand>);

struct Errand {
    upload: Arc<Upload>,
    memory: Slice,
    /// When the memory is nobody else's any more.
    taken: Mark,
    done: Sender<Result<()>>,
}

/// Tells when an adapter's bytes are on the GPU.
pub struct Arrival {
    done: Receiver<Result<()>>,
    /// Nobody lets go of memory that is being written.
    _memory: Slice,
}

impl Courier {
    /// A courier with nothing to do.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        let (lane, staging) = (Lane::new(gpu).map_err(gpu_error)?, Pinned::new(gpu, 2 * HALF).map_err(gpu_error)?);
        let (errands, received) = channel::<Errand>();
        std::thread::Builder::new().name("courier".into()).spawn(move || {
            let mut route = Route { lane, staging };
            for Errand { upload, memory, taken, done } in received {
                // The lane's copies are not in the order of launches.
                let carried = taken.wait().map_err(gpu_error).and_then(|()| route.carry(&upload, &memory));
                // Who hears of it may count on the memory being free when its own is let go.
                drop((upload, memory));
                // Nobody waits any more where this fails.
                let _ = done.send(carried);
            }
        })?;
        Ok(Self(errands))
    }

    /// Has an upload copied to memory, once it is past the point in the order of launches at which it was taken.
    pub fn send(&self, upload: Arc<Upload>, memory: Slice, taken: Mark) -> Result<Arrival> {
        let (sender, done) = channel();
        let errand = Errand { upload, memory: memory.clone(), taken, done: sender };
        self.0.send(errand).map_err(|_| ended())?;
        Ok(Arrival { done, _memory: memory })
    }
}

impl Arrival {
    /// Whether everything is there; `None` if not yet.
    pub fn arrived(&self) -> Option<Result<()>> {
        match self.done.try_recv() {
            Ok(arrived) => Some(arrived),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(ended())),
        }
    }

    /// Waits until everything is there.
    pub fn wait(&self) -> Result<()> {
        self.done.recv().unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> candle_core::Error {
    candle_core::Error::Msg("the courier's thread has ended".into())
}

struct Route {
    lane: Lane,
    staging: Pinned,
}

impl Route {
    fn carry(&mut self, upload: &Upload, memory: &Slice) -> Result<()> {
        let begun = self.copy(upload, memory);
        // Also where it failed: what was begun reads the staging memory, and writes to the other.
        let waited = self.lane.wait().map_err(gpu_error);
        begun.and(waited)
    }

    /// Begins all copies: half of the staging memory is filled while the other is copied.
    fn copy(&mut self, upload: &Upload, memory: &Slice) -> Result<()> {
        let tensors = upload.tensors()?;
        let mut pieces = &upload.pieces(PIECE)[..];
        let mut half = 0;
        while let Some(first) = pieces.first() {
            let begins = first.at;
            let fitting = pieces.partition_point(|piece| piece.at + piece.bytes.len() - begins <= HALF);
            let (batch, rest) = pieces.split_at(fitting);
            let filled = batch.last().map_or(0, |last| last.at + last.bytes.len() - begins);
            let staged = half * HALF..half * HALF + filled;
            fill(&mut self.staging[staged.clone()], begins, batch, &tensors)?;
            self.lane.wait().map_err(gpu_error)?;
            self.lane.copy(memory, begins, &self.staging, staged).map_err(gpu_error)?;
            (pieces, half) = (rest, 1 - half);
        }
        Ok(())
    }
}

/// Copies pieces of tensors, the first of which belongs at byte `begins`, on all threads.
fn fill(mut staging: &mut [u8], begins: usize, pieces: &[Piece], tensors: &[Tensor]) -> Result<()> {
    let mut places = Vec::with_capacity(pieces.len());
    let mut at = begins;
    for piece in pieces {
        // Between tensors are a few bytes that nobody reads.
        let (_, from) = std::mem::take(&mut staging).split_at_mut(piece.at - at);
        let (to, after) = from.split_at_mut(piece.bytes.len());
        places.push((to, piece));
        (staging, at) = (after, piece.at + piece.bytes.len());
    }
    places.into_par_iter().try_for_each(|(to, piece)| {
        with_bytes(&tensors[piece.tensor], |_, bytes| to.copy_from_slice(&bytes[piece.bytes.clone()]))
    })
}
