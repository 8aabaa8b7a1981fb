//! Rows of delimited text.
//!
//! The rules are those of the developer guide ("ItemReader", "CSV file"): fields are strings; a quoted field may
//! hold delimiters and line breaks, and a quotation mark as two; a backslash before a backslash, a quotation mark
//! or the delimiter makes it an ordinary character, and any other backslash is dropped; fields that a row lacks are
//! empty, fields beyond the headers are skipped. Where the guide is silent, this follows what its recordings and
//! that description of escapes (which is OpenCSV's) suggest: an empty line is a row of empty fields, blanks before
//! an opening quotation mark are dropped, and a quotation mark within an unquoted field stands for itself.

use std::collections::HashSet;

use super::{
    CSV_HEADER_BYTES_MAX,
    config::Csv,
    decode::{Item, Step},
    error::ReadError,
};

/// Turns rows into objects. Knows nothing of earlier rows but the headers.
#[derive(Debug)]
pub(super) struct Decoder {
    delimiter: u8,
    headers: Option<Vec<String>>,
    /// `"name":`, once for each header.
    prefixes: Vec<String>,
    row: Row,
}

impl Decoder {
    pub(super) fn new(csv: &Csv) -> Decoder {
        let mut decoder =
            Decoder { delimiter: csv.delimiter, headers: None, prefixes: Vec::new(), row: Row::default() };
        if let Some(headers) = &csv.headers {
            decoder.set_headers(headers.clone());
        }
        decoder
    }

    /// The headers that the first row held; what a later window has to be told.
    pub(super) fn headers(&self) -> Option<&[String]> {
        self.headers.as_deref()
    }

    pub(super) fn set_headers(&mut self, headers: Vec<String>) {
        self.prefixes = headers.iter().map(|name| format!("{}:", json_text(name))).collect();
        self.headers = Some(headers);
    }

    pub(super) fn step(&mut self, bytes: &[u8], last: bool, number: u64) -> Result<Step, ReadError> {
        let Some(headers) = &self.headers else {
            return self.first_row(bytes, last);
        };
        if bytes.is_empty() {
            return Ok(if last { Step::End } else { Step::More });
        }
        let at = || format!("row {}", number + 1);
        let used = self.row.read(bytes, last, self.delimiter, headers.len()).map_err(|e| e.at(at()))?;
        let Some(used) = used else { return Ok(Step::More) };
        let value = self.object().map_err(|e| e.at(at()))?;
        Ok(Step::Item { used, item: Item { value, key: None } })
    }

    fn first_row(&mut self, bytes: &[u8], last: bool) -> Result<Step, ReadError> {
        if bytes.is_empty() && last {
            return Err(ReadError::new("The CSV file is empty: it has no row of headers."));
        }
        let Some(used) = self.row.read(bytes, last, self.delimiter, usize::MAX)? else {
            return if bytes.len() > CSV_HEADER_BYTES_MAX { Err(headers_too_long()) } else { Ok(Step::More) };
        };
        if used > CSV_HEADER_BYTES_MAX + "\r\n".len() {
            return Err(headers_too_long());
        }
        // A file of headers alone fails on AWS too; users look for these words in the cause.
        if used == bytes.len() {
            return if last {
                Err(ReadError::new("The CSV file contains only CSV headers and no rows."))
            } else {
                Ok(Step::More)
            };
        }
        let headers: Vec<String> =
            self.row.fields().map(|field| utf8(field).map(str::to_owned)).collect::<Result<_, _>>()?;
        check_headers(&headers)?;
        self.set_headers(headers);
        Ok(Step::Skip { used })
    }

    /// The row that was read last, as a JSON object. Every header is there.
    fn object(&self) -> Result<String, ReadError> {
        let mut text = String::with_capacity(self.row.text.len() + self.prefixes.len() * 16);
        text.push('{');
        let mut fields = self.row.fields();
        for (index, prefix) in self.prefixes.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(prefix);
            match fields.next() {
                Some(field) => push_json(&mut text, utf8(field)?),
                None => text.push_str("\"\""),
            }
        }
        text.push('}');
        Ok(text)
    }
}

