//! Choice rules: comparisons over the data, combined with And, Or and Not.
//!
//! Compiled when the definition is parsed: paths, patterns and constant timestamps are read once. A comparison
//! of values of another type than the operator's is false, not an error (specification, "Data-test Expression").

use std::{borrow::Cow, cmp::Ordering};

use serde_json::{Number, Value};

use crate::{
    eval::{Data, EvalError},
    parse::{Findings, Node},
    path::Path,
    template::Template,
};

/// A compiled rule of a Choice state.
#[derive(Debug)]
pub struct Rule {
    test: Test,
}

#[derive(Debug)]
enum Test {
    And(Vec<Test>),
    Or(Vec<Test>),
    Not(Box<Test>),
    Compare {
        variable: Path,
        comparison: Comparison,
    },
    /// `Condition`, in JSONata.
    Condition {
        field: Box<str>,
        query: Template,
    },
    /// `Condition` with `true` or `false`.
    Constant(bool),
}

#[derive(Debug)]
enum Comparison {
    Is(Type, bool),
    IsPresent(bool),
    Text(Order, Operand<String>),
    Matches(Pattern),
    Number(Order, Operand<Number>),
    Timestamp(Order, Operand<jiff::Timestamp>),
    Boolean(Operand<bool>),
}

#[derive(Debug, Clone, Copy)]
enum Type {
    Null,
    Numeric,
    String,
    Boolean,
    Timestamp,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Equals,
    LessThan,
    GreaterThan,
    LessThanEquals,
    GreaterThanEquals,
}

/// What the variable is compared with.
#[derive(Debug)]
enum Operand<T> {
    Constant(T),
    Path(Path),
}

impl Rule {
    /// Whether it holds. Fails with `States.Runtime` where a path selects nothing (but for IsPresent).
    pub fn matches(&self, data: &Data<'_>) -> Result<bool, EvalError> {
        self.test.holds(data)
    }

    /// The names of the variables that it may look at.
    pub fn variables(&self) -> Vec<&str> {
        match &self.test {
            Test::Condition { query, .. } => query.variables(),
            _ => self.paths().into_iter().filter_map(Path::variable).collect(),
        }
    }

    /// The names of the workflow's variables that it refers to.
    pub fn references(&self) -> Vec<&str> {
        match &self.test {
            Test::Condition { query, .. } => query.references(),
            _ => self.paths().into_iter().filter_map(Path::variable).collect(),
        }
    }

    /// Whether a JSONata condition looks at the context object.
    pub fn reads_context(&self) -> bool {
        matches!(&self.test, Test::Condition { query, .. } if query.reads_context())
    }

    /// The paths in it.
    pub fn paths(&self) -> Vec<&Path> {
        let mut paths = Vec::new();
        self.test.paths(&mut paths);
        paths
    }

    /// Compiles an element of `Choices`; its `Next` is the caller's.
    pub(crate) fn read(found: &mut Findings, node: &Node<'_>) -> Option<Rule> {
        const OUTER: &[&str] = &["Next", "Assign", "Output"];
        if found.is_jsonata() {
            found.comment(node);
            found.only(node, &[&["Condition", "Comment"], OUTER]);
            found.required(node, &["Condition"]);
            if let Some(Value::Bool(value)) = node.get("Condition") {
                return Some(Rule { test: Test::Constant(*value) });
            }
            let place = node.pointer.rsplit('/').next().unwrap_or_default();
            let field = format!("Choices[{place}]/Condition");
            let query = found.query(node, "Condition", &field)?;
            return Some(Rule { test: Test::Condition { field: field.into(), query } });
        }
        Test::read(found, node, OUTER).map(|test| Rule { test })
    }
}

