//! The files of kernels, compiled.

/// A file of kernels, compiled.
pub(super) struct Source {
    pub name: &'static str,
    /// Empty without the feature `cuda`.
    pub fatbin: &'static [u8],
}

/// Makes the compiled `cuda/NAME.cu` of each, and a list of them.
macro_rules! sources {
    ($($source:ident = $name:literal;)*) => {
        $(pub(super) static $source: Source = Source {
            name: $name,
            #[cfg(feature = "cuda")]
            fatbin: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".fatbin")),
            #[cfg(not(feature = "cuda"))]
            fatbin: &[],
        };)*

        /// All of them.
        pub(super) static ALL: &[&Source] = &[$(&$source),*];
    };
}

sources! {
    ADAPTED = "adapted";
    ADAPTED_GATE = "adapted_gate";
    ADAPTERS = "adapters";
    CHOOSE = "choose";
    DECODE = "decode";
    ELEMENTWISE = "elementwise";
    EMBED = "embed";
    GATHER = "gather";
    KV = "kv";
    NORM = "norm";
    NORM_SHRINK = "norm_shrink";
    NORMED = "normed";
    PREFILL = "prefill";
    PREFILL_PLAIN = "prefill_plain";
    PRODUCT = "product";
    ROTARY = "rotary";
    SAMPLE = "sample";
    TABLE = "table";
}

/// Whether they were compiled into this program.
pub(super) fn built() -> bool {
    ALL.iter().all(|source| !source.fatbin.is_empty())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_there() {
        let folder = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")).expect("a folder");
        let paths = folder.map(|entry| entry.expect("an entry").path());
        let sources = paths.filter(|path| path.extension().is_some_and(|extension| extension == "cu"));
        let mut files: Vec<_> = sources.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
        files.sort();
        assert_eq!(files, ALL.iter().map(|source| source.name).collect::<Vec<_>>());
    }
}
