//! The form of an answer: fields for an object of plain members, else a field for JSON.

use maud::{Markup, html};
use serde_json::{Map, Number, Value};
use stagepost_protocol::{
    Payload,
    approval::{Kind, Schema},
};

/// What the name of a member's field begins with.
const MEMBER: &str = "answer.";
/// The field for JSON.
const WHOLE: &str = "answer";

/// What was typed, by the names of fields.
pub(super) type Typed = [(String, String)];

pub(super) fn typed<'t>(typed: &'t Typed, name: &str) -> Option<&'t str> {
    typed.iter().find(|(field, _)| field == name).map(|(_, text)| text.as_str())
}

/// What a member is asked with.
enum Field<'s> {
    Text,
    Number,
    /// One of these values.
    Choice(Vec<&'s Value>),
}

fn field(schema: &Schema) -> Option<Field<'_>> {
    if let Some(choices) = &schema.choices {
        return Some(Field::Choice(choices.iter().collect()));
    }
    match schema.kind()? {
        Kind::String => Some(Field::Text),
        Kind::Integer | Kind::Number => Some(Field::Number),
        Kind::Boolean => Some(Field::Choice(vec![&Value::Bool(true), &Value::Bool(false)])),
        Kind::Object | Kind::Array | Kind::Null => None,
    }
}

/// The members of an answer and their fields; `None` where only JSON will do.
fn fields(schema: &Schema) -> Option<Vec<(&str, &Schema, Field<'_>)>> {
    if schema.kind() != Some(Kind::Object) || schema.properties.is_empty() {
        return None;
    }
    schema.properties.iter().map(|(name, member)| Some((name.as_str(), member, field(member)?))).collect()
}

/// How a value is shown among others to choose from.
fn shown(value: &Value) -> String {
    match value {
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The fields that ask for an answer, filled in with what was typed before.
pub(super) fn render(schema: &Schema, before: &Typed) -> Markup {
    let Some(fields) = fields(schema) else {
        return html! {
            label {
                span { (schema.title.as_deref().unwrap_or("Answer (JSON)")) }
                @if let Some(description) = &schema.description { small { (description) } }
                textarea name=(WHOLE) rows="6" spellcheck="false" { (typed(before, WHOLE).unwrap_or("")) }
            }
        };
    };
    html! {
        @for (name, member, field) in fields {
            @let id = format!("{MEMBER}{name}");
            @let value = typed(before, &id).unwrap_or("");
            label {
                span {
                    (member.title.as_deref().unwrap_or(name))
                    @if schema.required.iter().any(|required| required == name) { " *" }
                }
                @if let Some(description) = &member.description { small { (description) } }
                @match field {
                    Field::Text => { input type="text" name=(id) value=(value); },
                    Field::Number => { input type="text" inputmode="decimal" name=(id) value=(value); },
                    Field::Choice(choices) => {
                        select name=(id) {
                            option value="" {}
                            @for choice in choices {
                                @let written = choice.to_string();
                                option value=(written) selected[written == value] { (shown(choice)) }
                            }
                        }
                    },
                }
            }
        }
    }
}

/// The answer that was typed; the error says what cannot be read of it. Whether it is what was asked for is not looked at.
pub(super) fn read(schema: &Schema, given: &Typed) -> Result<Payload, String> {
    let Some(fields) = fields(schema) else {
        let text = typed(given, WHOLE).unwrap_or("").trim();
        return crate::wire::json::payload(text, "the answer is empty")
            .map_err(|why| format!("The answer is not JSON: {why}."));
    };
    let mut answer = Map::new();
    for (name, member, field) in fields {
        let text = typed(given, &format!("{MEMBER}{name}")).unwrap_or("").trim();
        // What is left empty is not given.
        if text.is_empty() {
            continue;
        }
        let label = member.title.as_deref().unwrap_or(name);
        let value = match field {
            Field::Text => Value::from(text),
            Field::Number => {
                let number: Number =
                    text.parse().map_err(|_| format!("{label}: '{text}' is not a number."))?;
                Value::from(number)
            }
            Field::Choice(choices) => {
                let wrong = || format!("{label}: choose one of the values.");
                let value: Value = serde_json::from_str(text).map_err(|_| wrong())?;
                if !choices.contains(&&value) {
                    return Err(wrong());
                }
                value
            }
        };
        answer.insert(name.to_owned(), value);
    }
    Ok(Payload::from_value(&answer.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(value: &Value) -> Schema {
        Schema::parse(&Payload::from_value(value)).unwrap()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn plain_members_have_fields_that_are_read_by_their_types() {
        let schema = schema(&json!({
            "type": "object",
            "required": ["cents"],
            "properties": {
                "cents": { "type": "integer", "title": "Amount <b>" },
                "account": { "enum": ["travel", 7] },
                "urgent": { "type": "boolean" },
                "note": { "type": "string" }
            }
        }));
        let typed = pairs(&[
            ("answer.cents", " 250 "),
            ("answer.account", "7"),
            ("answer.urgent", "false"),
            ("answer.note", ""),
            ("answer.other", "x"),
        ]);
        assert_eq!(read(&schema, &typed).unwrap().as_str(), r#"{"cents":250,"account":7,"urgent":false}"#);
        let page = render(&schema, &typed).into_string();
        assert!(page.contains("Amount &lt;b&gt; *"), "{page}");
        assert!(page.contains(r#"<option value="7" selected>7</option>"#), "{page}");
        assert!(page.contains(r#"<option value="&quot;travel&quot;">travel</option>"#), "{page}");
        for (field, text, told) in
            [("answer.cents", "2x", "'2x' is not a number"), ("answer.urgent", "maybe", "urgent: choose one")]
        {
            let error = read(&schema, &pairs(&[(field, text)])).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn anything_else_is_typed_as_json() {
        for asked in [
            json!({}),
            json!({ "type": "string" }),
            json!({ "type": "object" }),
            json!({ "type": "object", "properties": { "a": { "type": "array" } } }),
        ] {
            let schema = schema(&asked);
            assert!(render(&schema, &[]).into_string().contains("textarea"), "{asked}");
            assert_eq!(read(&schema, &pairs(&[("answer", " [1] ")])).unwrap().as_str(), "[1]");
            let error = read(&schema, &pairs(&[("answer", "{")])).unwrap_err();
            assert!(error.starts_with("The answer is not JSON"), "{error}");
            assert!(read(&schema, &[]).is_err());
        }
    }
}