impl Test {
    fn paths<'t>(&'t self, paths: &mut Vec<&'t Path>) {
        match self {
            Test::And(tests) | Test::Or(tests) => tests.iter().for_each(|test| test.paths(paths)),
            Test::Not(test) => test.paths(paths),
            Test::Compare { variable, comparison } => {
                paths.push(variable);
                match comparison {
                    Comparison::Text(_, Operand::Path(path))
                    | Comparison::Number(_, Operand::Path(path))
                    | Comparison::Timestamp(_, Operand::Path(path))
                    | Comparison::Boolean(Operand::Path(path)) => paths.push(path),
                    Comparison::Is(..)
                    | Comparison::IsPresent(_)
                    | Comparison::Matches(_)
                    | Comparison::Text(_, Operand::Constant(_))
                    | Comparison::Number(_, Operand::Constant(_))
                    | Comparison::Timestamp(_, Operand::Constant(_))
                    | Comparison::Boolean(Operand::Constant(_)) => {}
                }
            }
            Test::Condition { .. } | Test::Constant(_) => {}
        }
    }

    fn holds(&self, data: &Data<'_>) -> Result<bool, EvalError> {
        match self {
            Test::Constant(value) => Ok(*value),
            Test::And(tests) => {
                for test in tests {
                    if !test.holds(data)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Test::Or(tests) => {
                for test in tests {
                    if test.holds(data)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Test::Not(test) => test.holds(data).map(|holds| !holds),
            Test::Compare { variable, comparison } => comparison.holds(variable, data),
            Test::Condition { field, query } => {
                let value = query.evaluate(data)?;
                match query.unexpected("boolean", field, &value) {
                    Some(error) => Err(error),
                    None => Ok(value == Value::Bool(true)),
                }
            }
        }
    }

    /// `outer` are the fields that only the outermost rule has.
    fn read(found: &mut Findings, node: &Node<'_>, outer: &[&str]) -> Option<Test> {
        found.comment(node);
        for (field, make) in [("And", Test::And as fn(_) -> _), ("Or", Test::Or)] {
            if node.has(field) {
                found.only(node, &[&[field, "Comment"], outer]);
                return Test::read_list(found, node, field).map(make);
            }
        }
        if node.has("Not") {
            found.only(node, &[&["Not", "Comment"], outer]);
            let inner = found.object_field(node, "Not")?;
            return Test::read(found, &inner, &[]).map(|test| Test::Not(Box::new(test)));
        }
        let operators: Vec<&str> =
            node.fields.keys().map(String::as_str).filter(|f| Operator::named(f).is_some()).collect();
        found.only(node, &[&["Variable", "Comment"], outer, &operators]);
        found.required(node, &["Variable"]);
        if operators.is_empty() {
            let message = "A comparison operator, And, Or or Not is required";
            found.schema(node.pointer.as_str(), message);
        }
        found.at_most_one(node, &operators);
        let variable = found.path(node, "Variable");
        let field = operators.first()?;
        let comparison = Comparison::read(found, node, field, Operator::named(field)?);
        Some(Test::Compare { variable: variable?, comparison: comparison? })
    }

    fn read_list(found: &mut Findings, node: &Node<'_>, field: &str) -> Option<Vec<Test>> {
        let list = found.filled_array(node, field)?;
        let mut tests = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            if let Some(inner) = found.object(value, format!("{}/{index}", node.at(field))) {
                tests.extend(Test::read(found, &inner, &[]));
            }
        }
        Some(tests)
    }
}

/// The comparison operators, without the forms of them that end in `Path`.
pub const OPERATORS: &[&str] = &[
    "BooleanEquals",
    "IsBoolean",
    "IsNull",
    "IsNumeric",
    "IsPresent",
    "IsString",
    "IsTimestamp",
    "NumericEquals",
    "NumericGreaterThan",
    "NumericGreaterThanEquals",
    "NumericLessThan",
    "NumericLessThanEquals",
    "StringEquals",
    "StringGreaterThan",
    "StringGreaterThanEquals",
    "StringLessThan",
    "StringLessThanEquals",
    "StringMatches",
    "TimestampEquals",
    "TimestampGreaterThan",
    "TimestampGreaterThanEquals",
    "TimestampLessThan",
    "TimestampLessThanEquals",
];

/// An operator by its name, before its operand is read.
#[derive(Debug, Clone, Copy)]
enum Operator {
    Is(Type),
    IsPresent,
    Matches,
    Text(Order),
    Number(Order),
    Timestamp(Order),
    Boolean,
}

impl Operator {
    /// The operator of a field, and whether its operand is a path.
    fn named(field: &str) -> Option<(Operator, bool)> {
        let fixed = match field {
            "IsNull" => Some(Operator::Is(Type::Null)),
            "IsNumeric" => Some(Operator::Is(Type::Numeric)),
            "IsString" => Some(Operator::Is(Type::String)),
            "IsBoolean" => Some(Operator::Is(Type::Boolean)),
            "IsTimestamp" => Some(Operator::Is(Type::Timestamp)),
            "IsPresent" => Some(Operator::IsPresent),
            "StringMatches" => Some(Operator::Matches),
            _ => None,
        };
        if let Some(operator) = fixed {
            return Some((operator, false));
        }
        let (name, path) = field.strip_suffix("Path").map_or((field, false), |name| (name, true));
        if name == "BooleanEquals" {
            return Some((Operator::Boolean, path));
        }
        let kinds = [
            ("String", Operator::Text as fn(Order) -> Operator),
            ("Numeric", Operator::Number),
            ("Timestamp", Operator::Timestamp),
        ];
        let (make, order) =
            kinds.into_iter().find_map(|(kind, make)| Some((make, name.strip_prefix(kind)?)))?;
        let order = match order {
            "Equals" => Order::Equals,
            "LessThan" => Order::LessThan,
            "GreaterThan" => Order::GreaterThan,
            "LessThanEquals" => Order::LessThanEquals,
            "GreaterThanEquals" => Order::GreaterThanEquals,
            _ => return None,
        };
        Some((make(order), path))
    }
}

impl Comparison {
    fn read(
        found: &mut Findings,
        node: &Node<'_>,
        field: &str,
        (operator, path): (Operator, bool),
    ) -> Option<Comparison> {
        let operand = match operator {
            _ if path => Some(found.path(node, field)?),
            _ => None,
        };
        Some(match operator {
            Operator::Is(kind) => Comparison::Is(kind, found.boolean(node, field)?),
            Operator::IsPresent => Comparison::IsPresent(found.boolean(node, field)?),
            Operator::Matches => Comparison::Matches(Pattern::compile(found.string(node, field)?)),
            Operator::Text(order) => Comparison::Text(
                order,
                Operand::or_read(operand, || {
                    found.warn_about_missing_path(node, field);
                    found.string(node, field).map(str::to_owned)
                })?,
            ),
            Operator::Number(order) => Comparison::Number(
                order,
                Operand::or_read(operand, || match node.get(field) {
                    Some(Value::Number(number)) => Some(number.clone()),
                    _ => found.wrong_type(node.at(field), "Number"),
                })?,
            ),
            Operator::Timestamp(order) => Comparison::Timestamp(
                order,
                Operand::or_read(operand, || {
                    let time = timestamp(found.string(node, field)?);
                    if time.is_none() {
                        found.schema(node.at(field), "String does not match RFC3339 timestamp");
                    }
                    time
                })?,
            ),
            Operator::Boolean => {
                Comparison::Boolean(Operand::or_read(operand, || found.boolean(node, field))?)
            }
        })
    }

    fn holds(&self, variable: &Path, data: &Data<'_>) -> Result<bool, EvalError> {
        if let Comparison::IsPresent(expected) = self {
            return Ok(variable.find(data).is_some() == *expected);
        }
        let value = select(variable, data)?;
        match self {
            Comparison::IsPresent(_) => Ok(false),
            Comparison::Is(kind, expected) => Ok(kind.is_of(&value) == *expected),
            Comparison::Matches(pattern) => Ok(value.as_str().is_some_and(|text| pattern.matches(text))),
            Comparison::Text(order, operand) => match operand {
                Operand::Constant(other) => Ok(order.of_texts(&value, other)),
                Operand::Path(path) => {
                    let other = select(path, data)?;
                    Ok(other.as_str().is_some_and(|other| order.of_texts(&value, other)))
                }
            },
            Comparison::Number(order, operand) => match operand {
                Operand::Constant(other) => Ok(order.of_numbers(&value, other)),
                Operand::Path(path) => {
                    let other = select(path, data)?;
                    Ok(other.as_number().is_some_and(|other| order.of_numbers(&value, other)))
                }
            },
            Comparison::Timestamp(order, operand) => {
                let time = value.as_str().and_then(timestamp);
                let other = match operand {
                    Operand::Constant(other) => Some(*other),
                    Operand::Path(path) => select(path, data)?.as_str().and_then(timestamp),
                };
                Ok(time.zip(other).is_some_and(|(time, other)| order.holds(time.cmp(&other))))
            }
            Comparison::Boolean(operand) => {
                let other = match operand {
                    Operand::Constant(other) => Some(*other),
                    Operand::Path(path) => select(path, data)?.as_bool(),
                };
                Ok(value.as_bool().zip(other).is_some_and(|(value, other)| value == other))
            }
        }
    }
}

/// What a path of a rule selects.
fn select<'a>(path: &Path, data: &Data<'a>) -> Result<Cow<'a, Value>, EvalError> {
    path.find(data).ok_or_else(|| {
        let path = path.source();
        EvalError::runtime(format!(
            "Invalid path '{path}': The choice state's condition path references an invalid value."
        ))
    })
}

