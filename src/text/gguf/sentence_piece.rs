//! SentencePiece BPE out of GGUF metadata, as Llama 2's own tokenizer.json has it. (transformers 5's LlamaTokenizer puts no blank before a text
//! that starts with one; SentencePiece and llama.cpp do, and so models were trained.)

use std::collections::HashMap;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence as Normalizers};

use super::super::TextError;
use super::{Metadata, lacks, refuse};

const NORMAL: i64 = 1;
const SPACE: char = '▁';

/// The tokenizer, and whether a text starts with the first token where the file does not say.
pub(super) fn build(
    metadata: &Metadata<'_>,
    tokens: &[&str],
    kinds: &[i64],
) -> Result<(tokenizers::Tokenizer, bool), TextError> {
    // These split and score in ways of their own, which the metadata does not tell.
    let architecture = metadata.text("general.architecture").unwrap_or_default();
    if architecture.starts_with("gemma") || architecture == "phi3" {
        return Err(refuse(&format!("the tokenizer of architecture `{architecture}` is not supported")));
    }
    let scores = metadata.floats("tokenizer.ggml.scores")?.ok_or_else(|| lacks("tokenizer.ggml.scores"))?;
    let merges = merges(tokens, &scores, kinds);
    let vocab = Vocab::from_iter(tokens.iter().map(|token| (*token).to_owned()).zip(0..));
    let model = BPE::builder().vocab_and_merges(vocab, merges).fuse_unk(true).byte_fallback(true).build();
    let mut inner = tokenizers::Tokenizer::new(model.map_err(|error| refuse(&error.to_string()))?);

    let prefix = metadata.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let blanks = Replace::new(" ", SPACE.to_string()).map_err(|error| refuse(&error.to_string()))?;
    let mut normalizers: Vec<NormalizerWrapper> = vec![blanks.into()];
    if prefix {
        normalizers.insert(0, Prepend::new(SPACE.to_string()).into());
    }
    inner.with_normalizer(Some(Normalizers::new(normalizers))).map_err(|error| refuse(&error.to_string()))?;
    let space = Replace::new(SPACE.to_string(), " ").map_err(|error| refuse(&error.to_string()))?;
    let mut steps: Vec<DecoderWrapper> = vec![space.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_decoder(Some(Sequence::new(steps)));
    Ok((inner, true))
}

/// The merges that the vocabulary implies: every way to cut a token into two others, the best scores first.
fn merges(tokens: &[&str], scores: &[f32], kinds: &[i64]) -> Merges {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let mut found = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        if kinds.get(id).is_some_and(|kind| *kind != NORMAL) {
            continue;
        }
        let score = scores.get(id).copied().unwrap_or(f32::NEG_INFINITY);
        let mut cuts: Vec<(usize, usize)> = Vec::new();
        for (at, _) in token.char_indices().skip(1) {
            if let (Some(left), Some(right)) = (ids.get(&token[..at]), ids.get(&token[at..])) {
                cuts.push((*left, *right));
            }
        }
        cuts.sort_unstable();
        found.extend(cuts.into_iter().map(|cut| (score, cut)));
    }
    let characters = |id: usize| tokens[id].chars().count();
    let sizes = |(left, right): (usize, usize)| (characters(left), characters(right));
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| sizes(b.1).cmp(&sizes(a.1))));
    found.into_iter().map(|(_, (left, right))| (tokens[left].to_owned(), tokens[right].to_owned())).collect()
}
