use serde::Deserialize;

use super::*;
use crate::adapter::GenerationDefaults;

const FIXTURE: &str = include_str!("../../../tests/fixtures/sampler.json");

/// What transformers made of a row of scores (`scripts/fixtures/sampler/make.py`).
#[derive(Deserialize)]
struct Case {
    parameters: serde_json::Map<String, serde_json::Value>,
    prompt: Vec<u32>,
    answer: Vec<u32>,
    logits: Vec<f32>,
    /// Absent: removed.
    scores: Vec<Option<f32>>,
}

pub(in crate::engine) fn parameters(fields: &serde_json::Map<String, serde_json::Value>) -> Parameters {
    let mut fields = fields.clone();
    let eos = fields.remove("eos");
    let defaults: GenerationDefaults = serde_json::from_value(fields.into()).unwrap();
    let mut parameters = Parameters::default();
    parameters.apply(&defaults);
    parameters.eos = eos.map(|eos| serde_json::from_value(eos).unwrap()).unwrap_or_default();
    parameters
}

#[test]
fn processed_scores_equal_those_of_transformers_to_the_bit() {
    let cases: Vec<Case> = serde_json::from_str(FIXTURE).unwrap();
    assert!(cases.len() >= 60);
    for (number, case) in cases.iter().enumerate() {
        let parameters = parameters(&case.parameters);
        let mut history = SequenceHistory::new(&parameters, &case.prompt);
        case.answer.iter().for_each(|&token| history.push(token));
        let mut scores = case.logits.clone();
        penalise(&mut scores, &parameters, &history);
        let mut candidates = Candidates::default();
        candidates.fill(&scores);
        if parameters.do_sample {
            let keep = if parameters.num_beams > 1 { parameters.eos.len() + 1 } else { 1 };
            candidates.warp(&parameters, keep);
        }
        let mut processed = vec![None; scores.len()];
        for (&id, &score) in candidates.ids.iter().zip(&candidates.scores) {
            processed[id as usize] = (score > f32::NEG_INFINITY).then_some(score);
        }
        assert_eq!(processed, case.scores, "case {number}: {:?}", case.parameters);
    }
}

fn choose(logits: &[f32], parameters: &Parameters, rng: &mut SequenceRng) -> Result<Choice, SamplerError> {
    Sampler::new().choose(logits, parameters, &SequenceHistory::new(parameters, &[]), rng)
}

fn rng() -> SequenceRng {
    SequenceRng::new(0, 0)
}

#[test]
fn greedy_takes_the_lowest_of_equal_ids_with_and_without_penalties() {
    let logits = [0.0, 2.0, 1.0, 2.0];
    assert_eq!(choose(&logits, &Parameters::default(), &mut rng()).unwrap().id, 1);
    let penalised = Parameters { repetition_penalty: 1.1, ..Parameters::default() };
    assert_eq!(choose(&logits, &penalised, &mut rng()).unwrap().id, 1);
}

#[test]
fn logprobs_are_of_the_raw_logits_whatever_the_parameters() {
    let logits = [1.0, 2.0, 3.0];
    let parameters = Parameters {
        do_sample: true,
        temperature: 5.0,
        repetition_penalty: 3.0,
        logprobs: 2,
        top_k: 1,
        ..Parameters::default()
    };
    let history = SequenceHistory::new(&parameters, &[2]);
    let choice = Sampler::new().choose(&logits, &parameters, &history, &mut rng()).unwrap();
    // The penalty makes 3 / 3 of the last; the middle one is drawn.
    assert_eq!(choice.id, 1);
    approx::assert_abs_diff_eq!(choice.logprob, -1.407_605_9, epsilon = 1e-6);
    assert_eq!(choice.top.iter().map(|top| top.0).collect::<Vec<_>>(), [2, 1]);
    approx::assert_abs_diff_eq!(choice.top[0].1, -0.407_605_9, epsilon = 1e-6);
}

#[test]
fn broken_logits_are_errors() {
    let sampling = Parameters { do_sample: true, ..Parameters::default() };
    for parameters in [Parameters::default(), sampling] {
        assert_eq!(choose(&[0.0, f32::NAN], &parameters, &mut rng()), Err(SamplerError::NotFinite { token: 1 }));
        assert!(choose(&[], &parameters, &mut rng()).is_err());
    }
}

#[test]
fn when_everything_is_banned_greedy_answers_as_torch_and_sampling_with_an_error() {
    let mut parameters = Parameters { no_repeat_ngram_size: 1, ..Parameters::default() };
    let history = SequenceHistory::new(&parameters, &[0, 1, 2]);
    let logits = [0.0, 1.0, 2.0];
    assert_eq!(Sampler::new().choose(&logits, &parameters, &history, &mut rng()).unwrap().id, 0);
    parameters.do_sample = true;
    let error = Sampler::new().choose(&logits, &parameters, &history, &mut rng()).unwrap_err();
    assert_eq!(error, SamplerError::NothingLeft);
}

