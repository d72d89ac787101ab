//! A thousand damaged uploads: each is a valid adapter or a clear refusal, and the store holds what was accepted.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::harness::{Form, Holds, Server, fixtures};
use crate::adapter_hostile::mutate;

const MUTATIONS: usize = 1000;
/// One of each kind, with and without a head.
const FOLDERS: [&str; 6] = ["lora", "ia3", "prompt", "prefix", "cls-lora", "ruprompts-text"];

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_upload_is_a_valid_adapter_or_a_clear_refusal() {
    let server = Server::start(Holds::Llama);
    let mut rng = ChaCha8Rng::seed_from_u64(20);
    let (mut accepted, mut refused) = (0, 0);
    for i in 0..MUTATIONS {
        let folder = fixtures().join("adapters/llama").join(FOLDERS[i % FOLDERS.len()]);
        let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
            })
            .collect();
        files.sort();
        let damaged = i / FOLDERS.len() % files.len();
        mutate(&mut files[damaged].1, &mut rng);
        let id = format!("damaged-{i}");
        let form = files.iter().fold(Form::default().text("id", &id), |form, (name, content)| form.file(name, content));
        let answer = server.send(form.request(), form.body()).await;
        match answer.status.as_u16() {
            201 => accepted += 1,
            400..=499 => {
                refused += 1;
                let error = &answer.json()["error"];
                assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
                assert_eq!(server.get(&format!("/v1/adapters/{id}")).await.status, 404, "half-stored: {id}");
            }
            status => panic!("{id} ({}): {status} {}", FOLDERS[i % FOLDERS.len()], answer.text()),
        }
    }
    assert!(accepted >= 20 && refused >= 200, "{accepted} accepted, {refused} refused");

    // What was accepted can be used.
    let listed = server.get("/v1/adapters?limit=1000").await.ok();
    let listed = listed["data"].as_array().unwrap();
    assert_eq!(listed.len(), accepted);
    for adapter in listed {
        let classifies = adapter["task"] == "classify";
        let route = if classifies { "/v1/classify" } else { "/v1/generate" };
        let mut body = serde_json::json!({"adapter_id": adapter["id"], "input": "what is it"});
        if !classifies {
            body["parameters"] = serde_json::json!({"max_new_tokens": 2, "do_sample": false});
        }
        let answer = server.post(route, body).await;
        // Huge but finite numbers may overflow in the model: that is told, and only here.
        assert!(answer.status.is_success() || answer.status == 422, "{adapter}: {}", answer.text());
        assert!(answer.json() != Value::Null);
    }
}
