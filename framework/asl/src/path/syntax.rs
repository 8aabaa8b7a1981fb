//! Reads a path and rewrites what is not definite into RFC 9535.

use std::sync::Arc;

use serde_json_path::JsonPath;

use super::{Path, Query, Root, SOURCE_BYTES_MAX, STEPS_MAX, Step};

/// Jayway's operators between words, which RFC 9535 does not have.
const WORD_OPERATORS: [&str; 11] =
    ["in", "nin", "subsetof", "anyof", "noneof", "contains", "size", "empty", "and", "or", "not"];

/// The most descents of a path: the number of matches grows with the depth of the data to this power.
const DESCENTS_MAX: usize = 2;
/// How deep filters may be nested.
const FILTERS_MAX: usize = 8;
/// The most unions of a path, and the most members of one: they multiply.
const UNIONS_MAX: usize = 3;
const UNION_MEMBERS_MAX: usize = 64;

/// One segment of a path.
enum Segment {
    /// To one place.
    Step(Step),
    /// `['a','b']`.
    Names(Vec<Box<str>>),
    /// Anything else, as RFC 9535 text.
    Other(String),
}

/// Compiles a path.
pub(super) fn parse(source: &str) -> Result<Path, String> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(format!("it is longer than {SOURCE_BYTES_MAX} bytes"));
    }
    let mut reader = Reader { text: source, at: 0, depth: 0, descents: 0, unions: 0 };
    let root = reader.root()?;
    let segments = reader.segments(false)?;
    if !reader.rest().is_empty() {
        return Err(format!("unexpected `{}`", reader.rest()));
    }
    Ok(Path { source: Arc::from(source), root, query: query(segments)? })
}

fn query(mut segments: Vec<Segment>) -> Result<Query, String> {
    let fields: Arc<[Box<str>]> = match segments.pop() {
        Some(Segment::Names(names)) => names.into(),
        Some(last) => {
            segments.push(last);
            Arc::new([])
        }
        None => Arc::new([]),
    };
    if segments.iter().all(|s| matches!(s, Segment::Step(_))) {
        let steps: Arc<[Step]> = segments
            .into_iter()
            .filter_map(|s| match s {
                Segment::Step(step) => Some(step),
                Segment::Names(_) | Segment::Other(_) => None,
            })
            .collect();
        return Ok(if fields.is_empty() { Query::Definite(steps) } else { Query::Fields(steps, fields) });
    }
    let mut text = String::from("$");
    segments.iter().for_each(|s| s.write(&mut text));
    let path = JsonPath::parse(&text).map_err(|e| format!("it is not a valid JSONPath: {e}"))?;
    Ok(Query::Many(Arc::new(path), fields))
}

impl Segment {
    fn write(&self, text: &mut String) {
        match self {
            Segment::Step(Step::Field(name)) => {
                text.push('[');
                quote(name, text);
                text.push(']');
            }
            Segment::Step(Step::Index(index)) => {
                text.push('[');
                text.push_str(&index.to_string());
                text.push(']');
            }
            Segment::Names(names) => {
                for (n, name) in names.iter().enumerate() {
                    text.push(if n == 0 { '[' } else { ',' });
                    quote(name, text);
                }
                text.push(']');
            }
            Segment::Other(rfc) => text.push_str(rfc),
        }
    }
}

/// A string literal of RFC 9535.
fn quote(name: &str, text: &mut String) {
    text.push('\'');
    for c in name.chars() {
        match c {
            '\'' | '\\' => text.extend(['\\', c]),
            c if (c as u32) < 0x20 => text.push_str(&format!("\\u{:04x}", c as u32)),
            c => text.push(c),
        }
    }
    text.push('\'');
}

struct Reader<'s> {
    text: &'s str,
    at: usize,
    /// Of filters in filters.
    depth: usize,
    descents: usize,
    unions: usize,
}

