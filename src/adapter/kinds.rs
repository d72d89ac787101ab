//! How each method's tensors become patches, virtual tokens or prefixes.

pub(super) mod dora;
pub(super) mod ia3;
pub(super) mod lora;
pub(super) mod prefix;
pub(super) mod prompt;
pub(super) mod ruprompts;
