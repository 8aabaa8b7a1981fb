//! What an answer must look like: the part of JSON Schema (draft 2020-12) that a form needs. What is not of it is
//! refused when the approval is asked for, so that no rule is silently ignored.

use serde_json::{Map, Value};

use crate::Payload;

/// Largest schema, in bytes.
const BYTES_MAX: usize = 16 * 1024;
/// Most properties of an object, and most values of an `enum`.
const MEMBERS_MAX: usize = 100;
/// Most problems that are told of one answer.
const PROBLEMS_MAX: usize = 20;

const KEYWORDS: &[&str] = &[
    "type",
    "enum",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "title",
    "description",
    "$schema",
];

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An object.
    Object,
    /// A list.
    Array,
    /// A text.
    String,
    /// A number without fraction.
    Integer,
    /// Any number.
    Number,
    /// A truth value.
    Boolean,
    /// Nothing.
    Null,
}

const KINDS: &[(&str, Kind)] = &[
    ("object", Kind::Object),
    ("array", Kind::Array),
    ("string", Kind::String),
    ("integer", Kind::Integer),
    ("number", Kind::Number),
    ("boolean", Kind::Boolean),
    ("null", Kind::Null),
];

/// What a value must look like.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schema {
    /// Its types. Empty: any.
    pub kinds: Vec<Kind>,
    /// The values that it may have. `None`: any.
    pub choices: Option<Vec<Value>>,
    /// For people: its name.
    pub title: Option<String>,
    /// For people: what it is.
    pub description: Option<String>,
    /// The members of an object.
    pub properties: Vec<(String, Schema)>,
    /// The members that an object must have.
    pub required: Vec<String>,
    closed: bool,
    items: Option<Box<Schema>>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    length: (Option<u64>, Option<u64>),
    count: (Option<u64>, Option<u64>),
}

impl Schema {
    /// Reads a schema; the error says what is wrong with it, and where.
    pub fn parse(schema: &Payload) -> Result<Schema, String> {
        if schema.len() > BYTES_MAX {
            return Err(format!("it has {} bytes, more than {BYTES_MAX}", schema.len()));
        }
        let value: Value = schema.read().map_err(|error| error.to_string())?;
        Schema::read(&value, "")
    }

    fn read(value: &Value, at: &str) -> Result<Schema, String> {
        let wrong = |keyword: &str, must: &str| format!("'{keyword}' at '{at}' must be {must}");
        let Value::Object(members) = value else {
            return Err(format!("what is at '{at}' must be an object"));
        };
        if let Some(unknown) = members.keys().find(|keyword| !KEYWORDS.contains(&keyword.as_str())) {
            let known = KEYWORDS.join(", ");
            return Err(format!("'{unknown}' at '{at}' is not supported; what is: {known}"));
        }
        let mut schema = Schema {
            kinds: kinds(members.get("type"))
                .ok_or_else(|| wrong("type", "a type of JSON, or a list of some"))?,
            ..Schema::default()
        };
        match members.get("enum") {
            None => {}
            Some(Value::Array(choices)) if (1..=MEMBERS_MAX).contains(&choices.len()) => {
                schema.choices = Some(choices.clone());
            }
            Some(_) => return Err(wrong("enum", "a list of 1 to 100 values")),
        }
        match members.get("properties") {
            None => {}
            Some(Value::Object(properties)) if properties.len() <= MEMBERS_MAX => {
                for (name, property) in properties {
                    let property = Schema::read(property, &format!("{at}/properties/{name}"))?;
                    schema.properties.push((name.clone(), property));
                }
            }
            Some(_) => return Err(wrong("properties", "an object with at most 100 members")),
        }
        match members.get("required").map(texts) {
            None => {}
            Some(Some(names)) if names.len() <= MEMBERS_MAX => schema.required = names,
            Some(_) => return Err(wrong("required", "a list of at most 100 texts")),
        }
        match members.get("additionalProperties") {
            None | Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => schema.closed = true,
            Some(_) => return Err(wrong("additionalProperties", "true or false")),
        }
        if let Some(items) = members.get("items") {
            schema.items = Some(Box::new(Schema::read(items, &format!("{at}/items"))?));
        }
        for (keyword, place) in [("minimum", &mut schema.minimum), ("maximum", &mut schema.maximum)] {
            let Some(limit) = members.get(keyword) else { continue };
            *place = limit.as_f64();
            if place.is_none() {
                return Err(wrong(keyword, "a number"));
            }
        }
        for (keyword, place) in [
            ("minLength", &mut schema.length.0),
            ("maxLength", &mut schema.length.1),
            ("minItems", &mut schema.count.0),
            ("maxItems", &mut schema.count.1),
        ] {
            let Some(limit) = members.get(keyword) else { continue };
            *place = limit.as_u64();
            if place.is_none() {
                return Err(wrong(keyword, "a whole number that is not negative"));
            }
        }
        for (keyword, place) in [("title", &mut schema.title), ("description", &mut schema.description)] {
            *place = text(members, keyword).ok_or_else(|| wrong(keyword, "a text"))?;
        }
        Ok(schema)
    }

