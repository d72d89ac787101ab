//! A server killed at any moment, and a disk that is full.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use repertoire::adapter::{AdapterError, AdapterRegistry, PublishIf};

use super::toy::{Toy, name, package, reference, seed_of};

const STORE: &str = "REPERTOIRE_TEST_CRASH_STORE";

/// This test binary again, running one of the tests marked `ignore` below over a store.
fn child(test: &str, store: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture", "--test-threads=1"]).arg(format!("registry::crash::{test}"));
    command.env(STORE, store).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn child_store() -> Option<Toy> {
    let store = std::env::var_os(STORE)?;
    Some(Toy::at(store.into()))
}

/// Publishes, rolls back and deletes without end; says what is about to happen and what has happened.
#[test]
#[ignore = "run as a child process, to be killed"]
fn publishing_child() {
    let Some(toy) = child_store() else { return };
    let registry = toy.open();
    let numbers =
        || registry.versions(&name("joke")).map_or(Vec::new(), |infos| infos.iter().map(|info| info.version).collect());
    for seed in 1.. {
        println!("will {seed}");
        registry.publish(&name("joke"), package(seed), PublishIf::Always).unwrap();
        println!("done {seed}");
        if seed % 5 == 0 {
            let oldest = *numbers().last().unwrap();
            println!("back");
            registry.rollback(&name("joke"), oldest, PublishIf::Always).unwrap();
        }
        registry.publish(&name("passing"), package(seed), PublishIf::Always).unwrap();
        if seed % 3 == 0 {
            registry.delete(&name("passing"), PublishIf::Always).unwrap();
        }
    }
}

/// What the killed child has said.
#[derive(Default)]
struct Said {
    begun: u32,
    done: u32,
    rolled_back: bool,
}

fn kill_after(mut child: Child, delay: Duration) -> Said {
    let stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = Said::default();
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // The harness's own words may stand before the first.
            match line.rsplit_once("will ").or_else(|| line.rsplit_once("done ")) {
                Some((_, seed)) if line.contains("will") => {
                    said = Said { begun: seed.parse().unwrap_or(said.begun), ..said }
                }
                Some((_, seed)) => said = Said { done: seed.parse().unwrap_or(said.done), rolled_back: false, ..said },
                None => said.rolled_back |= line == "back",
            }
        }
        said
    });
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// Everything in the store can be loaded, and nothing lies around that nobody names.
fn expect_whole(toy: &Toy, registry: &AdapterRegistry) {
    assert_eq!(fs::read_dir(toy.path().join(".versions/tmp")).unwrap().count(), 0);
    let mut digests = Vec::new();
    for info in registry.list(None, 100).0 {
        for version in registry.versions(&info.id).unwrap() {
            let lease = registry.lease(&reference(&format!("{}@{}", info.id, version.version))).unwrap();
            assert_eq!(package(seed_of(&lease)).digest(), version.digest);
            digests.push(version.digest);
        }
    }
    digests.sort();
    digests.dedup();
    assert_eq!(toy.packages(), digests.len());
}

#[test]
fn killed_at_any_moment_the_store_holds_the_old_or_the_new_version() {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut published = 0;
    for round in 0..25 {
        // Every other time on a real disk, where forcing takes its time.
        let toy = if round % 2 == 0 { Toy::new() } else { Toy::in_memory() };
        for _ in 0..2 {
            let child = child("publishing_child", toy.path()).spawn().unwrap();
            let said = kill_after(child, Duration::from_micros(rng.random_range(5_000..120_000)));
            let registry = toy.open();
            expect_whole(&toy, &registry);
            match registry.lease(&reference("joke")) {
                Ok(lease) if !said.rolled_back => {
                    let seed = seed_of(&lease);
                    assert!(
                        said.done <= seed && seed <= said.begun.max(said.done),
                        "{seed} after {} of {}",
                        said.done,
                        said.begun
                    );
                    published += said.done;
                }
                Ok(_) => {}
                Err(error) => assert!(said.done == 0 && matches!(error, AdapterError::NotFound(_)), "{error}"),
            }
            // The next run goes on where this one was killed; start it afresh so that seeds tell the order.
            let _ = registry.delete(&name("joke"), PublishIf::Always);
        }
    }
    assert!(published > 25, "the children were killed before they did anything");
}

/// Publishes what fits and what does not, where no file may exceed a limit set by the parent.
#[test]
#[ignore = "run as a child process, under a file size limit"]
fn limited_child() {
    let Some(toy) = child_store() else { return };
    let registry = toy.open();
    registry.publish(&name("joke"), package(1), PublishIf::Always).unwrap();
    let mut large = package(2);
    large.files.insert("adapter_model.safetensors".into(), vec![0; 1 << 20].into());
    for _ in 0..3 {
        let error = registry.publish(&name("joke"), large.clone(), PublishIf::Always).unwrap_err();
        assert!(matches!(error, AdapterError::Store(_)), "{error}");
        assert_eq!(toy.packages(), 1);
        assert_eq!(fs::read_dir(toy.path().join(".versions/tmp")).unwrap().count(), 0);
    }
    assert_eq!(seed_of(&registry.lease(&reference("joke")).unwrap()), 1);
    assert_eq!(registry.publish(&name("joke"), package(3), PublishIf::Always).unwrap().info.version, 2);
}

#[test]
fn a_write_that_fails_stores_nothing() {
    let toy = Toy::new();
    let run = child("limited_child", toy.path());
    let mut shell = Command::new("sh");
    // An ignored signal stays ignored in the child, which then sees writes fail instead of being killed.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""]).arg(run.get_program()).args(run.get_args());
    let output = shell.env(STORE, toy.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let registry = toy.open();
    expect_whole(&toy, &registry);
    assert_eq!(seed_of(&registry.lease(&reference("joke")).unwrap()), 3);
}
