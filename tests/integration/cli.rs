//! The binary as people use it: a server of its own, and clients of it.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rstest::rstest;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn repertoire() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_repertoire"));
    // Nothing of the one who runs the tests.
    command.env_remove("REPERTOIRE_URL").env_remove("REPERTOIRE_KEY").current_dir(std::env::temp_dir());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn fails(output: Output, parts: &[&str]) {
    let message = text(&output.stderr);
    assert!(!output.status.success(), "{}", text(&output.stdout));
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// A running server; it ends with the test.
struct Server {
    process: Child,
    url: String,
    log: BufReader<std::process::ChildStderr>,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = fixtures().join("bases/llama");
        let mut process = repertoire()
            .current_dir(folder.path())
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--set",
                "server.threads=1",
                "--set",
                "bases.0.name=llama",
                "--set",
            ])
            .arg(format!("bases.0.source={}", base.display()))
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut lines = String::new();
        let url = loop {
            let before = lines.len();
            assert!(log.read_line(&mut lines).unwrap() > 0, "it ended: {lines}");
            if let Some((_, rest)) = lines[before..].split_once("ready on ") {
                break rest.split(". Try").next().unwrap().to_owned();
            }
        };
        Self { process, url, log, _folder: folder }
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        repertoire().args(arguments).args(["--url", &self.url]).output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_server_is_filled_asked_and_emptied_from_the_command_line() {
    let server = Server::start();
    let adapter = |name: &str| fixtures().join("adapters/llama").join(name).display().to_string();
    assert!(succeeds(server.ask(&["adapters"])).contains("repertoire push"));
    let pushed = succeeds(server.ask(&["push", "lora", &adapter("lora")]));
    assert!(pushed.contains("lora@1") && pushed.contains("repertoire generate lora"), "{pushed}");
    let metadata = r#"{"labels": ["NORMAL", "INSULT", "THREAT"]}"#;
    let pushed = succeeds(server.ask(&["push", "labels", &adapter("cls-lora"), "--metadata", metadata]));
    assert!(pushed.contains("repertoire classify labels"), "{pushed}");
    let list = succeeds(server.ask(&["adapters"]));
    assert!(list.contains("lora") && list.contains("labels") && list.contains("classify"), "{list}");

    // Golden answers of PEFT.
    assert_eq!(succeeds(server.ask(&["generate", "lora", "Привет, world!", "-n", "12"])), "e/ sXвe@ тр сидвh/\n");
    let beams = server.ask(&["generate", "lora", "Привет, world!", "-n", "4", "-p", "num_beams=2"]);
    assert!(!succeeds(beams).trim().is_empty());
    let several = [
        "generate",
        "-",
        "a",
        "-n",
        "3",
        "-p",
        "do_sample=true",
        "-p",
        "num_return_sequences=3",
        "-p",
        "ignore_eos=true",
    ];
    succeeds(server.ask(&several));
    let labels = succeeds(server.ask(&["classify", "labels", "Спасибо, всё хорошо"]));
    assert!(labels.starts_with("* 0.986") && labels.contains("INSULT") && labels.lines().count() == 3, "{labels}");

    succeeds(server.ask(&["push", "lora", &adapter("dora")]));
    let shown = succeeds(server.ask(&["adapters", "show", "lora"]));
    assert!(shown.contains("dora") && shown.contains("versions     2 ("), "{shown}");
    assert!(succeeds(server.ask(&["adapters", "rollback", "lora", "1"])).contains("version 1"));
    let json = |output: Output| serde_json::from_str::<serde_json::Value>(&succeeds(output)).unwrap();
    assert_eq!(json(server.ask(&["adapters", "rollback", "lora", "2", "--json"]))[0]["version"], 2);
    assert_eq!(json(server.ask(&["adapters", "rm", "lora", "--json"]))["deleted"], true);
    fails(server.ask(&["generate", "lora", "a"]), &["lora", "repertoire adapters", "repertoire push"]);
    fails(server.ask(&["generate", "labels", "a"]), &["/v1/classify"]);
    fails(server.ask(&["push", "x", &adapter("..")]), &["holds no adapter", "adapter_config.json is missing"]);
    fails(server.ask(&["push", "x", "nowhere"]), &["nowhere does not exist"]);
}

