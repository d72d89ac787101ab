//! Who holds what in memory.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use repertoire::adapter::{AdapterError, PublishIf, Residency};

use super::toy::{BYTES, Toy, name, package, reference, seed_of};

#[test]
fn a_lease_outlives_replacement_and_deletion() {
    let toy = Toy::new();
    let registry = toy.open();
    registry.publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    let first = registry.lease(&reference("joke")).unwrap();
    registry.publish(&name("joke"), package(2), PublishIf::Always).unwrap();
    let second = registry.lease(&reference("joke")).unwrap();
    registry.delete(&name("joke"), PublishIf::Always).unwrap();
    assert!(registry.lease(&reference("joke")).is_err());
    assert_eq!((seed_of(&first), seed_of(&second)), (1, 2));
    assert_eq!(registry.stats().resident_bytes, 2 * BYTES);
    let clone = first.clone();
    drop((first, second));
    assert_eq!(registry.stats().resident_bytes, BYTES);
    drop(clone);
    assert_eq!(registry.stats().resident_bytes, 0);
    toy.expect_packages(0);
}

#[test]
fn the_longest_unused_adapter_goes_first_and_comes_back_when_asked_for() {
    let toy = Toy { host_bytes: 2 * BYTES, ..Toy::new() };
    let registry = toy.open();
    for (seed, id) in [(1, "a"), (2, "b")] {
        registry.publish(&name(id), package(seed), PublishIf::Always).unwrap();
    }
    drop(registry.lease(&reference("a")).unwrap());
    registry.publish(&name("c"), package(3), PublishIf::Always).unwrap();
    let residency = |id| registry.show(&reference(id)).unwrap().residency;
    assert_eq!([residency("a"), residency("b"), residency("c")], [Residency::Host, Residency::Store, Residency::Host]);
    assert_eq!(seed_of(&registry.lease(&reference("b")).unwrap()), 2);
    assert_eq!(residency("a"), Residency::Store);
    assert_eq!(registry.stats().resident_bytes, 2 * BYTES);
}

#[test]
fn leased_and_pinned_adapters_stay_in_memory() {
    let toy = Toy { host_bytes: 2 * BYTES, ..Toy::new() };
    let registry = toy.open();
    for (seed, id) in [(1, "leased"), (2, "pinned"), (3, "other"), (4, "more")] {
        registry.publish(&name(id), package(seed), PublishIf::Always).unwrap();
    }
    let lease = registry.lease(&reference("leased")).unwrap();
    let pinned = registry.pin(&name("pinned"), true).unwrap();
    assert_eq!((pinned.pinned, pinned.residency), (true, Residency::Host));
    for id in ["other", "more", "other"] {
        drop(registry.lease(&reference(id)).unwrap());
    }
    let info = |id| registry.show(&reference(id)).unwrap();
    assert_eq!((info("leased").residency, info("leased").leases), (Residency::Host, 1));
    assert_eq!(info("pinned").residency, Residency::Host);
    assert_eq!(info("more").residency, Residency::Store);
    drop(lease);
    assert_eq!(info("leased").leases, 0);
    assert!(!registry.pin(&name("pinned"), false).unwrap().pinned);
    assert!(registry.stats().resident_bytes <= 2 * BYTES);
}

#[test]
fn a_pin_follows_the_pointer_and_outlives_a_restart() {
    let toy = Toy { host_bytes: 2 * BYTES, ..Toy::new() };
    let registry = toy.open();
    registry.publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    registry.pin(&name("joke"), true).unwrap();
    registry.publish(&name("joke"), package(2), PublishIf::Always).unwrap();
    for seed in 3..6 {
        registry.publish(&name("other"), package(seed), PublishIf::Always).unwrap();
    }
    let info = |reference_text| registry.show(&reference(reference_text)).unwrap();
    assert_eq!((info("joke").residency, info("joke").pinned), (Residency::Host, true));
    assert_eq!((info("joke@1").residency, info("joke@1").pinned), (Residency::Store, false));
    drop(registry);

    let registry = toy.open();
    assert_eq!(registry.show(&reference("joke")).unwrap().residency, Residency::Store);
    registry.warm();
    let info = registry.show(&reference("joke")).unwrap();
    assert_eq!((info.residency, info.pinned), (Residency::Host, true));
}

#[test]
fn more_cannot_be_pinned_than_fits() {
    let toy = Toy { host_bytes: BYTES, ..Toy::new() };
    let registry = toy.open();
    registry.publish(&name("a"), package(1), PublishIf::Always).unwrap();
    registry.publish(&name("b"), package(2), PublishIf::Always).unwrap();
    registry.pin(&name("a"), true).unwrap();
    registry.pin(&name("a"), true).unwrap();
    let error = registry.pin(&name("b"), true).unwrap_err();
    assert!(error.to_string().contains("400") && error.to_string().contains("800"), "{error}");
    assert!(!registry.show(&reference("b")).unwrap().pinned);
}

#[test]
fn a_lease_knows_its_number_whatever_becomes_of_the_name() {
    let toy = Toy { keep_versions: 0, ..Toy::new() };
    toy.place("placed", 9);
    let registry = toy.open();
    registry.publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    registry.publish(&name("joke"), package(2), PublishIf::Always).unwrap();
    let lease = registry.lease(&reference("joke")).unwrap();
    registry.delete(&name("joke"), PublishIf::Always).unwrap();
    assert_eq!((lease.version(), lease.clone().version()), (Some(2), Some(2)));
    // The same content under another name has that name's number.
    registry.publish(&name("again"), package(2), PublishIf::Always).unwrap();
    assert_eq!(registry.lease(&reference("again")).unwrap().version(), Some(1));
    assert_eq!(registry.lease(&reference("placed")).unwrap().version(), Some(1));
}

