//! Reading the fields of one object, with a finding for each that is not as it should be.

use std::ops::{Range, RangeInclusive};

use serde_json::{Map, Value};

use super::{
    finding::{Finding, Severity, Spot, codes},
    locate,
};
use crate::{
    jsonata::expression,
    model::{DataPath, Number, QueryLanguage, ResultPath},
    path::{Path, ReferencePath},
    template::{Fault, Reserved, Template},
};

/// The largest number of seconds, attempts or the like that the service takes.
pub(crate) const COUNT_MAX: u64 = 99_999_999;

/// Appends a segment to a JSON pointer (RFC 6901).
pub(crate) fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    for c in segment.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
}

/// An object of the document and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    pub(crate) fields: &'a Map<String, Value>,
    pub(crate) pointer: String,
}

impl<'a> Node<'a> {
    /// The pointer of one of its fields.
    pub(crate) fn at(&self, field: &str) -> String {
        let mut pointer = self.pointer.clone();
        push_segment(&mut pointer, field);
        pointer
    }

    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field)
    }

    pub(crate) fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }
}

/// Most findings that are kept, and most bytes of text in them: a hostile definition could hold tens of thousands,
/// each under a long pointer. That there were more errors is not forgotten.
const FINDINGS_MAX: usize = 1_000;
const FINDINGS_BYTES_MAX: usize = 1024 * 1024;
/// Near matches are looked for in the first findings only, and among so many candidates: they cost time.
const PROPOSALS_MAX: usize = 50;
pub(crate) const CANDIDATES_MAX: usize = 256;

/// Collects what is found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
    bytes: usize,
    errors: bool,
    /// Takes what is not kept.
    dropped: Option<Finding>,
    /// The language of the state that is read.
    pub(crate) language: QueryLanguage,
    /// What its expressions may look at where it is read.
    pub(crate) reserved: Reserved,
}

/// Fields of states in JSONata, and of nothing else.
const JSONATA_ONLY: &[&str] = &["Arguments", "Output", "Items", "Condition"];
/// Fields of states in JSONPath, and of nothing else.
const JSONPATH_ONLY: &[&str] = &[
    "InputPath",
    "OutputPath",
    "ResultPath",
    "Parameters",
    "ResultSelector",
    "Result",
    "ItemsPath",
    "SecondsPath",
    "TimestampPath",
    "TimeoutSecondsPath",
    "HeartbeatSecondsPath",
    "MaxConcurrencyPath",
    "ToleratedFailureCountPath",
    "ToleratedFailurePercentagePath",
    "MaxItemsPath",
    "MaxItemsPerBatchPath",
    "MaxInputBytesPerBatchPath",
    "ErrorPath",
    "CausePath",
    "Variable",
];
/// The longest name of a variable, in characters.
const VARIABLE_CHARS_MAX: usize = 80;

