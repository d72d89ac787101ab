//! The configuration as operators write it.

use std::io::Write;
use std::path::Path;

use repertoire::config::{BaseConfig, ByteSize, Config, ConfigError, DeviceMemory, DeviceName, DtypeName, Overrides};
use rstest::rstest;

/// Reads `text` as a file.
fn read(text: &str, overrides: Overrides) -> Result<Config, ConfigError> {
    let mut file = tempfile::Builder::new().prefix("config").suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Config::load(Some(file.path()), overrides)
}

fn environment(variables: &[(&str, &str)]) -> Overrides {
    Overrides::default().environment(variables.iter().map(|(name, value)| (name.to_string(), value.to_string())))
}

#[test]
fn the_file_in_the_repository_is_the_built_in_default() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    assert_eq!(Config::load(Some(&file), Overrides::default()).unwrap(), Config::default());
    // Equality alone would hold for an empty file: every key must stand there.
    let text = std::fs::read_to_string(file).unwrap();
    let value = serde_json::to_value(Config::default()).unwrap();
    for (section, keys) in value.as_object().unwrap() {
        let keys = keys.as_object().or_else(|| keys[0].as_object()).unwrap();
        for key in keys.keys() {
            assert!(
                text.lines().any(|line| line.starts_with(&format!("{key} = "))),
                "{section}.{key} is not in config.toml"
            );
        }
    }
}

