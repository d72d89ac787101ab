//! Many threads do everything at once; what must hold holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use repertoire::adapter::{
    AdapterError, AdapterRef, AdapterRegistry, Digest, Lease, MetadataChange, PublishIf, Selector,
};

use super::toy::{BYTES, Toy, described, name, package, reference, seed_of};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "placed"];
const SEEDS: u32 = 12;

/// What every seed's packages are called, so that a lease's digest tells the content it must have.
fn contents() -> HashMap<Digest, u32> {
    let of = |seed| [package(seed).digest(), described(seed, "x").digest(), described(seed, "y").digest()];
    (0..SEEDS).flat_map(|seed| of(seed).map(|digest| (digest, seed))).collect()
}

fn check(lease: &Lease, contents: &HashMap<Digest, u32>) {
    assert_eq!(contents.get(&lease.digest), Some(&seed_of(lease)), "a lease whose content is not its digest's");
}

fn one_step(registry: &AdapterRegistry, rng: &mut SmallRng, held: &mut Vec<Lease>, contents: &HashMap<Digest, u32>) {
    let id = name(NAMES[rng.random_range(0..NAMES.len())]);
    let seed = rng.random_range(0..SEEDS);
    let condition = match rng.random_range(0..4) {
        0 => PublishIf::Absent,
        1 => PublishIf::Current(package(rng.random_range(0..SEEDS)).digest()),
        _ => PublishIf::Always,
    };
    let outcome = match rng.random_range(0..100) {
        0..15 => registry.publish(&id, package(seed), condition).map(drop),
        15..18 => registry.publish(&id, described(seed, "x"), condition).map(drop),
        18..21 => {
            let change = MetadataChange { description: Some(Some("y".into())), ..MetadataChange::default() };
            registry.patch(&id, change, condition).map(drop)
        }
        21..26 => registry.delete(&id, condition),
        26..31 => registry.rollback(&id, rng.random_range(1..6), PublishIf::Always).map(drop),
        31..34 => registry.pin(&id, rng.random()).map(drop),
        34..38 => registry.versions(&id).map(drop),
        38..42 => {
            registry.list(None, 3);
            Ok(())
        }
        42..46 => {
            registry.file(&AdapterRef { name: id, version: Selector::Current }, "adapter_model.safetensors").map(drop)
        }
        46..60 => {
            held.truncate(held.len().saturating_sub(3));
            Ok(())
        }
        roll => {
            let version = match roll {
                60..70 => Selector::Number(rng.random_range(1..6)),
                70..75 => Selector::Digest(package(seed).digest()),
                _ => Selector::Current,
            };
            registry.lease(&AdapterRef { name: id, version }).map(|lease| {
                check(&lease, contents);
                held.push(lease);
            })
        }
    };
    match outcome {
        Ok(()) | Err(AdapterError::NotFound(_) | AdapterError::Conflict { .. } | AdapterError::Invalid(_)) => {}
        // Between `select` and the look at its files a pruned version's files stay, for its holder holds them.
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn in_a_storm_every_lease_is_what_it_says_and_nothing_leaks() {
    let toy = Toy { host_bytes: 4 * BYTES, keep_versions: 2, ..Toy::in_memory() };
    toy.place("placed", 0);
    let registry = toy.open();
    let contents = contents();
    let steps = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (registry, contents, steps) = (&registry, &contents, &steps);
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(thread);
                let mut held = Vec::new();
                while steps.fetch_add(1, Ordering::Relaxed) < 12_000 {
                    one_step(registry, &mut rng, &mut held, contents);
                    if held.len() > 20 {
                        held.iter().for_each(|lease| check(lease, contents));
                        held.clear();
                    }
                }
                held.iter().for_each(|lease| check(lease, contents));
            });
        }
    });

    assert!(registry.stats().resident_bytes <= 4 * BYTES, "no lease is held, so the budget is kept");
    let (infos, _) = registry.list(None, 100);
    let mut digests = Vec::new();
    for info in &infos {
        for version in registry.versions(&info.id).unwrap() {
            assert_eq!(version.leases, 0, "{version:?}");
            let lease = registry.lease(&reference(&format!("{}@{}", info.id, version.version))).unwrap();
            check(&lease, &contents);
            if !(info.id.as_str() == "placed" && version.version == 1) {
                digests.push(version.digest);
            }
        }
    }
    digests.sort();
    digests.dedup();
    toy.expect_packages(digests.len());
    drop(registry);

    let registry = toy.open();
    assert_eq!(toy.packages(), digests.len());
    let pointers = |infos: &[repertoire::adapter::AdapterInfo]| -> Vec<_> {
        infos.iter().map(|info| (info.id.clone(), info.version, info.digest, info.pinned)).collect()
    };
    assert_eq!(pointers(&registry.list(None, 100).0), pointers(&infos));
    for id in NAMES {
        let _ = registry.delete(&name(id), PublishIf::Always);
    }
    toy.expect_packages(0);
    assert_eq!((registry.stats().resident_bytes, registry.stats().resident, registry.stats().names), (0, 0, 0));
}

#[test]
fn a_pointer_read_during_publications_is_never_older_than_one_read_before() {
    let toy = Toy::in_memory();
    let registry = toy.open();
    registry.publish(&name("joke"), package(0), PublishIf::Always).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 1..200 {
                registry.publish(&name("joke"), package(seed), PublishIf::Current(package(seed - 1).digest())).unwrap();
            }
        });
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while last < 199 {
                    let seed = seed_of(&registry.lease(&reference("joke")).unwrap());
                    assert!(seed >= last);
                    last = seed;
                }
            });
        }
    });
    assert_eq!(registry.show(&reference("joke")).unwrap().version, 200);
}
