//! Versions, pointers and conditions.

use repertoire::adapter::{AdapterError, MetadataChange, PublishIf, Residency};

use super::toy::{Toy, described, name, package, reference, seed_of};

#[test]
fn uploads_are_numbered_and_the_name_means_the_last() {
    let toy = Toy::new();
    let registry = toy.open();
    for (seed, version) in [(10, 1), (20, 2), (30, 3)] {
        let published = registry.publish(&name("joke"), package(seed), PublishIf::Always).unwrap();
        assert!(published.created);
        assert_eq!(published.info.version, version);
        assert_eq!(published.info.digest, package(seed).digest());
        assert_eq!(published.info.residency, Residency::Host);
    }
    assert_eq!(seed_of(&registry.lease(&reference("joke")).unwrap()), 30);
    assert_eq!(seed_of(&registry.lease(&reference("joke@2")).unwrap()), 20);
    let by_digest = format!("joke@{}", package(10).digest());
    assert_eq!(seed_of(&registry.lease(&reference(&by_digest)).unwrap()), 10);
    let versions: Vec<u32> = registry.versions(&name("joke")).unwrap().iter().map(|info| info.version).collect();
    assert_eq!(versions, [3, 2, 1]);
}

#[test]
fn what_does_not_exist_is_not_found_under_the_name_that_was_asked_for() {
    let toy = Toy::new();
    let registry = toy.open();
    registry.publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    let other = format!("joke@{}", package(2).digest());
    for text in ["proverb", "proverb@2", "joke@2", "joke@ckpt-100", other.as_str()] {
        let error = registry.lease(&reference(text)).unwrap_err();
        assert!(matches!(&error, AdapterError::NotFound(asked) if asked == text), "{error:?}");
    }
}

#[test]
fn everything_is_there_after_a_restart() {
    let toy = Toy::new();
    let registry = toy.open();
    for seed in 1..=3 {
        registry.publish(&name("joke"), described(seed, "funny"), PublishIf::Always).unwrap();
    }
    registry.rollback(&name("joke"), 2, PublishIf::Always).unwrap();
    let before = registry.versions(&name("joke")).unwrap();
    drop(registry);

    let reads = toy.reads();
    let registry = toy.open();
    let mut after = registry.versions(&name("joke")).unwrap();
    assert_eq!(toy.reads(), reads, "lists load nothing");
    assert!(after.iter().all(|info| info.residency == Residency::Store));
    after.iter_mut().for_each(|info| info.residency = Residency::Host);
    assert_eq!(after, before);
    assert_eq!(registry.show(&reference("joke")).unwrap().version, 2);
    assert_eq!(seed_of(&registry.lease(&reference("joke")).unwrap()), 2);
    let next = registry.publish(&name("joke"), package(9), PublishIf::Always).unwrap();
    assert_eq!(next.info.version, 4);
}

#[test]
fn conditions_compare_with_the_current_version() {
    let toy = Toy::new();
    let registry = toy.open();
    let joke = name("joke");
    let conflict = |result: Result<_, AdapterError>| match result {
        Err(AdapterError::Conflict { current, .. }) => current,
        Err(error) => panic!("{error}"),
        Ok(()) => panic!("no conflict"),
    };
    let publish = |seed, condition| registry.publish(&joke, package(seed), condition).map(drop);

    assert_eq!(conflict(publish(1, PublishIf::Current(package(1).digest()))), None);
    publish(1, PublishIf::Absent).unwrap();
    let first = package(1).digest();
    assert_eq!(conflict(publish(1, PublishIf::Absent)), Some(first));
    assert_eq!(conflict(publish(2, PublishIf::Absent)), Some(first));
    publish(2, PublishIf::Current(first)).unwrap();
    assert_eq!(conflict(publish(3, PublishIf::Current(first))), Some(package(2).digest()));
    assert_eq!(conflict(registry.delete(&joke, PublishIf::Current(first))), Some(package(2).digest()));
    registry.delete(&joke, PublishIf::Current(package(2).digest())).unwrap();
    publish(3, PublishIf::Absent).unwrap();
    assert_eq!(registry.show(&reference("joke")).unwrap().version, 1);
    toy.expect_packages(1);
}