#[test]
fn nonsense_parameters_are_errors_and_no_panics() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, 1e-45, 0.0, f32::MAX] {
        let set: [fn(&mut Parameters, f32); 6] = [
            |p, v| p.temperature = v,
            |p, v| p.top_p = v,
            |p, v| p.min_p = v,
            |p, v| p.repetition_penalty = v,
            |p, v| p.frequency_penalty = v,
            |p, v| p.presence_penalty = v,
        ];
        for set in set {
            let mut parameters = Parameters { do_sample: true, top_k: usize::MAX, ..Parameters::default() };
            set(&mut parameters, value);
            let mut history = SequenceHistory::new(&parameters, &[0, u32::MAX]);
            history.push(1);
            let _ = Sampler::new().choose(&[0.0, 1.0, -2.0], &parameters, &history, &mut rng());
        }
    }
}

/// Pearson's statistic of `draws` draws by as many seeds against expected probabilities.
fn chi_square(logits: &[f32], parameters: &Parameters, expected: &[f64], draws: u64) -> f64 {
    let mut counts = vec![0u64; logits.len()];
    let mut sampler = Sampler::new();
    let history = SequenceHistory::new(parameters, &[]);
    for seed in 0..draws {
        let choice = sampler.choose(logits, parameters, &history, &mut SequenceRng::new(seed, 0)).unwrap();
        counts[choice.id as usize] += 1;
    }
    let mut statistic = 0.0;
    for (&count, &probability) in counts.iter().zip(expected) {
        if probability == 0.0 {
            assert_eq!(count, 0, "drew what has no probability");
        } else {
            let expected = probability * draws as f64;
            statistic += (count as f64 - expected).powi(2) / expected;
        }
    }
    statistic
}

fn softmax(scores: impl Iterator<Item = f64>) -> Vec<f64> {
    let weights: Vec<f64> = scores.map(f64::exp).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

const LOGITS: [f32; 6] = [0.5, -1.0, 2.0, 1.5, 0.0, 1.0];

#[test]
fn tokens_are_drawn_with_their_probabilities_at_every_temperature() {
    for temperature in [0.5, 1.0, 2.0] {
        let parameters = Parameters { do_sample: true, temperature, ..Parameters::default() };
        let expected = softmax(LOGITS.iter().map(|&logit| f64::from(logit / temperature)));
        // Five degrees of freedom: larger in one of 10 000 trials.
        let statistic = chi_square(&LOGITS, &parameters, &expected, 20_000);
        assert!(statistic < 25.7, "temperature {temperature}: {statistic}");
    }
}

#[test]
fn what_is_left_by_top_k_and_top_p_keeps_its_proportions() {
    let top_k = Parameters { do_sample: true, top_k: 3, ..Parameters::default() };
    let nucleus = Parameters { do_sample: true, top_p: 0.7, ..Parameters::default() };
    // By probability: token 2 (0.43), 3 (0.26), 5 (0.16) hold 0.85; the first two alone 0.69.
    let expected = softmax(
        LOGITS.iter().enumerate().map(
            |(id, &logit)| {
                if [2, 3, 5].contains(&id) { f64::from(logit) } else { f64::NEG_INFINITY }
            },
        ),
    );
    for parameters in [top_k, nucleus] {
        // Two degrees of freedom.
        let statistic = chi_square(&LOGITS, &parameters, &expected, 20_000);
        assert!(statistic < 18.5, "{parameters:?}: {statistic}");
    }
}

#[test]
fn steps_of_one_sequence_are_independent_draws() {
    let parameters = Parameters { do_sample: true, ..Parameters::default() };
    let history = SequenceHistory::new(&parameters, &[]);
    let mut rng = SequenceRng::new(1, 0);
    let mut sampler = Sampler::new();
    let mut pairs = [[0u32; 2]; 2];
    let mut last = 0;
    for _ in 0..20_000 {
        let id = sampler.choose(&[0.0, 0.0], &parameters, &history, &mut rng).unwrap().id as usize;
        pairs[last][id] += 1;
        last = id;
    }
    for count in pairs.as_flattened() {
        assert!((4_700..5_300).contains(count), "{pairs:?}");
    }
}

#[test]
fn a_large_vocabulary_needs_no_sort_and_top_p_looks_as_far_as_it_must() {
    // Nearly flat: the nucleus holds tens of thousands of tokens.
    let logits: Vec<f32> = (0..50_000u32).map(|id| (id.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e8).collect();
    let total = softmax(logits.iter().map(|&logit| f64::from(logit)));
    let mut candidates = Candidates::default();
    candidates.fill(&logits);
    candidates.warp(&Parameters { top_p: 0.9, ..Parameters::default() }, 1);
    let mass: f64 = candidates.ids.iter().map(|&id| total[id as usize]).sum();
    assert!((0.9..0.9001).contains(&mass), "{mass}");
    assert!(candidates.ids.is_sorted());
}
