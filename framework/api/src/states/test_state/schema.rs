//! Whether a mocked result is one that a service could give: `fieldValidationMode` of TestState's mock.

use std::fmt;

use serde_json::Value;

/// How strict (MockInput, `fieldValidationMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Fields that the service always answers must be there, and all that are there must fit. The default.
    Strict,
    /// All fields that are there must fit.
    Present,
    /// Nothing is checked.
    None,
}

/// What a field of a service's answer may hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// Any JSON.
    Anything,
    /// A text (a time or bytes too) of so many characters at least and at most.
    Text(usize, usize),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// A number from the first to the second.
    Number(f64, f64),
    /// `true` or `false`.
    Boolean,
    /// An array of these.
    List(&'static Shape),
    /// An object whose names are free.
    Map(&'static Shape),
    /// An object of these fields; others are ignored, as services gain fields.
    Structure(&'static [Field]),
}

/// A field of a structure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// It is in every answer.
    pub(super) required: bool,
}

/// A field that may be missing.
pub(super) const fn field(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false }
}

/// A field that is in every answer.
pub(super) const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true }
}

/// What does not fit, in the service's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// Of the result as a whole.
    NoObject,
    /// Of a field.
    Field { name: String, why: &'static str },
    /// A field that must be there is not.
    Missing(&'static str),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::NoObject => f.write_str("Mocked result must be a JSON object."),
            Misfit::Field { name, why } => {
                write!(f, "Mock result schema validation error: Field '{name}' {why}")
            }
            Misfit::Missing(name) => {
                write!(f, "Mock result schema validation error: Required field '{name}' is missing")
            }
        }
    }
}

/// Checks the result of a service's call.
pub(super) fn check(result: &Value, shape: &Shape, mode: Mode) -> Result<(), Misfit> {
    if mode == Mode::None {
        return Ok(());
    }
    if !result.is_object() {
        return Err(Misfit::NoObject);
    }
    fits(result, shape, "", mode)
}

/// `name` is that of the nearest field around the value.
fn fits(value: &Value, shape: &Shape, name: &str, mode: Mode) -> Result<(), Misfit> {
    let misfit = |why| Err(Misfit::Field { name: name.to_owned(), why });
    match (shape, value) {
        (Shape::Anything, _) | (Shape::Boolean, Value::Bool(_)) => Ok(()),
        (Shape::Text(min, max), Value::String(text)) => match text.chars().count() {
            n if n < *min => misfit("is smaller than the minimum length"),
            n if n > *max => misfit("exceeds the maximum length"),
            _ => Ok(()),
        },
        (Shape::OneOf(allowed), Value::String(text)) => {
            if allowed.contains(&text.as_str()) {
                Ok(())
            } else {
                misfit("is not an expected value")
            }
        }
        (Shape::Number(min, max), Value::Number(number)) => match number.as_f64() {
            Some(n) if n < *min => misfit("is less than the minimum value"),
            Some(n) if n > *max => misfit("exceeds the maximum value"),
            _ => Ok(()),
        },
        (Shape::List(of), Value::Array(items)) => {
            items.iter().try_for_each(|item| fits(item, of, name, mode))
        }
        (Shape::Map(of), Value::Object(entries)) => {
            entries.values().try_for_each(|value| fits(value, of, name, mode))
        }
        (Shape::Structure(fields), Value::Object(given)) => {
            fields.iter().try_for_each(|field| match given.get(field.name) {
                Some(value) => fits(value, &field.shape, field.name, mode),
                None if field.required && mode == Mode::Strict => Err(Misfit::Missing(field.name)),
                None => Ok(()),
            })
        }
        (Shape::Text(..) | Shape::OneOf(_), _) => misfit("must be a string"),
        (Shape::Number(..), _) => misfit("must be a number"),
        (Shape::Boolean, _) => misfit("must be a boolean"),
        (Shape::List(_), _) => misfit("must be an array"),
        (Shape::Map(_) | Shape::Structure(_), _) => misfit("must be an object"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const INNER: Shape = Shape::Structure(&[required("Id", Shape::Text(1, 3)), field("On", Shape::Boolean)]);
    const ANSWER: Shape = Shape::Structure(&[
        required("Arn", Shape::Text(1, 9)),
        field("Kind", Shape::OneOf(&["A", "B"])),
        field("Size", Shape::Number(1.0, 10.0)),
        field("Items", Shape::List(&INNER)),
        field("Tags", Shape::Map(&Shape::Text(0, 9))),
        field("Payload", Shape::Anything),
    ]);

    #[test]
    fn a_field_that_does_not_fit_is_told_in_the_services_words() {
        let all = json!({
            "Arn": "a", "Kind": "B", "Size": 1.5, "Items": [{ "Id": "abc", "On": true }], "Tags": { "x": "y" },
            "Payload": [null], "New": 1,
        });
        assert_eq!(check(&all, &ANSWER, Mode::Strict), Ok(()));
        let missing = "Mock result schema validation error: Required field 'Arn' is missing";
        for (result, expected) in [
            (json!({}), missing),
            (json!({ "Arn": 1 }), "Mock result schema validation error: Field 'Arn' must be a string"),
            (json!({ "Arn": "" }), "…Field 'Arn' is smaller than the minimum length"),
            (json!({ "Arn": "0123456789" }), "…Field 'Arn' exceeds the maximum length"),
            (json!({ "Arn": "a", "Kind": "C" }), "…Field 'Kind' is not an expected value"),
            (json!({ "Arn": "a", "Kind": null }), "…Field 'Kind' must be a string"),
            (json!({ "Arn": "a", "Size": "1" }), "…Field 'Size' must be a number"),
            (json!({ "Arn": "a", "Size": 0 }), "…Field 'Size' is less than the minimum value"),
            (json!({ "Arn": "a", "Size": 11 }), "…Field 'Size' exceeds the maximum value"),
            (json!({ "Arn": "a", "Items": {} }), "…Field 'Items' must be an array"),
            (json!({ "Arn": "a", "Items": [1] }), "…Field 'Items' must be an object"),
            (json!({ "Arn": "a", "Items": [{ "Id": "a" }, { "Id": [] }] }), "…Field 'Id' must be a string"),
            (json!({ "Arn": "a", "Items": [{}] }), "…Required field 'Id' is missing"),
            (json!({ "Arn": "a", "Items": [{ "Id": "a", "On": 1 }] }), "…Field 'On' must be a boolean"),
            (json!({ "Arn": "a", "Tags": [] }), "…Field 'Tags' must be an object"),
            (json!({ "Arn": "a", "Tags": { "x": 1 } }), "…Field 'Tags' must be a string"),
            (json!([]), "Mocked result must be a JSON object."),
        ] {
            let expected = expected.replace('…', "Mock result schema validation error: ");
            let strict = check(&result, &ANSWER, Mode::Strict).unwrap_err().to_string();
            assert_eq!(strict, expected, "{result}");
            let present = check(&result, &ANSWER, Mode::Present).err().map(|e| e.to_string());
            assert_eq!(present, Some(expected).filter(|e| !e.contains("missing")), "{result}");
            assert_eq!(check(&result, &ANSWER, Mode::None), Ok(()));
        }
    }
}
