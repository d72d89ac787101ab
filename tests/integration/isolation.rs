//! Nothing of one request enters the answer of another: among all others, an answer has the bits it has alone.

use repertoire::engine::{Event, Request, Work};
use serde_json::Value;

use crate::golden::case::{Golden, hear};

/// Every case of a base's golden file as a request: all kinds of adapters, plain rows, heads, beams; and sampled ones.
fn requests(golden: &Golden) -> Vec<Request> {
    let mut requests = vec![];
    for entry in golden.entries() {
        for kind in ["generate", "penalties", "beam", "classify"] {
            for case in entry[kind].as_array().unwrap_or(&vec![]) {
                requests.push(request(golden, &entry, kind, case, None));
                if kind == "generate" && requests.len() % 3 == 0 {
                    requests.push(request(golden, &entry, kind, case, Some(requests.len() as u64)));
                }
            }
        }
    }
    requests
}

fn request(golden: &Golden, entry: &Value, kind: &str, case: &Value, seed: Option<u64>) -> Request {
    let mut request = golden.request_for(entry, case);
    match &mut request.work {
        _ if kind == "classify" => request.work = Work::Classify,
        Work::Generate(parameters) if seed.is_some() => {
            parameters.do_sample = true;
            parameters.seed = seed;
            parameters.num_return_sequences = 2;
            parameters.logprobs = 3;
        }
        _ => {}
    }
    request
}

/// Asks everything alone and then together: the bits are the same.
async fn check(golden: &Golden) -> usize {
    check_within(golden, 0.0).await
}

/// Asks everything alone and then together. What is asked again finds its beginning in the prefix cache.
pub async fn check_within(golden: &Golden, tolerance: f32) -> usize {
    let mut alone = vec![];
    for request in requests(golden) {
        alone.push(hear(golden.engine().submit(request).unwrap()).await);
    }
    // All at once, twice: the second time in reverse, so that neighbours and chunks differ.
    for reversed in [false, true] {
        let mut numbered: Vec<_> = requests(golden).into_iter().enumerate().collect();
        if reversed {
            numbered.reverse();
        }
        let streams: Vec<_> =
            numbered.into_iter().map(|(i, request)| (i, golden.engine().submit(request).unwrap())).collect();
        for (i, stream) in streams {
            let heard = hear(stream).await;
            let same = if tolerance == 0.0 { heard == alone[i] } else { heard.is(&alone[i], tolerance) };
            assert!(same, "request {i}, reversed: {reversed}: {heard:?}, alone {:?}", alone[i]);
        }
    }
    // The last step is counted just after its answers went out.
    for _ in 0..200 {
        let stats = golden.engine().stats();
        if stats.free_blocks == stats.total_blocks {
            return alone.len();
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("blocks were lost: {:?}", golden.engine().stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn llama_rows_of_all_kinds_answer_together_as_alone() {
    assert!(check(&Golden::open("llama")).await >= 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_had_to_give_their_blocks_to_others_answer_as_alone() {
    let golden = Golden::cramped("llama", 4096 * 12);
    assert!(check(&golden).await >= 64);
    let stats = golden.engine().stats();
    assert!(stats.preemptions >= 10, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_asked_again_is_found_in_the_cache_by_its_adapter_alone() {
    let golden = Golden::open("llama");
    let entries = golden.entries();
    let kinds = ["lora", "prompt", "prefix"].map(|name| entries.iter().find(|entry| entry["adapter"] == name).unwrap());
    for entry in std::iter::once(&entries[0]).chain(kinds) {
        let mut cached = vec![];
        for _ in 0..3 {
            let mut request = golden.request_for(entry, &entry["generate"][0]);
            let own = request.prompt.clone();
            request.prompt.extend(own.iter().cycle().take(60));
            let mut events = golden.engine().submit(request).unwrap();
            let usage = loop {
                if let Event::Done(usage) = events.next().await.unwrap() {
                    break usage;
                }
            };
            assert!(usage.cached_tokens < usage.prompt_tokens, "{usage:?}");
            cached.push(usage.cached_tokens);
        }
        // The adapters before it were asked the same.
        assert!(cached[0] == 0 && cached[1] >= 32 && cached[2] == cached[1], "{} {cached:?}", entry["adapter"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gpt2_rows_of_all_kinds_answer_together_as_alone() {
    assert!(check(&Golden::open("gpt2")).await >= 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn bert_rows_of_all_kinds_answer_together_as_alone() {
    assert!(check(&Golden::open("bert")).await >= 64);
}
