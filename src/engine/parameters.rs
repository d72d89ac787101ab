//! How an answer is generated, with every default filled in.

use crate::adapter::{EarlyStopping, GenerationDefaults};

/// All generation parameters of one request. Names and meanings are those of transformers (OpenAI's for the frequency and presence penalties).
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    pub max_new_tokens: usize,
    pub do_sample: bool,
    pub temperature: f32,
    /// 0: off.
    pub top_k: usize,
    pub top_p: f32,
    pub min_p: f32,
    /// Over prompt and answer.
    pub repetition_penalty: f32,
    /// Over the answer only.
    pub frequency_penalty: f32,
    /// Over the answer only.
    pub presence_penalty: f32,
    /// Over prompt and answer; 0: off.
    pub no_repeat_ngram_size: usize,
    pub num_beams: usize,
    pub num_return_sequences: usize,
    pub length_penalty: f32,
    pub early_stopping: EarlyStopping,
    pub stop: Vec<String>,
    /// Absent: drawn at random.
    pub seed: Option<u64>,
    pub ignore_eos: bool,
    /// How many alternatives to report beside each chosen token.
    pub logprobs: usize,
    /// Token ids that end the text.
    pub eos: Vec<u32>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            do_sample: false,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            no_repeat_ngram_size: 0,
            num_beams: 1,
            num_return_sequences: 1,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Heuristic,
            stop: Vec::new(),
            seed: None,
            ignore_eos: false,
            logprobs: 0,
            eos: Vec::new(),
        }
    }
}

impl Parameters {
    /// Overwrites what `defaults` says; called from the weakest source to the strongest.
    pub fn apply(&mut self, defaults: &GenerationDefaults) {
        let d = defaults;
        macro_rules! take {
            ($($field:ident),*) => { $( if let Some(value) = &d.$field { self.$field = value.clone(); } )* };
        }
        take!(max_new_tokens, do_sample, temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty);
        take!(
            presence_penalty,
            no_repeat_ngram_size,
            num_beams,
            num_return_sequences,
            length_penalty,
            early_stopping,
            stop
        );
        if let Some(eos) = &d.eos_token_id {
            self.eos = eos.ids().to_vec();
        }
    }
}
