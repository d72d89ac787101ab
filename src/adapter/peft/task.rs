//! What an adapter is for, and its classification head.

use super::config::{Config, TaskType};
use super::saved::key_prefix;
use crate::adapter::draft::Draft;
use crate::adapter::tensors::TensorFile;
use crate::adapter::{AdapterError, Head, Metadata, ProblemType, Projection, Site, SiteMap, TaskKind};

/// The task: `task_type`; else the metadata's; else what the presence of a head tells.
pub(super) fn of(
    config: &Config,
    metadata: &Metadata,
    map: &SiteMap,
    file: &TensorFile<'_>,
) -> Result<TaskKind, AdapterError> {
    let has_head = file.has(&format!("{}{}.weight", key_prefix(config.method), map.head));
    let (told, by) = match config.task {
        Some(TaskType::SeqCls) => (TaskKind::Classify, "task_type is SEQ_CLS"),
        Some(TaskType::CausalLm) => (TaskKind::Generate, "task_type is CAUSAL_LM"),
        None if has_head => (TaskKind::Classify, "the file has a classification head"),
        None => (metadata.task.unwrap_or(TaskKind::Generate), "metadata says so"),
    };
    if metadata.task.is_some_and(|task| task != told) {
        let other = if told == TaskKind::Classify { "generate" } else { "classify" };
        return Err(AdapterError::invalid(format!("metadata.task is {other}, but {by}")));
    }
    check(told, metadata, map)?;
    Ok(told)
}

/// Whether a base can do a task, and whether the metadata speaks of labels only where there are some.
pub(in crate::adapter) fn check(task: TaskKind, metadata: &Metadata, map: &SiteMap) -> Result<(), AdapterError> {
    if task == TaskKind::Classify {
        return Ok(());
    }
    if !map.causal {
        return Err(AdapterError::unsupported(format!(
            "base {} ({}) is an encoder: it classifies and cannot generate",
            map.base, map.family
        )));
    }
    if metadata.labels.is_some() || metadata.problem_type.is_some() {
        return Err(AdapterError::invalid("metadata has labels or problem_type, but the adapter generates text"));
    }
    Ok(())
}

/// Takes the head's tensors, and checks that everything before it is there.
pub(super) fn head(
    config: &Config,
    metadata: &Metadata,
    file: &mut TensorFile<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), AdapterError> {
    let map = draft.map;
    check_pooler(draft)?;
    let key = |part: &str| format!("{}{}.{part}", key_prefix(config.method), map.head);
    let view = file.take(&key("weight")).ok_or_else(|| {
        AdapterError::invalid(format!(
            "the adapter classifies, but its file has no head: tensor {} is missing",
            key("weight")
        ))
    })?;
    let &[rows, _] = view.shape() else {
        return Err(AdapterError::invalid(format!(
            "tensor {} must have two dimensions, given {:?}",
            view.name(),
            view.shape()
        )));
    };
    if rows == 0 {
        return Err(AdapterError::invalid(format!("tensor {} has no rows", view.name())));
    }
    let weight = view.tensor(&[rows, map.hidden], &format!("{rows} labels, hidden size {}", map.hidden))?;
    // `classifier` is a linear layer with a bias in its families, `score` one without.
    let bias = match map.head.as_str() {
        "classifier" => Some(file.need(&key("bias"))?.tensor(&[rows], &format!("{rows} labels"))?),
        _ => None,
    };
    draft.head = Some(Head { weight, bias, labels: labels(metadata, rows)?, problem: problem(metadata) });
    Ok(())
}

fn check_pooler(draft: &Draft<'_>) -> Result<(), AdapterError> {
    let map = draft.map;
    if !map.missing_pooler {
        return Ok(());
    }
    let site = map.find(Site { layer: None, projection: Projection::Pooler });
    let brought = site.and_then(|site| draft.patch(site)).is_some_and(|p| p.weight.is_some() && p.bias.is_some());
    if brought {
        return Ok(());
    }
    Err(AdapterError::unsupported(format!(
        "base {} has no pooler weights, and the adapter does not bring its own (modules_to_save: [\"pooler\", \"classifier\"])",
        map.base
    )))
}

fn labels(metadata: &Metadata, rows: usize) -> Result<Vec<String>, AdapterError> {
    let Some(labels) = &metadata.labels else {
        return Ok((0..rows).map(|row| format!("LABEL_{row}")).collect());
    };
    if labels.len() != rows {
        return Err(AdapterError::invalid(format!(
            "metadata.labels must have {rows} labels, as the head has rows, given {}",
            labels.len()
        )));
    }
    let mut sorted: Vec<&String> = labels.iter().collect();
    sorted.sort();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        let shown: String = twice[0].chars().take(80).collect();
        return Err(AdapterError::invalid(format!("metadata.labels has {shown:?} twice")));
    }
    Ok(labels.clone())
}

fn problem(metadata: &Metadata) -> ProblemType {
    metadata.problem_type.unwrap_or(ProblemType::SingleLabelClassification)
}
