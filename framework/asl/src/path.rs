//! Paths: `$…` over the input, `$$…` over the context object, `$name…` over a variable.
//!
//! The syntax is that of Jayway's JSONPath, which the service uses. A definite path (fields and indices only) is
//! walked here without an allocation; filters, slices, wildcards, unions and descents are rewritten into RFC 9535
//! and given to `serde_json_path`.

mod syntax;

use std::{borrow::Cow, fmt::Write as _, sync::Arc};

use serde_json::{Map, Value};
use serde_json_path::JsonPath;
use stagepost_protocol::error_names;

use crate::eval::{Budget, Data, EvalError, check_depth};

/// The longest path, in bytes.
pub const SOURCE_BYTES_MAX: usize = 4096;
/// The most steps of a path.
pub const STEPS_MAX: usize = 100;

/// A compiled JSONPath: filters, slices, wildcards and recursive descent allowed.
#[derive(Debug, Clone)]
pub struct Path {
    source: Arc<str>,
    root: Root,
    query: Query,
}

/// A compiled reference path: names exactly one place (`$.a['b'][0]`), so that it can be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferencePath {
    source: Arc<str>,
    steps: Arc<[Step]>,
}

/// What a path starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Root {
    Input,
    Context,
    Variable(Arc<str>),
}

/// One step to one place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(Box<str>),
    /// Negative: from the end.
    Index(i64),
}

/// How a path is evaluated.
#[derive(Debug, Clone)]
enum Query {
    /// One place.
    Definite(Arc<[Step]>),
    /// `$.a['b','c']`: an object of these fields of one place.
    Fields(Arc<[Step]>, Arc<[Box<str>]>),
    /// Everything else. With fields: objects of these fields of every match (`$.a[*]['b','c']`).
    Many(Arc<JsonPath>, Arc<[Box<str>]>),
}

/// Why a path gives nothing.
enum Failed<'a> {
    Missing(Missing<'a>),
    Limit(EvalError),
}

impl<'a> From<Missing<'a>> for Failed<'a> {
    fn from(missing: Missing<'a>) -> Failed<'a> {
        Failed::Missing(missing)
    }
}

impl Failed<'_> {
    fn told(self, words: impl FnOnce(&Missing<'_>) -> EvalError) -> EvalError {
        match self {
            Failed::Missing(missing) => words(&missing),
            Failed::Limit(error) => error,
        }
    }
}

/// Where a definite path ended too early: the step that found nothing, and what it was applied to.
struct Missing<'a> {
    step: usize,
    at: Option<&'a Value>,
}

impl Path {
    /// Compiles a path; the error is a sentence fragment that says what is wrong with it.
    pub fn parse(source: &str) -> Result<Path, String> {
        syntax::parse(source)
    }

    /// The path as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it names one place: a value, not an array of matches.
    pub fn is_definite(&self) -> bool {
        !matches!(self.query, Query::Many(..))
    }

    /// The variable it starts from, if it does.
    pub fn variable(&self) -> Option<&str> {
        match &self.root {
            Root::Variable(name) => Some(name),
            Root::Input | Root::Context => None,
        }
    }

