use super::*;

fn texts(list: &[&str]) -> Value {
    Value::Array(list.iter().map(|text| Value::String(text.to_string())).collect())
}

fn numbers(list: &[i32]) -> Value {
    Value::Array(list.iter().map(|number| Value::I32(*number)).collect())
}

/// A byte-level vocabulary: `<|end|>` (control), `<think>` (user-defined), letters and one merge.
fn gpt2(pre: &str) -> HashMap<String, Value> {
    let tokens = ["<|end|>", "<think>", "a", "b", "1", "2", "3", "4", "ab", "Ġ", "12"];
    let text = |text: &str| Value::String(text.into());
    HashMap::from_iter(
        [
            ("model", text("gpt2")),
            ("pre", text(pre)),
            ("tokens", texts(&tokens)),
            ("token_type", numbers(&[3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1])),
            ("merges", texts(&["a b", "1 2"])),
            ("bos_token_id", Value::U32(0)),
            ("eos_token_id", Value::U32(0)),
        ]
        .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)),
    )
}

fn message(metadata: &HashMap<String, Value>) -> String {
    read(metadata).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn digits_are_split_as_the_model_was_trained() {
    let encode = |pre| read(&gpt2(pre)).unwrap().encode("ab 1234", false).unwrap();
    assert_eq!(encode("gpt-2"), [8, 9, 10, 6, 7]);
    assert_eq!(encode("smollm"), [8, 9, 4, 5, 6, 7]);
    assert_eq!(encode("qwen2"), [8, 9, 4, 5, 6, 7]);
    assert_eq!(encode("llama-bpe"), [8, 9, 10, 6, 7]);
}

#[test]
fn control_tokens_are_special_and_user_defined_ones_are_text() {
    let tokenizer = read(&gpt2("smollm")).unwrap();
    assert_eq!(tokenizer.encode("a<|end|><think>b", true).unwrap(), [2, 0, 1, 3]);
    assert_eq!(tokenizer.decode(&[2, 0, 1, 3]), "a<think>b");
}

#[test]
fn the_first_token_is_added_where_the_file_says_so() {
    let mut metadata = gpt2("gpt-2");
    metadata.insert("tokenizer.ggml.add_bos_token".into(), Value::Bool(true));
    let tokenizer = read(&metadata).unwrap();
    assert_eq!(tokenizer.encode("ab", true).unwrap(), [0, 8]);
    assert_eq!(tokenizer.encode("ab", false).unwrap(), [8]);
    metadata.insert("tokenizer.ggml.add_eos_token".into(), Value::Bool(true));
    assert_eq!(read(&metadata).unwrap().encode("ab", true).unwrap(), [0, 8, 0]);
    assert_eq!(read(&gpt2("llama-bpe")).unwrap().encode("ab", true).unwrap(), [0, 8]);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    assert!(message(&gpt2("tekken")).contains("tokenizer.ggml.pre `tekken` is not supported"));
    let mut metadata = gpt2("gpt-2");
    metadata.insert("tokenizer.ggml.model".into(), Value::String("rwkv".into()));
    assert!(message(&metadata).contains("`rwkv`"));
    metadata.remove("tokenizer.ggml.tokens");
    assert!(message(&metadata).contains("lacks `tokenizer.ggml.tokens`"));
    assert!(message(&HashMap::new()).starts_with("tokenizer: GGUF: "));
}

#[test]
fn sentence_piece_merges_by_score_and_falls_back_to_bytes() {
    let tokens = ["<unk>", "<s>", "</s>", "<0xD0>", "<0xB4>", "▁", "a", "b", "▁a", "ab", "▁ab"];
    let scores = [0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0];
    let text = |text: &str| Value::String(text.into());
    let metadata = HashMap::from_iter(
        [
            ("model", text("llama")),
            ("tokens", texts(&tokens)),
            ("token_type", numbers(&[2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1])),
            ("scores", Value::Array(scores.iter().map(|score| Value::F32(*score)).collect())),
            ("bos_token_id", Value::U32(1)),
        ]
        .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)),
    );
    let tokenizer = read(&metadata).unwrap();
    assert_eq!(tokenizer.encode("ab aд", true).unwrap(), [1, 10, 8, 3, 4]);
    assert_eq!(tokenizer.decode(&[1, 10, 8, 3, 4]), "ab aд");
    assert_eq!(tokenizer.encode(" a", false).unwrap(), [5, 8], "a blank goes before one that is there");
}
