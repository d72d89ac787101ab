//! Penalties for what was already said.

use super::SequenceHistory;
use crate::engine::Parameters;

/// Applies all penalties to a row of scores (raw logits; log-probabilities in beam search), in place.
///
/// Repetition: `score < 0 ? score * p : score / p`, once for each token of prompt and answer
/// (`RepetitionPenaltyLogitsProcessor`). n-grams: `-inf` (`NoRepeatNGramLogitsProcessor`). Then OpenAI's
/// `score - frequency * count - presence` over the answer alone; a ban stays a ban. Ids without a score (virtual
/// tokens) are skipped.
pub(crate) fn penalise(scores: &mut [f32], parameters: &Parameters, history: &SequenceHistory) {
    if !history.changes_scores() {
        return;
    }
    let penalty = parameters.repetition_penalty;
    if penalty != 1.0 {
        for token in history.distinct() {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
            }
        }
    }
    for token in history.banned() {
        if let Some(score) = scores.get_mut(token as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
    let (frequency, presence) = (parameters.frequency_penalty, parameters.presence_penalty);
    if frequency != 0.0 || presence != 0.0 {
        for (token, count) in history.counts() {
            if let Some(score) = scores.get_mut(token as usize) {
                *score -= frequency * count as f32;
                *score -= presence;
            }
        }
    }
}
