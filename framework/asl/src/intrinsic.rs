//! Intrinsic functions: `States.Format` and its seventeen siblings.

use serde_json::Value;

use crate::eval::{Data, EvalError};

/// A compiled call of an intrinsic function.
#[derive(Debug, Clone)]
pub struct Intrinsic {
    source: String,
}

impl Intrinsic {
    /// Compiles a call; the error is a sentence fragment that says what is wrong with it.
    pub fn parse(source: &str) -> Result<Intrinsic, String> {
        Ok(Intrinsic { source: source.to_owned() })
    }

    /// The call as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Its value. Fails with `States.IntrinsicFailure`, or as [`crate::path::Path::select`] for its arguments.
    pub fn evaluate(&self, data: &Data<'_>) -> Result<Value, EvalError> {
        let _ = data;
        unimplemented!()
    }
}