#[test]
fn later_sources_win_over_earlier_ones() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\nthreads = 1\n[limits]\nbody_bytes = \"1MiB\"\ninputs = 1\n";
    let overrides = environment(&[
        ("REPERTOIRE_SERVER__THREADS", "2"),
        ("REPERTOIRE_LIMITS__BODY_BYTES", "2MiB"),
        ("REPERTOIRE_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ]);
    let overrides =
        overrides.assignment("limits.body_bytes=3MiB").unwrap().flag("--listen", "server.listen", "[::1]:3");
    let config = read(file, overrides).unwrap();
    assert_eq!(config.server.listen, "[::1]:3");
    assert_eq!(config.server.threads, 2);
    assert_eq!(config.limits.body_bytes, ByteSize(3 << 20));
    assert_eq!(config.limits.inputs, 1);
    assert_eq!(config.scheduler, Config::default().scheduler);
}

#[test]
fn bases_of_a_file_replace_the_built_in_one() {
    let config = read(
        "[[bases]]\nname = \"a\"\nsource = \"x\"\ndevice = \"cuda:1\"\ndtype = \"bf16\"\ndevice_memory = \"8GiB\"\n[[bases]]\nname = \"b\"\nsource = \"y\"\ndevice_memory = 1\n",
        Overrides::default(),
    )
    .unwrap();
    assert_eq!(config.bases.len(), 2);
    assert_eq!((config.bases[0].device, config.bases[0].dtype), (DeviceName::Cuda(1), DtypeName::Bf16));
    assert_eq!(config.bases[0].device_memory, DeviceMemory::Bytes(8 << 30));
    assert_eq!(config.bases[1].device_memory, DeviceMemory::Share(1.0));
}

#[test]
fn a_base_is_set_by_number_or_name_and_a_new_one_appended() {
    let overrides =
        environment(&[("REPERTOIRE_BASES__1__NAME", "other"), ("REPERTOIRE_BASES__1__SOURCE", "models/other")]);
    let overrides = overrides.assignment("bases.smollm2.dtype=f32").unwrap().assignment("bases.0.device=cpu").unwrap();
    let config = read("", overrides).unwrap();
    assert_eq!((config.bases[0].device, config.bases[0].dtype), (DeviceName::Cpu, DtypeName::F32));
    assert_eq!(config.bases[1], BaseConfig::new("other", "models/other"));
}

#[test]
fn the_environment_reaches_the_tenth_base_and_names_with_capitals_and_signs() {
    let names: Vec<(String, String)> = (0..12)
        .flat_map(|n| [("NAME", format!("b{n}")), ("SOURCE", format!("s{n}"))].map(|(key, value)| (n, key, value)))
        .map(|(n, key, value)| (format!("REPERTOIRE_BASES__{n}__{key}"), value))
        .collect();
    let config = read("", Overrides::default().environment(names)).unwrap();
    assert_eq!((config.bases.len(), config.bases[11].name.as_str()), (12, "b11"));
    let file = "[[bases]]\nname = \"SmolLM2-135M\"\nsource = \"x\"\n";
    let config = read(file, environment(&[("REPERTOIRE_BASES__SMOLLM2_135M__DTYPE", "f32")])).unwrap();
    assert_eq!(config.bases[0].dtype, DtypeName::F32);
}

#[rstest]
#[case::unknown_key("[server]\nthread = 1", &["server.thread", "not a known key", "listen, threads"])]
#[case::unknown_section("[sever]\nthreads = 1", &["sever", "not a known key", "server"])]
#[case::wrong_type("[server]\nthreads = \"many\"", &["server.threads", "whole number", "many"])]
#[case::negative("[adapters]\nmax_rank = -1", &["adapters.max_rank", "-1"])]
#[case::size("[limits]\nbody_bytes = \"much\"", &["limits.body_bytes", "512MiB", "much"])]
#[case::time("[training]\nlatency_budget = \"soon\"", &["training.latency_budget", "20ms", "soon"])]
#[case::device("[[bases]]\nname = \"a\"\nsource = \"b\"\ndevice = \"tpu\"", &["bases.0.device", "cuda:<number>", "tpu"])]
#[case::dtype("[[bases]]\nname = \"a\"\nsource = \"b\"\ndtype = \"f8\"", &["bases.0.dtype", "bf16", "f8"])]
#[case::memory("[[bases]]\nname = \"a\"\nsource = \"b\"\ndevice_memory = 1.5", &["bases.0.device_memory", "1.5", "share"])]
#[case::no_source("[[bases]]\nname = \"a\"", &["bases.0.source", "missing"])]
#[case::twice("[[bases]]\nname = \"a\"\nsource = \"b\"\n[[bases]]\nname = \"a\"\nsource = \"c\"", &["bases.1.name", "twice", "\"a\""])]
#[case::no_bases("bases = []", &["bases", "at least one"])]
#[case::listen("[server]\nlisten = \"8080\"", &["server.listen", "127.0.0.1:8080", "\"8080\""])]
#[case::database("[database]\nurl = \"mysql://root:secret@db\"", &["database.url", "postgres://", "mysql"])]
#[case::postgres("[database]\nurl = \"postgres://root:secret@db\"", &["database.url", "sqlite://file", "not built in yet", "postgres"])]
#[case::store("[adapters]\nstore = \"s3://bucket/adapters\"", &["adapters.store", "a folder", "not built in yet", "s3://bucket"])]
#[case::remote_sources("[adapters]\nallowed_sources = [\"s3://bucket\"]", &["adapters.allowed_sources.0", "hf://org", "not built in yet"])]
#[case::zero("[scheduler]\nmax_running = 0", &["scheduler.max_running", "at least 1", "given 0"])]
#[case::sources("[adapters]\nallowed_sources = [\"/srv\"]", &["adapters.allowed_sources.0", "file:///", "/srv"])]
#[case::log("[log]\nformat = \"xml\"", &["log.format", "text, json", "xml"])]
fn a_mistake_names_the_key_the_value_and_what_is_allowed(#[case] file: &str, #[case] parts: &[&str]) {
    let message = read(file, Overrides::default()).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(message.contains(".toml") || file.starts_with("bases"), "{message:?} does not say where");
    assert!(!message.contains("secret"), "{message:?}");
}

#[test]
fn a_mistake_outside_the_file_names_its_origin() {
    let message = read("", environment(&[("REPERTOIRE_SERVER__THREADS", "x")])).unwrap_err().to_string();
    assert!(
        message.starts_with("environment variable REPERTOIRE_SERVER__THREADS: server.threads must be"),
        "{message}"
    );
    let message = read("", Overrides::default().assignment("bases.none.dtype=f32").unwrap()).unwrap_err().to_string();
    assert!(message.contains("--set bases.none.dtype=f32") && message.contains("smollm2"), "{message}");
    assert!(Overrides::default().assignment("threads").unwrap_err().to_string().contains("section.key=value"));
}

#[test]
fn a_named_file_must_exist() {
    let message = Config::load(Some(Path::new("nowhere.toml")), Overrides::default()).unwrap_err().to_string();
    assert!(message.contains("nowhere.toml"), "{message}");
}