/// Refuses headers that AWS refuses: none, too long, or one twice.
pub(super) fn check_headers(headers: &[String]) -> Result<(), ReadError> {
    if headers.is_empty() {
        return Err(ReadError::new("CSV headers cannot be empty."));
    }
    if headers.iter().map(|name| name.len() + 1).sum::<usize>() > CSV_HEADER_BYTES_MAX + 1 {
        return Err(headers_too_long());
    }
    let mut seen = HashSet::new();
    if headers.iter().all(|name| seen.insert(name)) {
        Ok(())
    } else {
        Err(ReadError::new("CSV headers cannot contain duplicates."))
    }
}

fn headers_too_long() -> ReadError {
    ReadError::new(format!("CSV headers cannot be longer than {CSV_HEADER_BYTES_MAX} bytes."))
}

fn utf8(field: &[u8]) -> Result<&str, ReadError> {
    std::str::from_utf8(field).map_err(|_| ReadError::new("the text is not valid UTF-8"))
}

fn json_text(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    push_json(&mut json, text);
    json
}

/// Appends a JSON string. Most fields need no escape, which is found out by one look.
fn push_json(json: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&serde_json::to_string(text).expect("a string is JSON"));
    }
}

/// The fields of one row, unescaped, in memory that the next row uses again.
#[derive(Debug, Default)]
struct Row {
    text: Vec<u8>,
    /// Where each field ends in `text`.
    ends: Vec<usize>,
}

impl Row {
    fn fields(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.text[start..*end])
    }

    /// Reads the row at the beginning of `bytes`, which are not empty, and keeps its first `fields_max` fields.
    /// Gives the row's length with its line break; `None`: it does not end here, and more bytes follow.
    fn read(
        &mut self,
        bytes: &[u8],
        last: bool,
        delimiter: u8,
        fields_max: usize,
    ) -> Result<Option<usize>, ReadError> {
        self.text.clear();
        self.ends.clear();
        let mut quoted = false;
        let mut at = 0;
        // What has been read of the field: nothing, blanks, or more.
        let mut begun = false;
        while at < bytes.len() {
            let byte = bytes[at];
            let next = bytes.get(at + 1).copied();
            // What these mean depends on the next byte.
            if next.is_none() && !last && matches!(byte, b'\\' | b'"' | b'\r') {
                return Ok(None);
            }
            match byte {
                b'\\' => {
                    if let Some(escaped) = next.filter(|n| *n == b'\\' || *n == b'"' || *n == delimiter) {
                        self.text.push(escaped);
                        begun = true;
                        at += 1;
                    }
                }
                b'"' if (quoted || begun) && next == Some(b'"') => {
                    self.text.push(b'"');
                    at += 1;
                }
                b'"' if quoted => quoted = false,
                b'"' if !begun => {
                    self.text.truncate(self.ends.last().copied().unwrap_or(0));
                    (quoted, begun) = (true, true);
                }
                _ if quoted => self.text.push(byte),
                _ if byte == delimiter => {
                    self.end_field(fields_max);
                    begun = false;
                }
                b'\n' | b'\r' => {
                    self.end_field(fields_max);
                    let pair = byte == b'\r' && next == Some(b'\n');
                    return Ok(Some(at + 1 + usize::from(pair)));
                }
                _ => {
                    self.text.push(byte);
                    begun |= byte != b' ' && byte != b'\t';
                }
            }
            at += 1;
        }
        if !last {
            return Ok(None);
        }
        if quoted {
            return Err(ReadError::new("a quoted field has no end"));
        }
        self.end_field(fields_max);
        Ok(Some(at))
    }

    fn end_field(&mut self, fields_max: usize) {
        if self.ends.len() < fields_max {
            self.ends.push(self.text.len());
        } else {
            self.text.truncate(self.ends.last().copied().unwrap_or(0));
        }
    }
}
