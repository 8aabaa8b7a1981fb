//! Intrinsic functions: `States.Format` and its seventeen siblings.

mod functions;

pub(crate) use functions::{digest, uuid as uuid_of};
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use serde_json::Value;
use stagepost_protocol::error_names;

use crate::{
    eval::{Budget, Data, EvalError, check_depth},
    path::Path,
};

/// How deep calls may be nested, as in the service.
pub const NESTING_MAX: usize = 10;

/// A compiled call of an intrinsic function.
#[derive(Debug, Clone)]
pub struct Intrinsic {
    source: Arc<str>,
    call: Arc<Call>,
}

#[derive(Debug)]
struct Call {
    function: Function,
    arguments: Vec<Argument>,
    /// Of `States.Format`, when its first argument is a literal (which is then not in `arguments`).
    template: Option<Vec<Piece>>,
}

#[derive(Debug)]
enum Argument {
    Literal(Value),
    Path(Path),
    Call(Call),
}

/// A piece of the first argument of `States.Format`.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// `{}`.
    Placeholder,
}

/// The functions; names and arities in [`Function::table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Array,
    ArrayContains,
    ArrayGetItem,
    ArrayLength,
    ArrayPartition,
    ArrayRange,
    ArrayUnique,
    Base64Decode,
    Base64Encode,
    Format,
    Hash,
    JsonMerge,
    JsonToString,
    MathAdd,
    MathRandom,
    StringSplit,
    StringToJson,
    Uuid,
}

/// Name, function, least and most arguments.
const FUNCTIONS: [(&str, Function, usize, usize); 18] = [
    ("States.Array", Function::Array, 0, usize::MAX),
    ("States.ArrayContains", Function::ArrayContains, 2, 2),
    ("States.ArrayGetItem", Function::ArrayGetItem, 2, 2),
    ("States.ArrayLength", Function::ArrayLength, 1, 1),
    ("States.ArrayPartition", Function::ArrayPartition, 2, 2),
    ("States.ArrayRange", Function::ArrayRange, 3, 3),
    ("States.ArrayUnique", Function::ArrayUnique, 1, 1),
    ("States.Base64Decode", Function::Base64Decode, 1, 1),
    ("States.Base64Encode", Function::Base64Encode, 1, 1),
    ("States.Format", Function::Format, 1, usize::MAX),
    ("States.Hash", Function::Hash, 2, 2),
    ("States.JsonMerge", Function::JsonMerge, 3, 3),
    ("States.JsonToString", Function::JsonToString, 1, 1),
    ("States.MathAdd", Function::MathAdd, 2, 2),
    ("States.MathRandom", Function::MathRandom, 2, 3),
    ("States.StringSplit", Function::StringSplit, 2, 2),
    ("States.StringToJson", Function::StringToJson, 1, 1),
    ("States.UUID", Function::Uuid, 0, 0),
];

/// The names of the functions.
pub fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|(name, ..)| *name)
}

impl Function {
    fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|(_, f, ..)| *f == self).map_or("", |(name, ..)| name)
    }
}

impl Intrinsic {
    /// Compiles a call; the error is a sentence fragment that says what is wrong with it.
    pub fn parse(source: &str) -> Result<Intrinsic, String> {
        let mut reader = Reader { text: source, at: 0, depth: 0 };
        let call = reader.call()?;
        if !reader.rest().trim().is_empty() {
            return Err(format!("unexpected `{}` after the call", reader.rest().trim()));
        }
        Ok(Intrinsic { source: Arc::from(source), call: Arc::new(call) })
    }

    /// The call as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The paths among its arguments, nested calls included.
    pub fn paths(&self) -> Vec<&Path> {
        let mut paths = Vec::new();
        self.call.paths(&mut paths);
        paths
    }

    /// Its value. Fails with `States.IntrinsicFailure`, or with `States.Runtime` where a path in its arguments finds
    /// nothing.
    pub fn evaluate(&self, data: &Data<'_>) -> Result<Value, EvalError> {
        let mut places = Vec::new();
        self.call.paths(&mut places);
        check_depth(self.evaluate_within(data, &Budget::for_places(places.len()))?)
    }

    /// As [`Intrinsic::evaluate`], as a part of something larger.
    pub(crate) fn evaluate_within(&self, data: &Data<'_>, budget: &Budget) -> Result<Value, EvalError> {
        self.call.evaluate(data, budget).map_err(|e| self.explain(e))
    }
}

impl Intrinsic {
    fn explain(&self, mut error: EvalError) -> EvalError {
        error.cause =
            format!("The function '{}' had the following error: {}", self.source.trim(), error.cause);
        error
    }
}

impl Call {
    fn paths<'c>(&'c self, paths: &mut Vec<&'c Path>) {
        for argument in &self.arguments {
            match argument {
                Argument::Literal(_) => {}
                Argument::Path(path) => paths.push(path),
                Argument::Call(call) => call.paths(paths),
            }
        }
    }

    fn evaluate(&self, data: &Data<'_>, budget: &Budget) -> Result<Value, EvalError> {
        let mut values = Vec::with_capacity(self.arguments.len());
        for argument in &self.arguments {
            values.push(match argument {
                Argument::Literal(value) => Cow::Borrowed(value),
                Argument::Path(path) => {
                    let value = path.find(data).ok_or_else(|| not_found(path, data))?;
                    budget.charge(&value)?;
                    value
                }
                Argument::Call(call) => Cow::Owned(call.evaluate(data, budget)?),
            });
        }
        functions::apply(self, values, data.random)
            .map_err(|cause| EvalError::new(error_names::INTRINSIC_FAILURE, cause))
    }
}

