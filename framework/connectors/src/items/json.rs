//! The items of a JSON document, found without reading the whole of it.

use stagepost_protocol::limits;

use super::{
    POINTER_BYTES_MAX,
    decode::{Item, Step},
    error::ReadError,
};

/// Where the decoder is in its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Place {
    /// Before the array or object that holds the items.
    Before,
    /// After its opening bracket.
    First(Container),
    /// After an item.
    Later(Container),
    /// After its closing bracket.
    After,
}

/// What holds the items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Container {
    /// Its elements are the items.
    Array,
    /// Its fields are the items, in the order of the document.
    Object,
}

/// Finds the items of one document.
#[derive(Debug)]
pub(super) struct Decoder {
    pointer: Vec<String>,
    place: Place,
}

impl Decoder {
    pub(super) fn new(pointer: &[String], place: Place) -> Decoder {
        Decoder { pointer: pointer.to_vec(), place }
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn step(&mut self, bytes: &[u8], last: bool, number: u64) -> Result<Step, ReadError> {
        let mut scan = Scan { bytes, at: 0 };
        let step = match self.place {
            Place::Before => self.enter(&mut scan),
            Place::First(container) => next_item(&mut scan, container, true),
            Place::Later(container) => next_item(&mut scan, container, false),
            Place::After => self.rest(&mut scan),
        };
        let item = || format!("item {number}");
        let late = || {
            ReadError::new(format!(
                "the items of the JSON document begin after its first {POINTER_BYTES_MAX} bytes"
            ))
        };
        match step {
            Ok(Found::Items(_)) if scan.at > POINTER_BYTES_MAX => Err(late()),
            Ok(Found::Items(container)) => {
                self.place = Place::First(container);
                Ok(Step::Skip { used: scan.at })
            }
            Ok(Found::Item(key, text)) => {
                let (Place::First(container) | Place::Later(container)) = self.place else {
                    unreachable!("items are found within a container only")
                };
                let item = Item { value: value(text).map_err(|e| e.at(item()))?, key };
                self.place = Place::Later(container);
                Ok(Step::Item { used: scan.at, item })
            }
            Ok(Found::Close) => {
                self.place = Place::After;
                Ok(Step::Skip { used: scan.at })
            }
            Ok(Found::End) => Ok(Step::End),
            Err(Stop::Short) if last => Err(match self.place {
                // What follows a pointer's target is never read, so its end is the end.
                Place::After => return Ok(Step::End),
                _ => ReadError::new("the JSON document ends before its items do"),
            }),
            Err(Stop::Short) if self.place == Place::Before && bytes.len() > POINTER_BYTES_MAX => Err(late()),
            // Blanks after the items, of which there may be many.
            Err(Stop::Short) if self.place == Place::After && !bytes.is_empty() => {
                Ok(Step::Skip { used: bytes.len() })
            }
            Err(Stop::Short) => Ok(Step::More),
            Err(Stop::Wrong(cause)) => Err(ReadError::new(cause)),
            Err(Stop::Invalid(at)) => {
                let error = ReadError::new(format!("the text is not valid JSON after {at} bytes"));
                Err(if self.place == Place::Before { error } else { error.at(item()) })
            }
        }
    }

    /// To the value that the pointer names, and into it.
    fn enter(&self, scan: &mut Scan<'_>) -> Result<Found<'static>, Stop> {
        for segment in &self.pointer {
            scan.find(segment)?;
        }
        match scan.peek()? {
            b'[' => {
                scan.at += 1;
                Ok(Found::Items(Container::Array))
            }
            b'{' => {
                scan.at += 1;
                Ok(Found::Items(Container::Object))
            }
            // The service's own words.
            _ => Err(Stop::Wrong("Attempting to map over non-iterable node.".to_owned())),
        }
    }

    fn rest(&self, scan: &mut Scan<'_>) -> Result<Found<'static>, Stop> {
        if !self.pointer.is_empty() {
            return Ok(Found::End);
        }
        match scan.peek() {
            Ok(_) => Err(Stop::Wrong("the JSON document goes on after its items".to_owned())),
            Err(stop) => Err(stop),
        }
    }
}

/// Checks that `text` is one JSON value within the limits and writes it anew: without blanks, and each field of an
/// object once, the last of its name.
pub(super) fn value(text: &[u8]) -> Result<String, ReadError> {
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|e| {
        let what = if e.is_eof() { "it is cut off".to_owned() } else { e.to_string() };
        ReadError::new(format!("the text is not valid JSON: {what}"))
    })?;
    Ok(value.to_string())
}

enum Found<'a> {
    Items(Container),
    Item(Option<String>, &'a [u8]),
    Close,
    End,
}

/// Why a scan stopped before it found something.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// It needs more bytes.
    Short,
    /// What is there is not JSON.
    Invalid(usize),
    /// It is JSON, but not what the definition says.
    Wrong(String),
}

fn next_item<'a>(scan: &mut Scan<'a>, container: Container, first: bool) -> Result<Found<'a>, Stop> {
    let close = match container {
        Container::Array => b']',
        Container::Object => b'}',
    };
    let byte = scan.peek()?;
    if byte == close {
        scan.at += 1;
        return Ok(Found::Close);
    }
    if !first {
        scan.expect(b',')?;
    }
    let key = match container {
        Container::Array => None,
        Container::Object => Some(scan.key()?),
    };
    scan.peek()?;
    let start = scan.at;
    scan.skip_value()?;
    Ok(Found::Item(key, &scan.bytes[start..scan.at]))
}

