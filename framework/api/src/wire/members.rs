//! Reads the members of a request and checks them against the constraints of the service's model.
//!
//! A member of the wrong type is a `SerializationException`; violated constraints are collected, and
//! [`Members::finish`] tells all of them in one `ValidationException`, as the service does. Until `finish` has
//! returned `Ok`, what the other methods return is a placeholder where something is wrong.

use serde_json::{Map, Value};

use super::{ApiError, Code};

/// The constraints on a text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text {
    min: usize,
    max: usize,
    sensitive: bool,
}

impl Text {
    /// `min` to `max` characters.
    pub(crate) const fn new(min: usize, max: usize) -> Text {
        Text { min, max, sensitive: false }
    }

    /// A text that messages do not repeat. Its length is counted in bytes, which is what its limit is about.
    pub(crate) const fn sensitive(min: usize, max: usize) -> Text {
        Text { min, max, sensitive: true }
    }
}

/// An ARN.
pub(crate) const ARN: Text = Text::new(1, 256);
/// A name of a state machine, an execution, an activity or a worker.
pub(crate) const NAME: Text = Text::new(1, stagepost_protocol::limits::NAME_CHARS_MAX);
/// An input or output.
pub(crate) const DATA: Text = Text::sensitive(0, stagepost_protocol::limits::PAYLOAD_BYTES_MAX);
/// The name of an error.
pub(crate) const ERROR: Text = Text::sensitive(0, stagepost_protocol::limits::ERROR_CHARS_MAX);
/// The cause of an error.
pub(crate) const CAUSE: Text = Text::sensitive(0, stagepost_protocol::limits::CAUSE_CHARS_MAX);
/// A definition.
pub(crate) const DEFINITION: Text = Text::sensitive(1, stagepost_protocol::limits::DEFINITION_BYTES_MAX);

/// The longest value that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 1024;

/// The members of a request, or of a structure in it.
pub(crate) struct Members<'a> {
    members: &'a Map<String, Value>,
    /// What member names are prefixed with in messages.
    path: String,
    violations: Vec<String>,
    type_error: Option<String>,
}

