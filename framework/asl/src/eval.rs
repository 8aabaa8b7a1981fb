//! What an evaluation sees, and how it fails.

use std::cell::Cell;

use serde_json::Value;
use stagepost_protocol::{Timestamp, error_names};

/// How deep the data may be nested. serde_json reads up to 127 levels; what is computed must stay readable.
pub const DEPTH_MAX: usize = 120;

/// What a path, template, rule or intrinsic function is evaluated over.
pub struct Data<'a> {
    /// `$`.
    pub input: &'a Value,
    /// `$$`, the context object.
    pub context: &'a Value,
    /// `$name`; the variables in scope, at least those that the expression names.
    pub variables: &'a serde_json::Map<String, Value>,
    /// `$states.result`: what the state's work gave, once it has.
    pub result: Option<&'a Value>,
    /// `$states.errorOutput`: what a catcher caught.
    pub error_output: Option<&'a Value>,
    /// The time that JSONata's `$now` and `$millis` tell.
    pub now: Timestamp,
    /// The next random number, for `States.UUID` and `States.MathRandom`. Comes from outside so that evaluation
    /// stays pure.
    pub random: &'a dyn Fn() -> u64,
}

/// An evaluation that failed: a user's error, which Retry and Catch may handle.
///
/// The cause lacks the service's opening words "An error occurred while executing the state 'S' (entered at the
/// event id #n). ": whoever knows the state puts them in front.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}: {cause}")]
pub struct EvalError {
    /// One of [`error_names`].
    pub error: &'static str,
    /// For people, in the service's words where they are known.
    pub cause: String,
    /// The field that failed, for instance `Arguments/Name`: of JSONata expressions only.
    pub location: Option<String>,
}

impl EvalError {
    /// An error without a location.
    pub fn new(error: &'static str, cause: impl Into<String>) -> EvalError {
        EvalError { error, cause: cause.into(), location: None }
    }

    /// `States.Runtime`.
    pub fn runtime(cause: impl Into<String>) -> EvalError {
        EvalError::new(error_names::RUNTIME, cause)
    }

    /// A path that found nothing, in the words the service has for templates, `ErrorPath` and `CausePath`.
    /// `States.Runtime`, as the service answers, although the specification has `States.ParameterPathFailure`.
    pub fn not_found(path: &str, field: &str, searched: &Value) -> EvalError {
        EvalError::runtime(format!(
            "The JSONPath '{path}' specified for the field '{field}' could not be found in the input '{searched}'"
        ))
    }
}

/// Up to so many places of a template or call are copied without counting: the input itself is limited.
const PLACES_UNCOUNTED: usize = 64;
/// What may be copied in one evaluation, in bytes.
const COPIED_BYTES_MAX: usize = 32 << 20;

/// Bounds what one evaluation copies out of the data: a small template over a small input can ask for gigabytes.
pub(crate) struct Budget(Option<Cell<usize>>);

impl Budget {
    /// For an evaluation that copies from so many places.
    pub(crate) fn for_places(places: usize) -> Budget {
        Budget((places > PLACES_UNCOUNTED).then(|| Cell::new(COPIED_BYTES_MAX)))
    }

    /// That counts always.
    pub(crate) fn counted() -> Budget {
        Budget(Some(Cell::new(COPIED_BYTES_MAX)))
    }

    /// Counts a value that is going to be copied.
    pub(crate) fn charge(&self, value: &Value) -> Result<(), EvalError> {
        let Some(left) = &self.0 else { return Ok(()) };
        match left.get().checked_sub(weight(value)) {
            Some(rest) => {
                left.set(rest);
                Ok(())
            }
            None => Err(EvalError::new(
                error_names::DATA_LIMIT_EXCEEDED,
                format!("The evaluation copies more than {COPIED_BYTES_MAX} bytes."),
            )),
        }
    }
}

/// About how many bytes of memory a value takes.
fn weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + weight(value)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
}

/// Refuses a value that is nested deeper than [`DEPTH_MAX`], before it is stored where nobody could read it.
pub(crate) fn check_depth(value: Value) -> Result<Value, EvalError> {
    if !nested_deeper_than(&value, DEPTH_MAX) {
        return Ok(value);
    }
    dismantle(value);
    Err(EvalError::runtime(format!("The data is nested deeper than {DEPTH_MAX} levels.")))
}

fn nested_deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|v| nested_deeper_than(v, levels - 1)),
        Value::Object(fields) => levels == 0 || fields.values().any(|v| nested_deeper_than(v, levels - 1)),
        _ => false,
    }
}

/// Drops a value without recursion, which could overflow the stack.
fn dismantle(value: Value) {
    let mut rest = vec![value];
    while let Some(value) = rest.pop() {
        match value {
            Value::Array(items) => rest.extend(items),
            Value::Object(fields) => rest.extend(fields.into_iter().map(|(_, v)| v)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_limited() {
        let nest = |n: usize| (0..n).fold(Value::Null, |v, _| Value::Array(vec![v]));
        assert!(check_depth(nest(DEPTH_MAX)).is_ok());
        assert!(check_depth(nest(DEPTH_MAX + 1)).is_err());
        assert!(check_depth(nest(200_000)).is_err());
    }
}