    /// What it selects. A definite path that selects nothing is an error (`States.Runtime` in the words the service
    /// has for `InputPath`, `OutputPath`, `TimeoutSecondsPath` and `HeartbeatSecondsPath`); an indefinite one gives an
    /// array of its matches. The other fields have words of their own: [`Path::select_for`],
    /// [`Path::select_items`], and [`Path::find`] for callers that know better ones.
    pub fn select<'a>(&self, data: &Data<'a>) -> Result<Cow<'a, Value>, EvalError> {
        self.evaluate(data).map_err(|failed| {
            failed.told(|missing| {
                EvalError::runtime(format!("Invalid path '{}' : {}", self.source, self.explain(missing)))
            })
        })
    }

    /// As [`Path::select`], with the words the service has for a payload template's fields, `ErrorPath` and `CausePath`.
    /// `field` is the name of the field, `.$` included.
    pub fn select_for<'a>(&self, data: &Data<'a>, field: &str) -> Result<Cow<'a, Value>, EvalError> {
        self.evaluate(data)
            .map_err(|failed| failed.told(|_| EvalError::not_found(&self.source, field, self.searched(data))))
    }

    /// As [`Path::select`], with the words the service has for `ItemsPath`, and the demand that it is an array.
    pub fn select_items<'a>(&self, data: &Data<'a>) -> Result<Cow<'a, Value>, EvalError> {
        let found = self.evaluate(data).map_err(|failed| {
            failed.told(|missing| {
                let step = self.steps().get(missing.step).map(Step::plain).unwrap_or_default();
                EvalError::runtime(format!("Unable to apply step \"{step}\" to input {}", missing.input()))
            })
        })?;
        if !found.is_array() {
            // The service shows a path into the context object without its first `$` here.
            let source = self.source.strip_prefix('$').filter(|rest| rest.starts_with('$'));
            let source = source.unwrap_or(&self.source);
            return Err(EvalError::runtime(format!("Reference path \"{source}\" must point to array.")));
        }
        Ok(found)
    }

    /// As [`Path::select`], but `None` where a definite path selects nothing (IsPresent), or an indefinite one more
    /// than may be copied.
    pub fn find<'a>(&self, data: &Data<'a>) -> Option<Cow<'a, Value>> {
        self.evaluate(data).ok()
    }

    /// What it searches in: the input, the context object or a variable (`null` where there is none).
    pub fn searched<'a>(&self, data: &Data<'a>) -> &'a Value {
        self.root_value(data).unwrap_or(&Value::Null)
    }

    fn root_value<'a>(&self, data: &Data<'a>) -> Option<&'a Value> {
        match &self.root {
            Root::Input => Some(data.input),
            Root::Context => Some(data.context),
            Root::Variable(name) => data.variables.get(&**name),
        }
    }

    fn steps(&self) -> &[Step] {
        match &self.query {
            Query::Definite(steps) | Query::Fields(steps, _) => steps,
            Query::Many(..) => &[],
        }
    }

    fn evaluate<'a>(&self, data: &Data<'a>) -> Result<Cow<'a, Value>, Failed<'a>> {
        let root = self.root_value(data).ok_or(Missing { step: 0, at: None })?;
        match &self.query {
            Query::Definite(steps) => Ok(Cow::Borrowed(walk(root, steps)?)),
            Query::Fields(steps, fields) => {
                let at = walk(root, steps)?;
                let missing = Missing { step: steps.len(), at: Some(at) };
                project(at, fields).map(Cow::Owned).ok_or(Failed::Missing(missing))
            }
            Query::Many(path, fields) => {
                let matches = path.query(root);
                let budget = Budget::counted();
                let mut values = Vec::with_capacity(matches.len());
                for found in matches.iter().copied() {
                    budget.charge(found).map_err(Failed::Limit)?;
                    values.extend(if fields.is_empty() {
                        Some(found.clone())
                    } else {
                        project(found, fields)
                    });
                }
                Ok(Cow::Owned(Value::Array(values)))
            }
        }
    }

    /// Jayway's words for a definite path that found nothing.
    fn explain(&self, missing: &Missing<'_>) -> String {
        let steps = self.steps();
        let Some(step) = steps.get(missing.step).filter(|_| missing.at.is_some()) else {
            return match &self.root {
                Root::Variable(name) if missing.at.is_none() => {
                    format!("The variable '${name}' is not defined")
                }
                _ => format!("No results for path: {}", bracketed(steps)),
            };
        };
        let before = bracketed(&steps[..missing.step]);
        match (step, missing.at) {
            (Step::Field(name), Some(at)) if !at.is_object() => format!(
                "Expected to find an object with property ['{name}'] in path {before} but found '{}'",
                type_name(at)
            ),
            (Step::Index(index), Some(at)) if !at.is_array() => {
                format!("Filter: [{index}] can only be applied to arrays. Current context is: {at}")
            }
            (Step::Field(_), _) if missing.step + 1 < steps.len() => {
                format!("Missing property in path {}", bracketed(&steps[..=missing.step]))
            }
            _ => format!("No results for path: {}", bracketed(steps)),
        }
    }
}

