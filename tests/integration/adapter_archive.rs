//! Archives: what is taken out of them, and what is not.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use repertoire::adapter::AdapterError;
use repertoire::adapter::archive::unpack;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const LIMIT: u64 = 1 << 20;

fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Names go into the header as they are: the tar crate's own writer refuses bad ones.
fn tar_gz(entries: &[(&str, &[u8], tar::EntryType)]) -> Vec<u8> {
    let mut writer = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content, kind) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        writer.append(&header, *content).unwrap();
    }
    writer.into_inner().unwrap().finish().unwrap()
}

fn file<'a>(name: &'a str, content: &'a [u8]) -> (&'a str, &'a [u8], tar::EntryType) {
    (name, content, tar::EntryType::Regular)
}

fn message(archive: &[u8]) -> String {
    let error = unpack(archive, LIMIT).map(|files| files.into_keys().collect::<Vec<_>>()).unwrap_err();
    assert!(matches!(error, AdapterError::Invalid(_)), "{error:?}");
    error.to_string()
}

#[test]
fn adapter_files_are_taken_from_the_top_or_from_one_folder() {
    let wanted = ["adapter_config.json", "adapter_model.safetensors"];
    for folder in ["", "my-adapter/", "./my-adapter/", "./"] {
        let names: Vec<String> = [
            "adapter_config.json",
            "adapter_model.safetensors",
            "README.md",
            "checkpoint-5/adapter_config.json",
            "optimizer.pt",
        ]
        .iter()
        .map(|name| format!("{folder}{name}"))
        .collect();
        let entries: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
        let mut tar_entries: Vec<_> = entries.iter().map(|(name, content)| file(name, content)).collect();
        tar_entries.insert(0, ("./", b"", tar::EntryType::Directory));
        for archive in [zip(&entries), tar_gz(&tar_entries)] {
            let files = unpack(&archive, LIMIT).unwrap();
            assert_eq!(files.keys().collect::<Vec<_>>(), wanted, "{folder:?}");
            assert_eq!(&files["adapter_config.json"][..], format!("{folder}adapter_config.json").as_bytes());
        }
    }
}

#[test]
fn paths_out_of_the_folder_and_links_are_refused() {
    for name in [
        "../adapter_config.json",
        "/adapter_config.json",
        "a/../../adapter_config.json",
        "a\\adapter_config.json",
        "c:adapter_config.json",
        "a//prompt.json",
    ] {
        assert!(message(&zip(&[(name, b"{}")])).contains("not a file's path"), "{name}");
        assert!(message(&tar_gz(&[file(name, b"{}")])).contains("not a file's path"), "{name}");
    }
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
        assert!(message(&tar_gz(&[("adapter_config.json", b"", kind)])).contains("a link"));
    }
    assert!(message(&tar_gz(&[("adapter_config.json", b"", tar::EntryType::Fifo)])).contains("not a plain file"));
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.add_symlink("adapter_config.json", "/etc/passwd", SimpleFileOptions::default()).unwrap();
    assert!(message(&writer.finish().unwrap().into_inner()).contains("a link"));
}

#[test]
fn one_name_twice_is_refused() {
    let twice = [file("prompt.json", b"1"), file("prompt.json", b"2")];
    assert!(message(&tar_gz(&twice)).contains("prompt.json twice"));
    assert!(
        message(&tar_gz(&[file("a/prompt.json", b"1"), file("b/prompt.json", b"2")])).contains("more than one folder")
    );
    // The zip crate writes no doubles: two entries of equal length become one name.
    let mut archive = zip(&[("prompt.json", b"1"), ("tromqt.json", b"2")]);
    while let Some(at) = archive.windows(11).position(|window| window == b"tromqt.json") {
        archive[at..at + 11].copy_from_slice(b"prompt.json");
    }
    assert!(message(&archive).contains("two entries of one name"));
}

#[test]
fn bombs_stop_at_the_limit() {
    let zeros = vec![0; 64 << 20];
    let archives = [
        zip(&[("adapter_model.safetensors", &zeros)]),
        tar_gz(&[file("adapter_model.safetensors", &zeros)]),
        zip(&[("adapter_config.json", &zeros[..1 << 19]), ("adapter_model.safetensors", &zeros[..(1 << 19) + 1])]),
    ];
    for archive in archives {
        assert!(archive.len() < 1 << 20);
        let error = unpack(&archive, LIMIT).unwrap_err();
        assert!(matches!(&error, AdapterError::TooLarge(why) if why.contains("1048576")), "{error:?}");
    }
    // A file that nobody wants costs no memory, but does not go on for ever either.
    let skipped = tar_gz(&[file("README.md", &zeros), file("prompt.json", b"{}")]);
    assert!(unpack(&skipped, LIMIT).is_err());
    let ignored = zip(&[("README.md", &zeros), ("prompt.json", b"{}")]);
    assert_eq!(unpack(&ignored, LIMIT).unwrap().len(), 1);
    let many: Vec<String> = (0..5000).map(|i| format!("{i}.txt")).collect();
    let entries: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
    assert!(message(&zip(&entries)).contains("4096 entries, given 5000"));
    let entries: Vec<_> = many.iter().map(|name| file(name, b"")).collect();
    assert!(message(&tar_gz(&entries)).contains("4096 entries"));
}

#[test]
fn what_is_no_archive_or_broken_is_refused() {
    assert!(message(b"").contains("neither a .zip nor a .tar.gz"));
    assert!(message(b"plain text").contains("neither a .zip nor a .tar.gz"));
    let good = zip(&[("prompt.json", b"{}")]);
    assert!(message(&good[..good.len() - 5]).contains("not a whole zip file"));
    let mut crc = good.clone();
    let at = crc.len() - 22 - 57 + 16;
    crc[at] ^= 0xff;
    assert!(unpack(&crc, LIMIT).is_err());
    let good = tar_gz(&[file("adapter_model.safetensors", &[7; 100_000])]);
    assert!(unpack(&good[..good.len() / 2], LIMIT).is_err());
    let mut locked = zip(&[("prompt.json", b"{}")]);
    locked[6] |= 1;
    let central = locked.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    locked[central + 8] |= 1;
    assert!(message(&locked).contains("encrypted"));
}