/// A place in the bytes that have arrived. Moves over values by their brackets and quotation marks; whether what is
/// between them is JSON, [`value`] decides.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    /// The next byte that is no blank.
    fn peek(&mut self) -> Result<u8, Stop> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(Stop::Short)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Stop> {
        if self.peek()? == byte {
            self.at += 1;
            Ok(())
        } else {
            Err(Stop::Invalid(self.at))
        }
    }

    /// A field's name and its colon.
    fn key(&mut self) -> Result<String, Stop> {
        if self.peek()? != b'"' {
            return Err(Stop::Invalid(self.at));
        }
        let start = self.at;
        self.skip_value()?;
        let key = serde_json::from_slice(&self.bytes[start..self.at]).map_err(|_| Stop::Invalid(start))?;
        self.expect(b':')?;
        Ok(key)
    }

    /// To the value of a field or element of the value that begins here.
    fn find(&mut self, segment: &str) -> Result<(), Stop> {
        let missing = || Stop::Wrong("ItemsPointer names nothing in the JSON document".to_owned());
        let container = match self.peek()? {
            b'{' => Container::Object,
            b'[' => Container::Array,
            _ => return Err(missing()),
        };
        self.at += 1;
        for index in 0_u64.. {
            if matches!(self.peek()?, b'}' | b']') {
                return Err(missing());
            }
            if index > 0 {
                self.expect(b',')?;
            }
            let found = match container {
                Container::Object => self.key()? == segment,
                Container::Array => index.to_string() == segment,
            };
            if found {
                return self.peek().map(|_| ());
            }
            self.skip_value()?;
        }
        unreachable!("the bytes end before the numbers do")
    }

    /// Over the value that begins at the next byte that is no blank.
    fn skip_value(&mut self) -> Result<(), Stop> {
        let first = self.peek()?;
        if !matches!(first, b'[' | b'{' | b'"') {
            return self.skip_word();
        }
        let start = self.at;
        let (mut depth, mut in_string) = (0_usize, false);
        while let Some(byte) = self.bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'\\' if in_string => self.at += 1,
                b'"' => in_string = !in_string,
                b'[' | b'{' if !in_string => {
                    depth += 1;
                    if depth >= limits::JSON_DEPTH_MAX {
                        let most = limits::JSON_DEPTH_MAX;
                        return Err(Stop::Wrong(format!("an item is nested deeper than {most} levels")));
                    }
                }
                b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && !in_string {
                return Ok(());
            }
        }
        self.at = start;
        Err(Stop::Short)
    }

    /// A number, `true`, `false` or `null`: up to the byte that ends it, which has to be there.
    fn skip_word(&mut self) -> Result<(), Stop> {
        let start = self.at;
        while let Some(byte) = self.bytes.get(self.at) {
            if matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r') {
                return if self.at == start { Err(Stop::Invalid(start)) } else { Ok(()) };
            }
            self.at += 1;
        }
        self.at = start;
        Err(Stop::Short)
    }
}
