//! Golden tests: the answers of PEFT and transformers on tiny random bases (scripts/fixtures made them).
//! From token ids through reader, engine and bodies; texts and HTTP have golden tests of their own.

pub mod bench;
pub mod case;

use case::Golden;

/// Every entry of every base named.
async fn check(bases: &[&str]) {
    for base in bases {
        let golden = Golden::open(base);
        for entry in golden.entries() {
            golden.check(&entry).await;
        }
    }
}

#[tokio::test]
async fn llama_answers_as_peft_does() {
    check(&["llama", "llama3"]).await;
}

#[tokio::test]
async fn a_gguf_file_answers_as_the_folder_it_was_made_from() {
    Golden::open_gguf("llama").check_plain().await;
}

#[tokio::test]
async fn mistral_and_qwen_answer_as_peft_does() {
    check(&["mistral", "qwen2", "qwen3"]).await;
}

#[tokio::test]
async fn gpt2_answers_as_peft_does() {
    check(&["gpt2", "gpt2st"]).await;
}

#[tokio::test]
async fn bert_classifies_as_peft_does() {
    check(&["bert", "bert-old"]).await;
}