impl<T> Operand<T> {
    fn or_read(path: Option<Path>, constant: impl FnOnce() -> Option<T>) -> Option<Operand<T>> {
        match path {
            Some(path) => Some(Operand::Path(path)),
            None => constant().map(Operand::Constant),
        }
    }
}

impl Type {
    fn is_of(self, value: &Value) -> bool {
        match self {
            Type::Null => value.is_null(),
            Type::Numeric => value.is_number(),
            Type::String => value.is_string(),
            Type::Boolean => value.is_boolean(),
            Type::Timestamp => value.as_str().and_then(timestamp).is_some(),
        }
    }
}

impl Order {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Order::Equals => ordering.is_eq(),
            Order::LessThan => ordering.is_lt(),
            Order::GreaterThan => ordering.is_gt(),
            Order::LessThanEquals => ordering.is_le(),
            Order::GreaterThanEquals => ordering.is_ge(),
        }
    }

    fn of_texts(self, value: &Value, other: &str) -> bool {
        let Some(text) = value.as_str() else { return false };
        match self {
            Order::Equals => text == other,
            // The service orders strings as Java does, by UTF-16 units.
            _ => self.holds(text.encode_utf16().cmp(other.encode_utf16())),
        }
    }

    fn of_numbers(self, value: &Value, other: &Number) -> bool {
        let Some(number) = value.as_number() else { return false };
        // Whole numbers beyond 2^53 are compared exactly; `i128` holds every i64 and u64.
        let whole = |n: &Number| n.as_i128();
        let ordering = match (whole(number), whole(other)) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => number.as_f64().zip(other.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        };
        ordering.is_some_and(|ordering| self.holds(ordering))
    }
}