#[test]
fn a_push_over_the_limit_hears_the_limit_and_not_that_the_line_broke() {
    let server = Server::with(&["--set", "limits.body_bytes=64KiB"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
    std::fs::write(folder.path().join("adapter_model.safetensors"), vec![0; 20_000_000]).unwrap();
    let output = server.ask(&["push", "big", folder.path().to_str().unwrap()]);
    fails(output, &["limits.body_bytes", "65536"]);
}

#[cfg(unix)]
#[test]
fn a_signal_lets_a_running_answer_end_and_then_the_server() {
    let mut server = Server::start();
    let mut asking = repertoire()
        .args(["generate", "-", "Once", "-n", "200", "-p", "ignore_eos=true", "--url", &server.url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    asking.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let kill = format!("kill -TERM {}", server.process.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let answer = asking.wait_with_output().unwrap();
    assert!(answer.status.success() && !answer.stdout.is_empty());
    assert!(server.process.wait().unwrap().success());
    let mut log = String::new();
    server.log.read_to_string(&mut log).unwrap();
    assert!(log.contains("draining") && log.contains("stopped"), "{log}");
}

#[rstest]
#[case::open_to_all(&["--listen", "0.0.0.0:0"], &["without keys", "auth.keys_file", "auth.anonymous=true"])]
#[case::key(&["--set", "server.thread=1"], &["--set server.thread=1", "server.thread is not a known key", "threads"])]
#[case::base(&["--set", "bases.0.source=nowhere", "--listen", "127.0.0.1:0"], &["nowhere"])]
#[case::config(&["--config", "nowhere.toml"], &["nowhere.toml"])]
#[case::cuda(&["--set", "bases.0.device=cuda", "--listen", "127.0.0.1:0"], &["cuda"])]
fn a_start_that_cannot_be_says_what_to_do(#[case] arguments: &[&str], #[case] parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = repertoire().current_dir(folder.path()).arg("serve").args(arguments).output().unwrap();
    fails(output, parts);
}

#[test]
fn without_a_server_a_client_says_how_to_start_one() {
    let output = repertoire().args(["adapters", "--url", "http://127.0.0.1:9"]).output().unwrap();
    fails(output, &["http://127.0.0.1:9", "repertoire serve"]);
}

#[test]
fn bases_and_adapters_are_inspected_without_a_server() {
    let inspect =
        |arguments: &[&str]| repertoire().current_dir(fixtures()).arg("inspect").args(arguments).output().unwrap();
    let base = succeeds(inspect(&["bases/llama"]));
    assert!(base.contains("llama") && base.contains("decoder") && base.contains("q_proj"), "{base}");
    let alone = succeeds(inspect(&["adapters/llama/lora"]));
    assert!(alone.contains("LORA") && alone.contains("sha256:") && alone.contains("--base"), "{alone}");
    let checked = succeeds(inspect(&["adapters/llama/lora", "--base", "bases/llama"]));
    assert!(checked.contains("applies exactly") && checked.contains("896"), "{checked}");
    let ruprompts = succeeds(inspect(&["adapters/llama/ruprompts-text", "--base", "bases/llama"]));
    assert!(ruprompts.contains("virtual tokens") && ruprompts.contains("<P*3>{text}<P>"), "{ruprompts}");
    fails(inspect(&["adapters/gpt2/lora", "--base", "bases/llama"]), &["cannot be applied exactly"]);
    fails(inspect(&["adapters"]), &["holds no adapter"]);
    // A folder with a GGUF file is a base, as `serve` sees it.
    assert!(succeeds(inspect(&["bases"])).contains("decoder"));
    fails(inspect(&["nowhere"]), &["does not exist"]);
    // What is not at hand was not asked, and that is said.
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[[bases]]\nname = \"far\"\nsource = \"hf://org/repo\"\n").unwrap();
    let far = succeeds(inspect(&["adapters/llama/lora", "--config", config.to_str().unwrap()]));
    assert!(far.contains("base far (hf://org/repo) is not on this machine") && far.contains("--base"), "{far}");
}
