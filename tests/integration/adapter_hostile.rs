//! Files that lie. Whatever the bytes: an adapter or a refusal that is the client's, never a panic, never the server's fault.

// Helpers of tests may unwrap as tests do; clippy's own exception knows `#[test]` functions only.
#![allow(clippy::unwrap_used)]

use std::io::Write;

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use repertoire::adapter::{Adapter, AdapterError, Metadata, Package};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::adapter_bases::{GPT2, LLAMA, Made, against, package, refused};

fn with_weights(weights: Vec<u8>) -> Result<Adapter, AdapterError> {
    let mut package = Made::lora().package();
    package.files.insert("adapter_model.safetensors".into(), weights.into());
    against(&package, &LLAMA)
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(std::iter::repeat_n(0, data));
    file
}

#[test]
fn headers_that_lie_are_refused() {
    let max = u64::MAX;
    let deep = format!("{{\"a\": {}}}", "[".repeat(100_000));
    for (header, data, why) in [
        ("", 0, "not a valid safetensors file"),
        ("[]", 0, "not a valid safetensors file"),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 4, "a lies outside"),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "a lies outside"),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "not a valid"),
        ("{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "not a valid"),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "not a valid"),
        (
            "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4294967296],\"data_offsets\":[0,4]}}",
            4,
            "not a valid",
        ),
        (
            "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
            4,
            "not a valid",
        ),
        (
            "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
            4,
            "a is named twice",
        ),
        ("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ is named twice"),
        (&format!("{{\"a\":{{\"dtype\":\"U8\",\"shape\":[{max}],\"data_offsets\":[0,{max}]}}}}"), 4, "a lies outside"),
        (&deep, 0, "not a valid"),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "not a valid"),
    ] {
        refused(with_weights(safetensors(header, data)), false, &[why]);
    }
    for length in [1 << 40, 200 << 20, max, max - 7] {
        let mut file = length.to_le_bytes().to_vec();
        file.extend([b'{'; 64]);
        refused(with_weights(file), false, &["a header may have 16777216 bytes"]);
    }
    refused(with_weights(vec![]), false, &["shorter than 8 bytes"]);
    refused(with_weights(vec![9, 0, 0, 0, 0, 0, 0, 0, b'{']), false, &["longer than the file"]);
    // Numbers past the end, for which the safetensors crate alone would add up to an overflow.
    let half = max / 2 + 1;
    let header = format!(
        "{{\"a\":{{\"dtype\":\"U8\",\"shape\":[{half}],\"data_offsets\":[0,{half}]}},\"b\":{{\"dtype\":\"U8\",\"shape\":[{}],\"data_offsets\":[{half},{max}]}}}}",
        half - 1
    );
    refused(with_weights(safetensors(&header, 4)), false, &["lies outside"]);
}

