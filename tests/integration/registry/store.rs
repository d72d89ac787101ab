//! Damage, and what the store does about it.

use std::fs;

use repertoire::adapter::{AdapterError, PublishIf};

use super::toy::{Toy, name, package, reference, seed_of};

#[test]
fn a_damaged_package_is_named_and_disturbs_no_other() {
    let toy = Toy::new();
    let registry = toy.open();
    for (seed, id) in [(1, "hurt"), (2, "fine")] {
        registry.publish(&name(id), package(seed), PublishIf::Always).unwrap();
    }
    drop(registry);
    let digest = package(1).digest();
    let file = toy.path().join(".versions/packages").join(digest.hex()).join("adapter_model.safetensors");
    let mut content = fs::read(&file).unwrap();
    content[17] ^= 1;
    fs::write(&file, content).unwrap();

    let registry = toy.open();
    let error = registry.lease(&reference("hurt")).unwrap_err();
    assert!(matches!(error, AdapterError::Store(_)));
    let message = error.to_string();
    assert!(message.contains(&digest.hex()) && message.contains("adapter_model.safetensors"), "{message}");
    assert!(registry.file(&reference("hurt"), "adapter_model.safetensors").is_err());
    assert_eq!(seed_of(&registry.lease(&reference("fine")).unwrap()), 2);

    // The same upload mends it.
    let again = registry.publish(&name("hurt"), package(1), PublishIf::Always).unwrap();
    assert!(!again.created);
    drop(registry);
    assert_eq!(seed_of(&toy.open().lease(&reference("hurt")).unwrap()), 1);
}

#[test]
fn a_rollback_to_a_damaged_version_does_not_move_the_pointer() {
    let toy = Toy::new();
    let registry = toy.open();
    registry.publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    registry.publish(&name("joke"), package(2), PublishIf::Always).unwrap();
    drop(registry);
    fs::remove_dir_all(toy.path().join(".versions/packages").join(package(1).digest().hex())).unwrap();
    let registry = toy.open();
    assert!(matches!(registry.rollback(&name("joke"), 1, PublishIf::Always), Err(AdapterError::Store(_))));
    assert_eq!(registry.show(&reference("joke")).unwrap().version, 2);
}

#[test]
fn a_damaged_record_is_left_alone_and_so_are_all_packages() {
    let toy = Toy::new();
    let registry = toy.open();
    registry.publish(&name("hurt"), package(1), PublishIf::Always).unwrap();
    registry.publish(&name("fine"), package(2), PublishIf::Always).unwrap();
    drop(registry);
    let record = toy.path().join(".versions/names/hurt.json");
    let good = fs::read(&record).unwrap();
    fs::write(&record, &good[..good.len() / 2]).unwrap();
    let registry = toy.open();
    assert!(matches!(registry.lease(&reference("hurt")), Err(AdapterError::Store(_))));
    let upload = registry.publish(&name("hurt"), package(3), PublishIf::Always);
    assert!(matches!(upload, Err(AdapterError::Store(_))));
    assert_eq!(seed_of(&registry.lease(&reference("fine")).unwrap()), 2);
    drop(registry);
    fs::write(&record, good).unwrap();
    assert_eq!(seed_of(&toy.open().lease(&reference("hurt")).unwrap()), 1);
}

#[test]
fn leftovers_of_a_crash_are_removed_at_the_next_start() {
    let toy = Toy::new();
    toy.open().publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    let versions = toy.path().join(".versions");
    fs::create_dir(versions.join("tmp/half")).unwrap();
    fs::write(versions.join("tmp/half/adapter_model.safetensors"), "ha").unwrap();
    fs::write(versions.join("tmp/record"), "{").unwrap();
    let orphan = versions.join("packages").join(package(2).digest().hex());
    fs::create_dir(&orphan).unwrap();
    let registry = toy.open();
    assert_eq!(fs::read_dir(versions.join("tmp")).unwrap().count(), 0);
    assert_eq!(toy.packages(), 1);
    assert_eq!(seed_of(&registry.lease(&reference("joke")).unwrap()), 1);
}

#[test]
fn two_servers_cannot_share_a_folder_store() {
    let toy = Toy::new();
    let registry = toy.open();
    let error = toy.try_open().err().unwrap();
    assert!(error.to_string().contains("in use by another server"), "{error}");
    drop(registry);
    toy.open();
}

#[test]
fn a_store_that_does_not_exist_is_created() {
    let parent = tempfile::tempdir().unwrap();
    let toy = Toy::at(parent.path().join("deep/adapters"));
    toy.open().publish(&name("joke"), package(1), PublishIf::Always).unwrap();
}
