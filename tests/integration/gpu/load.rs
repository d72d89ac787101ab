//! Weights on their way to a GPU: nothing of them changes, nothing of them stays on the host.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::DType;
use repertoire::adapter::SiteMap;
use repertoire::device::{Weight, with_bytes};
use repertoire::model::BaseModel;
use repertoire::model::load::{GgufFile, Precision, WeightFiles, load_folder, load_gguf};
use serde_json::{Map, json};

use super::{BASES, target};
use crate::golden::bench::fixtures;

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// A base of the Llama family, to be written to a folder.
struct Made {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
}

/// Weights of more than one copy, of no round size.
const SMALL: Made = Made { hidden: 264, intermediate: 5000, layers: 2, heads: 4, kv_heads: 2, vocab: 20_011 };
/// A gigabyte in bf16.
const MIDDLE: Made = Made { hidden: 2048, intermediate: 8192, layers: 6, heads: 32, kv_heads: 8, vocab: 32_000 };
/// Llama 3.1 8B's.
const LARGE: Made = Made { hidden: 4096, intermediate: 14_336, layers: 32, heads: 32, kv_heads: 8, vocab: 128_256 };

impl Made {
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Self { hidden, intermediate, vocab, .. } = *self;
        let head_dim = hidden / self.heads / 8 * 8;
        let (queries, keys) = (self.heads * head_dim, self.kv_heads * head_dim);
        let layer = |layer: usize| {
            let parts = [
                ("self_attn.q_proj", vec![queries, hidden]),
                ("self_attn.k_proj", vec![keys, hidden]),
                ("self_attn.v_proj", vec![keys, hidden]),
                ("self_attn.o_proj", vec![hidden, queries]),
                ("mlp.gate_proj", vec![intermediate, hidden]),
                ("mlp.up_proj", vec![intermediate, hidden]),
                ("mlp.down_proj", vec![hidden, intermediate]),
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
            ];
            parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape))
        };
        let mut tensors: Vec<_> = (0..self.layers).flat_map(layer).collect();
        tensors.push(("model.embed_tokens.weight".into(), vec![vocab, hidden]));
        tensors.push(("model.norm.weight".into(), vec![hidden]));
        tensors.push(("lm_head.weight".into(), vec![vocab, hidden]));
        tensors
    }

    /// Writes config.json.
    fn describe(&self, folder: &Path) {
        let Self { hidden, intermediate, layers, heads, kv_heads, vocab } = *self;
        let config = json!({
            "model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": hidden / heads / 8 * 8,
            "vocab_size": vocab, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
        });
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    }

    /// Writes config.json and the weights; answers the bytes of all weights.
    fn write(&self, folder: &Path, dtype: DType) -> usize {
        self.describe(folder);
        let (name, size) = match dtype {
            DType::F32 => ("F32", 4),
            DType::F16 => ("F16", 2),
            _ => ("BF16", 2),
        };
        let (mut header, mut end) = (Map::new(), 0);
        for (tensor, shape) in self.tensors() {
            let start = end;
            end += shape.iter().product::<usize>() * size;
            header.insert(tensor, json!({"dtype": name, "shape": shape, "data_offsets": [start, end]}));
        }
        let header = json!(header).to_string();
        let mut file = BufWriter::new(std::fs::File::create(folder.join("model.safetensors")).unwrap());
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        // Any bits but those of numbers from 2 on, and none at the same place of two neighbouring tensors.
        let mut state = 1u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state ^ state >> 15) & 0xbfff_bfff
        };
        let block: Vec<u8> = (0..250_007).flat_map(|_| number().to_le_bytes()).collect();
        let mut left = end;
        while left > 0 {
            let count = left.min(block.len());
            file.write_all(&block[..count]).unwrap();
            left -= count;
        }
        file.flush().unwrap();
        end
    }
}

fn load(folder: &Path, precision: Precision, on_gpu: bool) -> Box<dyn BaseModel> {
    let ends = |path: &PathBuf| path.extension().is_some_and(|end| end == "safetensors");
    let mut shards: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(ends).collect();
    shards.sort();
    let files = match shards.is_empty() {
        true => WeightFiles::Pickle(folder.join("pytorch_model.bin")),
        false => WeightFiles::Safetensors(shards),
    };
    let target = if on_gpu { target(0) } else { None };
    load_folder("base", vec![], &folder.join("config.json"), &files, precision, target).unwrap()
}

/// Compares every weight that adapters see, bit for bit.
fn check_same(cpu: &SiteMap, gpu: &SiteMap, dtype: DType, what: &str) {
    fn weights(map: &SiteMap) -> Vec<(&str, &Weight)> {
        let linears = map.linears.iter().map(|entry| (entry.module.as_str(), &entry.weight));
        let tables = std::iter::once(&map.embedding).chain(&map.positions);
        linears.chain(tables.map(|site| (site.module.as_str(), &site.weight))).collect()
    }
    let bits = |weight: &Weight| {
        let all = weight.rows(0, weight.dims()[0]).unwrap().to_dtype(dtype).unwrap();
        with_bytes(&all, |_, bytes| bytes.to_vec()).unwrap()
    };
    let (cpu, gpu) = (weights(cpu), weights(gpu));
    assert_eq!(cpu.len(), gpu.len(), "{what}");
    for ((name, cpu), (_, gpu)) in cpu.into_iter().zip(gpu) {
        assert_eq!((gpu.dtype(), gpu.dims()), (dtype, cpu.dims()), "{what}: {name}");
        assert!(bits(cpu) == bits(gpu), "{what}: {name} differs");
        let (first, last) = (gpu.rows(0, 1).unwrap(), gpu.rows(gpu.dims()[0] - 1, 1).unwrap());
        assert_eq!([first.dims(), last.dims()], [[1, cpu.dims()[1]]; 2], "{what}: {name}");
    }
}

