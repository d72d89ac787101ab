//! Classification heads.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// How label scores are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemType {
    /// Softmax over the labels; the best is predicted. One label: sigmoid.
    SingleLabelClassification,
    /// A sigmoid for each label; those over the threshold are predicted.
    MultiLabelClassification,
}

/// The linear layer that turns a pooled hidden state into one number per label.
#[derive(Clone, Debug)]
pub struct Head {
    /// [labels, hidden].
    pub weight: Tensor,
    /// `[labels]`.
    pub bias: Option<Tensor>,
    pub labels: Vec<String>,
    pub problem: ProblemType,
}
