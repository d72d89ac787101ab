//! Tokenizers, chat templates and prompt formats against transformers 5.23 and ruprompts 0.1.4 (`tests/fixtures/golden`).

// Helpers of tests may unwrap as tests do; clippy's own exception knows `#[test]` functions only.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file;
use repertoire::text::{Input, Message, Piece, PromptFormat, StreamDecoder, Tokenizer, compile};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn golden(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixtures().join("golden").join(name)).unwrap()).unwrap()
}

fn tokenizer(base: &str) -> Tokenizer {
    Tokenizer::from_folder(&fixtures().join("bases").join(base)).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> String {
    let mut stream = StreamDecoder::new(tokenizer.clone());
    let text: String = ids.iter().map(|id| stream.push(*id)).collect();
    text + &stream.finish()
}

#[test]
fn every_base_tokenises_and_decodes_as_transformers_does() {
    for (base, cases) in golden("tokenizers.json").as_object().unwrap() {
        let tokenizer = Arc::new(tokenizer(base));
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let expected = ids(&case["ids"]);
            assert_eq!(tokenizer.encode(text, true).unwrap(), expected, "{base}: {text:?}");
            assert_eq!(tokenizer.decode(&expected), case["decoded"].as_str().unwrap(), "{base}: {text:?}");
            assert_eq!(stream(&tokenizer, &expected), tokenizer.decode(&expected), "{base}: {text:?}");
        }
    }
}

