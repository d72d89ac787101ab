//! Generation parameters: request before adapter before base before defaults, then checked together.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::adapter::{EarlyStopping, GenerationDefaults};
use crate::engine::Parameters;
use crate::http::ApiError;

/// `parameters` of a request. What is absent or null comes from the adapter's settings, then the base's, then the defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestParameters {
    /// At least 1. Default 64.
    #[schema(minimum = 1)]
    pub max_new_tokens: Option<usize>,
    /// Default false: the likeliest token.
    pub do_sample: Option<bool>,
    /// Over 0 when sampling. Default 1.
    #[schema(minimum = 0)]
    pub temperature: Option<f32>,
    /// Sample among the k likeliest; 0: all. Default 0.
    pub top_k: Option<usize>,
    /// Over 0, up to 1. Default 1.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// From 0 to 1. Default 0.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Over 0; looks at prompt and answer. Default 1.
    pub repetition_penalty: Option<f32>,
    /// From -2 to 2; looks at the answer only. Default 0.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// From -2 to 2; looks at the answer only. Default 0.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// No run of so many tokens comes twice in prompt and answer; 0: off. Default 0.
    pub no_repeat_ngram_size: Option<usize>,
    /// Default 1; more is beam search, with `do_sample` beam sampling.
    #[schema(minimum = 1)]
    pub num_beams: Option<usize>,
    /// Default 1; up to `num_beams` with beams, else more than 1 needs `do_sample`.
    #[schema(minimum = 1)]
    pub num_return_sequences: Option<usize>,
    /// For beams; over 0 favours longer answers. Default 1.
    pub length_penalty: Option<f32>,
    /// For beams: false, true or "never". Default false.
    pub early_stopping: Option<EarlyStopping>,
    /// Up to 16 texts that end the answer and are left out of it.
    #[schema(max_items = 16)]
    pub stop: Option<Vec<String>>,
    /// Makes sampling repeatable.
    pub seed: Option<u64>,
    /// Puts the prompt before the answer. Default false.
    pub return_full_text: Option<bool>,
    /// Goes on after the end of text. Default false.
    pub ignore_eos: Option<bool>,
    /// Alternatives to report beside each token, up to 20. Default 0.
    #[schema(maximum = 20)]
    pub logprobs: Option<usize>,
}

impl RequestParameters {
    /// The part that an adapter or a base could say as well.
    fn settings(&self) -> GenerationDefaults {
        GenerationDefaults {
            max_new_tokens: self.max_new_tokens,
            do_sample: self.do_sample,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            num_beams: self.num_beams,
            num_return_sequences: self.num_return_sequences,
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping,
            stop: self.stop.clone(),
            return_full_text: self.return_full_text,
            eos_token_id: None,
        }
    }
}

/// Bounds that no single request may exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sequences of one input: beams, or answers returned.
    pub sequences: usize,
}

impl Limits {
    /// Stop strings per request.
    pub const STOPS: usize = 16;
    /// Bytes of one stop string.
    pub const STOP_BYTES: usize = 1024;
    /// Alternatives per token.
    pub const LOGPROBS: usize = 20;

    /// A beam group must fit among the running sequences.
    pub fn new(max_running: usize) -> Self {
        Self { sequences: max_running.min(64) }
    }
}

/// Parameters with every default filled in, and whether the prompt stands before the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    pub parameters: Parameters,
    pub return_full_text: bool,
}

/// Fills in what the request leaves open and checks the whole.
pub fn settle(
    request: &RequestParameters,
    adapter: Option<&GenerationDefaults>,
    base: &GenerationDefaults,
    streams: bool,
    limits: Limits,
) -> Result<Settled, ApiError> {
    let mut parameters = Parameters::default();
    let own = request.settings();
    let mut return_full_text = false;
    for source in [Some(base), adapter, Some(&own)].into_iter().flatten() {
        parameters.apply(source);
        return_full_text = source.return_full_text.unwrap_or(return_full_text);
    }
    parameters.seed = request.seed;
    parameters.ignore_eos = request.ignore_eos.unwrap_or(parameters.ignore_eos);
    parameters.logprobs = request.logprobs.unwrap_or(parameters.logprobs);
    check(&parameters, streams, limits)?;
    Ok(Settled { parameters, return_full_text })
}

