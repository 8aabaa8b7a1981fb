//! From a JSON pointer to the line and column where a person looks.

use std::ops::Range;

/// A place in a text: line and column count from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
    /// How many characters to underline.
    pub(crate) width: usize,
}

/// Where the value of a pointer stands: the value itself if it is short (text, a number), else the name of the field
/// that holds it. The nearest place above for what is not there. The first character of a text that is not JSON.
pub(crate) fn find(text: &str, pointer: &str) -> Place {
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0 };
    let (start, end) = scanner.locate(&parts(pointer), None).unwrap_or((0, 1));
    at(text, start, end)
}

/// The name of the field that a pointer leads to.
pub(crate) fn find_name(text: &str, pointer: &str) -> Place {
    let parts = parts(pointer);
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0 };
    let Some((name, rest)) = parts.split_last() else { return find(text, pointer) };
    // The object around it, then its field alone.
    match scanner.enter(rest).and_then(|()| scanner.name(name)) {
        Some((start, end)) => at(text, start, end),
        None => find(text, pointer),
    }
}

/// Some bytes of the string that a pointer leads to, as it reads when its escapes are resolved.
pub(crate) fn find_part(text: &str, pointer: &str, part: &Range<usize>) -> Place {
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0 };
    let span = scanner.locate(&parts(pointer), None).and_then(|(start, end)| {
        let raw = text.get(start..end)?.strip_prefix('"')?;
        let (from, to) = (raw_byte(raw, part.start)?, raw_byte(raw, part.end)?);
        Some((start + 1 + from, start + 1 + to))
    });
    span.map_or_else(|| find(text, pointer), |(start, end)| at(text, start, end))
}

/// Where a byte of a string stands in its JSON text, which follows a quotation mark.
fn raw_byte(raw: &str, byte: usize) -> Option<usize> {
    let (mut decoded, mut at) = (0, 0);
    while decoded < byte {
        let rest = &raw[at..];
        let (width, length) = match rest.strip_prefix('\\') {
            None => {
                let c = rest.chars().next()?;
                (c.len_utf8(), c.len_utf8())
            }
            Some(escape) if escape.starts_with('u') => {
                let unit = u32::from_str_radix(escape.get(1..5)?, 16).ok()?;
                // Two halves of a pair make one character of four bytes.
                match char::from_u32(unit) {
                    Some(c) => (c.len_utf8(), 6),
                    None => (4, 12),
                }
            }
            Some(_) => (1, 2),
        };
        decoded += width;
        at += length;
    }
    raw.get(at..).map(|_| at)
}

fn parts(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
}

