use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Instant;

use super::*;
use crate::cpu::Activation;
use crate::cuda::checks::*;
use crate::cuda::{Dtype, Matrix, Pinned, Slice, activate, add_row};

const LINES: usize = 5;
const WIDTH: usize = 64;

/// What is captured below: `out = tanh(x + row)`, and `gone = 0`.
struct Launches {
    gpu: Arc<Gpu>,
    x: Slice,
    row: Slice,
    out: Slice,
    gone: Slice,
}

impl Launches {
    fn new(gpu: &Arc<Gpu>, dtype: Dtype) -> Self {
        let [x, out, gone] = [0, 1, 2].map(|_| poisoned(gpu, dtype, LINES * WIDTH));
        Self { gpu: gpu.clone(), x, row: poisoned(gpu, dtype, WIDTH), out, gone }
    }

    fn launch(&self) -> Result<(), GpuError> {
        self.out.copy_from(&self.x)?;
        add_row(&self.gpu, Matrix::new(&self.out, WIDTH), &self.row)?;
        activate(&self.gpu, Matrix::new(&self.out, WIDTH), Activation::Tanh)?;
        self.gone.zero()
    }

    /// Other numbers to compute with, and results that nobody has written.
    fn renew(&self, rng: &mut StdRng) {
        for slice in [&self.x, &self.row] {
            slice.write(&to_bytes(slice.dtype(), &uniform(rng, slice.len()))).expect("a copy");
        }
        for slice in [&self.out, &self.gone] {
            slice.write(&to_bytes(slice.dtype(), &vec![f32::NAN; slice.len()])).expect("a copy");
        }
    }

