//! Folders that somebody put into the store by hand.

use std::fs;
use std::os::unix::fs::symlink;

use repertoire::adapter::{AdapterError, PublishIf};

use super::toy::{Toy, name, package, reference, seed_of};

#[test]
fn a_folder_is_version_one_of_its_name() {
    let toy = Toy::new();
    let folder = toy.place("joke", 5);
    fs::write(folder.join("repertoire.json"), r#"{"description": "by hand"}"#).unwrap();
    fs::write(folder.join("README.md"), "ignored").unwrap();
    let registry = toy.open();
    assert_eq!(toy.reads(), 0, "the start reads nothing");
    let info = registry.show(&reference("joke")).unwrap();
    assert_eq!((info.version, info.description.as_deref()), (1, Some("by hand")));
    assert_eq!(seed_of(&registry.lease(&reference("joke@1")).unwrap()), 5);
    assert!(registry.file(&reference("joke"), "adapter_config.json").is_ok());
    for file in ["README.md", "repertoire.json"] {
        assert!(matches!(registry.file(&reference("joke"), file), Err(AdapterError::NotFound(_))));
    }
    assert_eq!(toy.packages(), 0);
}

#[test]
fn what_was_learnt_from_a_folder_is_kept_over_a_restart() {
    let toy = Toy::new();
    for seed in 0..5 {
        toy.place(&format!("joke-{seed}"), seed);
    }
    let before = toy.open().list(None, 100);
    assert_eq!((before.0.len(), toy.reads()), (5, 5));
    assert_eq!(toy.open().list(None, 100), before);
    assert_eq!(toy.reads(), 5);
}

#[test]
fn a_folder_dropped_in_later_is_found_and_one_taken_away_is_forgotten() {
    let toy = Toy::new();
    let registry = toy.open();
    assert!(registry.lease(&reference("late")).is_err());
    let folder = toy.place("late", 1);
    assert_eq!(seed_of(&registry.lease(&reference("late")).unwrap()), 1);
    toy.place("later", 2);
    assert_eq!(registry.list(None, 10).0.len(), 2);
    fs::remove_dir_all(folder).unwrap();
    assert_eq!(registry.list(None, 10).0.len(), 1);
    assert!(matches!(registry.lease(&reference("late")), Err(AdapterError::NotFound(_))));
}

#[test]
fn a_folder_whose_files_were_exchanged_is_read_again() {
    let toy = Toy::new();
    toy.place("joke", 1);
    let registry = toy.open();
    let lease = registry.lease(&reference("joke")).unwrap();
    let folder = toy.place("joke", 2);
    assert_eq!(seed_of(&registry.lease(&reference("joke")).unwrap()), 2);
    assert_eq!(seed_of(&lease), 1);
    assert_eq!(registry.show(&reference("joke")).unwrap().digest, package(2).digest());
    // A half-copied file: what is in memory is served on.
    fs::write(folder.join("adapter_config.json"), "{").unwrap();
    assert_eq!(seed_of(&registry.lease(&reference("joke")).unwrap()), 2);
}

#[test]
fn files_that_vanish_are_an_error_for_their_requests_only() {
    let toy = Toy::new();
    let registry = toy.open();
    let gone = toy.place("gone", 1);
    let torn = toy.place("torn", 2);
    toy.place("fine", 3);
    registry.list(None, 10);
    fs::remove_dir_all(gone).unwrap();
    fs::remove_file(torn.join("adapter_model.safetensors")).unwrap();
    assert!(matches!(registry.lease(&reference("gone")), Err(AdapterError::NotFound(_))));
    assert!(registry.lease(&reference("torn")).is_err());
    assert_eq!(seed_of(&registry.lease(&reference("fine")).unwrap()), 3);
}

#[test]
fn an_upload_under_its_name_becomes_version_two() {
    let toy = Toy::new();
    toy.place("joke", 1);
    let registry = toy.open();
    let absent = registry.publish(&name("joke"), package(2), PublishIf::Absent);
    assert!(matches!(absent, Err(AdapterError::Conflict { .. })));
    let same = registry.publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    assert_eq!((same.created, same.info.version), (false, 1));
    let second = registry.publish(&name("joke"), package(2), PublishIf::Current(package(1).digest())).unwrap();
    assert_eq!((second.created, second.info.version), (true, 2));
    drop(registry);
    let registry = toy.open();
    assert_eq!(seed_of(&registry.lease(&reference("joke")).unwrap()), 2);
    assert_eq!(seed_of(&registry.lease(&reference("joke@1")).unwrap()), 1);
    assert_eq!(registry.rollback(&name("joke"), 1, PublishIf::Always).unwrap().version, 1);
    drop(registry);
    assert_eq!(seed_of(&toy.open().lease(&reference("joke")).unwrap()), 1);
}

#[test]
fn deleting_hides_the_folder_and_leaves_its_files() {
    let toy = Toy::new();
    let folder = toy.place("joke", 1);
    let registry = toy.open();
    registry.delete(&name("joke"), PublishIf::Always).unwrap();
    assert!(matches!(registry.delete(&name("joke"), PublishIf::Always), Err(AdapterError::NotFound(_))));
    drop(registry);
    let registry = toy.open();
    assert!(registry.lease(&reference("joke")).is_err());
    assert!(registry.list(None, 10).0.is_empty());
    assert!(folder.join("adapter_config.json").exists());
    let next = registry.publish(&name("joke"), package(1), PublishIf::Absent).unwrap();
    assert_eq!((next.created, next.info.version), (true, 2));
    registry.delete(&name("joke"), PublishIf::Always).unwrap();
    // Once the folder is taken away, a new one is new.
    fs::remove_dir_all(&folder).unwrap();
    registry.list(None, 10);
    toy.place("joke", 7);
    assert_eq!(seed_of(&registry.lease(&reference("joke@1")).unwrap()), 7);
}

#[test]
fn links_out_of_the_store_and_bad_names_are_skipped() {
    let outside = Toy::new();
    let target = outside.place("secret", 1);
    let toy = Toy::new();
    symlink(&target, toy.path().join("linked")).unwrap();
    let folder = toy.place("file-linked", 2);
    fs::remove_file(folder.join("adapter_model.safetensors")).unwrap();
    symlink(target.join("adapter_model.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
    toy.place("bad name", 3);
    toy.place(".hidden", 4);
    fs::create_dir(toy.path().join("empty")).unwrap();
    toy.place("joke", 5);
    symlink("joke", toy.path().join("alias")).unwrap();

    let registry = toy.open();
    let ids: Vec<String> = registry.list(None, 10).0.iter().map(|info| info.id.to_string()).collect();
    assert_eq!(ids, ["alias", "joke"]);
    assert!(matches!(registry.lease(&reference("linked")), Err(AdapterError::NotFound(_))));
    let error = registry.lease(&reference("file-linked")).unwrap_err();
    assert!(error.to_string().contains("link out of the adapter store"), "{error}");
    assert!(registry.file(&reference("file-linked"), "adapter_model.safetensors").is_err());
}

#[test]
fn a_thousand_folders_start_at_once_and_stay_within_the_budget() {
    let toy = Toy { host_bytes: 4000, ..Toy::in_memory() };
    for seed in 0..1000 {
        toy.place(&format!("n{seed:04}"), seed);
    }
    let start = std::time::Instant::now();
    let registry = toy.open();
    let opened = start.elapsed();
    assert!(opened < std::time::Duration::from_secs(1), "{opened:?}");
    let (infos, more) = registry.list(None, 1000);
    assert_eq!((infos.len(), more), (1000, false));
    for seed in (0..1000).step_by(10) {
        assert_eq!(seed_of(&registry.lease(&reference(&format!("n{seed:04}"))).unwrap()), seed);
        assert!(registry.stats().resident_bytes <= 4000);
    }
}
