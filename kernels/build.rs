//! Compiles `cuda/*.cu` with the feature `cuda`: one fatbin each, with machine code for Hopper, and for Ampere and Ada, and PTX
//! for what came later, whose blocks may have as little shared memory as Ada's.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for name in ["NVCC", "CUDA_HOME", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=cuda");
    let nvcc = nvcc();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut sources: Vec<PathBuf> = std::fs::read_dir("cuda")
        .expect("kernels/cuda is there")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    thread::scope(|scope| {
        for source in &sources {
            let (nvcc, out) = (&nvcc, &out);
            scope.spawn(move || compile(nvcc, source, out));
        }
    });
}

fn compile(nvcc: &Path, source: &Path, out: &Path) {
    let fatbin = out.join(source.file_stem().expect("a file has a name")).with_extension("fatbin");
    let status = Command::new(nvcc)
        .args(["-fatbin", "-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xfatbin", "-compress-all"])
        .args(["-gencode=arch=compute_90,code=sm_90", "-gencode=arch=compute_80,code=sm_80"])
        .arg("-gencode=arch=compute_80,code=compute_80")
        .arg("-o")
        .args([&fatbin, source])
        .status()
        .unwrap_or_else(|error| panic!("{} cannot be run: {error}", nvcc.display()));
    assert!(status.success(), "nvcc could not compile {}", source.display());
}

/// `NVCC`, or the one in `CUDA_HOME`, or the one on the path.
fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let homes = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = homes.into_iter().chain(env::split_paths(&path));
    let mut found = folders.map(|folder| folder.join("nvcc")).filter(|nvcc| nvcc.is_file());
    found.next().expect("the feature `cuda` needs nvcc 13.0: set NVCC or CUDA_HOME, or run scripts/setup_nvcc.sh")
}
