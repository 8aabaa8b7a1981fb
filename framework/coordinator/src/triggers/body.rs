//! Reads the bodies of messages: what they are packed with, the encoding of their text, JSON. Pure.

use std::{borrow::Cow, io::Read};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use stagepost_protocol::{DeadReason, Payload, Properties, limits, payload::json_problem};

use super::model::BodyFormat;

/// Largest body that is read, packed and unpacked. An execution's input is smaller; a mapping may make it so.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Of a name that a message gave, so many characters are repeated.
const SHOWN_CHARS_MAX: usize = 64;

/// Why a message starts nothing. What it says repeats nothing of the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("its body has {0} bytes or more, and at most {BODY_BYTES_MAX} are read")]
    BodyTooLarge(usize),
    #[error("the input has {0} bytes, more than the {max} that an execution's input may have", max = limits::PAYLOAD_BYTES_MAX)]
    InputTooLarge(usize),
    #[error("its content encoding '{0}' is not read: gzip and deflate are")]
    Encoding(String),
    #[error("its body is not {0}, as its content encoding says")]
    NotPacked(&'static str),
    #[error("its charset '{0}' is not read: UTF-8, US-ASCII, ISO-8859-1 and UTF-16 are")]
    Charset(String),
    #[error("its body is not text in {0}")]
    NotText(&'static str),
    #[error("its body is not JSON: {0}")]
    NotJson(String),
    #[error("{0}")]
    Mapping(String),
}

impl Unusable {
    pub(super) fn kind(&self) -> DeadReason {
        match self {
            Unusable::BodyTooLarge(_) | Unusable::InputTooLarge(_) => DeadReason::TooLarge,
            Unusable::Encoding(_) | Unusable::NotPacked(_) | Unusable::Charset(_) | Unusable::NotText(_) => {
                DeadReason::Encoding
            }
            Unusable::NotJson(_) => DeadReason::NotJson,
            Unusable::Mapping(_) => DeadReason::Mapping,
        }
    }
}

/// The body as JSON.
pub(super) fn read(format: BodyFormat, body: &[u8], properties: &Properties) -> Result<Payload, Unusable> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Unusable::BodyTooLarge(body.len()));
    }
    let content_type = properties.content_type.as_deref().unwrap_or_default();
    let format = match format {
        BodyFormat::ByContentType => format_of(content_type),
        given => given,
    };
    if format == BodyFormat::Binary {
        return Ok(Payload::from_value(&Value::String(STANDARD.encode(body))));
    }
    let encoding = properties.content_encoding.as_deref().unwrap_or_default().trim().to_ascii_lowercase();
    let (unpacked, charset) = match encoding.as_str() {
        // `binary` is what some clients call bytes that are what they are.
        "" | "identity" | "binary" | "8bit" => (Cow::Borrowed(body), None),
        "gzip" | "x-gzip" => (unpack("gzip", flate2::read::MultiGzDecoder::new(body))?.into(), None),
        "deflate" => (unpack("deflate", flate2::read::ZlibDecoder::new(body))?.into(), None),
        // Others name the charset here.
        name => match Charset::parse(name) {
            Some(charset) => (Cow::Borrowed(body), Some(charset)),
            None => return Err(Unusable::Encoding(shown(name))),
        },
    };
    let charset = match parameter(content_type, "charset") {
        None => charset.unwrap_or(Charset::Utf8),
        Some(name) => Charset::parse(&name).ok_or_else(|| Unusable::Charset(shown(&name)))?,
    };
    let text = charset.decode(&unpacked)?;
    if format == BodyFormat::Text {
        return Ok(Payload::from_value(&Value::String(text.into_owned())));
    }
    Payload::parse(&text).map_err(|error| Unusable::NotJson(json_problem(&error)))
}

fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect()
}

fn unpack(name: &'static str, packed: impl Read) -> Result<Vec<u8>, Unusable> {
    let mut bytes = Vec::new();
    let limit = BODY_BYTES_MAX as u64 + 1;
    packed.take(limit).read_to_end(&mut bytes).map_err(|_| Unusable::NotPacked(name))?;
    if bytes.len() > BODY_BYTES_MAX { Err(Unusable::BodyTooLarge(bytes.len())) } else { Ok(bytes) }
}

