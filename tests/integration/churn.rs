//! Publishing, replacing and deleting while streams run: no stream changes, no lease leaks, memory comes back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use repertoire::adapter::{
    AdapterError, AdapterName, AdapterRef, AdapterRegistry, Digest, Metadata, Package, PublishIf, ReadLimits,
    RegistryOptions,
};
use repertoire::engine::{Parameters, Request, Work};

use crate::golden::bench::{Bench, fixtures};
use crate::golden::case::{Heard, hear};

/// Adapters of many kinds that take turns under one name.
const FOLDERS: [&str; 6] = ["lora", "dora", "ia3", "prompt", "prefix", "lora-embed-head"];
const PUBLICATIONS: usize = 150;
const EVERY: Duration = Duration::from_millis(20);

fn package(folder: &str) -> Package {
    let files = std::fs::read_dir(fixtures().join("adapters/llama").join(folder)).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap().into())
    });
    Package { files: files.collect(), metadata: Metadata::default() }
}

fn registry(bench: &Bench, store: &std::path::Path) -> AdapterRegistry {
    let limits = ReadLimits { max_rank: 64 };
    // So little that idle versions go back to the store all the time.
    let options =
        RegistryOptions { store: store.into(), host_bytes: 20_000, keep_versions: 3, limits, accept: |_| Ok(()) };
    AdapterRegistry::open(options, vec![bench.sites.clone()]).unwrap()
}

async fn ask(bench: &Bench, registry: &AdapterRegistry, reference: &str) -> Result<(Digest, Heard), AdapterError> {
    let lease = registry.lease(&reference.parse::<AdapterRef>().unwrap())?;
    let digest = lease.digest;
    let vocab = bench.sites.vocab as u32;
    let mut prompt: Vec<u32> = (vocab..vocab + lease.leading_virtual_tokens() as u32).collect();
    prompt.extend([43, 80, 299, 67, 80, 91]);
    let parameters = Parameters { max_new_tokens: 40, ignore_eos: true, ..Parameters::default() };
    let work = Work::Generate(parameters);
    let request = Request { prompt, adapter: Some(lease), work, priority: 0, timeout: None };
    Ok((digest, hear(bench.engine.submit(request).unwrap()).await))
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_keep_their_version_while_names_move_fifty_times_a_second() {
    check(Bench::folder("llama"), 0.0).await;
}

/// Streams on a bench whose logarithms of probabilities are at most `tolerance` off.
pub async fn check(bench: Bench, tolerance: f32) {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry(&bench, folder.path());
    let packages: Vec<Package> = FOLDERS.iter().map(|folder| package(folder)).collect();

    // What each version answers when nothing moves.
    let mut expected: HashMap<Digest, Heard> = HashMap::new();
    for (i, package) in packages.iter().enumerate() {
        let name = format!("quiet-{i}");
        registry.publish(&name.parse().unwrap(), package.clone(), PublishIf::Absent).unwrap();
        let (digest, heard) = ask(&bench, &registry, &name).await.unwrap();
        expected.insert(digest, heard);
        registry.delete(&name.parse().unwrap(), PublishIf::Always).unwrap();
    }
    assert_eq!(expected.len(), FOLDERS.len());
    assert_eq!(registry.stats().resident_bytes, 0);

    let (registry, bench, expected) = (Arc::new(registry), Arc::new(bench), Arc::new(expected));
    let over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let streams: Vec<_> = (0..8)
        .map(|_| {
            let (registry, bench, expected) = (registry.clone(), bench.clone(), expected.clone());
            let (over, answered) = (over.clone(), answered.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Acquire) {
                    match ask(&bench, &registry, "moving").await {
                        Ok((digest, heard)) => {
                            assert!(heard.is(&expected[&digest], tolerance), "a stream changed");
                            answered.fetch_add(1, Ordering::AcqRel);
                        }
                        Err(AdapterError::NotFound(_)) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();

    let churn = registry.clone();
    let started = Instant::now();
    tokio::task::spawn_blocking(move || {
        let name: AdapterName = "moving".parse().unwrap();
        for i in 0..PUBLICATIONS {
            churn.publish(&name, packages[i % packages.len()].clone(), PublishIf::Always).unwrap();
            if i % 7 == 6 {
                churn.delete(&name, PublishIf::Always).unwrap();
            }
            std::thread::sleep(EVERY.saturating_sub(started.elapsed().saturating_sub(EVERY * i as u32)));
        }
        churn.delete(&name, PublishIf::Always).unwrap();
    })
    .await
    .unwrap();
    over.store(true, Ordering::Release);
    for stream in streams {
        stream.await.unwrap();
    }
    assert!(answered.load(Ordering::Acquire) >= 50, "too few answers to show anything");

    // The engine lets go of a lease when its thread has dropped the finished request.
    let started = Instant::now();
    while registry.stats().resident_bytes > 0 || bench.engine.stats().free_blocks < bench.engine.stats().total_blocks {
        assert!(started.elapsed() < Duration::from_secs(5), "left behind: {:?}", registry.stats());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
