//! From text to a JSON value, within the limits, noticing fields that stand twice in an object.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use stagepost_protocol::limits;

use super::finding::{Finding, Severity, codes};

/// Reads a document. The pointers are those of fields that an earlier field of the same name precedes; the last
/// one counts, as in the service.
pub(super) fn read(text: &str) -> Result<(Value, Vec<String>), Box<Finding>> {
    if text.len() > limits::DEFINITION_BYTES_MAX {
        let message = format!(
            "Definition is {} bytes long; at most {} are accepted",
            text.len(),
            limits::DEFINITION_BYTES_MAX
        );
        return Err(error(
            codes::TOO_LARGE,
            message,
            "move large constants into the input, or split the workflow",
        ));
    }
    if text.starts_with('\u{feff}') {
        let message = "The text begins with a byte order mark at line 1 column 1";
        return Err(error(codes::INVALID_JSON, message.to_owned(), "save the file as UTF-8 without one"));
    }
    // Counted here so that the limit is ours and not the JSON library's.
    if let Some(at) = too_deep(text) {
        let message =
            format!("Definition is nested deeper than {} levels at byte {at}", limits::JSON_DEPTH_MAX);
        return Err(error(codes::TOO_DEEP, message, "start a second state machine from a Task instead"));
    }
    let duplicates = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_str(text);
    // The depth is known to be within the limit.
    let seed = Seed { place: &Place::Root, duplicates: &duplicates };
    let value = seed.deserialize(&mut deserializer).and_then(|v| deserializer.end().map(|()| v));
    match value {
        Ok(value) => Ok((value, duplicates.into_inner())),
        Err(e) => Err(error(codes::INVALID_JSON, e.to_string(), "the definition has to be one JSON object")),
    }
}

fn error(code: &'static str, message: String, help: &str) -> Box<Finding> {
    let (severity, pointer, help) = (Severity::Error, String::new(), Some(help.to_owned()));
    Box::new(Finding { severity, code, pointer, message, help, spot: None })
}

/// The byte at which brackets are open deeper than the limit.
fn too_deep(text: &str) -> Option<usize> {
    // serde_json itself refuses the level that would be its 128th; stay on its side of it.
    const DEPTH_MAX: usize = limits::JSON_DEPTH_MAX - 1;
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Some(at);
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// Where the reader is; spelled out only when there is something to say.
enum Place<'a> {
    Root,
    Field(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn write(&self, pointer: &mut String) {
        match self {
            Place::Root => {}
            Place::Field(parent, name) => {
                parent.write(pointer);
                super::node::push_segment(pointer, name);
            }
            Place::Item(parent, index) => {
                parent.write(pointer);
                super::node::push_segment(pointer, &index.to_string());
            }
        }
    }
}

struct Seed<'a> {
    place: &'a Place<'a>,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        loop {
            let place = Place::Item(self.place, array.len());
            let Some(item) = items.next_element_seed(Seed { place: &place, duplicates: self.duplicates })?
            else {
                return Ok(Value::Array(array));
            };
            array.push(item);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let place = Place::Field(self.place, &name);
            let value = fields.next_value_seed(Seed { place: &place, duplicates: self.duplicates })?;
            if object.contains_key(&name) {
                let mut pointer = String::new();
                place.write(&mut pointer);
                self.duplicates.borrow_mut().push(pointer);
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}
