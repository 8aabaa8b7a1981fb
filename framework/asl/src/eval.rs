//! What an evaluation sees, and how it fails.

use serde_json::Value;
use stagepost_protocol::error_names;

/// What a path, template, rule or intrinsic function is evaluated over.
pub struct Data<'a> {
    /// `$`.
    pub input: &'a Value,
    /// `$$`, the context object.
    pub context: &'a Value,
    /// `$name`; the variables in scope. Empty until `Assign` is there.
    pub variables: &'a serde_json::Map<String, Value>,
    /// The next random number, for `States.UUID` and `States.MathRandom`. Comes from outside so that evaluation
    /// stays pure.
    pub random: &'a dyn Fn() -> u64,
}

/// An evaluation that failed: a user's error, which Retry and Catch may handle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}: {cause}")]
pub struct EvalError {
    /// One of [`error_names`].
    pub error: &'static str,
    /// For people, in the service's words where they are known.
    pub cause: String,
}

impl EvalError {
    /// `States.Runtime`.
    pub fn runtime(cause: impl Into<String>) -> EvalError {
        EvalError { error: error_names::RUNTIME, cause: cause.into() }
    }
}
