//! Threads that read and decode adapters, and yield to those who compute.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};
use std::thread;

use parking_lot::Mutex;

/// So many adapters are read at once.
const THREADS: usize = 4;

/// A few threads of low priority. Where all cores are busy with steps, they take what steps leave over and little more.
pub struct Loaders {
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Loaders {
    /// Starts the threads; they end when this is dropped.
    pub fn start() -> io::Result<Self> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..THREADS {
            let receiver = receiver.clone();
            thread::Builder::new().name(format!("loader-{number}")).spawn(move || {
                yield_to_others();
                loop {
                    // In a statement of its own: the lock is not held while the job runs.
                    let job = receiver.lock().recv();
                    let Ok(job) = job else { return };
                    job();
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Does `work` on one of the threads and waits for it; a panic there goes on here. Not for use on those threads themselves.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, outcome) = mpsc::sync_channel(1);
        self.send(Box::new(move || {
            let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
        }));
        match outcome.recv().expect("a loader answers every job") {
            Ok(done) => done,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Drops something there, so that nobody waits while much memory is given back.
    pub fn drop_there(&self, what: impl Send + 'static) {
        self.send(Box::new(move || drop(what)));
    }

    fn send(&self, job: Job) {
        if let Err(mpsc::SendError(job)) = self.jobs.send(job) {
            // No thread is left: it is done here.
            job();
        }
    }
}

/// On Linux this concerns the calling thread alone.
#[cfg(target_os = "linux")]
fn yield_to_others() {
    if let Err(error) = rustix::process::nice(15) {
        tracing::debug!(%error, "loaders run at normal priority");
    }
}

#[cfg(not(target_os = "linux"))]
fn yield_to_others() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_elsewhere_and_its_panic_arrives_here() {
        let loaders = Loaders::start().unwrap();
        let name = loaders.run(|| thread::current().name().map(str::to_owned)).unwrap();
        assert!(name.starts_with("loader-"), "{name}");
        let panicked = catch_unwind(AssertUnwindSafe(|| loaders.run(|| panic!("as a damaged file might"))));
        assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"as a damaged file might"));
        assert_eq!(loaders.run(|| 7), 7, "the threads live on");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_the_loaders_yield() {
        let priority = || rustix::process::nice(0).unwrap();
        let here = priority();
        assert_eq!(Loaders::start().unwrap().run(priority), (here + 15).min(19));
        assert_eq!(priority(), here);
    }
}
