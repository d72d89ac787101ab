//! ruprompts 0.1.4: a template in `prompt.json`, and the rows of its prompt tokens in `prompt_provider.bin`.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::adapter::draft::Draft;
use crate::adapter::package::{PROMPT, PROVIDER};
use crate::adapter::{AdapterError, EosTokens, GenerationDefaults, Metadata, SiteMap, TaskKind, VirtualTokens, torch};

mod template;

/// What stands for one virtual token in a template.
const TOKEN: &str = "<|P|>";
const MAX_BYTES: usize = 1 << 20;

/// `prompt.json`.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::adapter) struct Prompt {
    format: Format,
    #[serde(default)]
    config: PromptConfig,
    #[serde(flatten)]
    other: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
struct Format {
    template: Option<String>,
    compiled_template: Option<String>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PromptConfig {
    embedding_dim: Option<usize>,
    prompt_length: Option<usize>,
    pretrained_model_name: Option<String>,
    /// Chooses another way to look the same rows up.
    #[serde(rename = "is_safe")]
    _is_safe: Option<bool>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Prompt {
    /// Reads `prompt.json`; keys that ruprompts does not write are refused by name.
    pub(in crate::adapter) fn parse(bytes: &[u8]) -> Result<Self, AdapterError> {
        if bytes.len() > MAX_BYTES {
            return Err(AdapterError::invalid(format!("{PROMPT} may have {MAX_BYTES} bytes, given {}", bytes.len())));
        }
        let prompt: Self = serde_json::from_slice(bytes)
            .map_err(|why| AdapterError::invalid(format!("{PROMPT} is not a prompt of ruprompts: {why}")))?;
        let unknown = [&prompt.other, &prompt.format.other, &prompt.config.other];
        if let Some((key, _)) = unknown.into_iter().flatten().find(|(_, value)| !value.is_null()) {
            let key: String = key.chars().take(80).collect();
            return Err(AdapterError::unsupported(format!(
                "{PROMPT} has the key {key:?}, which this server does not know"
            )));
        }
        Ok(prompt)
    }

    /// The base that the prompt was trained on.
    pub(in crate::adapter) fn base_name(&self) -> Option<&str> {
        self.config.pretrained_model_name.as_deref()
    }

    /// The template with [`TOKEN`] at every prompt token; `rows` of them.
    fn compiled(&self, rows: usize, map: &SiteMap) -> Result<String, AdapterError> {
        match (&self.format.compiled_template, &self.format.template) {
            (Some(compiled), _) => Ok(compiled.clone()),
            (None, Some(template)) => template::compile(template, rows, map.count_tokens.as_ref()),
            (None, None) => Err(AdapterError::invalid(format!("{PROMPT} has neither compiled_template nor template"))),
        }
    }
}

/// Reads the rows and the template, and the settings of ruprompts' pipelines.
pub(in crate::adapter) fn read<'m>(
    prompt: &Prompt,
    provider: &[u8],
    metadata: &Metadata,
    map: &'m SiteMap,
) -> Result<Draft<'m>, AdapterError> {
    if metadata.task == Some(TaskKind::Classify) {
        return Err(AdapterError::invalid("metadata.task is classify, but prompts of ruprompts generate text"));
    }
    crate::adapter::peft::check_task(TaskKind::Generate, metadata, map)?;
    let embeddings = torch::read(PROVIDER, provider)?; // [rows, hidden]
    let (rows, hidden) = embeddings.dims2()?;
    if hidden != map.hidden {
        return Err(AdapterError::invalid(format!(
            "{PROVIDER} has rows of {hidden}, and the hidden size of base {} is {}",
            map.base, map.hidden
        )));
    }
    expect("prompt_length", prompt.config.prompt_length, rows)?;
    expect("embedding_dim", prompt.config.embedding_dim, hidden)?;
    if rows >= map.context {
        return Err(AdapterError::invalid(format!(
            "a prompt must be shorter than the context of base {}, which is {}, given {rows} rows",
            map.base, map.context
        )));
    }
    let own = prompt.compiled(rows, map)?;
    let format = metadata.prompt_format.clone().unwrap_or(own);
    let tokens = format.matches(TOKEN).count();
    if tokens != rows {
        return Err(AdapterError::invalid(format!(
            "the template has {tokens} prompt tokens ({TOKEN}), and {PROVIDER} has {rows} rows"
        )));
    }
    let mut draft = Draft::new(map);
    draft.virtual_tokens = Some(VirtualTokens { embeddings, leading: false });
    draft.generation = Some(generation(metadata.generation.clone().unwrap_or_default(), &format));
    draft.prompt_format = Some(format);
    Ok(draft)
}

fn expect(key: &str, given: Option<usize>, found: usize) -> Result<(), AdapterError> {
    match given {
        Some(given) if given != found => {
            Err(AdapterError::invalid(format!("{PROMPT} says {key} = {given}, and {PROVIDER} has {found}")))
        }
        _ => Ok(()),
    }
}

/// `default_generation_parameters` of ruprompts' pipelines under what the metadata says. A prefix is used with
/// `text-generation-with-prompt`, which returns the prompt too; a template with fields with
/// `text2text-generation-with-prompt`, which does not.
fn generation(told: GenerationDefaults, format: &str) -> GenerationDefaults {
    GenerationDefaults {
        max_new_tokens: told.max_new_tokens.or(Some(100)),
        do_sample: told.do_sample.or(Some(true)),
        top_k: told.top_k.or(Some(50)),
        return_full_text: told.return_full_text.or(Some(!template::has_fields(format))),
        eos_token_id: told.eos_token_id.clone().or(Some(EosTokens::One(0))),
        ..told
    }
}