    /// What is wrong with a value, at most so much as people read; each with where it is. Empty: nothing.
    pub fn problems(&self, value: &Value) -> Vec<String> {
        let mut problems = Vec::new();
        self.check(value, &mut String::new(), &mut problems);
        problems
    }

    /// The one type that it asks for; `None` where it allows several.
    pub fn kind(&self) -> Option<Kind> {
        match self.kinds[..] {
            [kind] => Some(kind),
            _ => None,
        }
    }

    fn check(&self, value: &Value, at: &mut String, problems: &mut Vec<String>) {
        if problems.len() >= PROBLEMS_MAX {
            return;
        }
        let place = |at: &str| if at.is_empty() { "the answer".to_owned() } else { format!("'{at}'") };
        if !self.kinds.is_empty() && !self.kinds.iter().any(|kind| is(value, *kind)) {
            let kinds: Vec<&str> = self.kinds.iter().map(|kind| name(*kind)).collect();
            problems.push(format!("{} must be of type {}", place(at), kinds.join(" or ")));
            return;
        }
        if let Some(choices) = &self.choices
            && !choices.contains(value)
        {
            let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
            problems.push(format!("{} must be one of {}", place(at), choices.join(", ")));
            return;
        }
        match value {
            Value::Object(members) => self.check_members(members, at, problems),
            Value::Array(items) => {
                if let Some(wrong) = outside(items.len() as u64, self.count) {
                    problems.push(format!("{} must have {wrong} items", place(at)));
                }
                let Some(schema) = &self.items else { return };
                for (index, item) in items.iter().enumerate() {
                    within(at, &index.to_string(), |at| schema.check(item, at, problems));
                }
            }
            Value::String(text) => {
                if let Some(wrong) = outside(text.chars().count() as u64, self.length) {
                    problems.push(format!("{} must have {wrong} characters", place(at)));
                }
            }
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                if let Some(minimum) = self.minimum.filter(|minimum| number < *minimum) {
                    problems.push(format!("{} must be at least {minimum}", place(at)));
                }
                if let Some(maximum) = self.maximum.filter(|maximum| number > *maximum) {
                    problems.push(format!("{} must be at most {maximum}", place(at)));
                }
            }
            Value::Bool(_) | Value::Null => {}
        }
    }

    fn check_members(&self, members: &Map<String, Value>, at: &mut String, problems: &mut Vec<String>) {
        for name in self.required.iter().filter(|name| !members.contains_key(*name)) {
            within(at, name, |at| problems.push(format!("'{at}' is missing")));
        }
        for (name, value) in members {
            match self.properties.iter().find(|(property, _)| property == name) {
                Some((_, schema)) => within(at, name, |at| schema.check(value, at, problems)),
                None if self.closed => {
                    within(at, name, |at| problems.push(format!("'{at}' is not asked for")));
                }
                None => {}
            }
            if problems.len() >= PROBLEMS_MAX {
                return;
            }
        }
        problems.truncate(PROBLEMS_MAX);
    }
}

/// Calls with the JSON pointer of a part.
fn within(at: &mut String, part: &str, call: impl FnOnce(&mut String)) {
    let length = at.len();
    at.push('/');
    at.push_str(&part.replace('~', "~0").replace('/', "~1"));
    call(at);
    at.truncate(length);
}

fn outside(found: u64, (least, most): (Option<u64>, Option<u64>)) -> Option<String> {
    if let Some(least) = least.filter(|least| found < *least) {
        return Some(format!("at least {least}"));
    }
    most.filter(|most| found > *most).map(|most| format!("at most {most}"))
}

/// `None`: they are none.
fn kinds(value: Option<&Value>) -> Option<Vec<Kind>> {
    let kind =
        |name: &Value| KINDS.iter().find(|(known, _)| name.as_str() == Some(known)).map(|(_, kind)| *kind);
    match value {
        None => Some(Vec::new()),
        Some(Value::Array(names)) if (1..=KINDS.len()).contains(&names.len()) => {
            names.iter().map(kind).collect()
        }
        Some(name) => Some(vec![kind(name)?]),
    }
}

fn name(kind: Kind) -> &'static str {
    KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(name, _)| name)
}

