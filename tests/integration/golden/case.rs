//! One base's golden file, and how its entries are checked.

use std::sync::Arc;

use repertoire::adapter::{EosTokens, Lease, Metadata, SiteMap};
use repertoire::engine::{Engine, Event, EventStream, FinishReason, Parameters, Request, Token, Work};
use repertoire::text::{Input, PromptFormat};
use serde_json::Value;

use super::bench::{Bench, fixtures};

/// A base with what PEFT answers on it.
pub struct Golden {
    bench: Bench,
    entries: Vec<Value>,
    eos: Vec<u32>,
    /// How far a logarithm of a probability, or a score, may be off.
    tolerance: f32,
}

/// A finished sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    ids: Vec<u32>,
    tokens: Vec<Token>,
    text: String,
    reason: FinishReason,
}

/// All that a request heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    pub answers: Vec<Answer>,
    pub scores: Vec<f32>,
}

impl Heard {
    /// Whether two clients heard the same words, with logarithms and scores at most `tolerance` apart.
    pub fn is(&self, other: &Self, tolerance: f32) -> bool {
        let near = |a: f32, b: f32| (a - b).abs() <= tolerance;
        let token = |(a, b): (&Token, &Token)| {
            let mut tops = a.top_logprobs.iter().zip(&b.top_logprobs);
            near(a.logprob, b.logprob) && tops.all(|(a, b)| near(a.logprob, b.logprob))
        };
        let answer = |(a, b): (&Answer, &Answer)| {
            (&a.ids, &a.text, a.reason) == (&b.ids, &b.text, b.reason) && a.tokens.iter().zip(&b.tokens).all(token)
        };
        self.answers.len() == other.answers.len()
            && self.answers.iter().zip(&other.answers).all(answer)
            && self.scores.len() == other.scores.len()
            && self.scores.iter().zip(&other.scores).all(|(a, b)| near(*a, *b))
    }
}

impl Answer {
    /// Its tokens.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }
}

impl Golden {
    pub fn open(base: &str) -> Self {
        Self::with(Bench::folder(base), base)
    }

    /// With little room for keys and values.
    pub fn cramped(base: &str, kv_bytes: usize) -> Self {
        Self::with(Bench::with_room(base, kv_bytes), base)
    }

    /// On a bench of its own, and as exact as that is.
    pub fn on(bench: Bench, base: &str, tolerance: f32) -> Self {
        Self { tolerance, ..Self::with(bench, base) }
    }

    pub fn open_gguf(base: &str) -> Self {
        Self::with(Bench::gguf(base), base)
    }

    fn with(bench: Bench, base: &str) -> Self {
        let golden = read(&format!("golden/{base}.json"));
        let generation = fixtures().join(format!("bases/{base}/generation_config.json"));
        let eos = match generation.exists() {
            true => match serde_json::from_value(
                read(&format!("bases/{base}/generation_config.json"))["eos_token_id"].clone(),
            ) {
                Ok(eos) => EosTokens::ids(&eos).to_vec(),
                Err(_) => vec![],
            },
            false => vec![],
        };
        Self { bench, entries: golden["entries"].as_array().unwrap().clone(), eos, tolerance: 2e-3 }
    }

    pub fn entries(&self) -> Vec<Value> {
        self.entries.clone()
    }

    /// The plain base's entry.
    pub async fn check_plain(&self) {
        self.check(&self.entries[0]).await;
    }

    /// Everything an entry holds.
    pub async fn check(&self, entry: &Value) {
        let lease = entry["adapter"].as_str().map(|name| {
            let metadata: Metadata = serde_json::from_value(entry["metadata"].clone()).unwrap();
            self.bench.adapter(name, metadata)
        });
        for case in list(&entry["generate"]).iter().chain(list(&entry["penalties"])) {
            self.check_greedy(entry, case, lease.as_ref()).await;
        }
        for case in list(&entry["beam"]) {
            self.check_beams(entry, case, lease.as_ref()).await;
        }
        for case in list(&entry["classify"]) {
            self.check_scores(entry, case, lease.as_ref()).await;
        }
    }

    async fn check_greedy(&self, entry: &Value, case: &Value, lease: Option<&Lease>) {
        let answers = self.generate(case, lease).await;
        let answer = &answers[0];
        let context = format!("{} {} {}", self.bench.sites.base, entry["adapter"], case["input"]);
        let mut expected = ids(&case["token_ids"]);
        if answer.reason == FinishReason::Eos {
            expected.pop();
        }
        assert_eq!(answer.ids, expected, "{context}");
        for (token, expected) in answer.tokens.iter().zip(floats(&case["logprobs"])) {
            assert!(
                (token.logprob - expected).abs() < self.tolerance,
                "{context}: {} against {expected}",
                token.logprob
            );
        }
        if let Some(text) = case["text"].as_str() {
            assert_eq!(answer.text, text, "{context}");
        }
    }

    async fn check_beams(&self, entry: &Value, case: &Value, lease: Option<&Lease>) {
        let answers = self.generate(case, lease).await;
        let texts: Vec<&str> = answers.iter().map(|answer| answer.text.as_str()).collect();
        let expected: Vec<&str> = list(&case["texts"]).iter().map(|text| text.as_str().unwrap()).collect();
        assert_eq!(texts, expected, "{} {} {case}", self.bench.sites.base, entry["adapter"]);
    }

