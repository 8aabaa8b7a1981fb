//! Choice rules: comparisons over the data, combined with And, Or and Not.

use crate::eval::{Data, EvalError};

/// A compiled rule of a Choice state.
#[derive(Debug)]
pub struct Rule {}

impl Rule {
    /// Whether it holds.
    pub fn matches(&self, data: &Data<'_>) -> Result<bool, EvalError> {
        let _ = data;
        unimplemented!()
    }
}