impl<'a> Members<'a> {
    pub(crate) fn new(members: &'a Map<String, Value>) -> Members<'a> {
        Members { members, path: String::new(), violations: Vec::new(), type_error: None }
    }

    /// Tells what is wrong, if anything is.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        if let Some(message) = self.type_error {
            return Err(ApiError::new(Code::SerializationException, message));
        }
        match self.violations.len() {
            0 => Ok(()),
            n => Err(ApiError::validation(format!(
                "{n} validation error{} detected: {}",
                if n == 1 { "" } else { "s" },
                self.violations.join("; ")
            ))),
        }
    }

    /// A text that must be there.
    pub(crate) fn required_text(&mut self, name: &str, constraint: Text) -> &'a str {
        self.require(name);
        self.text(name, constraint).unwrap_or("")
    }

    /// A text that may be missing.
    pub(crate) fn text(&mut self, name: &str, constraint: Text) -> Option<&'a str> {
        let text = match self.get(name)? {
            Value::String(text) => text.as_str(),
            other => return self.wrong_type(other, "String"),
        };
        let length = if constraint.sensitive { text.len() } else { text.chars().count() };
        let value = if constraint.sensitive { "Value".to_owned() } else { shown(text) };
        if length > constraint.max {
            let max = constraint.max;
            self.violated(&value, name, &format!("Member must have length less than or equal to {max}"));
        } else if length < constraint.min {
            let min = constraint.min;
            self.violated(&value, name, &format!("Member must have length greater than or equal to {min}"));
        }
        Some(text)
    }

    /// One of a set of texts.
    pub(crate) fn one_of(&mut self, name: &str, allowed: &[&'static str]) -> Option<&'static str> {
        let text = self.text(name, Text::new(0, usize::MAX))?;
        let found = allowed.iter().find(|a| **a == text).copied();
        if found.is_none() {
            let set = allowed.join(", ");
            self.violated(&shown(text), name, &format!("Member must satisfy enum value set: [{set}]"));
        }
        found
    }

    /// A whole number of a range.
    pub(crate) fn integer(&mut self, name: &str, min: i64, max: i64) -> Option<i64> {
        let number = match self.get(name)? {
            Value::Number(number) => number,
            other => return self.wrong_type(other, "Integer"),
        };
        // A fraction is cut off, as the service does.
        let n = number.as_i64().unwrap_or_else(|| number.as_f64().unwrap_or(f64::MAX) as i64);
        if n > max {
            let rule = format!("Member must have value less than or equal to {max}");
            self.violated(&format!("Value '{n}'"), name, &rule);
        } else if n < min {
            let rule = format!("Member must have value greater than or equal to {min}");
            self.violated(&format!("Value '{n}'"), name, &rule);
        }
        Some(n)
    }

    /// A number within bounds.
    pub(crate) fn number(&mut self, name: &str, min: f64, max: f64) -> Option<f64> {
        let number = match self.get(name)? {
            Value::Number(number) => number.as_f64().unwrap_or(f64::MAX),
            other => return self.wrong_type(other, "Float"),
        };
        if number > max {
            let rule = format!("Member must have value less than or equal to {max}");
            self.violated(&format!("Value '{number}'"), name, &rule);
        } else if number < min {
            let rule = format!("Member must have value greater than or equal to {min}");
            self.violated(&format!("Value '{number}'"), name, &rule);
        }
        Some(number)
    }

    /// A truth value.
    pub(crate) fn flag(&mut self, name: &str) -> Option<bool> {
        match self.get(name)? {
            Value::Bool(flag) => Some(*flag),
            other => self.wrong_type(other, "Boolean"),
        }
    }

    /// A list.
    pub(crate) fn list(&mut self, name: &str) -> Option<&'a [Value]> {
        match self.get(name)? {
            Value::Array(list) => Some(list),
            other => self.wrong_type(other, "List"),
        }
    }

    /// A structure; `read` reads its members.
    pub(crate) fn structure<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Members<'a>) -> T,
    ) -> Option<(&'a Map<String, Value>, T)> {
        match self.get(name)? {
            Value::Object(members) => Some((members, self.inside(&format!("{name}."), members, read))),
            other => self.wrong_type(other, "Structure"),
        }
    }

    /// The structures of a list.
    pub(crate) fn structures<T>(
        &mut self,
        name: &str,
        mut read: impl FnMut(&mut Members<'a>) -> T,
    ) -> Option<Vec<T>> {
        let list = self.list(name)?;
        let mut all = Vec::with_capacity(list.len());
        for (i, item) in list.iter().enumerate() {
            match item {
                Value::Object(members) => {
                    all.push(self.inside(&format!("{name}.{}.member.", i + 1), members, &mut read));
                }
                other => return self.wrong_type(other, "Structure"),
            }
        }
        Some(all)
    }

    /// The texts of a list.
    pub(crate) fn texts(&mut self, name: &str, constraint: Text) -> Option<Vec<&'a str>> {
        let list = self.list(name)?;
        let mut all = Vec::with_capacity(list.len());
        for (i, item) in list.iter().enumerate() {
            let Value::String(text) = item else { return self.wrong_type(item, "String") };
            if !(constraint.min..=constraint.max).contains(&text.chars().count()) {
                let (min, max) = (constraint.min, constraint.max);
                let rule = format!("Member must have length between {min} and {max}");
                self.violated(&shown(text), &format!("{name}.{}.member", i + 1), &rule);
            }
            all.push(text.as_str());
        }
        Some(all)
    }

    /// Demands that a member is there.
    pub(crate) fn require(&mut self, name: &str) {
        if self.get(name).is_none() {
            self.violated("Value null", name, "Member must not be null");
        }
    }

    fn inside<T>(
        &mut self,
        path: &str,
        members: &'a Map<String, Value>,
        read: impl FnOnce(&mut Members<'a>) -> T,
    ) -> T {
        let path = format!("{}{path}", self.path);
        let mut inner = Members { members, path, violations: Vec::new(), type_error: None };
        let value = read(&mut inner);
        self.violations.append(&mut inner.violations);
        self.type_error = self.type_error.take().or(inner.type_error);
        value
    }

    /// A member; `null` counts as missing.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|v| !v.is_null())
    }

    fn violated(&mut self, value: &str, name: &str, rule: &str) {
        let path = &self.path;
        self.violations.push(format!("{value} at '{path}{name}' failed to satisfy constraint: {rule}"));
    }

    fn wrong_type<T>(&mut self, value: &Value, expected: &str) -> Option<T> {
        let found = match value {
            Value::Null => "NULL_VALUE",
            Value::Bool(true) => "TRUE_VALUE",
            Value::Bool(false) => "FALSE_VALUE",
            Value::Number(_) => "NUMBER_VALUE",
            Value::String(_) => "STRING_VALUE",
            Value::Array(_) => "START_ARRAY",
            Value::Object(_) => "START_OBJECT",
        };
        self.type_error.get_or_insert_with(|| format!("{found} can not be converted to a {expected}"));
        None
    }
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => format!("Value '{text}'"),
        Some((end, _)) => format!("Value '{}…'", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(body: &Value, read: impl FnOnce(&mut Members<'_>)) -> Result<(), (Code, String)> {
        let mut members = Members::new(body.as_object().unwrap());
        read(&mut members);
        members.finish().map_err(|e| (e.code, e.message))
    }

    fn violations(body: &Value, read: impl FnOnce(&mut Members<'_>)) -> String {
        let (code, message) = check(body, read).unwrap_err();
        assert_eq!(code, Code::ValidationException);
        message
    }

    #[test]
    fn violated_constraints_are_told_as_the_service_tells_them() {
        let message = violations(&json!({ "maxResults": 1001 }), |m| {
            m.integer("maxResults", 0, 1000);
        });
        assert_eq!(
            message,
            "1 validation error detected: Value '1001' at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 1000"
        );
        let message = violations(&json!({ "name": "", "input": "four" }), |m| {
            m.required_text("name", NAME);
            m.required_text("roleArn", ARN);
            m.text("input", Text::sensitive(0, 3));
        });
        assert_eq!(
            message,
            "3 validation errors detected: Value '' at 'name' failed to satisfy constraint: Member must have length greater than or equal to 1; Value null at 'roleArn' failed to satisfy constraint: Member must not be null; Value at 'input' failed to satisfy constraint: Member must have length less than or equal to 3"
        );
        let message = violations(&json!({ "tags": [{ "key": "k" }, { "key": "" }] }), |m| {
            m.structures("tags", |tag| tag.text("key", Text::new(1, 128)));
        });
        assert!(message.contains("Value '' at 'tags.2.member.key' failed"), "{message}");
        let message = violations(&json!({ "type": "TURBO" }), |m| {
            m.one_of("type", &["STANDARD", "EXPRESS"]);
        });
        assert!(message.ends_with("Value 'TURBO' at 'type' failed to satisfy constraint: Member must satisfy enum value set: [STANDARD, EXPRESS]"), "{message}");
    }

    #[test]
    fn wrong_types_come_before_violated_constraints() {
        for (body, expected) in [
            (json!({ "name": 1 }), "NUMBER_VALUE can not be converted to a String"),
            (json!({ "name": {} }), "START_OBJECT can not be converted to a String"),
            (json!({ "n": "1" }), "STRING_VALUE can not be converted to a Integer"),
            (json!({ "flag": "true" }), "STRING_VALUE can not be converted to a Boolean"),
            (json!({ "tags": {} }), "START_OBJECT can not be converted to a List"),
            (json!({ "tags": [true] }), "TRUE_VALUE can not be converted to a Structure"),
        ] {
            let error = check(&body, |m| {
                m.require("missing");
                m.text("name", NAME);
                m.integer("n", 0, 1);
                m.flag("flag");
                m.structures("tags", |_| ());
            });
            assert_eq!(error, Err((Code::SerializationException, expected.to_owned())));
        }
        assert!(
            check(&json!({ "name": null, "extra": 1 }), |m| assert_eq!(m.text("name", NAME), None)).is_ok()
        );
    }
}