#[test]
fn of_many_who_publish_if_absent_one_wins() {
    let toy = Toy::in_memory();
    let registry = toy.open();
    let results: Vec<bool> = std::thread::scope(|scope| {
        let publish = |seed| registry.publish(&name("joke"), package(seed), PublishIf::Absent).is_ok();
        let threads: Vec<_> = (1..=16).map(|seed| scope.spawn(move || publish(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|won| **won).count(), 1);
    assert_eq!(registry.versions(&name("joke")).unwrap().len(), 1);
    toy.expect_packages(1);
}

#[test]
fn the_same_bytes_under_the_same_name_make_no_new_version() {
    let toy = Toy::new();
    let registry = toy.open();
    let publish = |seed| registry.publish(&name("joke"), package(seed), PublishIf::Always).unwrap();
    let first = publish(1);
    let again = publish(1);
    assert!(!again.created);
    assert_eq!(again.info, first.info);

    publish(2);
    let older = publish(1);
    assert!(!older.created);
    assert_eq!(older.info.version, 1);
    assert_eq!(registry.show(&reference("joke")).unwrap().version, 1, "what was uploaded last is what is served");
    assert_eq!(publish(3).info.version, 3);
}

#[test]
fn the_same_bytes_under_two_names_are_held_once() {
    let toy = Toy::new();
    let registry = toy.open();
    assert!(registry.publish(&name("a"), package(1), PublishIf::Always).unwrap().created);
    assert!(registry.publish(&name("b"), package(1), PublishIf::Always).unwrap().created);
    let (a, b) = (registry.lease(&reference("a")).unwrap(), registry.lease(&reference("b")).unwrap());
    assert!(std::sync::Arc::ptr_eq(a.adapter(), b.adapter()));
    assert_eq!(toy.packages(), 1);
    drop((a, b));
    registry.delete(&name("a"), PublishIf::Always).unwrap();
    assert_eq!(seed_of(&registry.lease(&reference("b")).unwrap()), 1);
    registry.delete(&name("b"), PublishIf::Always).unwrap();
    toy.expect_packages(0);
    assert_eq!(registry.stats().resident_bytes, 0);
}

#[test]
fn old_versions_are_pruned_but_never_the_current_one() {
    let toy = Toy { keep_versions: 2, ..Toy::new() };
    let registry = toy.open();
    let joke = name("joke");
    let numbers = || -> Vec<u32> { registry.versions(&joke).unwrap().iter().map(|info| info.version).collect() };
    for seed in 1..=5 {
        registry.publish(&joke, package(seed), PublishIf::Always).unwrap();
    }
    assert_eq!(numbers(), [5, 4, 3]);
    toy.expect_packages(3);
    registry.rollback(&joke, 3, PublishIf::Always).unwrap();
    registry.publish(&joke, package(6), PublishIf::Always).unwrap();
    assert_eq!(numbers(), [6, 5, 4]);
    assert!(matches!(registry.rollback(&joke, 3, PublishIf::Always), Err(AdapterError::NotFound(_))));
    toy.expect_packages(3);
}

#[test]
fn a_pruned_version_in_use_keeps_its_files_until_its_lease_ends() {
    let toy = Toy { keep_versions: 0, ..Toy::new() };
    let registry = toy.open();
    registry.publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    let lease = registry.lease(&reference("joke")).unwrap();
    registry.publish(&name("joke"), package(2), PublishIf::Always).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(toy.packages(), 2);
    assert_eq!(seed_of(&lease), 1);
    drop(lease);
    toy.expect_packages(1);
}

#[test]
fn metadata_changes_make_a_new_version_of_the_same_files() {
    let toy = Toy::new();
    let registry = toy.open();
    registry.publish(&name("joke"), described(7, "old"), PublishIf::Always).unwrap();
    let change = MetadataChange { description: Some(Some("new".into())), ..MetadataChange::default() };
    let patched = registry.patch(&name("joke"), change.clone(), PublishIf::Always).unwrap();
    assert!(patched.created);
    assert_eq!(patched.info.version, 2);
    assert_eq!(patched.info.description.as_deref(), Some("new"));
    assert_eq!(patched.info.digest, described(7, "new").digest());
    assert_eq!(seed_of(&registry.lease(&reference("joke")).unwrap()), 7);
    assert!(!registry.patch(&name("joke"), change.clone(), PublishIf::Always).unwrap().created);
    let stale = PublishIf::Current(described(7, "old").digest());
    assert!(matches!(registry.patch(&name("joke"), change.clone(), stale), Err(AdapterError::Conflict { .. })));
    assert!(matches!(registry.patch(&name("none"), change, PublishIf::Always), Err(AdapterError::NotFound(_))));
}

#[test]
fn lists_come_in_pages_in_order_of_name() {
    let toy = Toy::new();
    let registry = toy.open();
    for (seed, id) in ["b", "d", "a", "c"].iter().enumerate() {
        registry.publish(&name(id), package(seed as u32), PublishIf::Always).unwrap();
    }
    let page = |after, limit| {
        let (infos, more) = registry.list(after, limit);
        (infos.iter().map(|info| info.id.to_string()).collect::<Vec<_>>().join(""), more)
    };
    assert_eq!(page(None, 2), ("ab".into(), true));
    assert_eq!(page(Some("b"), 2), ("cd".into(), false));
    assert_eq!(page(Some("bb"), 1), ("c".into(), true));
    assert_eq!(page(Some("d"), 2), (String::new(), false));
}

#[test]
fn files_are_downloaded_as_they_were_uploaded_and_nothing_else_is() {
    let toy = Toy::new();
    let registry = toy.open();
    registry.publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    registry.publish(&name("joke"), package(2), PublishIf::Always).unwrap();
    let old = registry.file(&reference("joke@1"), "adapter_model.safetensors").unwrap();
    assert_eq!(old, package(1).files["adapter_model.safetensors"].to_vec());
    for file in [".package.json", "../../names/joke.json", "README.md", ""] {
        assert!(matches!(registry.file(&reference("joke"), file), Err(AdapterError::NotFound(_))), "{file}");
    }
}

#[test]
fn a_refused_upload_leaves_nothing() {
    let toy = Toy::new();
    let registry = toy.open();
    let mut bad = package(1);
    bad.files.insert("adapter_config.json".into(), br#"{"refuse": "pissa"}"#[..].into());
    assert!(matches!(registry.publish(&name("joke"), bad, PublishIf::Always), Err(AdapterError::Unsupported(_))));
    let mut hostile = package(1);
    hostile.files.insert("../../escape".into(), b"x"[..].into());
    assert!(matches!(registry.publish(&name("joke"), hostile, PublishIf::Always), Err(AdapterError::Invalid(_))));
    assert!(matches!(registry.show(&reference("joke")), Err(AdapterError::NotFound(_))));
    assert_eq!((toy.packages(), registry.stats().resident_bytes, registry.stats().names), (0, 0, 0));
}