fn is(value: &Value, kind: Kind) -> bool {
    match kind {
        Kind::Object => value.is_object(),
        Kind::Array => value.is_array(),
        Kind::String => value.is_string(),
        Kind::Integer => match value {
            // 2.0 is a whole number, as the specification says.
            Value::Number(number) => number.as_f64().is_some_and(|number| number.fract() == 0.0),
            _ => false,
        },
        Kind::Number => value.is_number(),
        Kind::Boolean => value.is_boolean(),
        Kind::Null => value.is_null(),
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

/// `None`: it is there and no text.
fn text(members: &Map<String, Value>, keyword: &str) -> Option<Option<String>> {
    match members.get(keyword) {
        None => Some(None),
        Some(Value::String(text)) => Some(Some(text.clone())),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(schema: &Value) -> Result<Schema, String> {
        Schema::parse(&Payload::from_value(schema))
    }

    #[test]
    fn answers_are_checked_against_every_keyword() {
        let amount = json!({
            "type": "object",
            "required": ["amount"],
            "additionalProperties": false,
            "properties": {
                "amount": { "type": "integer", "minimum": 1, "maximum": 500 },
                "note": { "type": ["string", "null"], "minLength": 2, "maxLength": 4 },
                "account": { "enum": ["travel", "food"] },
                "tags": { "type": "array", "minItems": 1, "maxItems": 2, "items": { "type": "string" } },
                "a/b": { "type": "boolean" }
            }
        });
        for (schema, value, problems) in [
            (&json!({}), json!([1, { "any": "thing" }]), &[][..]),
            (
                &amount,
                json!({ "amount": 5, "note": null, "account": "food", "tags": ["x"], "a/b": true }),
                &[],
            ),
            (&amount, json!({ "amount": 5.0, "note": "four" }), &[]),
            (&amount, json!(null), &["the answer must be of type object"]),
            (&amount, json!({}), &["'/amount' is missing"]),
            (&amount, json!({ "amount": 5.5 }), &["'/amount' must be of type integer"]),
            (&amount, json!({ "amount": "5" }), &["'/amount' must be of type integer"]),
            (&amount, json!({ "amount": 0 }), &["'/amount' must be at least 1"]),
            (&amount, json!({ "amount": 501 }), &["'/amount' must be at most 500"]),
            (&amount, json!({ "amount": 5, "note": "ü" }), &["'/note' must have at least 2 characters"]),
            (&amount, json!({ "amount": 5, "note": "fives" }), &["'/note' must have at most 4 characters"]),
            (&amount, json!({ "amount": 5, "note": 1 }), &["'/note' must be of type string or null"]),
            (
                &amount,
                json!({ "amount": 5, "account": "car" }),
                &["'/account' must be one of \"travel\", \"food\""],
            ),
            (&amount, json!({ "amount": 5, "tags": [] }), &["'/tags' must have at least 1 items"]),
            (
                &amount,
                json!({ "amount": 5, "tags": [1, "x", 2] }),
                &[
                    "'/tags' must have at most 2 items",
                    "'/tags/0' must be of type string",
                    "'/tags/2' must be of type string",
                ],
            ),
            (&amount, json!({ "amount": 5, "more": 1 }), &["'/more' is not asked for"]),
            (&amount, json!({ "amount": 5, "a/b": 1 }), &["'/a~1b' must be of type boolean"]),
        ] {
            assert_eq!(parse(schema).unwrap().problems(&value), problems, "{value}");
        }
    }

    #[test]
    fn what_is_told_is_bounded() {
        let schema = parse(&json!({ "items": { "items": { "type": "string" } } })).unwrap();
        let value = json!([vec![1; 50], vec![1; 50]]);
        assert_eq!(schema.problems(&value).len(), PROBLEMS_MAX);
        let closed = parse(&json!({ "additionalProperties": false, "required": ["a", "b"] })).unwrap();
        let many: Map<String, Value> = (0..50).map(|n| (n.to_string(), Value::Null)).collect();
        assert_eq!(closed.problems(&many.into()).len(), PROBLEMS_MAX);
    }

    #[test]
    fn schemas_that_ask_for_more_than_is_supported_are_refused() {
        let many: Map<String, Value> = (0..101).map(|n| (n.to_string(), json!({}))).collect();
        for (schema, told) in [
            (json!(true), "what is at '' must be an object"),
            (json!({ "pattern": "a" }), "'pattern' at '' is not supported"),
            (
                json!({ "properties": { "a": { "oneOf": [] } } }),
                "'oneOf' at '/properties/a' is not supported",
            ),
            (json!({ "items": { "type": "money" } }), "'type' at '/items'"),
            (json!({ "type": [] }), "'type' at ''"),
            (json!({ "enum": [] }), "'enum' at ''"),
            (json!({ "enum": vec![0; 101] }), "'enum' at ''"),
            (json!({ "required": "a" }), "'required' at ''"),
            (json!({ "required": [1] }), "'required' at ''"),
            (json!({ "properties": [] }), "'properties' at ''"),
            (json!({ "properties": many }), "'properties' at ''"),
            (json!({ "additionalProperties": {} }), "'additionalProperties' at ''"),
            (json!({ "minimum": "1" }), "'minimum' at ''"),
            (json!({ "maxLength": -1 }), "'maxLength' at ''"),
            (json!({ "title": 1 }), "'title' at ''"),
            (json!({ "description": "x".repeat(20_000) }), "more than 16384"),
        ] {
            let error = parse(&schema).unwrap_err();
            assert!(error.contains(told), "{schema}: {error}");
        }
    }
}
