//! Payload templates: `Parameters`, `ResultSelector`, `ItemSelector` (JSON in which a field `name.$` holds a path or
//! an intrinsic function).

use serde_json::Value;

use crate::eval::{Data, EvalError};

/// A compiled payload template.
#[derive(Debug, Clone)]
pub struct Template {
    source: Value,
}

impl Template {
    /// Compiles a template. The errors are pairs of a JSON pointer within the template and a sentence fragment.
    pub fn compile(source: &Value) -> Result<Template, Vec<(String, String)>> {
        Ok(Template { source: source.clone() })
    }

    /// The template as it was written.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// Fills it in.
    pub fn evaluate(&self, data: &Data<'_>) -> Result<Value, EvalError> {
        let _ = data;
        unimplemented!()
    }
}
