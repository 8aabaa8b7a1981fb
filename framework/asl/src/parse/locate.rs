//! Where in a text a parser's complaint is about.
//!
//! Neither of the parsers says so. But both read from left to right and stop at the first thing that they cannot use, so
//! the shortest beginning of the text with the same complaint ends there, which a binary search finds.

use std::ops::Range;

use crate::{
    intrinsic::Intrinsic,
    jsonata::{Expr, expression},
    path::Path,
};

/// The longest text that is looked at: a search parses it some ten times.
const BYTES_MAX: usize = 4096;

/// Words of complaints about texts that end too early: their last character is the place.
const ENDS: &[&str] = &["end of expression", "must be terminated", "is missing", "has no end"];

/// In a string with an expression `{% … %}`, as bytes of the string.
pub(super) fn in_jsonata(text: &str, complaint: &str) -> Option<Range<usize>> {
    let source = expression(text)?;
    let start = text.len() - text.strip_prefix("{%")?.trim_start().len();
    let found = match quoted(complaint, '\'') {
        // What stands there, but for names in quotes of their own.
        Some(name) => word(source, name),
        None => first(source, complaint, |text| Expr::parse(text).err()),
    }?;
    Some(start + found.start..start + found.end)
}

/// In a string with a path or a call of an intrinsic function.
pub(super) fn in_jsonpath(text: &str, complaint: &str) -> Option<Range<usize>> {
    let named = quoted(complaint, '`').filter(|part| part.len() > 1);
    if let Some(start) = named.and_then(|part| text.rfind(part)) {
        return Some(start..start + named.map_or(1, str::len));
    }
    first(text, complaint, |text| match text.starts_with("States.") {
        true => Intrinsic::parse(text).err(),
        false => Path::parse(text).err(),
    })
}

/// The first part of a complaint in such quotes.
fn quoted(complaint: &str, mark: char) -> Option<&str> {
    complaint.split(mark).nth(1)
}

/// Where a name stands that is no part of a longer one.
fn word(text: &str, name: &str) -> Option<Range<usize>> {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    let mut places = text.match_indices(name).map(|(at, _)| at..at + name.len());
    places.find(|place| {
        let (before, after) = (&text[..place.start], &text[place.end..]);
        !after.starts_with(inside) && !before.ends_with(|c| inside(c) || (c == '$' && name != "$$"))
    })
}

/// The last character of the shortest beginning with the complaint.
fn first(text: &str, complaint: &str, parse: impl Fn(&str) -> Option<String>) -> Option<Range<usize>> {
    if text.len() > BYTES_MAX {
        return None;
    }
    if ENDS.iter().any(|end| complaint.contains(end)) {
        return Some(text.char_indices().next_back()?.0..text.len());
    }
    let ends: Vec<usize> = text.char_indices().map(|(at, c)| at + c.len_utf8()).collect();
    let place = ends.partition_point(|end| parse(&text[..*end]).as_deref() != Some(complaint));
    let end = *ends.get(place).or(ends.last())?;
    Some(text[..end].char_indices().next_back()?.0..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_about_expressions_are_found() {
        for (text, expected) in [
            ("{% a[1,2) %}", ","),
            ("{% $states.input + phone %}", "phone"),
            ("{% $phone & phone %}", "phone"),
            ("{% $states.input.a & $$.b %}", "$$"),
            ("{%$states.input.a & $%}", "$"),
            ("{% 1 + } %}", "}"),
            ("{% ä.b & (1 + %}", "+"),
        ] {
            let source = expression(text).unwrap();
            let complaint = match Expr::parse(source) {
                Err(complaint) => complaint,
                Ok(expr) if expr.references().root => "Reference to '$$' is not supported.".to_owned(),
                Ok(expr) => format!("Reference to '{}' at", expr.references().nowhere[0]),
            };
            let place = in_jsonata(text, &complaint).unwrap();
            assert_eq!(&text[place.clone()], expected, "{text}: {complaint} at {place:?}");
        }
        let second = in_jsonata("{% $phone & phone %}", "Reference to 'phone' at").unwrap();
        assert_eq!(second.start, 12);
    }

    #[test]
    fn complaints_about_paths_are_found() {
        for (text, expected) in [
            ("$.a[", "["),
            ("$.a[x]", "x"),
            ("$.a.", "."),
            ("$.a]b", "]b"),
            ("States.Formt('{}', $.a)", "States.Formt"),
            ("States.Format('{}' $.a)", "$"),
            ("States.Array(1, x)", "x"),
        ] {
            let complaint = match text.starts_with("States.") {
                true => Intrinsic::parse(text).err().unwrap(),
                false => Path::parse(text).expect_err(text),
            };
            let place = in_jsonpath(text, &complaint).unwrap();
            assert_eq!(&text[place.clone()], expected, "{text}: {complaint} at {place:?}");
        }
        assert_eq!(in_jsonpath(&"$.a[".repeat(BYTES_MAX), "no such complaint"), None);
    }
}