/// 422 `validation` with the limit and the given value.
fn refuse(name: &str, allowed: impl std::fmt::Display, given: impl std::fmt::Display) -> ApiError {
    ApiError::validation(format!("parameters.{name}"), format!("{name} must be {allowed}, given {given}"))
}

fn check(p: &Parameters, streams: bool, limits: Limits) -> Result<(), ApiError> {
    let number = |name: &str, ok: bool, allowed: &str, given: f32| {
        if ok && given.is_finite() { Ok(()) } else { Err(refuse(name, allowed, given)) }
    };
    let count = |name: &str, given: usize, least: usize, most: usize| match given {
        _ if (least..=most).contains(&given) => Ok(()),
        _ if most == usize::MAX => Err(refuse(name, format_args!("at least {least}"), given)),
        _ => Err(refuse(name, format_args!("from {least} to {most}"), given)),
    };
    count("max_new_tokens", p.max_new_tokens, 1, usize::MAX)?;
    if p.do_sample {
        number(
            "temperature",
            p.temperature > 0.0,
            "over 0 when do_sample is true (do_sample: false for the likeliest tokens)",
            p.temperature,
        )?;
        number("top_p", p.top_p > 0.0 && p.top_p <= 1.0, "over 0 and up to 1", p.top_p)?;
    } else {
        // Ignored, but what could never mean anything is still a mistake.
        number("temperature", p.temperature >= 0.0, "at least 0", p.temperature)?;
        number("top_p", (0.0..=1.0).contains(&p.top_p), "over 0 and up to 1", p.top_p)?;
    }
    number("min_p", (0.0..=1.0).contains(&p.min_p), "from 0 to 1", p.min_p)?;
    number("repetition_penalty", p.repetition_penalty > 0.0, "over 0", p.repetition_penalty)?;
    number("frequency_penalty", (-2.0..=2.0).contains(&p.frequency_penalty), "from -2 to 2", p.frequency_penalty)?;
    number("presence_penalty", (-2.0..=2.0).contains(&p.presence_penalty), "from -2 to 2", p.presence_penalty)?;
    number("length_penalty", true, "a finite number", p.length_penalty)?;
    count("num_beams", p.num_beams, 1, limits.sequences)?;
    count("num_return_sequences", p.num_return_sequences, 1, limits.sequences)?;
    count("logprobs", p.logprobs, 0, Limits::LOGPROBS)?;
    check_sequences(p, streams)?;
    if p.stop.len() > Limits::STOPS {
        return Err(refuse("stop", format_args!("at most {} texts", Limits::STOPS), p.stop.len()));
    }
    match p.stop.iter().find(|stop| stop.is_empty() || stop.len() > Limits::STOP_BYTES) {
        Some(stop) => Err(refuse(
            "stop",
            format_args!("texts of 1 to {} bytes", Limits::STOP_BYTES),
            format_args!("one of {}", stop.len()),
        )),
        None => Ok(()),
    }
}

fn check_sequences(p: &Parameters, streams: bool) -> Result<(), ApiError> {
    let (beams, sequences) = (p.num_beams, p.num_return_sequences);
    if beams > 1 && sequences > beams {
        return Err(refuse("num_return_sequences", format_args!("at most num_beams, which is {beams}"), sequences));
    }
    if beams == 1 && sequences > 1 && !p.do_sample {
        return Err(refuse("num_return_sequences", "1 unless do_sample is true or there are beams", sequences));
    }
    if beams > 1 && streams {
        return Err(refuse("num_beams", "1 when stream is true (beams are known only at the end)", beams));
    }
    Ok(())
}
