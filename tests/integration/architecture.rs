//! Who may use whom: the table of docs/ARCHITECTURE.md, enforced.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Module, and the modules it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("device", &["config"]),
    ("profile", &[]),
    ("telemetry", &["config"]),
    ("hub", &["config"]),
    ("text", &[]),
    ("adapter", &["device", "profile"]),
    ("model", &["device", "profile", "adapter"]),
    ("engine", &["device", "profile", "model", "adapter", "text", "config"]),
    ("train", &["adapter", "device", "model"]),
    ("http", &["engine", "adapter", "text", "config", "hub"]),
    ("app", &["config", "device", "telemetry", "hub", "text", "adapter", "model", "engine", "http"]),
    ("cli", &["app", "config", "device", "profile", "telemetry", "hub", "text", "adapter", "model", "engine"]),
    ("main", &["cli"]),
    ("lib", &[]),
];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Modules named in `crate::x` paths, `use crate::{a, b}` included.
fn used_modules(source: &str) -> BTreeSet<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut start = true;
            for (i, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    c if start && (c.is_alphanumeric() || c == '_') => {
                        used.insert(list[i..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
                        start = false;
                    }
                    _ => {}
                }
            }
        } else {
            used.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    used
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    rust_files(&src, &mut files);
    assert!(files.len() > 30, "the test looks at the right folder");
    let mut wrong = vec![];
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: module {module} is not in the table", relative.display()));
            continue;
        };
        for used in used_modules(&std::fs::read_to_string(&file).unwrap()) {
            if used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: {module} may not use {used}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_kernels_and_the_mapped_file_are_unsafe() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    rust_files(&src, &mut files);
    let holds_unsafe = |file: &PathBuf| std::fs::read_to_string(file).unwrap().contains("unsafe {");
    let found: Vec<_> = files.into_iter().filter(holds_unsafe).collect();
    assert_eq!(found, [src.join("model/load/weights.rs")]);
}

#[test]
fn files_stay_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![];
    for folder in ["src", "kernels/src", "tests"] {
        rust_files(&root.join(folder), &mut files);
    }
    for file in files {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 500, "{} has {lines} lines: it holds two nouns", file.display());
    }
}