    async fn check_scores(&self, entry: &Value, case: &Value, lease: Option<&Lease>) {
        let request = Request { work: Work::Classify, ..self.request(case, lease) };
        let mut events = self.bench.engine.submit(request).unwrap();
        let Some(Event::Scores(scores)) = events.next().await else { panic!("no scores for {case}") };
        let context = format!("{} {} {}", self.bench.sites.base, entry["adapter"], case["input"]);
        for (score, expected) in scores.iter().zip(floats(&case["logits"])) {
            assert!((score - expected).abs() < self.tolerance, "{context}: {scores:?} against {}", case["logits"]);
        }
        assert_eq!(scores.len(), list(&case["logits"]).len());
    }

    async fn generate(&self, case: &Value, lease: Option<&Lease>) -> Vec<Answer> {
        hear(self.bench.engine.submit(self.request(case, lease)).unwrap()).await.answers
    }

    /// A request for one case of an entry: its adapter, its prompt, its settings.
    pub fn request_for(&self, entry: &Value, case: &Value) -> Request {
        let lease = entry["adapter"]
            .as_str()
            .map(|name| self.bench.adapter(name, serde_json::from_value(entry["metadata"].clone()).unwrap()));
        self.request(case, lease.as_ref())
    }

    /// What the base offers to adapters.
    pub fn sites(&self) -> &Arc<SiteMap> {
        &self.bench.sites
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.bench.engine
    }

    /// A request for one case with an adapter already read.
    pub fn request(&self, case: &Value, lease: Option<&Lease>) -> Request {
        let mut parameters = Parameters { eos: self.eos.clone(), ..Parameters::default() };
        if let Some(lease) = lease {
            parameters.apply(&lease.generation);
            parameters.do_sample = false;
        }
        let given = serde_json::from_value(pick(case)).unwrap();
        parameters.apply(&given);
        let prompt_ids = match (&case["prompt_ids"], &case["ids"]) {
            (Value::Array(ids), _) | (_, Value::Array(ids)) => ids.clone(),
            _ => self.tokenise(&case["input"], lease),
        };
        let vocab = self.bench.sites.vocab as u32;
        let leading = lease.map_or(0, |lease| lease.leading_virtual_tokens() as u32);
        let mut prompt: Vec<u32> = (vocab..vocab + leading).collect();
        let mut virtual_tokens = vocab..;
        prompt.extend(prompt_ids.iter().map(|id| match id.as_i64().unwrap() {
            -1 => virtual_tokens.next().unwrap(),
            id => id as u32,
        }));
        Request { prompt, adapter: lease.cloned(), work: Work::Generate(parameters), priority: 0, timeout: None }
    }

    /// The ids of a text; a virtual token is -1.
    fn tokenise(&self, input: &Value, lease: Option<&Lease>) -> Vec<Value> {
        let tokenizer = self.bench.engine.tokenizer();
        let Some(format) = lease.and_then(|lease| lease.prompt_format.as_deref()) else {
            let ids = tokenizer.encode(input.as_str().unwrap(), true).unwrap();
            return ids.into_iter().map(Value::from).collect();
        };
        let input = match input.as_str() {
            Some(text) => Input::Text(text.into()),
            None => Input::Fields(serde_json::from_value(input.clone()).unwrap()),
        };
        let pieces = PromptFormat::parse(format).unwrap().fill(&input).unwrap();
        let vocab = self.bench.sites.vocab as u32;
        let ids = tokenizer.encode_with_virtual_tokens(&pieces, vocab).unwrap();
        ids.into_iter().map(|id| if id >= vocab { Value::from(-1) } else { Value::from(id) }).collect()
    }
}

/// Listens to the end.
pub async fn hear(mut events: EventStream) -> Heard {
    let mut answers = vec![];
    let mut scores = vec![];
    loop {
        match events.next().await {
            Some(Event::Finished { sequence, reason, text, tokens, .. }) => {
                let ids = tokens.iter().map(|token| token.id).collect();
                answers.push((sequence, Answer { ids, tokens, text, reason }));
            }
            Some(Event::Scores(all)) => scores = all,
            Some(Event::Done(_)) => break,
            Some(Event::Failed(error)) => panic!("{error}"),
            Some(Event::Token { .. }) => {}
            None => panic!("the stream ended early"),
        }
    }
    answers.sort_by_key(|(sequence, _)| *sequence);
    Heard { answers: answers.into_iter().map(|(_, answer)| answer).collect(), scores }
}

/// The generation settings that a case names.
fn pick(case: &Value) -> Value {
    const SETTINGS: [&str; 7] = [
        "max_new_tokens",
        "num_beams",
        "num_return_sequences",
        "length_penalty",
        "early_stopping",
        "repetition_penalty",
        "no_repeat_ngram_size",
    ];
    let settings = SETTINGS.iter().filter_map(|key| Some((key.to_string(), case.get(key)?.clone())));
    Value::Object(settings.collect())
}

fn read(file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(file)).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn ids(value: &Value) -> Vec<u32> {
    list(value).iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    list(value).iter().map(|v| v.as_f64().unwrap() as f32).collect()
}
