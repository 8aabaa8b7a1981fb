//! From a JSON text to a [`StateMachine`], with every finding.

use crate::model::StateMachine;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The definition cannot be used.
    Error,
    /// It can, but probably not as meant.
    Warning,
}

/// Something to say about a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// A stable code in the service's style, for instance `SCHEMA_VALIDATION_FAILED`, `MISSING_TRANSITION_TARGET`.
    pub code: &'static str,
    /// Where, as a JSON pointer.
    pub pointer: String,
    /// What, as the service says it where that is known.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Parses and validates a definition. `Ok` holds warnings only; `Err` holds at least one error and everything
/// else that was found.
pub fn parse(text: &str) -> Result<(StateMachine, Vec<Finding>), Vec<Finding>> {
    let _ = text;
    unimplemented!()
}