impl Missing<'_> {
    fn input(&self) -> String {
        self.at.map_or_else(|| "null".to_owned(), Value::to_string)
    }
}

impl Step {
    fn plain(&self) -> String {
        match self {
            Step::Field(name) => name.to_string(),
            Step::Index(index) => index.to_string(),
        }
    }
}

fn walk<'a>(root: &'a Value, steps: &[Step]) -> Result<&'a Value, Missing<'a>> {
    let mut at = root;
    for (step, wanted) in steps.iter().enumerate() {
        let next = match (wanted, at) {
            (Step::Field(name), Value::Object(fields)) => fields.get(&**name),
            (Step::Index(index), Value::Array(items)) => place(*index, items.len()).map(|i| &items[i]),
            _ => None,
        };
        at = next.ok_or(Missing { step, at: Some(at) })?;
    }
    Ok(at)
}

/// The position that an index means in an array, if there is one.
fn place(index: i64, len: usize) -> Option<usize> {
    let place = if index < 0 {
        len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
    } else {
        usize::try_from(index).ok()?
    };
    (place < len).then_some(place)
}

fn project(value: &Value, fields: &[Box<str>]) -> Option<Value> {
    let object = value.as_object()?;
    let picked: Map<String, Value> =
        fields.iter().filter_map(|f| Some((f.to_string(), object.get(&**f)?.clone()))).collect();
    Some(Value::Object(picked))
}

/// A path as Jayway writes it in its messages.
fn bracketed(steps: &[Step]) -> String {
    let mut text = String::from("$");
    for step in steps {
        let written = match step {
            Step::Field(name) => write!(text, "['{name}']"),
            Step::Index(index) => write!(text, "[{index}]"),
        };
        written.expect("writing to a string cannot fail");
    }
    text
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl ReferencePath {
    /// Compiles a reference path; the error is a sentence fragment that says what is wrong with it.
    pub fn parse(source: &str) -> Result<ReferencePath, String> {
        let path = syntax::parse(source)?;
        match (path.root, path.query) {
            (Root::Input, Query::Definite(steps)) => Ok(ReferencePath { source: path.source, steps }),
            (Root::Input, _) => Err(
                "it must name one place: fields and array indices only, no filter, slice, wildcard or union"
                    .to_owned(),
            ),
            (Root::Context, _) => Err("it cannot be in the context object, which is read-only".to_owned()),
            (Root::Variable(_), _) => {
                Err("it must start with `$.`; variables cannot be written here".to_owned())
            }
        }
    }

    /// The path as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it is `$`.
    pub fn is_root(&self) -> bool {
        self.steps.is_empty()
    }

    /// Puts `value` at the path in `root` (ResultPath): missing fields are created, `$` replaces everything. Fails with
    /// `States.ResultPathMatchFailure` where the path leads through something else than an object, or out of an
    /// array.
    pub fn assign(&self, root: Value, value: Value) -> Result<Value, EvalError> {
        let mut root = root;
        let mut at = &mut root;
        for (n, step) in self.steps.iter().enumerate() {
            let conflict = |at: &Value| {
                let cause = format!("Unable to apply step \"{}\" to input {at}", step.plain());
                EvalError::new(error_names::RESULT_PATH_MATCH_FAILURE, cause)
            };
            at = match (step, at) {
                (Step::Field(name), Value::Object(fields)) => {
                    if !fields.contains_key(&**name) && matches!(self.steps.get(n + 1), Some(Step::Index(_)))
                    {
                        return Err(conflict(&Value::Object(std::mem::take(fields))));
                    }
                    fields.entry(&**name).or_insert_with(|| Value::Object(Map::new()))
                }
                (Step::Index(index), Value::Array(items)) => match place(*index, items.len()) {
                    Some(i) => &mut items[i],
                    None => return Err(conflict(&Value::Array(std::mem::take(items)))),
                },
                (_, other) => return Err(conflict(other)),
            };
        }
        *at = value;
        check_depth(root)
    }
}

#[cfg(test)]
mod tests;