/// What a body of this content type is.
fn format_of(content_type: &str) -> BodyFormat {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" | "application/json" | "text/json" => BodyFormat::Json,
        essence if essence.ends_with("+json") => BodyFormat::Json,
        essence if essence.starts_with("text/") => BodyFormat::Text,
        "application/xml" | "application/x-www-form-urlencoded" => BodyFormat::Text,
        essence if essence.ends_with("+xml") => BodyFormat::Text,
        _ => BodyFormat::Binary,
    }
}

/// A parameter of a content type, without its quotes.
fn parameter(content_type: &str, name: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    })
}

/// The encodings of text that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Charset {
    Utf8,
    Latin1,
    /// Big endian unless a byte order mark says otherwise (RFC 2781, section 4.3).
    Utf16,
    Utf16Le,
    Utf16Be,
}

impl Charset {
    fn parse(name: &str) -> Option<Charset> {
        Some(match name.to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" | "us-ascii" | "ascii" => Charset::Utf8,
            "iso-8859-1" | "latin1" | "latin-1" => Charset::Latin1,
            "utf-16" | "utf16" => Charset::Utf16,
            "utf-16le" => Charset::Utf16Le,
            "utf-16be" => Charset::Utf16Be,
            _ => return None,
        })
    }

    /// The text, without its byte order mark.
    fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, Unusable> {
        let utf16 = |bytes: &[u8], from: fn([u8; 2]) -> u16| {
            let (pairs, rest) = bytes.as_chunks::<2>();
            let units = pairs.iter().map(|pair| from(*pair));
            let text: Result<String, _> = char::decode_utf16(units).collect();
            match text {
                Ok(text) if rest.is_empty() => Ok(Cow::Owned(text)),
                _ => Err(Unusable::NotText("UTF-16")),
            }
        };
        match self {
            Charset::Utf8 => {
                let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
                std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Unusable::NotText("UTF-8"))
            }
            // Its bytes are the first 256 characters of Unicode.
            Charset::Latin1 => Ok(Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect())),
            Charset::Utf16 => match bytes {
                [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
                [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
                rest => utf16(rest, u16::from_be_bytes),
            },
            Charset::Utf16Le => utf16(bytes.strip_prefix(b"\xff\xfe").unwrap_or(bytes), u16::from_le_bytes),
            Charset::Utf16Be => utf16(bytes.strip_prefix(b"\xfe\xff").unwrap_or(bytes), u16::from_be_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = write::GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut packed = write::ZlibEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn utf16(text: &str, to: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(to).collect()
    }

    fn read_as(
        format: BodyFormat,
        content_type: &str,
        encoding: &str,
        body: &[u8],
    ) -> Result<String, Unusable> {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let properties = Properties {
            content_type: text(content_type),
            content_encoding: text(encoding),
            ..Properties::default()
        };
        read(format, body, &properties).map(|payload| payload.as_str().to_owned())
    }

    #[test]
    fn bodies_are_read_as_the_trigger_and_their_properties_say() {
        use BodyFormat::{Binary, ByContentType, Json, Text};
        let with_mark = |text: &str| [b"\xef\xbb\xbf", text.as_bytes()].concat();
        for (format, content_type, encoding, body, expected) in [
            (Json, "", "", b"{\"a\": 1.10}".to_vec(), "{\"a\": 1.10}"),
            (Json, "image/png", "", b"1".to_vec(), "1"),
            (Json, "", "", with_mark("[1]"), "[1]"),
            (Json, "", "identity", b"1".to_vec(), "1"),
            (Json, "application/json", "binary", b"1".to_vec(), "1"),
            (Json, "application/json", "UTF-8", b"\"\xc3\xa4\"".to_vec(), "\"ä\""),
            (Json, "application/json", "gzip", gzip(b"{}"), "{}"),
            (Json, "application/json", "X-GZIP", gzip(b"{}"), "{}"),
            (Json, "application/json", "deflate", deflate(b"{}"), "{}"),
            (Json, "application/json; charset=ISO-8859-1", "", b"\"\xe4\"".to_vec(), "\"ä\""),
            (
                Json,
                "application/json;charset=\"utf-16\"",
                "",
                utf16("\u{feff}\"ä\"", u16::to_le_bytes),
                "\"ä\"",
            ),
            (Json, "application/json; charset=utf-16", "", utf16("\"ä\"", u16::to_be_bytes), "\"ä\""),
            (Json, "a/b; charset=utf-16le", "gzip", gzip(&utf16("1", u16::to_le_bytes)), "1"),
            (Json, "", "utf-16be", utf16("\u{feff}1", u16::to_be_bytes), "1"),
            (Text, "", "", b"<a>\n\"".to_vec(), "\"<a>\\n\\\"\""),
            (Text, "", "", Vec::new(), "\"\""),
            (Text, "application/json", "", b"{}".to_vec(), "\"{}\""),
            (Binary, "text/plain", "gzip", b"\xff\0".to_vec(), "\"/wA=\""),
            (Binary, "", "", Vec::new(), "\"\""),
            (ByContentType, "", "", b"[]".to_vec(), "[]"),
            (ByContentType, "Application/JSON; charset=utf-8", "", b"[]".to_vec(), "[]"),
            (ByContentType, "application/cloudevents+json", "", b"[]".to_vec(), "[]"),
            (ByContentType, "text/plain", "", b"[]".to_vec(), "\"[]\""),
            (ByContentType, "application/xml", "", b"<a/>".to_vec(), "\"<a/>\""),
            (ByContentType, "application/octet-stream", "", b"[]".to_vec(), "\"W10=\""),
        ] {
            let read = read_as(format, content_type, encoding, &body);
            assert_eq!(read.as_deref(), Ok(expected), "{format:?} '{content_type}' '{encoding}'");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why_and_quotes_nothing() {
        use BodyFormat::{Binary, Json, Text};
        let not_json =
            |what, line, column| Unusable::NotJson(format!("{what}, see line {line}, column {column}"));
        let bomb = gzip(&vec![b' '; 2 * BODY_BYTES_MAX]);
        for (format, content_type, encoding, body, expected) in [
            (Json, "", "", b"<a/>".to_vec(), not_json("it is no JSON", 1, 1)),
            (Json, "", "", Vec::new(), not_json("it ends too early", 1, 0)),
            (Json, "", "", b"{}\n}".to_vec(), not_json("it is no JSON", 2, 1)),
            (Json, "", "", b"\"\xff\"".to_vec(), Unusable::NotText("UTF-8")),
            (Text, "a/b; charset=utf-16", "", b"abc".to_vec(), Unusable::NotText("UTF-16")),
            (Text, "a/b; charset=utf-16le", "", vec![0, 0xd8], Unusable::NotText("UTF-16")),
            (Text, "a/b; charset=KOI8-R", "", b"a".to_vec(), Unusable::Charset("koi8-r".into())),
            (Json, "", "br", b"a".to_vec(), Unusable::Encoding("br".into())),
            (Json, "", "gzip, gzip", b"a".to_vec(), Unusable::Encoding("gzip, gzip".into())),
            (Json, "", "gzip", b"{}".to_vec(), Unusable::NotPacked("gzip")),
            (Json, "", "deflate", b"{}".to_vec(), Unusable::NotPacked("deflate")),
            (Json, "", "gzip", bomb, Unusable::BodyTooLarge(BODY_BYTES_MAX + 1)),
            (Binary, "", "", vec![0; BODY_BYTES_MAX + 1], Unusable::BodyTooLarge(BODY_BYTES_MAX + 1)),
        ] {
            assert_eq!(
                read_as(format, content_type, encoding, &body),
                Err(expected),
                "'{content_type}' '{encoding}'"
            );
        }
    }
}