impl Findings {
    pub(crate) fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        pointer: impl Into<String>,
        message: impl Into<String>,
    ) -> &mut Finding {
        let finding = Finding {
            severity,
            code,
            pointer: pointer.into(),
            message: message.into(),
            help: None,
            spot: None,
        };
        self.push(finding)
    }

    pub(crate) fn push(&mut self, finding: Finding) -> &mut Finding {
        self.errors |= finding.severity == Severity::Error;
        self.bytes = self.bytes.saturating_add(finding.pointer.len() + finding.message.len());
        // The first one is kept in any case: an `Err` without a finding would explain nothing.
        if self.list.is_empty() || (self.list.len() < FINDINGS_MAX && self.bytes < FINDINGS_BYTES_MAX) {
            self.list.push(finding);
            return self.list.last_mut().expect("it was just pushed");
        }
        self.dropped.insert(finding)
    }

    /// Whether there was an error yet.
    pub(crate) fn errors(&self) -> bool {
        self.errors
    }

    /// Whether there was an error, and what was found.
    pub(crate) fn finish(mut self) -> (bool, Vec<Finding>) {
        // Warnings may have filled the list before the first error came.
        if self.errors && !self.list.iter().any(|f| f.severity == Severity::Error) {
            let message = "There are more findings than are listed, and errors among them";
            let pointer = String::new();
            let (severity, code) = (Severity::Error, codes::SCHEMA);
            let message = message.to_owned();
            self.list.push(Finding { severity, code, pointer, message, help: None, spot: None });
        }
        (self.errors, self.list)
    }

    /// Where in the string at `pointer`, below `node`, something is wrong. As near matches it is looked for in the first
    /// findings only.
    fn spot(
        &self,
        node: &Node<'_>,
        pointer: &str,
        locate: impl Fn(&str) -> Option<Range<usize>>,
    ) -> Option<Spot> {
        if self.list.len() > PROPOSALS_MAX {
            return None;
        }
        let mut parts = pointer.strip_prefix(&node.pointer)?.splitn(3, '/').skip(1);
        let name = parts.next()?.replace("~1", "/").replace("~0", "~");
        let value = node.get(&name)?;
        let value = match parts.next() {
            Some(rest) => value.pointer(&format!("/{rest}"))?,
            None => value,
        };
        Some(Spot::Part(pointer.to_owned(), locate(value.as_str()?)?))
    }

    /// A proposal for something misspelt.
    pub(crate) fn near_match(&self, text: &str, allowed: &[&str]) -> Option<String> {
        if self.list.len() > PROPOSALS_MAX || allowed.len() > CANDIDATES_MAX {
            return None;
        }
        near_match(text, allowed)
    }

    /// An error of the code that most have.
    pub(crate) fn schema(&mut self, pointer: impl Into<String>, message: impl Into<String>) -> &mut Finding {
        self.add(Severity::Error, codes::SCHEMA, pointer, message)
    }

    /// The value as an object.
    pub(crate) fn object<'a>(&mut self, value: &'a Value, pointer: String) -> Option<Node<'a>> {
        match value {
            Value::Object(fields) => Some(Node { fields, pointer }),
            _ => self.wrong_type(pointer, "Object"),
        }
    }

    /// A field as an object.
    pub(crate) fn object_field<'a>(&mut self, node: &Node<'a>, field: &str) -> Option<Node<'a>> {
        let value = node.get(field)?;
        self.object(value, node.at(field))
    }

    /// A field as an array.
    pub(crate) fn array<'a>(&mut self, node: &Node<'a>, field: &str) -> Option<&'a Vec<Value>> {
        match node.get(field)? {
            Value::Array(items) => Some(items),
            _ => self.wrong_type(node.at(field), "Array"),
        }
    }

    /// A field as an array with something in it.
    pub(crate) fn filled_array<'a>(&mut self, node: &Node<'a>, field: &str) -> Option<&'a Vec<Value>> {
        let items = self.array(node, field)?;
        if items.is_empty() {
            self.schema(node.at(field), "Value cannot be empty");
            return None;
        }
        Some(items)
    }

    /// A field as a string.
    pub(crate) fn string<'a>(&mut self, node: &Node<'a>, field: &str) -> Option<&'a str> {
        match node.get(field)? {
            Value::String(text) => Some(text),
            _ => self.wrong_type(node.at(field), "String"),
        }
    }

    /// A field as one of the given strings.
    pub(crate) fn one_of<'a>(&mut self, node: &Node<'a>, field: &str, allowed: &[&str]) -> Option<&'a str> {
        let text = self.string(node, field)?;
        if allowed.contains(&text) {
            return Some(text);
        }
        let message =
            format!("The field '{field}' should have one of these values: [{}]", allowed.join(", "));
        let help = self.near_match(text, allowed);
        self.schema(node.at(field), message).help = help;
        None
    }

    /// A field as a boolean.
    pub(crate) fn boolean(&mut self, node: &Node<'_>, field: &str) -> Option<bool> {
        match node.get(field)? {
            Value::Bool(value) => Some(*value),
            _ => self.wrong_type(node.at(field), "Boolean"),
        }
    }

    /// A field as a whole number.
    pub(crate) fn integer(
        &mut self,
        node: &Node<'_>,
        field: &str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = node.get(field)?;
        if !value.is_number() {
            return self.wrong_type(node.at(field), "Integer");
        }
        // 5.0 is as good as 5; the service's JSON reader does not tell them apart either.
        let whole = value.as_u64().or_else(|| {
            let float = value.as_f64()?;
            (float.fract() == 0.0 && (0.0..=COUNT_MAX as f64).contains(&float)).then_some(float as u64)
        });
        match whole {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                let (least, most) = (range.start(), range.end());
                self.schema(node.at(field), format!("Value must be a whole number from {least} to {most}"));
                None
            }
        }
    }

    pub(crate) fn wrong_type<T>(&mut self, pointer: String, expected: &str) -> Option<T> {
        self.schema(pointer, format!("Expected value of type {expected}"));
        None
    }

    /// A field as a path.
    pub(crate) fn path(&mut self, node: &Node<'_>, field: &str) -> Option<Path> {
        let text = self.string(node, field)?;
        match Path::parse(text) {
            Ok(path) => Some(path),
            Err(e) => {
                let pointer = node.at(field);
                let spot = self.spot(node, &pointer, |text| locate::in_jsonpath(text, &e));
                self.schema(pointer, format!("Value is not a valid JSONPath: {e}")).spot = spot;
                None
            }
        }
    }

    /// A field as a path to one place.
    pub(crate) fn single_path(&mut self, node: &Node<'_>, field: &str) -> Option<Path> {
        let path = self.path(node, field)?;
        if path.is_definite() {
            return Some(path);
        }
        let message = "Value is not a Reference Path: it may lead to several values";
        self.schema(node.at(field), message);
        None
    }

    /// `InputPath` and `OutputPath`.
    pub(crate) fn data_path(&mut self, node: &Node<'_>, field: &str) -> DataPath {
        match node.get(field) {
            None => DataPath::Whole,
            Some(Value::Null) => DataPath::Discard,
            Some(Value::String(text)) if text == "$" => DataPath::Whole,
            Some(_) => self.path(node, field).map_or(DataPath::Whole, DataPath::Path),
        }
    }

    /// `ResultPath`.
    pub(crate) fn result_path(&mut self, node: &Node<'_>) -> ResultPath {
        match node.get("ResultPath") {
            None => return ResultPath::Replace,
            Some(Value::Null) => return ResultPath::Discard,
            Some(_) => {}
        }
        let Some(text) = self.string(node, "ResultPath") else {
            return ResultPath::Replace;
        };
        match ReferencePath::parse(text) {
            Ok(path) if path.is_root() => ResultPath::Replace,
            Ok(path) => ResultPath::At(path),
            Err(e) => {
                self.schema(node.at("ResultPath"), format!("Value is not a Reference Path: {e}"));
                ResultPath::Replace
            }
        }
    }

    pub(crate) fn is_jsonata(&self) -> bool {
        self.language == QueryLanguage::Jsonata
    }

    /// JSON with JSONata in its strings, for the field that errors name `shown`.
    pub(crate) fn jsonata(&mut self, node: &Node<'_>, field: &str, shown: &str) -> Option<Template> {
        match Template::compile_jsonata(node.get(field)?, shown, self.reserved) {
            Ok(template) => Some(template),
            Err(errors) => {
                for (inner, fault) in errors {
                    let pointer = format!("{}{inner}", node.at(field));
                    let (code, why) = match fault {
                        Fault::Invalid(why) => (codes::INVALID_JSONATA, why),
                        Fault::Unsupported(why) => (codes::UNSUPPORTED_JSONATA, why),
                    };
                    let help = jsonata_help(&why);
                    let spot = self.spot(node, &pointer, |text| locate::in_jsonata(text, &why));
                    let finding = self.add(Severity::Error, code, pointer, why);
                    (finding.help, finding.spot) = (help, spot);
                }
                None
            }
        }
    }

    /// A field that must be one JSONata expression.
    pub(crate) fn query(&mut self, node: &Node<'_>, field: &str, shown: &str) -> Option<Template> {
        match node.get(field)? {
            Value::String(text) if expression(text).is_some() => self.jsonata(node, field, shown),
            _ => {
                let message = "Expected a JSONata expression";
                self.schema(node.at(field), message).help = Some("write it as \"{% … %}\"".to_owned());
                None
            }
        }
    }

    /// Whether a field holds one JSONata expression, and may.
    pub(crate) fn has_query(&self, node: &Node<'_>, field: &str) -> bool {
        self.is_jsonata() && node.get(field).and_then(Value::as_str).is_some_and(|t| expression(t).is_some())
    }

    /// `Assign`; errors name it `shown`.
    pub(crate) fn assign(&mut self, node: &Node<'_>, shown: &str) -> Option<Template> {
        let variables = self.object_field(node, "Assign")?;
        for key in variables.fields.keys() {
            let name = key.strip_suffix(".$").filter(|_| !self.is_jsonata()).unwrap_or(key);
            if let Some(why) = unusable_variable(name) {
                let message = format!("The variable name '{name}' is not valid: {why}");
                self.schema(variables.pointer.as_str(), message);
            }
        }
        if self.is_jsonata() { self.jsonata(node, "Assign", shown) } else { self.template(node, "Assign") }
    }

    /// `Output`, in JSONata; errors name it `shown`.
    pub(crate) fn output(&mut self, node: &Node<'_>, shown: &str) -> Option<Template> {
        if self.is_jsonata() { self.jsonata(node, "Output", shown) } else { None }
    }

    /// A payload template.
    pub(crate) fn template(&mut self, node: &Node<'_>, field: &str) -> Option<Template> {
        let source = node.get(field)?;
        if self.is_jsonata() {
            return self.jsonata(node, field, field);
        }
        if !source.is_object() {
            return self.wrong_type(node.at(field), "Object");
        }
        self.warn_about_missing_dollars(source, &mut node.at(field));
        match Template::compile(source) {
            Ok(template) => Some(template),
            Err(errors) => {
                for (inner, why) in errors {
                    let pointer = format!("{}{inner}", node.at(field));
                    let (object, name) = pointer.rsplit_once('/').unwrap_or(("", &pointer));
                    let name = name.replace("~1", "/").replace("~0", "~");
                    let message = format!(
                        "The value for the field '{name}' must be a valid JSONPath or a valid intrinsic function call"
                    );
                    let spot = self.spot(node, &pointer, |text| locate::in_jsonpath(text, &why));
                    let finding = self.schema(object, message);
                    (finding.help, finding.spot) = (Some(why), spot);
                }
                None
            }
        }
    }

    /// Warns about a string that looks like a path in a field whose sibling, with `Path` at its end, takes one.
    pub(crate) fn warn_about_missing_path(&mut self, node: &Node<'_>, field: &str) {
        if !self.is_jsonata() && node.get(field).and_then(Value::as_str).is_some_and(looks_dynamic) {
            let message = format!("The value of '{field}' looks like a path but is not evaluated");
            self.add(Severity::Warning, codes::NO_PATH, node.at(field), message).help =
                Some(format!("name the field '{field}Path'"));
        }
    }

    fn warn_about_missing_dollars(&mut self, value: &Value, pointer: &mut String) {
        let length = pointer.len();
        match value {
            Value::Object(fields) => {
                for (name, value) in fields.iter().filter(|(name, _)| !name.ends_with(".$")) {
                    push_segment(pointer, name);
                    if value.as_str().is_some_and(looks_dynamic) {
                        let message = format!("The value of '{name}' looks like a path but is not evaluated");
                        self.add(Severity::Warning, codes::NO_DOLLAR, pointer.as_str(), message).help =
                            Some(format!("name the field '{name}.$'"));
                    }
                    self.warn_about_missing_dollars(value, pointer);
                    pointer.truncate(length);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    push_segment(pointer, &index.to_string());
                    self.warn_about_missing_dollars(item, pointer);
                    pointer.truncate(length);
                }
            }
            _ => {}
        }
    }

    /// `field`, a number in the range, or `fieldPath`.
    pub(crate) fn number(
        &mut self,
        node: &Node<'_>,
        field: &str,
        range: RangeInclusive<u64>,
    ) -> Option<Number> {
        if self.has_query(node, field) {
            return self.query(node, field, field).map(Number::Query);
        }
        let path_field = format!("{field}Path");
        self.at_most_one(node, &[field, &path_field]);
        let fixed = self.integer(node, field, range).map(Number::Fixed);
        fixed.or_else(|| self.single_path(node, &path_field).map(Number::Path))
    }

    /// Says so when more than one of the fields is there. Returns how many are.
    pub(crate) fn at_most_one(&mut self, node: &Node<'_>, fields: &[&str]) -> usize {
        let count = fields.iter().filter(|f| node.has(f)).count();
        if count > 1 {
            let message = format!("Only one of these fields is allowed: [{}]", fields.join(", "));
            self.schema(node.pointer.as_str(), message);
        }
        count
    }

    /// Says so unless exactly one of the fields is there.
    pub(crate) fn exactly_one(&mut self, node: &Node<'_>, fields: &[&str]) {
        if self.at_most_one(node, fields) == 0 {
            let message = format!("Exactly one of these fields is required: [{}]", fields.join(", "));
            self.schema(node.pointer.as_str(), message);
        }
    }

    /// Says so when one of the fields is missing.
    pub(crate) fn required(&mut self, node: &Node<'_>, fields: &[&str]) {
        let missing: Vec<&str> = fields.iter().copied().filter(|f| !node.has(f)).collect();
        if !missing.is_empty() {
            let message = format!("These fields are required: [{}]", missing.join(", "));
            self.schema(node.pointer.as_str(), message);
        }
    }

    /// Says so when there is a field that does not belong.
    pub(crate) fn only(&mut self, node: &Node<'_>, allowed: &[&[&str]]) {
        let (own, foreign, other) = match self.language {
            QueryLanguage::JsonPath => ("JSONPath", JSONATA_ONLY, "JSONata"),
            QueryLanguage::Jsonata => ("JSONata", JSONPATH_ONLY, "JSONPath"),
        };
        for field in node.fields.keys() {
            if foreign.contains(&field.as_str()) {
                let message = format!(
                    "The QueryLanguage is set to '{own}', but field '{field}' is only supported for the \
                     '{other}' QueryLanguage"
                );
                self.schema(node.pointer.as_str(), message).spot = Some(Spot::Field(node.at(field)));
                continue;
            }
            if allowed.iter().any(|set| set.contains(&field.as_str())) {
                continue;
            }
            let help = self.near_match(field, &allowed.concat());
            let finding = self.schema(node.pointer.as_str(), format!("Field '{field}' is not supported"));
            (finding.help, finding.spot) = (help, Some(Spot::Field(node.at(field))));
        }
    }

    /// `Comment`, which everything may have.
    pub(crate) fn comment(&mut self, node: &Node<'_>) -> Option<String> {
        self.string(node, "Comment").map(str::to_owned)
    }
}