/// The place that serde_json names at the end of a message: `… at line 3 column 5`.
pub(crate) fn named_in(message: &str, text: &str) -> Option<Place> {
    let (_, place) = message.rsplit_once(" at line ")?;
    let (line, column) = place.split_once(" column ")?;
    let (line, column): (usize, usize) = (line.parse().ok()?, column.parse().ok()?);
    // Its columns count bytes, and 0 is the end of the line before.
    let start: usize = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let mut byte = (start + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(byte) {
        byte -= 1;
    }
    Some(at(text, byte, byte + 1))
}

fn at(text: &str, start: usize, end: usize) -> Place {
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let token = text.get(start..end.min(text.len())).unwrap_or_default();
    Place {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        width: token.lines().next().map_or(1, |line| line.chars().count()).max(1),
    }
}

/// Walks a JSON text. Nothing is assumed of the text: where it is no JSON, the walk ends.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Span = (usize, usize);

impl Scanner<'_> {
    /// The span of what these parts lead to, from the value that begins here; `name` is the span of its name.
    fn locate(&mut self, parts: &[String], name: Option<Span>) -> Option<Span> {
        self.space();
        let start = self.at;
        let Some((part, rest)) = parts.split_first() else {
            let container = matches!(self.peek()?, b'{' | b'[');
            self.value()?;
            return Some(match (container, name) {
                (true, Some(name)) => name,
                (true, None) => (start, start + 1),
                (false, _) => (start, self.at),
            });
        };
        let here = name.unwrap_or((start, start + 1));
        match self.peek()? {
            b'{' => Some(self.field(part, rest).unwrap_or(here)),
            b'[' => Some(self.item(part, rest).unwrap_or(here)),
            _ => Some(here),
        }
    }

    /// Goes to the value that these parts lead to.
    fn enter(&mut self, parts: &[String]) -> Option<()> {
        for part in parts {
            self.space();
            match self.peek()? {
                b'{' => {
                    self.name(part)?;
                    self.space();
                    self.expect(b':')?;
                }
                b'[' => {
                    self.at += 1;
                    for _ in 0..part.parse::<usize>().ok()? {
                        self.value()?;
                        self.space();
                        self.expect(b',')?;
                    }
                }
                _ => return None,
            }
        }
        self.space();
        Some(())
    }

    /// The span of a field's name in the object that begins here; goes to its end. Of fields that have the same name the
    /// last one counts.
    fn name(&mut self, wanted: &str) -> Option<Span> {
        self.expect(b'{')?;
        let mut found = None;
        loop {
            self.space();
            if self.peek()? == b'}' {
                break;
            }
            let start = self.at;
            self.string()?;
            let text = std::str::from_utf8(&self.bytes[start..self.at]).ok()?;
            if serde_json::from_str::<String>(text).is_ok_and(|text| text == wanted) {
                found = Some((start, self.at));
            }
            self.space();
            self.expect(b':')?;
            self.value()?;
            self.space();
            if self.peek()? == b',' {
                self.at += 1;
            }
        }
        self.at = found?.1;
        found
    }

    /// Of fields that have the same name the last one counts.
    fn field(&mut self, part: &str, rest: &[String]) -> Option<Span> {
        self.at += 1;
        let mut found = None;
        loop {
            self.space();
            if self.peek()? == b'}' {
                return found;
            }
            let start = self.at;
            self.string()?;
            let name = (start, self.at);
            let text = std::str::from_utf8(&self.bytes[start..self.at]).ok()?;
            let same = serde_json::from_str::<String>(text).is_ok_and(|text| text == part);
            self.space();
            self.expect(b':')?;
            if same {
                let value = self.at;
                found = self.locate(rest, Some(name));
                self.at = value;
            }
            self.value()?;
            self.space();
            if self.peek()? == b',' {
                self.at += 1;
            }
        }
    }

    fn item(&mut self, part: &str, rest: &[String]) -> Option<Span> {
        let index: usize = part.parse().ok()?;
        self.at += 1;
        for _ in 0..index {
            self.value()?;
            self.space();
            self.expect(b',')?;
        }
        self.space();
        if self.peek()? == b']' { None } else { self.locate(rest, None) }
    }

    /// Passes over a value, however deep, without recursion.
    fn value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            self.space();
            match self.peek()? {
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                b'"' => self.string()?,
                b',' | b':' => return None,
                _ => {
                    while self.peek().is_some_and(|b| !b.is_ascii_whitespace() && !b",:]}".contains(&b)) {
                        self.at += 1;
                    }
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        if self.peek()? != byte {
            return None;
        }
        self.at += 1;
        Some(())
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
  "StartAt": "Ä",
  "States": {
    "Ä": {"Type": "Choice", "Choices": [{"Next": "B"}, {"Next": "Nowhere"}]},
    "a/b": {
      "End": true, "End": false
    }
  }
}"#;

    #[test]
    fn pointers_lead_to_lines_and_columns() {
        for (pointer, line, column, width) in [
            ("", 1, 1, 1),
            ("/StartAt", 2, 14, 3),
            ("/States", 3, 3, 8),
            ("/States/Ä", 4, 5, 3),
            ("/States/Ä/Type", 4, 19, 8),
            ("/States/Ä/Choices/1", 4, 56, 1),
            ("/States/Ä/Choices/1/Next", 4, 65, 9),
            // The last of two fields counts.
            ("/States/a~1b/End", 6, 27, 5),
            // What is not there is shown at what should hold it.
            ("/States/a~1b/Type", 5, 5, 5),
            ("/States/Ä/Choices/7", 4, 29, 9),
            ("/Nothing/at/all", 1, 1, 1),
            ("/StartAt/deeper", 2, 3, 9),
        ] {
            assert_eq!(find(TEXT, pointer), Place { line, column, width }, "{pointer}");
        }
    }

    #[test]
    fn names_and_parts_of_strings_are_found() {
        for (pointer, line, column, width) in [
            ("/StartAt", 2, 3, 9),
            ("/States/Ä/Type", 4, 11, 6),
            ("/States/Ä/Choices/1/Next", 4, 57, 6),
            ("/States/a~1b/End", 6, 20, 5),
            // What is not there.
            ("/States/a~1b/Type", 5, 5, 5),
            ("", 1, 1, 1),
        ] {
            assert_eq!(find_name(TEXT, pointer), Place { line, column, width }, "{pointer}");
        }
        let text = "{\"a\": [1,\n  \"x\\n\\u00e4\\ud83d\\ude00 \\\"y ä z\"]}";
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let string = value["a"][1].as_str().unwrap();
        for (needle, column) in [("x", 4), ("\n", 5), ("ä", 7), ("😀", 13), ("\"", 26), ("y", 28), ("z", 32)]
        {
            let start = string.find(needle).unwrap();
            let place = find_part(text, "/a/1", &(start..start + needle.len()));
            assert_eq!((place.line, place.column), (2, column), "{needle}");
        }
        let beyond = find_part(text, "/a/1", &(400..401));
        assert_eq!((beyond.line, beyond.column), (2, 3));
    }

    #[test]
    fn broken_texts_end_the_walk() {
        for text in ["", "{", "[1, ", r#"{"a" 1}"#, "}", ":", r#"{"a": "\"#, "{\"a\":", "[[[["] {
            for place in [find(text, "/a/0/b"), find_name(text, "/a/0/b"), find_part(text, "/a", &(3..9))] {
                assert_eq!(place.line, 1, "{text}");
            }
        }
        let text = "{\n  \"a\": 1,\n  b\n}";
        let error = serde_json::from_str::<serde_json::Value>(text).unwrap_err().to_string();
        let place = named_in(&error, text).unwrap();
        assert_eq!((place.line, place.column), (3, 3), "{error}");
        assert_eq!(named_in("no place", text), None);
    }
}