impl<'s> Reader<'s> {
    fn rest(&self) -> &'s str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, wanted: &str) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len();
        }
        found
    }

    fn spaces(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'s str {
        let rest = self.rest();
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn root(&mut self) -> Result<Root, String> {
        if !self.eat("$") {
            return Err("a path starts with `$`".to_owned());
        }
        if self.eat("$") {
            return Ok(Root::Context);
        }
        match self.peek() {
            Some(c) if c.is_alphabetic() || c == '_' => {
                Ok(Root::Variable(Arc::from(self.take_while(|c| c.is_alphanumeric() || c == '_'))))
            }
            _ => Ok(Root::Input),
        }
    }

    /// Segments up to the end, or, in a filter, up to what belongs to the filter.
    fn segments(&mut self, in_filter: bool) -> Result<Vec<Segment>, String> {
        let mut segments = Vec::new();
        loop {
            if segments.len() > STEPS_MAX {
                return Err(format!("it has more than {STEPS_MAX} steps"));
            }
            let descent = self.eat("..");
            let dot = descent || self.eat(".");
            if descent {
                self.descents += 1;
                if self.descents > DESCENTS_MAX {
                    return Err(format!("it has more than {DESCENTS_MAX} descents (`..`)"));
                }
            }
            let segment = match self.peek() {
                Some('[') => self.bracket()?,
                Some('*') if dot => {
                    self.at += 1;
                    Segment::Other("[*]".to_owned())
                }
                _ if dot => Segment::Step(Step::Field(self.name(in_filter)?)),
                _ => return Ok(segments),
            };
            if descent {
                let mut text = String::from("..");
                segment.write(&mut text);
                segments.push(Segment::Other(text));
            } else {
                segments.push(segment);
            }
        }
    }

    /// A name after a dot. Anything goes but what ends it, as in Jayway: hyphens, `@`, any alphabet.
    fn name(&mut self, in_filter: bool) -> Result<Box<str>, String> {
        let ends = |c: char| {
            c.is_whitespace() || ".[]()'\"*,?\\".contains(c) || (in_filter && "=!<>&|+/".contains(c))
        };
        let name = self.take_while(|c| !ends(c));
        if self.peek() == Some('(') {
            return Err(format!("the function `{name}()` is not supported in paths"));
        }
        if name.is_empty() {
            return Err(match self.peek() {
                Some(c) => format!("a field name must follow the dot, found `{c}`"),
                None => "it ends with a dot".to_owned(),
            });
        }
        Ok(name.into())
    }

    fn bracket(&mut self) -> Result<Segment, String> {
        self.at += 1;
        self.spaces();
        let segment = match self.peek() {
            Some('?') => {
                self.at += 1;
                Segment::Other(format!("[?{}]", self.filter()?))
            }
            Some('*') => {
                self.at += 1;
                Segment::Other("[*]".to_owned())
            }
            Some('\'' | '"') => self.names()?,
            Some('(') => return Err("script expressions `[(…)]` are not supported".to_owned()),
            _ => self.indices()?,
        };
        self.spaces();
        if !self.eat("]") {
            return Err(match self.peek() {
                Some(c) => format!("expected `]`, found `{c}`"),
                None => "a `]` is missing".to_owned(),
            });
        }
        Ok(segment)
    }

    fn names(&mut self) -> Result<Segment, String> {
        let mut names = Vec::new();
        loop {
            self.spaces();
            names.push(self.string()?);
            self.spaces();
            if !self.eat(",") {
                break;
            }
        }
        Ok(match names.pop() {
            Some(only) if names.is_empty() => Segment::Step(Step::Field(only)),
            Some(last) => {
                names.push(last);
                self.count_union(names.len())?;
                Segment::Names(names)
            }
            None => Segment::Names(names),
        })
    }

    /// A quoted string. A backslash escapes the quote and itself, and is a plain character before any other, as the
    /// service has it.
    fn string(&mut self) -> Result<Box<str>, String> {
        let Some(mark @ ('\'' | '"')) = self.peek() else {
            return Err("a quoted name is expected".to_owned());
        };
        let mut name = String::new();
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c == mark {
                self.at += at + 1;
                return Ok(name.into());
            }
            let escaped = |(_, next): &(usize, char)| c == '\\' && (*next == mark || *next == '\\');
            match chars.next_if(escaped) {
                Some((_, escaped)) => name.push(escaped),
                None => name.push(c),
            }
        }
        Err(format!("a {mark} is missing"))
    }

    fn count_union(&mut self, members: usize) -> Result<(), String> {
        self.unions += 1;
        if members > UNION_MEMBERS_MAX || self.unions > UNIONS_MAX {
            return Err(format!(
                "it has more than {UNIONS_MAX} unions or {UNION_MEMBERS_MAX} members in one"
            ));
        }
        Ok(())
    }

    /// `1`, `-1`, `1,2`, `1:2`, `:2`, `1:`, `::2`.
    fn indices(&mut self) -> Result<Segment, String> {
        let text = self.take_while(|c| c != ']');
        let number = |part: &str| {
            let n = part.parse::<i64>().map_err(|_| {
                if part.is_empty() {
                    "an index is missing in `[]`".to_owned()
                } else {
                    format!("`{part}` is not an array index; field names in brackets are quoted")
                }
            })?;
            // RFC 9535 leaves no larger integers than a double holds exactly.
            if n.unsigned_abs() > (1 << 53) - 1 { Err(format!("the index {n} is too large")) } else { Ok(n) }
        };
        if text.contains(':') {
            let mut bounds = Vec::new();
            for part in text.split(':').map(str::trim) {
                bounds.push(if part.is_empty() { String::new() } else { number(part)?.to_string() });
            }
            if bounds.len() > 3 {
                return Err(format!("`[{text}]` has too many colons"));
            }
            return Ok(Segment::Other(format!("[{}]", bounds.join(":"))));
        }
        if text.contains(',') {
            let all: Vec<String> =
                text.split(',').map(|p| number(p.trim()).map(|n| n.to_string())).collect::<Result<_, _>>()?;
            self.count_union(all.len())?;
            return Ok(Segment::Other(format!("[{}]", all.join(","))));
        }
        number(text.trim()).map(|n| Segment::Step(Step::Index(n)))
    }

    /// The inside of `[?…]`, up to its `]`, as RFC 9535 text.
    fn filter(&mut self) -> Result<String, String> {
        self.depth += 1;
        if self.depth > FILTERS_MAX {
            return Err("filters are nested too deeply".to_owned());
        }
        let mut text = String::new();
        let mut parentheses = 0_usize;
        loop {
            let Some(c) = self.peek() else { return Err("the filter has no end".to_owned()) };
            match c {
                ']' if parentheses == 0 => break,
                ']' => return Err("a `)` is missing in the filter".to_owned()),
                '@' | '$' => {
                    self.at += 1;
                    text.push(c);
                    let segments = self.segments(true)?;
                    // It is looked up for every element that the filter sees. From `@` down that is every place once
                    // for each filter and descent around it, but from `$` down it is the whole document each time.
                    if c == '$' && !segments.iter().all(|s| matches!(s, Segment::Step(_))) {
                        return Err("a path from `$` in a filter must lead to one place".to_owned());
                    }
                    segments.iter().for_each(|s| s.write(&mut text));
                }
                '\'' | '"' => {
                    let string = self.string()?;
                    quote(&string, &mut text);
                }
                '(' | ')' => {
                    self.at += 1;
                    text.push(c);
                    parentheses = if c == '(' {
                        // The parser behind recurses on these.
                        if parentheses > 32 {
                            return Err("the filter has too many parentheses".to_owned());
                        }
                        parentheses + 1
                    } else {
                        parentheses.checked_sub(1).ok_or("the filter has one `)` too many")?
                    };
                }
                '=' if self.rest().starts_with("=~") => {
                    return Err("the operator `=~` is not supported in filters".to_owned());
                }
                c if c.is_alphanumeric() || c == '_' || c == '-' => self.word(&mut text)?,
                c => {
                    self.at += c.len_utf8();
                    text.push(c);
                }
            }
        }
        self.depth -= 1;
        Ok(text)
    }

    /// A word of a filter: a number, a literal, a function of RFC 9535, or a text that somebody forgot to quote.
    fn word(&mut self, text: &mut String) -> Result<(), String> {
        let word = self.take_while(|c| c.is_alphanumeric() || "_-.+".contains(c));
        let known = matches!(word, "true" | "false" | "null");
        if known || word.parse::<f64>().is_ok_and(f64::is_finite) || self.peek() == Some('(') {
            text.push_str(word);
        } else if WORD_OPERATORS.contains(&word.to_ascii_lowercase().as_str()) {
            return Err(format!("the operator `{word}` is not supported in filters"));
        } else {
            quote(word, text);
        }
        Ok(())
    }
}
