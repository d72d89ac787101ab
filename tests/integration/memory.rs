//! What a hundred adapters of all kinds cost a real server process: at most 1.2 times their bytes.
//! That each kind alone is held as saved is tested in `stored_dtype`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::adapter_bases::Made;

const ADAPTERS: usize = 100;
const HIDDEN: usize = 256;
const LAYERS: usize = 4;
const RANK: usize = 32;

/// A server process; killed when dropped.
struct Process {
    child: Child,
    url: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(folder: &Path) -> Self {
        let base = folder.join("base");
        std::fs::create_dir_all(&base).unwrap();
        let config = json!({
            "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": 512, "num_hidden_layers": LAYERS,
            "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 260, "max_position_embeddings": 128,
            "tie_word_embeddings": true
        });
        std::fs::write(base.join("config.json"), config.to_string()).unwrap();
        // Little room for keys and values: the prefix cache keeps what it gets, which is no cost of adapters.
        let file = format!(
            "[[bases]]\nname = \"dummy\"\nsource = \"dummy://{}\"\ndevice_memory = \"2MiB\"\n[adapters]\nstore = \"{}\"\n[database]\nurl = \"sqlite://{}\"\n",
            base.display(),
            folder.join("store").display(),
            folder.join("data/r.db").display(),
        );
        let path = folder.join("config.toml");
        std::fs::write(&path, file).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new(env!("CARGO_BIN_EXE_repertoire"))
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--config"])
            .arg(&path)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // What it says is only of interest if it does not start.
        let stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).collect::<Vec<_>>());
        let mut process = Self { child, url: format!("http://127.0.0.1:{port}") };
        let started = Instant::now();
        while ureq::get(format!("{}/ready", process.url)).call().is_err() {
            if started.elapsed() > Duration::from_secs(60) || process.child.try_wait().unwrap().is_some() {
                let _ = process.child.kill();
                panic!("the server did not start:\n{}", log.join().unwrap().join("\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        process
    }

    fn generate(&self, adapter: Option<&str>) {
        let body = json!({"adapter_id": adapter, "input": "a short prompt", "parameters": {"max_new_tokens": 2}});
        let answer =
            ureq::post(format!("{}/v1/generate", self.url)).send_json(body).unwrap().body_mut().read_json::<Value>();
        assert_eq!(answer.unwrap()["outputs"].as_array().unwrap().len(), 1);
    }

    fn push(&self, id: &str, files: &[(&str, Vec<u8>)]) {
        let mut body = format!("--cut\r\ncontent-disposition: form-data; name=\"id\"\r\n\r\n{id}\r\n").into_bytes();
        for (name, content) in files {
            let head = format!("--cut\r\ncontent-disposition: form-data; name=\"files\"; filename=\"{name}\"\r\n\r\n");
            body.extend([head.as_bytes(), content, b"\r\n"].concat());
        }
        body.extend(b"--cut--\r\n");
        let answer = ureq::post(format!("{}/v1/adapters", self.url))
            .header("content-type", "multipart/form-data; boundary=cut")
            .send(&body[..])
            .unwrap();
        assert_eq!(answer.status(), 201);
    }

    /// Resident memory of the process, bytes.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

/// The kinds under test, and whether they are saved in f16.
const KINDS: [(&str, bool); 6] =
    [("lora", false), ("lora", true), ("ia3", true), ("prompt", true), ("prefix", false), ("prefix", true)];

/// The files of an adapter of a kind, and the bytes of its tensors; `seed` makes it one of a kind.
fn adapter((kind, halved): (&str, bool), seed: usize) -> ([(&'static str, Vec<u8>); 2], u64) {
    let made = match kind {
        "lora" => lora(seed),
        "ia3" => ia3(seed),
        "prompt" => virtual_tokens("PROMPT_TUNING", 8, HIDDEN, seed),
        _ => virtual_tokens("PREFIX_TUNING", 64, LAYERS * 2 * HIDDEN, seed),
    };
    let made = if halved { made.halved() } else { made };
    let bytes = made.tensors.values().map(|(_, _, bytes)| bytes.len() as u64).sum();
    let files =
        [("adapter_config.json", made.config.to_string().into_bytes()), ("adapter_model.safetensors", made.weights())];
    (files, bytes)
}

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i + seed) % 97) as f32 / 9700.0).collect()
}

/// A LoRA on four kinds of linear layers.
fn lora(seed: usize) -> Made {
    const SITES: [(&str, usize, usize); 4] = [
        ("self_attn.q_proj", HIDDEN, HIDDEN),
        ("self_attn.v_proj", HIDDEN, HIDDEN),
        ("mlp.up_proj", HIDDEN, 512),
        ("mlp.down_proj", 512, HIDDEN),
    ];
    let mut made = Made::new(json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]
    }));
    for layer in 0..LAYERS {
        for (site, inputs, outputs) in SITES {
            let module = format!("base_model.model.model.layers.{layer}.{site}");
            made = made
                .with_numbers(&format!("{module}.lora_A.weight"), &[RANK, inputs], &numbers(RANK * inputs, seed))
                .with(&format!("{module}.lora_B.weight"), &[outputs, RANK]);
        }
    }
    made
}

/// PEFT's default targets.
fn ia3(seed: usize) -> Made {
    let mut made = Made::new(json!({"peft_type": "IA3", "task_type": "CAUSAL_LM"}));
    for layer in 0..LAYERS {
        let sites = [("self_attn.k_proj", [HIDDEN, 1]), ("self_attn.v_proj", [HIDDEN, 1]), ("mlp.down_proj", [1, 512])];
        for (site, shape) in sites {
            let name = format!("base_model.model.model.layers.{layer}.{site}.ia3_l");
            made = made.with_numbers(&name, &shape, &numbers(shape[0] * shape[1], seed));
        }
    }
    made
}

/// `count` rows of `width`.
fn virtual_tokens(peft_type: &str, count: usize, width: usize, seed: usize) -> Made {
    Made::new(json!({"peft_type": peft_type, "task_type": "CAUSAL_LM", "num_virtual_tokens": count})).with_numbers(
        "prompt_embeddings",
        &[count, width],
        &numbers(count * width, seed),
    )
}

#[test]
#[cfg(target_os = "linux")]
fn a_hundred_adapters_of_all_kinds_cost_at_most_a_fifth_more_than_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::start(folder.path());
    // One of each kind first, so that what any use of the server costs once is not counted.
    for (i, kind) in KINDS.into_iter().enumerate() {
        server.push(&format!("first-{i}"), &adapter(kind, 1_000).0);
        server.generate(Some(&format!("first-{i}")));
    }
    server.generate(None);
    let before = server.resident();

    let mut bytes = 0;
    for i in 0..ADAPTERS {
        let (files, size) = adapter(KINDS[i % KINDS.len()], i);
        bytes += size;
        server.push(&format!("adapter-{i}"), &files);
        server.generate(Some(&format!("adapter-{i}")));
    }
    let more = server.resident().saturating_sub(before);
    eprintln!("{ADAPTERS} adapters of {bytes} bytes cost {more} bytes, {:.3} times", more as f64 / bytes as f64);
    assert!(more > bytes / 2, "they are held: {more} of {bytes} bytes");
    assert!(more as f64 <= 1.2 * bytes as f64, "{more} bytes more for {bytes} bytes of adapters");
}
