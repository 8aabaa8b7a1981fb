//! Paths: `$…` over the input, `$$…` over the context object, `$name…` over a variable.

use std::borrow::Cow;

use serde_json::Value;

use crate::eval::{Data, EvalError};

/// A compiled JSONPath: filters, slices, wildcards and recursive descent allowed.
#[derive(Debug, Clone)]
pub struct Path {
    source: String,
}

/// A compiled reference path: names exactly one place (`$.a['b'][0]`), so that it can be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferencePath {
    source: String,
}

impl Path {
    /// Compiles a path; the error is a sentence fragment that says what is wrong with it.
    pub fn parse(source: &str) -> Result<Path, String> {
        Ok(Path { source: source.to_owned() })
    }

    /// The path as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What it selects. A definite path that selects nothing is an error (`States.Runtime` in the service's
    /// words); an indefinite one gives an array of its matches.
    pub fn select<'a>(&self, data: &Data<'a>) -> Result<Cow<'a, Value>, EvalError> {
        let _ = data;
        unimplemented!()
    }

    /// As [`Path::select`], but `None` where a definite path selects nothing (IsPresent).
    pub fn find<'a>(&self, data: &Data<'a>) -> Option<Cow<'a, Value>> {
        let _ = data;
        unimplemented!()
    }
}

impl ReferencePath {
    /// Compiles a reference path; the error is a sentence fragment that says what is wrong with it.
    pub fn parse(source: &str) -> Result<ReferencePath, String> {
        Ok(ReferencePath { source: source.to_owned() })
    }

    /// The path as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it is `$`.
    pub fn is_root(&self) -> bool {
        self.source == "$"
    }

    /// Puts `value` at the path in `root` (ResultPath): missing fields are created, `$` replaces everything. Fails with
    /// `States.ResultPathMatchFailure` where the path leads through something else than an object, or out of an
    /// array.
    pub fn assign(&self, root: Value, value: Value) -> Result<Value, EvalError> {
        let _ = (root, value);
        unimplemented!()
    }
}
