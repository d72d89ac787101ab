use proptest::prelude::*;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::decoders::wordpiece::WordPiece;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::Replace;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, DecoderWrapper};

use super::super::byte_level::spell;
use super::*;

/// A vocabulary of the given tokens, then `<end>`, which is special, and `added one`, which is not.
fn tokenizer(tokens: &[&str], decoder: impl Into<DecoderWrapper>) -> Arc<Tokenizer> {
    let vocab = Vocab::from_iter(tokens.iter().map(|token| token.to_string()).zip(0..));
    let mut inner = tokenizers::Tokenizer::new(BPE::builder().vocab_and_merges(vocab, vec![]).build().unwrap());
    inner.with_decoder(Some(decoder));
    inner.add_tokens([AddedToken::from("<end>", true), AddedToken::from("added one", false)]).unwrap();
    Arc::new(Tokenizer::new(inner, None))
}

fn byte_level() -> Arc<Tokenizer> {
    let mut tokens: Vec<String> = (0..=255)
        .map(|byte| {
            ByteLevel::alphabet()
                .into_iter()
                .find(|c| {
                    let mut bytes = Vec::new();
                    super::super::byte_level::push_bytes(&c.to_string(), &mut bytes);
                    bytes == [byte]
                })
                .unwrap()
                .to_string()
        })
        .collect();
    tokens.extend(["дуб", " oak", "🌳"].map(spell));
    tokenizer(&tokens.iter().map(String::as_str).collect::<Vec<_>>(), ByteLevel::default())
}

fn word_piece() -> Arc<Tokenizer> {
    let tokens = ["oak", "##s", ".", "##.", "'", "##", "s", "n't", "дуб", "[UNK]", " do not"];
    tokenizer(&tokens, WordPiece::default())
}

fn metaspace() -> Arc<Tokenizer> {
    tokenizer(&["▁oak", "s", "▁", "▁▁", "."], Metaspace::new('▁', PrependScheme::First, true))
}

fn sentence_piece() -> Arc<Tokenizer> {
    let tokens =
        ["▁oak", "s", "▁", "▁▁", "<0xD0>", "<0xB4>", "<0x41>", "<0xFF>", "<0xF0>", "<0x9F>", "<0x8C>", "<0xB3>", "�"];
    let space = Replace::new("▁", " ").unwrap();
    let steps = vec![space.into(), ByteFallback::new().into(), Fuse::new().into(), Strip::new(' ', 1, 0).into()];
    tokenizer(&tokens, Sequence::new(steps))
}

/// The pieces of a stream.
fn pieces(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> Vec<String> {
    let mut stream = StreamDecoder::new(tokenizer.clone());
    let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
    pieces.push(stream.finish());
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn joined_pieces_are_the_decoded_whole(ids in prop::collection::vec(0_u32..265, 0..40), few in prop::collection::vec(0_u32..18, 0..40)) {
        for tokenizer in [byte_level(), Arc::new(Tokenizer::bytes())] {
            prop_assert_eq!(pieces(&tokenizer, &ids).concat(), tokenizer.decode(&ids));
        }
        for tokenizer in [word_piece(), metaspace(), sentence_piece()] {
            prop_assert_eq!(pieces(&tokenizer, &few).concat(), tokenizer.decode(&few));
        }
    }

    #[test]
    fn a_text_comes_out_as_it_went_in(text in "\\PC{0,30}") {
        let tokenizer = Arc::new(Tokenizer::bytes());
        let ids = tokenizer.encode(&text, true).unwrap();
        let pieces = pieces(&tokenizer, &ids);
        prop_assert!(pieces.iter().all(|piece| piece.chars().count() <= 1));
        prop_assert_eq!(pieces.concat(), text);
    }
}

#[test]
fn half_a_character_waits() {
    let tokenizer = byte_level();
    let ids: Vec<u32> = "д!".bytes().map(u32::from).collect();
    assert_eq!(pieces(&tokenizer, &ids), ["", "д", "!", ""]);
    assert_eq!(pieces(&tokenizer, &ids[..1]), ["", "�"]);
}

#[test]
fn bytes_that_cannot_become_a_character_are_replaced_at_once() {
    let tokenizer = byte_level();
    assert_eq!(pieces(&tokenizer, &[0xF0, 0x9F, 0x41, 0xFF]), ["", "", "�A", "�", ""]);
}

#[test]
fn special_and_unknown_tokens_are_silent() {
    let tokenizer = word_piece();
    assert_eq!(pieces(&tokenizer, &[11, 9999, 0, 11, 1, 0]), ["", "", "oak", "", "s", " oak", ""]);
    assert_eq!(tokenizer.token_text(11), "<end>");
}

#[test]
fn a_run_of_byte_tokens_is_told_when_it_is_over() {
    let tokenizer = sentence_piece();
    assert_eq!(pieces(&tokenizer, &[0, 4, 5, 1]), ["oak", "", "", "дs", ""]);
    assert_eq!(pieces(&tokenizer, &[0, 6, 7, 0]), ["oak", "", "", "�� oak", ""]);
}

#[test]
fn a_long_answer_is_not_decoded_over_and_over() {
    let tokenizer = sentence_piece();
    let mut stream = StreamDecoder::new(tokenizer);
    let started = std::time::Instant::now();
    (0..20_000).for_each(|_| drop(stream.push(0)));
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
