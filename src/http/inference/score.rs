//! From raw numbers to labels with scores.

use crate::adapter::ProblemType;

use super::Label;

/// Scores of all labels, the best first, and the labels that are predicted.
pub fn label(raw: &[f32], labels: &[String], problem: ProblemType, threshold: f32) -> (Vec<Label>, Vec<String>) {
    let one = raw.len() == 1;
    let scores = match problem {
        ProblemType::SingleLabelClassification if !one => softmax(raw),
        _ => raw.iter().map(|&x| 1.0 / (1.0 + (-x).exp())).collect(),
    };
    let mut scored: Vec<Label> =
        labels.iter().zip(scores).map(|(label, score)| Label { label: label.clone(), score }).collect();
    scored.sort_by(|a, b| b.score.total_cmp(&a.score));
    let predicted = match problem {
        ProblemType::SingleLabelClassification if !one => &scored[..1.min(scored.len())],
        _ => &scored[..scored.partition_point(|label| label.score > threshold)],
    };
    let predicted = predicted.iter().map(|label| label.label.clone()).collect();
    (scored, predicted)
}

fn softmax(raw: &[f32]) -> Vec<f32> {
    let most = raw.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f32> = raw.iter().map(|&x| (x - most).exp()).collect();
    let sum: f32 = exps.iter().sum();
    exps.into_iter().map(|exp| exp / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::label;
    use crate::adapter::ProblemType::{MultiLabelClassification, SingleLabelClassification};

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("L{i}")).collect()
    }

    #[test]
    fn a_single_label_is_the_best_of_a_softmax() {
        let (scored, predicted) = label(&[1.0, 3.0, 2.0], &names(3), SingleLabelClassification, 0.99);
        assert_eq!(scored.iter().map(|l| l.label.as_str()).collect::<Vec<_>>(), ["L1", "L2", "L0"]);
        approx::assert_relative_eq!(scored.iter().map(|l| l.score).sum::<f32>(), 1.0, epsilon = 1e-6);
        approx::assert_relative_eq!(scored[0].score, 0.665_240_94, epsilon = 1e-6);
        assert_eq!(predicted, ["L1"]);
    }

    #[test]
    fn several_labels_are_those_over_the_threshold() {
        let (scored, predicted) = label(&[0.0, 2.0, -2.0], &names(3), MultiLabelClassification, 0.4);
        approx::assert_relative_eq!(scored[0].score, 0.880_797, epsilon = 1e-6);
        assert_eq!(predicted, ["L1", "L0"]);
        assert!(label(&[0.0], &names(1), MultiLabelClassification, 0.5).1.is_empty(), "0.5 is not over 0.5");
    }

    #[test]
    fn one_label_is_a_sigmoid_whatever_the_problem() {
        let (scored, predicted) = label(&[-1.0], &names(1), SingleLabelClassification, 0.5);
        approx::assert_relative_eq!(scored[0].score, 0.268_941_43, epsilon = 1e-6);
        assert!(predicted.is_empty());
    }
}