/// Reads an RFC 3339 time with an upper case `T` and `Z`, as the States Language wants it, down to nanoseconds.
fn timestamp(text: &str) -> Option<jiff::Timestamp> {
    // jiff alone also accepts less (no seconds) and more (a zone in brackets).
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20 && bytes[4] == b'-' && bytes[7] == b'-' && bytes[10] == b'T';
    if !shaped || text.contains(['[', 'z']) {
        return None;
    }
    text.parse().ok()
}

/// A compiled operand of StringMatches: `*` stands for any text, `\*` for an asterisk, `\\` for a backslash.
#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    /// The literal texts between the wildcards; one more than there are wildcards.
    parts: Vec<String>,
}

impl Pattern {
    fn compile(source: &str) -> Pattern {
        let mut parts = vec![String::new()];
        let mut chars = source.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '*' {
                parts.push(String::new());
                continue;
            }
            let escaped = (c == '\\').then(|| chars.next_if(|next| matches!(next, '*' | '\\'))).flatten();
            if let Some(last) = parts.last_mut() {
                last.push(escaped.unwrap_or(c));
            }
        }
        Pattern { parts }
    }

    fn matches(&self, text: &str) -> bool {
        let [first, middle @ .., last] = self.parts.as_slice() else {
            return self.parts.first().is_some_and(|only| only == text);
        };
        let Some(mut rest) =
            text.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str()))
        else {
            return false;
        };
        // The leftmost place for each part leaves the most for those that follow.
        for part in middle {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