/// A failure yet to be told in the service's words, which name the whole expression, not the inner call.
fn not_found(path: &Path, data: &Data<'_>) -> EvalError {
    let (path, searched) = (path.source(), path.searched(data));
    EvalError::runtime(format!(
        "The JsonPath argument for the field '{path}' could not be found in the input '{searched}'"
    ))
}

struct Reader<'s> {
    text: &'s str,
    at: usize,
    depth: usize,
}

impl<'s> Reader<'s> {
    fn rest(&self) -> &'s str {
        &self.text[self.at..]
    }

    fn spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn call(&mut self) -> Result<Call, String> {
        let rest = self.rest();
        let name = &rest[..rest.find(|c: char| !(c.is_alphanumeric() || c == '.')).unwrap_or(rest.len())];
        let Some((_, function, least, most)) = FUNCTIONS.iter().find(|(known, ..)| *known == name) else {
            return Err(format!("`{name}` is not an intrinsic function"));
        };
        self.at += name.len();
        if !self.eat('(') {
            return Err(format!("a `(` must follow `{name}`"));
        }
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(format!("intrinsic functions are nested more than {NESTING_MAX} deep"));
        }
        let (arguments, template) = self.arguments(*function)?;
        self.depth -= 1;
        let given = arguments.len() + usize::from(template.is_some());
        if given < *least || given > *most {
            let expected = match (least, most) {
                (least, most) if least == most => least.to_string(),
                (least, &usize::MAX) => format!("at least {least}"),
                (least, most) => format!("{least} to {most}"),
            };
            return Err(format!("`{name}` takes {expected} arguments, not {given}"));
        }
        if let Some(pieces) = &template {
            functions::check_placeholders(pieces, arguments.len())?;
        }
        Ok(Call { function: *function, arguments, template })
    }

    /// The arguments and the closing parenthesis.
    fn arguments(&mut self, function: Function) -> Result<(Vec<Argument>, Option<Vec<Piece>>), String> {
        let (mut arguments, mut template) = (Vec::new(), None);
        self.spaces();
        if self.eat(')') {
            return Ok((arguments, template));
        }
        loop {
            self.spaces();
            let first = arguments.is_empty() && template.is_none();
            if function == Function::Format && first && self.rest().starts_with('\'') {
                template = Some(functions::pieces(self.literal()?)?);
            } else {
                arguments.push(self.argument()?);
            }
            self.spaces();
            if self.eat(')') {
                return Ok((arguments, template));
            }
            if !self.eat(',') {
                return Err(match self.rest().chars().next() {
                    Some(c) => format!("expected `,` or `)`, found `{c}`"),
                    None => "a `)` is missing".to_owned(),
                });
            }
        }
    }

    fn argument(&mut self) -> Result<Argument, String> {
        let rest = self.rest();
        if rest.starts_with('\'') {
            return Ok(Argument::Literal(Value::String(unescape(self.literal()?))));
        }
        if rest.starts_with("States.") {
            return self.call().map(Argument::Call);
        }
        let text = if rest.starts_with('$') {
            path_text(rest)
        } else {
            rest[..rest.find([',', ')']).unwrap_or(rest.len())].trim_end()
        };
        self.at += text.len();
        if text.starts_with('$') {
            return Path::parse(text.trim_end())
                .map(Argument::Path)
                .map_err(|e| format!("the argument `{}` is not a valid path: {e}", text.trim_end()));
        }
        match text {
            "" => Err("an argument is missing".to_owned()),
            "true" => Ok(Argument::Literal(Value::Bool(true))),
            "false" => Ok(Argument::Literal(Value::Bool(false))),
            "null" => Ok(Argument::Literal(Value::Null)),
            number => match serde_json::from_str(number) {
                Ok(Value::Number(n)) => Ok(Argument::Literal(Value::Number(n))),
                _ => Err(format!(
                    "the argument `{number}` is neither a path, a number, a function, nor a text in single quotes"
                )),
            },
        }
    }

    /// A text in single quotes, still escaped.
    fn literal(&mut self) -> Result<&'s str, String> {
        let inside = &self.rest()[1..];
        let mut chars = inside.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\'' => {
                    self.at += at + 2;
                    return Ok(&inside[..at]);
                }
                '\\' => match chars.next() {
                    Some((_, '\'' | '{' | '}' | '\\')) => {}
                    Some((_, c)) => {
                        return Err(format!("`\\{c}` is no escape; `\\'`, `\\{{`, `\\}}` and `\\\\` are"));
                    }
                    None => break,
                },
                _ => {}
            }
        }
        Err("a `'` is missing".to_owned())
    }
}

fn unescape(escaped: &str) -> String {
    let mut text = String::with_capacity(escaped.len());
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

/// The path at the beginning of `rest`: up to the comma or parenthesis that is not in brackets or quotes.
fn path_text(rest: &str) -> &str {
    let (mut brackets, mut quote, mut escaped) = (0_usize, None, false);
    for (at, c) in rest.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(mark), _) if c == mark => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') if brackets > 0 => quote = Some(c),
            (None, '[') => brackets += 1,
            (None, ']') => brackets = brackets.saturating_sub(1),
            (None, ',' | ')') if brackets == 0 => return &rest[..at],
            (None, _) => {}
        }
    }
    rest
}