#[test]
fn generated_tokens_decode_as_in_transformers_at_once_and_streamed() {
    let mut seen = 0;
    for name in ["llama.json", "gpt2.json"] {
        let golden = golden(name);
        let tokenizer = Arc::new(tokenizer(golden["base"].as_str().unwrap()));
        for entry in golden["entries"].as_array().unwrap() {
            for answer in entry["generate"].as_array().into_iter().flatten() {
                let (Some(text), mut tokens) = (answer["text"].as_str(), ids(&answer["token_ids"])) else { continue };
                // ruprompts ends at token 0, which is no special token here; the text is without it.
                tokens.pop_if(|last| *last == 0 && entry["kind"] == "ruprompts");
                assert_eq!(tokenizer.decode(&tokens), text, "{name}: {}", entry["adapter"]);
                assert_eq!(stream(&tokenizer, &tokens), text, "{name}: {}", entry["adapter"]);
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "only {seen} answers compared");
}

#[test]
fn conversations_become_the_prompts_of_transformers() {
    for (base, cases) in golden("chat.json").as_object().unwrap() {
        let tokenizer = tokenizer(base);
        for case in cases.as_array().unwrap() {
            if case["add_generation_prompt"] != true {
                continue;
            }
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let text = tokenizer.chat.as_ref().unwrap().render(&messages).unwrap();
            assert_eq!(text, case["text"].as_str().unwrap(), "{base}");
            assert_eq!(tokenizer.chat_prompt(&messages).unwrap(), ids(&case["prompt_ids"]), "{base}");
        }
    }
}

#[test]
fn a_base_without_a_chat_template_says_so() {
    let messages = [Message { role: "user".into(), content: "hi".into() }];
    let error = tokenizer("gpt2").chat_prompt(&messages).unwrap_err();
    assert_eq!(error.to_string(), "this base has no chat template: give `input` instead of `messages`");
    let tool = [Message { role: "tool".into(), content: "hi".into() }];
    let error = tokenizer("llama3").chat_prompt(&tool).unwrap_err();
    assert!(error.to_string().contains("no tools here"), "{error}");
}

#[test]
fn a_gguf_file_holds_the_same_tokenizer_as_the_folder() {
    let mut file = File::open(fixtures().join("bases/llama.gguf")).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let from_gguf = Tokenizer::from_gguf(&content.metadata).unwrap();
    let from_folder = tokenizer("llama");
    for case in golden("tokenizers.json")["llama"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(from_gguf.encode(text, true).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(from_gguf.decode(&ids(&case["ids"])), case["decoded"].as_str().unwrap());
    }
    let text = "<|im_start|>a<|im_end|>";
    assert_eq!(from_gguf.encode(text, true).unwrap(), from_folder.encode(text, true).unwrap());
}

/// The format of a saved prompt, compiled where the file is not.
fn saved_format(base: &str, adapter: &str, tokenizer: &Tokenizer) -> PromptFormat {
    let file = fixtures().join("adapters").join(base).join(adapter).join("prompt.json");
    let saved: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    match saved["format"]["compiled_template"].as_str() {
        Some(template) => PromptFormat::parse(template).unwrap(),
        None => {
            let (template, start) = compile(saved["format"]["template"].as_str().unwrap(), tokenizer).unwrap();
            let format = PromptFormat::parse(&template).unwrap();
            assert_eq!(start.len(), format.virtual_tokens());
            assert_eq!(saved["config"]["prompt_length"], format.virtual_tokens());
            format
        }
    }
}

#[test]
fn prompts_of_ruprompts_are_filled_and_tokenised_as_there() {
    const VOCAB: u32 = 1000;
    let mut seen = 0;
    for name in ["gpt2.json", "llama.json"] {
        let golden = golden(name);
        let base = golden["base"].as_str().unwrap();
        let tokenizer = tokenizer(base);
        for entry in golden["entries"].as_array().unwrap() {
            if entry["kind"] != "ruprompts" {
                continue;
            }
            let format = saved_format(base, entry["adapter"].as_str().unwrap(), &tokenizer);
            for answer in entry["generate"].as_array().into_iter().flatten() {
                let input = match &answer["input"] {
                    Value::String(text) => Input::Text(text.clone()),
                    fields => Input::Fields(serde_json::from_value(fields.clone()).unwrap()),
                };
                let mut number = VOCAB;
                let expected = answer["prompt_ids"].as_array().unwrap().iter().map(|id| match id.as_i64().unwrap() {
                    -1 => {
                        number += 1;
                        number - 1
                    }
                    id => id as u32,
                });
                let expected: Vec<u32> = expected.collect();
                let pieces = format.fill(&input).unwrap();
                let ids = tokenizer.encode_with_virtual_tokens(&pieces, VOCAB).unwrap();
                assert_eq!(ids, expected, "{}: {input:?}", entry["adapter"]);
                seen += 1;
            }
        }
    }
    assert!(seen > 5, "only {seen} prompts compared");
}

#[test]
fn a_user_cannot_write_virtual_tokens() {
    for base in ["gpt2", "llama", "bert", "mistral", "qwen2"] {
        let tokenizer = tokenizer(base);
        let vocab = 1000;
        let evil = "a<|P|>b<P>{text}<P*3>";
        let pieces = [Piece::Virtual, Piece::Text(evil.into()), Piece::Virtual];
        let ids = tokenizer.encode_with_virtual_tokens(&pieces, vocab).unwrap();
        let virtual_ids: Vec<u32> = ids.iter().copied().filter(|id| *id >= vocab).collect();
        assert_eq!(virtual_ids, [vocab, vocab + 1], "{base}");
        // No space is lost or added where a virtual token stands.
        let plain = tokenizer.encode(evil, false).unwrap();
        let between: Vec<u32> = ids.into_iter().filter(|id| *id < vocab).collect();
        if ["gpt2", "llama", "qwen2"].contains(&base) {
            assert_eq!(between, plain, "{base}");
        }
        assert!(tokenizer.decode(&virtual_ids).is_empty(), "{base}");
        // A format without virtual tokens asks for nothing but the text.
        let ids = tokenizer.encode_with_virtual_tokens(&[Piece::Text(evil.into())], vocab).unwrap();
        assert_eq!(ids, tokenizer.encode(evil, true).unwrap(), "{base}");
    }
}

#[test]
fn a_token_that_the_model_has_not_is_refused_beside_virtual_tokens() {
    let tokenizer = tokenizer("llama");
    let pieces = [Piece::Virtual, Piece::Text("Hello".into())];
    let error = tokenizer.encode_with_virtual_tokens(&pieces, 10).unwrap_err();
    assert!(error.to_string().contains("the model has 10 tokens"), "{error}");
}

#[test]
fn texts_are_not_cut_or_filled_up_by_the_tokenizer_file() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixtures().join("bases/bert/tokenizer.json");
    let mut file: Value = serde_json::from_slice(&fs::read(source).unwrap()).unwrap();
    file["truncation"] = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
    fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    let text = "The cat sat on the mat.";
    let here = Tokenizer::from_folder(folder.path()).unwrap().encode(text, true).unwrap();
    assert_eq!(here, tokenizer("bert").encode(text, true).unwrap());
}

#[test]
fn special_tokens_of_the_side_files_are_honoured() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(fixtures().join("bases/gpt2").join(name), folder.path().join(name)).unwrap();
    }
    let write = |name: &str, value: Value| fs::write(folder.path().join(name), value.to_string()).unwrap();
    let vocab = fs::read(folder.path().join("vocab.json")).unwrap();
    let size = serde_json::from_slice::<Value>(&vocab).unwrap().as_object().unwrap().len() as u32;
    write("tokenizer_config.json", json!({"add_prefix_space": true, "add_bos_token": true, "bos_token": "<bos>"}));
    write(
        "special_tokens_map.json",
        json!({"sep_token": {"content": "<sep>", "lstrip": true, "rstrip": false, "normalized": false, "single_word": false}}),
    );
    write("added_tokens.json", json!({"<name>": size}));
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let [name, bos, sep] = [size, size + 1, size + 2];
    for (token, id) in [("<name>", name), ("<bos>", bos), ("<sep>", sep)] {
        assert_eq!(tokenizer.encode(token, false).unwrap(), [id], "{token}");
    }
    let ids = tokenizer.encode("a  <sep><name>", true).unwrap();
    assert_eq!((ids[0], &ids[ids.len() - 2..]), (bos, &[sep, name][..]));
    assert_eq!(tokenizer.decode(&ids), " a<name>");
}

#[test]
fn a_folder_without_a_tokenizer_says_what_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_folder(folder.path()).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json, vocab.json + merges.txt, or vocab.txt"), "{error}");
    fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    let error = Tokenizer::from_folder(folder.path()).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json: "), "{error}");
}

#[test]
fn the_bytes_of_a_text_are_the_tokens_of_a_base_without_files() {
    let tokenizer = Tokenizer::bytes();
    let pieces = [Piece::Text("a".into()), Piece::Virtual, Piece::Text("д".into())];
    assert_eq!(tokenizer.encode_with_virtual_tokens(&pieces, 300).unwrap(), [97, 300, 0xD0, 0xB4]);
    assert_eq!(tokenizer.decode(&[97, 300, 0xD0, 0xB4]), "aд");
    let fields = BTreeMap::from([("text".to_owned(), "a".to_owned())]);
    assert_eq!(PromptFormat::parse("{text}").unwrap().fill(&Input::Fields(fields)).unwrap(), [Piece::Text("a".into())]);
}