/// A `prompt_provider.bin` with a pickle of one's own, and four numbers in storage 0.
fn torch(pickle: &[u8], compression: CompressionMethod) -> Result<Adapter, AdapterError> {
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(compression);
    let storage = [0u8; 16];
    for (name, content) in
        [("archive/data.pkl", pickle), ("archive/byteorder", &b"little"[..]), ("archive/data/0", &storage[..])]
    {
        writer.start_file(name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    with_provider(writer.finish().unwrap().into_inner())
}

fn with_provider(provider: Vec<u8>) -> Result<Adapter, AdapterError> {
    let mut package = package("gpt2", "ruprompts-text", Metadata::default());
    package.files.insert("prompt_provider.bin".into(), provider.into());
    against(&package, &GPT2)
}

/// A pickled tensor as torch writes it: a view of `shape` and `strides` on a storage.
fn tensor(kind: &str, shape: [i32; 2], strides: [i32; 2], offset: i32) -> Vec<u8> {
    let mut p = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n".to_vec();
    p.extend(format!("{kind}\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ").bytes());
    let int = |p: &mut Vec<u8>, n: i32| {
        p.push(b'J');
        p.extend(n.to_le_bytes());
    };
    int(&mut p, offset);
    for pair in [shape, strides] {
        int(&mut p, pair[0]);
        int(&mut p, pair[1]);
        p.push(0x86);
    }
    p.extend(b"\x89ccollections\nOrderedDict\n)RtR.");
    p
}

#[test]
fn pickles_build_a_tensor_and_nothing_else() {
    let stored = CompressionMethod::Stored;
    let system = b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.";
    let deep: Vec<u8> = [b"\x80\x02)".to_vec(), vec![0x85; 60_000], b".".to_vec()].concat();
    let grow: Vec<u8> = [b"\x80\x02)".to_vec(), b"q\x00h\x00h\x00\x87".repeat(9000), b".".to_vec()].concat();
    let marks: Vec<u8> = [b"\x80\x02".to_vec(), vec![b'('; 60_000], b".".to_vec()].concat();
    let kept: Vec<u8> = [b"\x80\x04N".to_vec(), vec![0x94; 60_000], b".".to_vec()].concat();
    let long = b"\x80\x02X\xff\xff\xff\xff".to_vec();
    for (pickle, why) in [
        (&system[..], "posix.system"),
        (b"\x80\x02ctorch\nDoubleStorage\n.", "torch.DoubleStorage"),
        (b"\x80\x02cbuiltins\neval\n.", "builtins.eval"),
        (b"\x80\x02X\x02\x00\x00\x00hi.", "holds a text"),
        (b"\x80\x02}.", "holds a dictionary"),
        (b"\x80\x09.", "protocol 9"),
        (b"", "ends early"),
        (b"\x80\x02", "ends early"),
        (b"R.", "stack is empty"),
        (b"\x87.", "stack is empty"),
        (b"h\x07.", "never saw"),
        (b"t.", "no mark"),
        (b"(R.", "stack is empty"),
        (b"NNR.", "calls None"),
        (b"i.", "opcode 0x69"),
        (&deep, "nests too deeply"),
        (&grow, "nests too deeply"),
        (&marks, "stacks too much"),
        (&kept, "remembers too much"),
        (&long, "ends early"),
        (&vec![b'N'; 100_000], "65536 bytes"),
        (&tensor("FloatStorage", [2, 2], [2, 1], 1), "beyond its storage"),
        (&tensor("FloatStorage", [2, 2], [i32::MAX, i32::MAX], 0), "beyond its storage"),
        (&tensor("FloatStorage", [i32::MAX, i32::MAX], [0, 0], 0), "does not fit"),
        (&tensor("FloatStorage", [0, 32], [1, 1], 0), "does not fit"),
        (&tensor("FloatStorage", [-1, 4], [1, 1], 0), "-1 is not a size"),
        (&tensor("DoubleStorage", [2, 2], [2, 1], 0), "torch.DoubleStorage"),
        // Well formed, and of the wrong width.
        (&tensor("FloatStorage", [2, 2], [2, 1], 0), "rows of 2"),
        (&tensor("HalfStorage", [4, 2], [1, 4], 0), "rows of 2"),
    ] {
        refused(torch(pickle, stored), false, &[why]);
    }
    refused(torch(&tensor("FloatStorage", [2, 2], [2, 1], 0), CompressionMethod::Deflated), false, &["compressed"]);
    refused(with_provider(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.".to_vec()), true, &["before 1.6", "torch.save"]);
    refused(with_provider(b"PK\x03\x04 and nothing".to_vec()), false, &["not a tensor saved by torch"]);
    refused(with_provider(vec![]), false, &["not a zip file"]);
}

/// Changes a few bytes, cuts, doubles or inserts.
pub fn mutate(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..6) {
        if bytes.is_empty() {
            return;
        }
        // Headers are at the beginning: half of the changes go there.
        let end = if rng.random_bool(0.5) { bytes.len().min(600) } else { bytes.len() };
        let at = rng.random_range(0..end);
        match rng.random_range(0..6) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.random()),
            4 => {
                let word = rng.next_u64().to_le_bytes();
                let end = (at + 8).min(bytes.len());
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
            _ => {
                let copy = bytes[at..(at + 40).min(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
}

#[test]
fn changed_bytes_give_an_adapter_or_a_refusal() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let folders =
        ["lora", "dora", "lora-patterns", "lora-embed-head", "ia3", "prefix", "ruprompts-text", "save-lm-head"];
    let packages: Vec<Package> = folders.iter().map(|folder| package("gpt2", folder, Metadata::default())).collect();
    let mut refusals = 0;
    for round in 0..1000 {
        let mut package = packages[round % packages.len()].clone();
        let names: Vec<String> = package.files.keys().cloned().collect();
        let name = &names[rng.random_range(0..names.len())];
        let mut bytes = package.files[name].to_vec();
        mutate(&mut bytes, &mut rng);
        package.files.insert(name.clone(), bytes.into());
        match against(&package, &GPT2) {
            Ok(_) => {}
            Err(AdapterError::Invalid(_) | AdapterError::Unsupported(_)) => refusals += 1,
            Err(other) => panic!("round {round}: {other:?}"),
        }
    }
    assert!(refusals > 300, "{refusals} refusals: the changes reach something");
}

#[test]
fn changed_archives_give_files_or_a_refusal() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for name in ["a/adapter_config.json", "a/adapter_model.safetensors"] {
        writer.start_file(name, SimpleFileOptions::default()).unwrap();
        writer.write_all(&[b'x'; 300]).unwrap();
    }
    let zip = writer.finish().unwrap().into_inner();
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none()));
    let mut header = tar::Header::new_gnu();
    header.set_size(300);
    header.set_cksum();
    tar.append_data(&mut header, "a/adapter_config.json", &[b'x'; 300][..]).unwrap();
    let tar = tar.into_inner().unwrap().finish().unwrap();
    for round in 0..1000 {
        let mut archive = if round % 2 == 0 { zip.clone() } else { tar.clone() };
        mutate(&mut archive, &mut rng);
        match repertoire::adapter::archive::unpack(&archive, 10_000) {
            Ok(_) | Err(AdapterError::Invalid(_) | AdapterError::TooLarge(_)) => {}
            Err(other) => panic!("round {round}: {other:?}"),
        }
    }
}