    fn results(&self) -> Vec<f32> {
        [&self.out, &self.gone].map(|slice| slice.to_f32().expect("a copy")).concat()
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_graph_does_what_its_launches_do() {
    for dtype in DTYPES {
        // A new one: kernels are loaded while they are captured.
        let (gpu, mut rng) = (gpu(), rng(90));
        let launches = Launches::new(&gpu, dtype);
        launches.renew(&mut rng);
        let graph = Graph::capture(&gpu, || launches.launch()).expect("a graph");
        assert!(launches.results().iter().all(|x| x.is_nan()), "{dtype:?}: nothing has run yet");
        for round in 0..5 {
            launches.renew(&mut rng);
            graph.launch().expect("a launch");
            let replayed = launches.results();
            assert!(replayed.iter().all(|x| x.is_finite()), "{dtype:?}, round {round}");
            launches.launch().expect("launches");
            assert_same(&replayed, &launches.results(), &format!("{dtype:?}, round {round}"));
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_graph_is_launched_by_another_thread() {
    let (gpu, mut rng) = (gpu(), rng(91));
    let launches = Launches::new(&gpu, Dtype::F32);
    let graph = Graph::capture(&gpu, || launches.launch()).expect("a graph");
    launches.renew(&mut rng);
    let results = thread::scope(|scope| {
        let launch = move || graph.launch();
        scope.spawn(launch).join().expect("no panic").expect("a launch");
        launches.results()
    });
    launches.launch().expect("launches");
    assert_same(&results, &launches.results(), "by another thread");
}

#[test]
#[ignore = "needs a GPU"]
fn the_stream_survives_what_fails_in_a_capture() {
    let (gpu, mut rng) = (gpu(), rng(92));
    let launches = Launches::new(&gpu, Dtype::F32);
    launches.renew(&mut rng);
    let failed = Graph::capture(&gpu, || launches.launch().and(Err(GpuError::NoCublas))).map(drop);
    assert!(matches!(failed, Err(GpuError::NoCublas)), "{failed:?}");
    gpu.synchronize().expect("nothing is captured");
    let panicking = || -> Result<(), GpuError> {
        launches.launch()?;
        panic!("on purpose")
    };
    assert!(catch_unwind(AssertUnwindSafe(|| Graph::capture(&gpu, panicking).map(drop))).is_err());
    gpu.synchronize().expect("nothing is captured");
    assert!(launches.results().iter().all(|x| x.is_nan()), "what was thrown away never ran");
    launches.launch().expect("launches");
    let eager = launches.results();
    let graph = Graph::capture(&gpu, || launches.launch()).expect("a graph");
    graph.launch().expect("a launch");
    assert_same(&launches.results(), &eager, "after failures");
}

#[test]
#[ignore = "needs a GPU"]
fn what_cannot_be_in_a_graph_says_so() {
    let gpu = gpu();
    let x = Slice::of(&gpu, Dtype::F32, &[1.0; 4]).expect("memory");
    let mut pinned = Pinned::new(&gpu, 16).expect("memory");
    let before = Graph::capture(&gpu, || x.zero()).expect("a graph");
    let mut results = vec![];
    let graph = Graph::capture(&gpu, || {
        results.extend([
            Slice::new(&gpu, Dtype::F32, 4).map(drop),
            Pinned::new(&gpu, 16).map(drop),
            x.write(&[0; 16]),
            x.write_from(&pinned, 0..16),
            x.write_rows(&pinned, 0, 2, 2, 2),
            x.read_to(&mut pinned, 0),
            x.to_f32().map(drop),
            gpu.record().map(drop),
            gpu.synchronize(),
            before.launch(),
            Graph::capture(&gpu, || x.zero()).map(drop),
        ]);
        x.zero()
    });
    assert_eq!(results.len(), 11);
    assert!(results.iter().all(|result| matches!(result, Err(GpuError::Capturing))), "{results:?}");
    // None of it broke the graph.
    let graph = graph.expect("a graph");
    assert_eq!(x.to_f32().expect("a copy"), [1.0; 4]);
    graph.launch().expect("a launch");
    assert_eq!(x.to_f32().expect("a copy"), [0.0; 4]);

    // One that is not caught ends the capture.
    let failed = Graph::capture(&gpu, || Slice::new(&gpu, Dtype::F32, 4).map(drop)).map(drop);
    assert!(matches!(failed, Err(GpuError::Capturing)), "{failed:?}");
    x.write(&[0; 16]).expect("a copy");
}

#[test]
#[ignore = "needs a GPU"]
fn page_locked_memory_may_be_let_go_of_in_a_capture() {
    let gpu = gpu();
    let x = Slice::of(&gpu, Dtype::F32, &[1.0; 4]).expect("memory");
    let pinned = Pinned::new(&gpu, 16).expect("memory");
    let graph = Graph::capture(&gpu, || {
        drop(pinned);
        x.zero()
    });
    graph.expect("a graph").launch().expect("a launch");
    assert_eq!(x.to_f32().expect("a copy"), [0.0; 4]);
}

#[test]
#[ignore = "needs a GPU"]
fn nothing_is_a_graph() {
    let gpu = gpu();
    let graph = Graph::capture::<GpuError>(&gpu, || Ok(())).expect("a graph");
    graph.launch().expect("a launch");
    gpu.synchronize().expect("an end");
}

#[test]
#[ignore = "needs a GPU to itself; prints what graphs take"]
fn graph_memory_and_bandwidth() {
    const GRAPHS: usize = 64;
    /// As many as a step of a large base has.
    const LAUNCHES: usize = 260;
    let (gpu, mut rng) = (gpu(), rng(93));
    let launches = Launches::new(&gpu, Dtype::F32);
    launches.renew(&mut rng);
    launches.launch().expect("launches");
    let capture = || {
        let graph = Graph::capture(&gpu, || (0..LAUNCHES / 4).try_for_each(|_| launches.launch())).expect("a graph");
        graph.launch().expect("a launch");
        graph
    };
    let free = || gpu.memory().expect("numbers").0;
    let _first = capture();
    let (before, start) = (free(), Instant::now());
    let graphs: Vec<Graph> = (0..GRAPHS).map(|_| capture()).collect();
    gpu.synchronize().expect("they run");
    let (took, bytes) = (start.elapsed(), before.saturating_sub(free()));
    println!(
        "{GRAPHS} graphs of {LAUNCHES} launches: {} KiB and {:.2} ms each",
        (bytes / graphs.len()) >> 10,
        took.as_secs_f64() * 1e3 / graphs.len() as f64
    );
    assert!(bytes / graphs.len() < 1 << 20, "{bytes} bytes: graphs are bounded by what is kept of them, and are small");
}
