//! From the bytes of one object to its items, in constant memory and from any item on.
//!
//! [`ObjectReader`] is pure: its caller gives it bytes as they arrive and asks for items. [`ObjectReader::place`]
//! says of any place between two items where it is, and a reader that is made from a place goes on from there with the
//! object's bytes from [`Place::offset`].

use serde::{Deserialize, Serialize};

use super::{ITEM_BYTES_MAX, POINTER_BYTES_MAX, config::Format, csv, error::ReadError, json, lines};

/// One item of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its JSON text, without blanks and with each field of an object once.
    pub value: String,
    /// Its name, where an object holds the items (`$states.context.Map.Item.Key`).
    pub key: Option<String>,
}

/// What a decoder found at the beginning of its bytes.
#[derive(Debug)]
pub(super) enum Step {
    /// An item, and how many bytes it takes.
    Item {
        used: usize,
        item: Item,
    },
    /// Bytes before the next item.
    Skip {
        used: usize,
    },
    /// Too few bytes.
    More,
    End,
}

/// A place between two items of an object. It fits into a cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The bytes before it.
    #[serde(rename = "o")]
    pub(super) offset: u64,
    /// The items of this object before it.
    #[serde(rename = "n")]
    pub(super) items: u64,
    /// The headers that the first row held.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<String>>,
    /// The place within the JSON document.
    #[serde(rename = "j", default, skip_serializing_if = "Option::is_none")]
    json: Option<json::Place>,
}

impl Place {
    pub(super) const START: Place = Place { offset: 0, items: 0, headers: None, json: None };
}

/// A place but for what is the same in the whole object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    offset: u64,
    items: u64,
    json: Option<json::Place>,
}

/// What [`ObjectReader::next`] gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Item(Item),
    /// [`ObjectReader::push`] more bytes.
    More,
    End,
}

#[derive(Debug)]
enum Decoder {
    Csv(csv::Decoder),
    Json(json::Decoder),
    Lines,
}

/// Turns an object's bytes into items.
#[derive(Debug)]
pub(super) struct ObjectReader {
    decoder: Decoder,
    /// Bytes that have arrived, from `begin` on not yet used.
    bytes: Vec<u8>,
    begin: usize,
    /// No more bytes follow.
    last: bool,
    offset: u64,
    items: u64,
    /// So many unused bytes are worth another look. It doubles while an item does not end, so that looking at a
    /// long one from its beginning again and again costs no more than its length, a few times over.
    wanted: usize,
}

impl ObjectReader {
    /// A reader that goes on at `place`. The first byte it is given is the one at [`Place::offset`].
    pub(super) fn new(format: &Format, place: &Place) -> ObjectReader {
        let decoder = match format {
            Format::Csv(config) => {
                let mut decoder = csv::Decoder::new(config);
                if let (None, Some(headers)) = (&config.headers, &place.headers) {
                    decoder.set_headers(headers.clone());
                }
                Decoder::Csv(decoder)
            }
            Format::Json { pointer } => {
                Decoder::Json(json::Decoder::new(pointer, place.json.unwrap_or(json::Place::Before)))
            }
            Format::JsonLines => Decoder::Lines,
        };
        ObjectReader {
            decoder,
            bytes: Vec::new(),
            begin: 0,
            last: false,
            offset: place.offset,
            items: place.items,
            wanted: 1,
        }
    }

    /// Takes the bytes that follow. `last`: there are none after them.
    pub(super) fn push(&mut self, bytes: &[u8], last: bool) {
        self.bytes.drain(..self.begin);
        self.begin = 0;
        self.bytes.extend_from_slice(bytes);
        self.last = last;
    }

    /// The bytes that [`ObjectReader::push`] was given, and those before.
    pub(super) fn received(&self) -> u64 {
        self.offset + (self.bytes.len() - self.begin) as u64
    }

    /// Where the reader is; cheap, for [`ObjectReader::place`] should it come to that.
    pub(super) fn mark(&self) -> Mark {
        let json = match &self.decoder {
            Decoder::Json(decoder) => Some(decoder.place()),
            Decoder::Csv(_) | Decoder::Lines => None,
        };
        Mark { offset: self.offset, items: self.items, json }
    }

    /// The place that `mark` was taken at.
    pub(super) fn place(&self, mark: Mark) -> Place {
        let headers = match &self.decoder {
            // Before the first row the headers are not known.
            Decoder::Csv(decoder) if mark.offset > 0 => decoder.headers().map(<[String]>::to_vec),
            _ => None,
        };
        Place { offset: mark.offset, items: mark.items, headers, json: mark.json }
    }

    /// The next item.
    pub(super) fn next(&mut self) -> Result<Next, ReadError> {
        loop {
            if self.bytes.len() - self.begin < self.wanted && !self.last {
                return Ok(Next::More);
            }
            if self.offset == 0 && !self.skip_byte_order_mark() {
                return Ok(Next::More);
            }
            let bytes = &self.bytes[self.begin..];
            let step = match &mut self.decoder {
                Decoder::Csv(decoder) => decoder.step(bytes, self.last, self.items),
                Decoder::Json(decoder) => decoder.step(bytes, self.last, self.items),
                Decoder::Lines => lines::step(bytes, self.last, self.items),
            };
            match step? {
                Step::Item { used, item } => {
                    if used > ITEM_BYTES_MAX {
                        return Err(self.too_long());
                    }
                    self.use_up(used);
                    self.items += 1;
                    return Ok(Next::Item(item));
                }
                Step::Skip { used } => self.use_up(used),
                Step::End => return Ok(Next::End),
                Step::More => {
                    let limit = self.pending_max();
                    if bytes.len() > limit {
                        return Err(self.too_long());
                    }
                    self.wanted = (bytes.len() * 2).clamp(1, limit + 1);
                    return Ok(Next::More);
                }
            }
        }
    }

    fn use_up(&mut self, used: usize) {
        self.begin += used;
        self.offset += used as u64;
        self.wanted = 1;
    }

    /// `false`: too few bytes to say whether there is one.
    fn skip_byte_order_mark(&mut self) -> bool {
        const MARK: &[u8] = "\u{feff}".as_bytes();
        let bytes = &self.bytes[self.begin..];
        let known = self.last || bytes.len() >= MARK.len() || !MARK.starts_with(bytes);
        if bytes.starts_with(MARK) {
            self.use_up(MARK.len());
        }
        known
    }

    /// How many bytes may be waiting for the rest of an item, or for the begin of the items.
    fn pending_max(&self) -> usize {
        match &self.decoder {
            Decoder::Json(decoder) if decoder.place() == json::Place::Before => POINTER_BYTES_MAX,
            _ => ITEM_BYTES_MAX,
        }
    }

    fn too_long(&self) -> ReadError {
        ReadError::new(format!("item {} is longer than {ITEM_BYTES_MAX} bytes", self.items))
    }
}

/// All items of one object, or the error that stops reading it.
///
/// For tests and fuzzing: a Map state reads with `Items`, in windows.
pub fn decode_all(format: &Format, bytes: &[u8]) -> Result<Vec<Item>, ReadError> {
    let mut reader = ObjectReader::new(format, &Place::START);
    reader.push(bytes, true);
    let mut items = Vec::new();
    while let Next::Item(item) = reader.next()? {
        items.push(item);
    }
    Ok(items)
}
