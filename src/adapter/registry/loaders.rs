//! Threads that read and decode adapters, and yield to those who compute.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// A few threads of low priority. Where all cores are busy with steps, they take what steps leave over and little more;
/// arithmetic on the way (DoRA's norms) stays on them too.
pub struct Loaders(ThreadPool);

impl Loaders {
    /// Starts the threads; they end when this is dropped. So many adapters are read at once.
    pub fn start(name: &'static str, threads: usize) -> Result<Self, ThreadPoolBuildError> {
        ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |number| format!("{name}-{number}"))
            .start_handler(|_| yield_to_others())
            .panic_handler(|_| tracing::error!("a background thread panicked"))
            .build()
            .map(Self)
    }

    /// Does `work` on one of the threads and waits for it; a panic there goes on here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.install(work)
    }

    /// Drops something there, so that nobody waits while much memory is given back.
    pub fn drop_there(&self, what: impl Send + 'static) {
        self.0.spawn(move || drop(what));
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
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn work_is_done_elsewhere_and_its_panic_arrives_here() {
        let loaders = Loaders::start("loader", 2).unwrap();
        let name = loaders.run(|| std::thread::current().name().map(str::to_owned)).unwrap();
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
        assert_eq!(Loaders::start("loader", 1).unwrap().run(priority), (here + 15).min(19));
        assert_eq!(priority(), here);
    }
}
