use repertoire_kernels::cpu::LogSoftmax;
use serde::Deserialize;

use super::*;
use crate::adapter::EarlyStopping;
use crate::engine::sampler::{Sampler, tests::parameters};

const FIXTURE: &str = include_str!("../../../tests/fixtures/beam.json");

/// A search that transformers did over [`row`] (`scripts/fixtures/sampler/make.py`).
#[derive(Deserialize)]
struct Case {
    seed: u64,
    vocab: u32,
    prompt: Vec<u32>,
    parameters: serde_json::Map<String, serde_json::Value>,
    sequences: Vec<Vec<u32>>,
    /// Absent: one beam, which transformers decodes greedily.
    scores: Option<Vec<f32>>,
}

/// Logits of the scripted model after `tokens` (`scripts/fixtures/sampler/scripted.py`).
fn row(seed: u64, tokens: &[u32], vocab: u32) -> Vec<f32> {
    fn mix(x: u64) -> u64 {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    let back = |by: usize| tokens.len().checked_sub(by).map_or(1 << 20, |at| u64::from(tokens[at]));
    let state = mix(mix(mix(seed) ^ back(2)) ^ (back(1) + (1 << 32)));
    (0..vocab).map(|token| (mix(state ^ u64::from(token)) >> 40) as f32 / (1 << 21) as f32 - 4.0).collect()
}

/// Runs a search as an engine would: it keeps each beam's tokens by parents alone.
fn search(
    parameters: &Parameters,
    prompt: &[u32],
    seed: u64,
    model: impl Fn(&[u32]) -> Vec<f32>,
    stopped: impl Fn(&[u32]) -> bool,
) -> Vec<Hypothesis> {
    let mut search = BeamSearch::new(parameters, prompt, seed);
    let mut texts = vec![prompt.to_vec()];
    loop {
        let rows: Vec<Vec<f32>> = texts.iter().map(|text| model(text)).collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let ends = |beam: usize, token| stopped(&[&texts[beam][prompt.len()..], &[token]].concat());
        let Some(step) = search.step(&rows, ends).unwrap() else { break };
        let next = step.parents.iter().zip(&step.tokens);
        texts = next.map(|(&parent, &token)| [texts[parent].as_slice(), &[token]].concat()).collect();
        let answers: Vec<&[u32]> = texts.iter().map(|text| &text[prompt.len()..]).collect();
        assert_eq!(search.running.iter().map(|beam| beam.path.tokens()).collect::<Vec<_>>(), answers);
    }
    assert!(search.running.is_empty());
    search.into_hypotheses()
}

fn ids(hypotheses: &[Hypothesis]) -> Vec<Vec<u32>> {
    hypotheses.iter().map(|hypothesis| hypothesis.choices.iter().map(|choice| choice.id).collect()).collect()
}

fn greedy(parameters: &Parameters, prompt: &[u32], model: impl Fn(&[u32]) -> Vec<f32>) -> Vec<u32> {
    let mut history = SequenceHistory::new(parameters, prompt);
    let mut text = prompt.to_vec();
    for _ in 0..parameters.max_new_tokens {
        let logits = model(&text);
        let choice = Sampler::new().choose(&logits, parameters, &history, &mut SequenceRng::new(0, 0)).unwrap();
        history.push(choice.id);
        text.push(choice.id);
        if parameters.eos.contains(&choice.id) {
            break;
        }
    }
    text.split_off(prompt.len())
}

#[test]
fn searches_equal_those_of_transformers() {
    let cases: Vec<Case> = serde_json::from_str(FIXTURE).unwrap();
    assert!(cases.len() >= 60);
    for (number, case) in cases.iter().enumerate() {
        let what = format!("case {number}: {:?}", case.parameters);
        let parameters = parameters(&case.parameters);
        let model = |text: &[u32]| row(case.seed, text, case.vocab);
        let Some(scores) = &case.scores else {
            assert_eq!([greedy(&parameters, &case.prompt, model)], case.sequences[..], "{what}");
            continue;
        };
        let found = search(&parameters, &case.prompt, 0, model, |_| false);
        assert_eq!(ids(&found), case.sequences, "{what}");
        for (hypothesis, score) in found.iter().zip(scores) {
            approx::assert_abs_diff_eq!(hypothesis.score, *score, epsilon = 1e-4);
            let last = hypothesis.choices.last().unwrap().id;
            let ended = parameters.eos.contains(&last);
            assert_eq!(hypothesis.reason, if ended { FinishReason::Eos } else { FinishReason::Length }, "{what}");
        }
    }
}

fn four_beams() -> Parameters {
    Parameters { num_beams: 4, num_return_sequences: 4, max_new_tokens: 8, eos: vec![3], ..Parameters::default() }
}

#[test]
fn logprobs_along_a_beam_are_of_the_raw_logits_and_add_up_to_its_score() {
    let mut parameters = Parameters { logprobs: 2, ..four_beams() };
    let model = |text: &[u32]| row(5, text, 20);
    for penalty in [1.0, 1.5] {
        parameters.repetition_penalty = penalty;
        for hypothesis in search(&parameters, &[1], 0, model, |_| false) {
            let mut text = vec![1];
            for choice in &hypothesis.choices {
                let logits = model(&text);
                let raw = LogSoftmax::of(&logits).unwrap();
                assert_eq!(choice.logprob, raw.logprob(logits[choice.id as usize]));
                assert_eq!(choice.top, alternatives(&logits, &raw, 2));
                text.push(choice.id);
            }
            if penalty == 1.0 {
                let sum: f32 = hypothesis.choices.iter().map(|choice| choice.logprob).sum();
                approx::assert_abs_diff_eq!(sum, hypothesis.total, epsilon = 1e-4);
            }
        }
    }
}

#[test]
fn a_search_does_not_depend_on_what_stands_before_the_prompt() {
    // Virtual tokens have no scores and count for no length.
    let parameters = Parameters { repetition_penalty: 1.3, no_repeat_ngram_size: 2, ..four_beams() };
    let model = |text: &[u32]| row(9, text, 20);
    let plain = search(&parameters, &[4, 5], 0, model, |_| false);
    assert_eq!(search(&parameters, &[20, 21, 4, 5], 0, model, |_| false), plain);
}

#[test]
fn a_stop_string_ends_a_beam_as_an_end_of_text_does() {
    let mut ended = 0;
    for seed in 0..10 {
        let model = |text: &[u32]| row(seed, text, 12);
        let by_eos = search(&four_beams(), &[1], 0, model, |_| false);
        let without = Parameters { eos: vec![], ..four_beams() };
        let by_stop = search(&without, &[1], 0, model, |answer| answer.ends_with(&[3]));
        assert_eq!(ids(&by_stop), ids(&by_eos));
        for (stop, eos) in by_stop.iter().zip(&by_eos) {
            assert_eq!(stop.reason == FinishReason::Stop, eos.reason == FinishReason::Eos);
            ended += usize::from(eos.reason == FinishReason::Eos);
        }
    }
    assert!(ended > 0);
}

#[test]
fn ignoring_the_end_of_text_is_having_none() {
    let model = |text: &[u32]| row(11, text, 20);
    let ignoring = search(&Parameters { ignore_eos: true, ..four_beams() }, &[1], 0, model, |_| false);
    let without = search(&Parameters { eos: vec![], ..four_beams() }, &[1], 0, model, |_| false);
    assert_eq!(ignoring, without);
    assert!(ignoring.iter().all(|hypothesis| hypothesis.reason == FinishReason::Length));
}

#[test]
fn the_wrong_number_of_rows_is_an_error() {
    let mut search = BeamSearch::new(&four_beams(), &[1], 0);
    let error = search.step(&[&[0.0; 8], &[0.0; 8]], |_, _| false).unwrap_err();
    assert_eq!(error, SamplerError::Rows { expected: 1, given: 2 });
    assert!(search.step(&[&[f32::NAN; 8]], |_, _| false).is_err());
}

#[test]
fn when_every_continuation_is_banned_beams_end_where_they_are() {
    for do_sample in [false, true] {
        let parameters = Parameters { do_sample, eos: vec![], no_repeat_ngram_size: 1, ..four_beams() };
        let found = search(&parameters, &[0, 1], 0, |text| row(1, text, 4), |_| false);
        assert_eq!(ids(&found).into_iter().collect::<std::collections::BTreeSet<_>>(), [vec![2, 3], vec![3, 2]].into());
        let mut nothing = BeamSearch::new(&parameters, &[0, 1, 2, 3], 0);
        assert_eq!(nothing.step(&[&row(1, &[], 4)], |_, _| false), Err(SamplerError::NothingLeft));
    }
}

#[test]
fn more_answers_than_beams_and_no_beams_at_all_are_no_panics() {
    let model = |text: &[u32]| row(1, text, 12);
    let many = Parameters { num_beams: 2, num_return_sequences: 9, ..four_beams() };
    assert_eq!(search(&many, &[1], 0, model, |_| false).len(), 2);
    let none = Parameters { num_beams: 0, num_return_sequences: 1, max_new_tokens: 0, ..four_beams() };
    assert_eq!(search(&none, &[], 0, model, |_| false).len(), 1);
}

#[test]
fn beam_sampling_repeats_by_seed_and_differs_between_seeds() {
    let parameters = Parameters { do_sample: true, ..four_beams() };
    let model = |text: &[u32]| row(2, text, 20);
    let run = |seed| search(&parameters, &[1], seed, model, |_| false);
    assert_eq!(run(1), run(1));
    assert!((2..10).any(|seed| ids(&run(seed)) != ids(&run(1))));
}

#[test]
fn at_temperature_zero_and_near_it_beam_sampling_is_beam_search() {
    // Near zero: draws without replacement come in the order of scores.
    for seed in 0..20 {
        for early_stopping in [EarlyStopping::Heuristic, EarlyStopping::Eager] {
            let parameters = Parameters { early_stopping, ..four_beams() };
            let model = |text: &[u32]| row(seed, text, 20);
            let expected = ids(&search(&parameters, &[1], 0, model, |_| false));
            for temperature in [0.0, 1e-6] {
                let parameters = Parameters { do_sample: true, temperature, ..parameters.clone() };
                assert_eq!(ids(&search(&parameters, &[1], seed, model, |_| false)), expected, "seed {seed}");
            }
        }
    }
}

#[test]
fn beam_sampling_draws_without_replacement_in_proportion() {
    // One step of two beams returns the first two draws.
    let parameters = Parameters {
        do_sample: true,
        num_beams: 2,
        num_return_sequences: 2,
        max_new_tokens: 1,
        temperature: 2.0,
        ..Parameters::default()
    };
    let logits = [1.0f32, 0.0, 2.0, -1.0];
    let weights = logits.map(|logit| f64::from(logit / 2.0).exp());
    let total: f64 = weights.iter().sum();
    let p = weights.map(|weight| weight / total);
    let draws = 20_000;
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..draws {
        let mut pair: Vec<u32> = ids(&search(&parameters, &[], seed, |_| logits.to_vec(), |_| false)).concat();
        pair.sort_unstable();
        *counts.entry(pair).or_insert(0u32) += 1;
    }
    let mut statistic = 0.0;
    for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
        let expected = p[a] * p[b] * (1.0 / (1.0 - p[a]) + 1.0 / (1.0 - p[b])) * draws as f64;
        let count = counts.get(&vec![a as u32, b as u32]).copied().unwrap_or(0);
        statistic += (f64::from(count) - expected).powi(2) / expected;
    }
    // Five degrees of freedom: larger in one of 10 000 trials.
    assert!(statistic < 25.7, "{statistic}");
}