#[test]
fn a_pinned_name_cannot_move_to_a_version_that_leaves_no_room() {
    let toy = Toy { host_bytes: 2 * BYTES, ..Toy::new() };
    let registry = toy.open();
    let large = |seed: u32| {
        let mut package = package(seed);
        package.files.insert("adapter_model.safetensors".into(), seed.to_le_bytes().repeat(200).into());
        package
    };
    registry.publish(&name("other"), package(1), PublishIf::Always).unwrap();
    registry.pin(&name("other"), true).unwrap();
    registry.publish(&name("joke"), large(2), PublishIf::Always).unwrap();
    registry.publish(&name("joke"), package(3), PublishIf::Always).unwrap();
    registry.pin(&name("joke"), true).unwrap();
    // What the old version took makes room for the new one.
    registry.publish(&name("joke"), package(4), PublishIf::Always).unwrap();
    let published = registry.publish(&name("joke"), large(5), PublishIf::Always).map(drop);
    let rolled_back = registry.rollback(&name("joke"), 1, PublishIf::Always).map(drop);
    for refused in [published, rolled_back] {
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("800") && error.to_string().contains("1200"), "{error}");
    }
    assert_eq!(seed_of(&registry.lease(&reference("joke")).unwrap()), 4);
    assert_eq!(registry.versions(&name("joke")).unwrap().len(), 3);
    assert!(registry.stats().resident_bytes <= 2 * BYTES);
}

#[test]
fn however_many_ask_one_loads() {
    let mut toy = Toy::in_memory();
    toy.open().publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    toy.place("placed", 2);
    toy.reads.store(0, Ordering::SeqCst);
    toy.hook = Arc::new(|_| std::thread::sleep(Duration::from_millis(30)));
    let registry = toy.open();
    let barrier = Barrier::new(32);
    std::thread::scope(|scope| {
        for i in 0..32 {
            let (registry, barrier) = (&registry, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let lease = registry.lease(&reference(["joke", "placed"][i % 2])).unwrap();
                assert_eq!(seed_of(&lease) as usize, 1 + i % 2);
            });
        }
    });
    assert_eq!(toy.reads(), 2);
}

#[test]
fn different_adapters_load_side_by_side_and_residents_do_not_wait() {
    let mut toy = Toy::in_memory();
    let ids = ["a", "b", "c", "d"];
    let registry = toy.open();
    for (seed, id) in ids.iter().enumerate() {
        registry.publish(&name(id), package(seed as u32), PublishIf::Always).unwrap();
    }
    registry.publish(&name("resident"), package(99), PublishIf::Always).unwrap();
    drop(registry);
    // Every load of a, b, c, d waits until all four are under way, and until the resident one has been leased meanwhile.
    let barrier = Arc::new(Barrier::new(ids.len() + 1));
    let inside = barrier.clone();
    toy.hook = Arc::new(move |read| {
        if read.files != package(99).files {
            inside.wait();
            inside.wait();
        }
    });
    let registry = toy.open();
    drop(registry.lease(&reference("resident")).unwrap());
    std::thread::scope(|scope| {
        for id in ids {
            scope.spawn(|| registry.lease(&reference(id)).unwrap());
        }
        barrier.wait();
        assert_eq!(seed_of(&registry.lease(&reference("resident")).unwrap()), 99);
        assert_eq!(registry.list(Some("d"), 10).0.len(), 1);
        barrier.wait();
    });
}

#[test]
fn a_failed_load_fails_its_askers_only_and_is_tried_again() {
    let mut toy = Toy::in_memory();
    toy.open().publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    let (broken, loads) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (in_hook, count) = (broken.clone(), loads.clone());
    toy.hook = Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(30));
        assert!(!in_hook.load(Ordering::SeqCst), "a reader that panics");
    });
    let registry = toy.open();
    let barrier = Barrier::new(8);
    let failures: usize = std::thread::scope(|scope| {
        let ask = || {
            barrier.wait();
            matches!(registry.lease(&reference("joke")), Err(AdapterError::Store(_)))
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| usize::from(thread.join().unwrap_or(true))).sum()
    });
    assert_eq!((failures, loads.load(Ordering::SeqCst)), (8, 1));
    broken.store(false, Ordering::SeqCst);
    assert_eq!(seed_of(&registry.lease(&reference("joke")).unwrap()), 1);
    assert_eq!(registry.stats().resident_bytes, BYTES);
}

#[test]
fn a_lease_on_what_is_in_memory_reads_nothing() {
    let toy = Toy::new();
    toy.place("placed", 1);
    let registry = toy.open();
    registry.publish(&name("uploaded"), package(2), PublishIf::Always).unwrap();
    for (id, reads) in [("placed", 1), ("uploaded", 0)] {
        let before = toy.reads();
        let resident = registry.lease_resident(&reference(id));
        assert_eq!(resident.is_some(), reads == 0, "{id}: what was uploaded is in memory");
        assert_eq!(toy.reads(), before);
        let lease = registry.lease(&reference(id)).unwrap();
        let resident = registry.lease_resident(&reference(id)).unwrap();
        assert_eq!((seed_of(&resident), resident.version()), (seed_of(&lease), lease.version()));
        assert_eq!((toy.reads(), resident.version()), (before + reads, Some(1)));
    }
    toy.place("placed", 3);
    assert!(registry.lease_resident(&reference("placed")).is_none(), "the files are others");
    assert!(registry.lease_resident(&reference("nobody")).is_none());
}