/// What to do about an expression that asks for what there is not.
fn jsonata_help(why: &str) -> Option<String> {
    let help = if why.starts_with("Reference to") {
        "expressions have no context item: write $states.input.NAME for a field of the input, $NAME for a variable"
    } else if why.starts_with("Field '$states.result'") {
        "$states.result is there in Output and Assign of the state, once its work is done"
    } else if why.starts_with("Field '$states.errorOutput'") {
        "$states.errorOutput is there in Output and Assign of a Catch"
    } else if why.starts_with("Field '$states.") {
        "$states has input, result, errorOutput and context"
    } else {
        return None;
    };
    Some(help.to_owned())
}

/// Why a variable cannot have a name, if it cannot.
fn unusable_variable(name: &str) -> Option<String> {
    let mut chars = name.chars();
    if name == "states" {
        return Some("`states` is reserved".to_owned());
    }
    if name.chars().count() > VARIABLE_CHARS_MAX {
        return Some(format!("it has more than {VARIABLE_CHARS_MAX} characters"));
    }
    let fits = chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphanumeric() || c == '_');
    (!fits).then(|| "it must begin with a letter and hold letters, digits and `_` only".to_owned())
}

fn looks_dynamic(text: &str) -> bool {
    let call = text.strip_prefix("States.").is_some_and(|rest| rest.contains('('));
    call || text == "$" || text.starts_with("$.") || text.starts_with("$$.") || text.starts_with("$[")
}

fn near_match(text: &str, allowed: &[&str]) -> Option<String> {
    let lower = text.to_lowercase();
    let near = allowed.iter().min_by_key(|candidate| distance(&lower, &candidate.to_lowercase()))?;
    (distance(&lower, &near.to_lowercase()) <= 2).then(|| format!("did you mean '{near}'?"))
}

/// The number of single-character edits between two short words; long ones are far apart.
fn distance(a: &str, b: &str) -> usize {
    const CHARS_MAX: usize = 80;
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(CHARS_MAX).collect(), b.chars().take(CHARS_MAX).collect());
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
