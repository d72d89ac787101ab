//! Work on large files, shared out among a few threads of its own.

use std::sync::{Mutex, PoisonError};
use std::thread;

/// Bytes that a thread takes at a time; a file of fewer is one thread's.
pub const PIECE: usize = 2 << 20;
/// Threads that work on a file together: the caller's and some that end with the work.
const THREADS: usize = 4;

/// Calls `work` for every piece, in any order, and answers one of its errors. The threads have the caller's priority. They are
/// no pool's: who waits in a pool takes up other work of it meanwhile, here another file that is to be read.
pub fn try_each<T, E>(pieces: impl Iterator<Item = T> + Send, work: impl Fn(T) -> Result<(), E> + Sync) -> Result<(), E>
where
    T: Send,
    E: Send,
{
    let (pieces, failed) = (Mutex::new(pieces), Mutex::new(None));
    let run = || {
        loop {
            let piece = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(piece) = piece else { break };
            if let Err(error) = work(piece) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                break;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS.min(thread::available_parallelism().map_or(1, usize::from)) {
            // Without another thread this one does it all.
            let _ = thread::Builder::new().name("pieces".into()).spawn_scoped(scope, run);
        }
        run();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// The same of work that cannot fail.
pub fn each<T: Send>(pieces: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    let Ok(()) = try_each(pieces, |piece| {
        work(piece);
        Ok::<(), std::convert::Infallible>(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_worked_on_once() {
        let mut counts = vec![0; 1000];
        each(counts.iter_mut().enumerate(), |(i, count)| *count += i);
        assert!(counts.iter().enumerate().all(|(i, count)| i == *count));
    }

    #[test]
    fn an_error_is_answered() {
        assert_eq!(try_each(0..100, |i| if i == 40 { Err(i) } else { Ok(()) }), Err(40));
        assert_eq!(try_each(0..0, |_: i32| Err(())), Ok(()));
    }

    #[test]
    #[should_panic]
    fn a_panic_goes_on_at_the_caller() {
        each(0..100, |i| assert_ne!(i, 50));
    }
}
