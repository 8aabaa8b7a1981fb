//! JSON that is passed on.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{
    error::Category,
    value::{RawValue, to_raw_value},
};

/// A JSON document kept as its text: valid by construction, cheap to clone, parsed only where somebody looks
/// inside. It serialises as the JSON that it holds, not as a string (with `serde_json` only).
#[derive(Clone)]
pub struct Payload(Arc<RawValue>);

impl Payload {
    /// Checks that `text` is one JSON document and keeps it.
    pub fn parse(text: &str) -> Result<Payload, serde_json::Error> {
        serde_json::from_str::<Box<RawValue>>(text).map(|raw| Payload(raw.into()))
    }

    /// As [`Payload::parse`], from bytes that must be UTF-8.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Payload, serde_json::Error> {
        let text = std::str::from_utf8(bytes).map_err(serde_json::Error::custom)?;
        Payload::parse(text)
    }

    /// The text of a value.
    pub fn from_value(value: &serde_json::Value) -> Payload {
        Payload(to_raw_value(value).expect("the keys of a JSON value are strings").into())
    }

    /// Serialises any value; fails where its `Serialize` fails (a map with keys that are not strings).
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Payload, serde_json::Error> {
        to_raw_value(value).map(|raw| Payload(raw.into()))
    }

    /// The empty object, `{}`.
    pub fn empty_object() -> Payload {
        Payload(RawValue::from_string("{}".to_owned()).expect("{} is JSON").into())
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Its size, which is what limits count.
    pub fn len(&self) -> usize {
        self.as_str().len()
    }

    /// Never true: the shortest document has one byte.
    pub fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }

    /// Parses the document.
    pub fn to_value(&self) -> serde_json::Value {
        self.read().unwrap_or(serde_json::Value::Null)
    }

    /// Parses the document into a type.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }
}

impl PartialEq for Payload {
    /// Equal texts; two spellings of one document are not equal.
    fn eq(&self, other: &Payload) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    /// Shows the size, never the content: payloads are not logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.as_str().len())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        if raw.get().len() > crate::limits::SHARD_MESSAGE_BYTES_MAX {
            return Err(D::Error::custom("the JSON document is too large"));
        }
        Ok(Payload(raw.into()))
    }
}

/// How and where JSON is wrong, without a word of it: what the parser says may quote a secret, and reasons are logged.
pub fn json_problem(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Data => "a member is missing, unknown or of the wrong type",
        Category::Eof => "it ends too early",
        Category::Syntax | Category::Io => "it is no JSON",
    };
    format!("{what}, see line {}, column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_passed_on_as_it_was_written() {
        let p = Payload::parse(r#" {"a": [1, 2.50, "x"]} "#).unwrap();
        assert_eq!(p.as_str(), r#"{"a": [1, 2.50, "x"]}"#);
        let text = serde_json::to_string(&(1, &p)).unwrap();
        assert_eq!(text, r#"[1,{"a": [1, 2.50, "x"]}]"#);
        let back: (u8, Payload) = serde_json::from_str(&text).unwrap();
        assert_eq!(back.1, p);
    }

    #[test]
    fn what_is_wrong_with_json_is_told_without_quoting_it() {
        for (text, expected) in [
            ("[1,", "it ends too early, see line 1, column 3"),
            ("secret", "it is no JSON, see line 1, column 1"),
            ("\"secret\"", "a member is missing, unknown or of the wrong type, see line 1, column 8"),
        ] {
            let error = serde_json::from_str::<Vec<u8>>(text).unwrap_err();
            let told = json_problem(&error);
            assert!(!told.contains("secret"), "{told}");
            assert_eq!(told, expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_and_content_is_not_shown() {
        for bad in ["", "{", "{} {}", "nul", "\"\u{1}\""] {
            assert!(Payload::parse(bad).is_err(), "{bad}");
        }
        assert!(Payload::parse_bytes(b"\"\xff\"").is_err());
        assert_eq!(format!("{:?}", Payload::parse("\"secret\"").unwrap()), "Payload(8 bytes)");
    }
}