#[test]
fn bases_that_are_made_here_load_on_the_cpu() {
    for stored in DTYPES {
        let folder = tempfile::tempdir().unwrap();
        let bytes = SMALL.write(folder.path(), stored);
        assert!(bytes > 16 << 20, "{bytes} bytes go in several copies");
        let model = load(folder.path(), Precision::Stored, false);
        check_same(model.sites(), model.sites(), stored, &format!("{stored:?}"));
    }
}

#[test]
#[ignore = "needs a GPU"]
fn weights_are_bit_for_bit_those_of_the_cpu() {
    for base in BASES {
        let folder = fixtures().join("bases").join(base);
        for dtype in DTYPES {
            let [cpu, gpu] = [false, true].map(|on_gpu| load(&folder, Precision::As(dtype), on_gpu));
            check_same(cpu.sites(), gpu.sites(), dtype, &format!("{base} in {dtype:?}"));
        }
    }
    for stored in DTYPES {
        let folder = tempfile::tempdir().unwrap();
        SMALL.write(folder.path(), stored);
        for precision in [Precision::Stored].into_iter().chain(DTYPES.map(Precision::As)) {
            let [cpu, gpu] = [false, true].map(|on_gpu| load(folder.path(), precision, on_gpu));
            let dtype = match precision {
                Precision::Stored => stored,
                Precision::As(dtype) => dtype,
            };
            check_same(cpu.sites(), gpu.sites(), dtype, &format!("{stored:?} in {precision:?}"));
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn dequantised_weights_are_bit_for_bit_those_of_the_cpu() {
    let path = fixtures().join("bases/llama.gguf");
    for dtype in DTYPES {
        let load = |target| load_gguf("base", vec![], GgufFile::open(&path).unwrap(), Precision::As(dtype), target);
        let (cpu, gpu) = (load(None).unwrap(), load(target(0)).unwrap());
        check_same(cpu.sites(), gpu.sites(), dtype, &format!("GGUF in {dtype:?}"));
    }
}

#[test]
#[ignore = "needs a GPU"]
fn random_weights_are_bit_for_bit_those_of_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    SMALL.write(folder.path(), DType::BF16);
    let config = folder.path().join("config.json");
    for dtype in DTYPES {
        let load = |target| load_folder("base", vec![], &config, &WeightFiles::Dummy, Precision::As(dtype), target);
        let (cpu, gpu) = (load(None).unwrap(), load(target(0)).unwrap());
        check_same(cpu.sites(), gpu.sites(), dtype, &format!("random in {dtype:?}"));
    }
}

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
#[ignore = "needs a GPU"]
fn the_host_keeps_nothing_of_the_weights() {
    let (small, middle) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    SMALL.write(small.path(), DType::BF16);
    let bytes = MIDDLE.write(middle.path(), DType::BF16);
    // What any use of a GPU costs once is not counted.
    let first = load(small.path(), Precision::Stored, true);
    let before = resident();
    let model = load(middle.path(), Precision::Stored, true);
    let more = resident().saturating_sub(before);
    println!("{bytes} bytes of weights cost the host {more}");
    // Other tests of this process run meanwhile.
    assert!(more < bytes / 4, "{more} bytes more for {bytes} bytes of weights");
    drop((first, model));
}

#[test]
#[ignore = "needs a GPU"]
fn bandwidth_of_loading_8b() {
    let folder = tempfile::tempdir().unwrap();
    // The first use of a GPU is no part of it.
    SMALL.write(folder.path(), DType::BF16);
    drop(load(folder.path(), Precision::Stored, true));
    // Of what has to be converted, a part is enough.
    for (stored, precision, layers) in [
        (DType::BF16, Precision::Stored, LARGE.layers),
        (DType::F16, Precision::As(DType::BF16), 8),
        (DType::F32, Precision::As(DType::BF16), 8),
    ] {
        let bytes = Made { layers, ..LARGE }.write(folder.path(), stored);
        for round in 0..2 {
            let before = resident();
            let began = Instant::now();
            let model = load(folder.path(), precision, true);
            let (took, more) = (began.elapsed(), resident().saturating_sub(before));
            let rate = bytes as f64 / took.as_secs_f64() / 1e9;
            println!(
                "{stored:?} as {precision:?}, round {round}: {took:?}, {rate:.1} GB/s of the file, {} MiB kept",
                more >> 20
            );
            drop(model);
        }
    }
    LARGE.describe(folder.path());
    let config = folder.path().join("config.json");
    let began = Instant::now();
    load_folder("base", vec![], &config, &WeightFiles::Dummy, Precision::Stored, target(0)).unwrap();
    println!("random: {:?}", began.elapsed());
}
