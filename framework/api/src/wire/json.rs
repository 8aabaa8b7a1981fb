//! Checks of JSON texts inside requests (inputs and outputs), with complaints in the service's words.

use stagepost_protocol::{Payload, limits};

/// Reads an input or output. The error says what is wrong with it; `nothing` is what it says of a blank text.
pub(crate) fn payload(text: &str, nothing: &str) -> Result<Payload, String> {
    if text.trim_ascii().is_empty() {
        return Err(nothing.to_owned());
    }
    if let Some(depth) = too_deep(text) {
        return Err(format!("nested {depth} levels deep, more than {}", limits::JSON_DEPTH_MAX));
    }
    Payload::parse(text).map_err(|error| complaint(text, &error))
}

/// `Some(depth)` as soon as the nesting exceeds the limit. Counts brackets outside strings, without recursion.
fn too_deep(text: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limits::JSON_DEPTH_MAX {
            return Some(depth);
        }
    }
    None
}

/// The two commonest mistakes as the service words them; anything else as the parser says it.
fn complaint(text: &str, error: &serde_json::Error) -> String {
    if let Some((complaint, _, _)) = unrecognized(text) {
        return complaint;
    }
    let message = error.to_string();
    if message.starts_with("key must be a string")
        && let Some(c) = char_at(text, error.line(), error.column())
    {
        return format!(
            "Unexpected character ('{c}' (code {})): was expecting double-quote to start field name",
            u32::from(c)
        );
    }
    message
}

/// The complaint about a text that begins with a word that JSON does not know, and where the word ends: its line
/// and the column after it.
pub(crate) fn unrecognized(text: &str) -> Option<(String, usize, usize)> {
    let trimmed = text.trim_ascii_start();
    let word: String = trimmed.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if !word.starts_with(|c: char| c.is_alphabetic()) || matches!(word.as_str(), "null" | "true" | "false") {
        return None;
    }
    let before = &text[..text.len() - trimmed.len()];
    let indent = before.chars().rev().take_while(|c| *c != '\n').count();
    let complaint = format!(
        "Unrecognized token '{word}': was expecting (JSON String, Number, Array, Object or token 'null', 'true' or 'false')"
    );
    Some((complaint, before.matches('\n').count() + 1, indent + word.chars().count() + 1))
}

fn char_at(text: &str, line: usize, column: usize) -> Option<char> {
    text.split('\n').nth(line.checked_sub(1)?)?.get(column.checked_sub(1)?..)?.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_taken_as_it_is_and_complaints_are_the_services() {
        for good in ["{}", "2", "\"some text\"", "null", " [1] ", "\"[[[\\\"[[\""] {
            assert!(payload(good, "x").is_ok(), "{good}");
        }
        for (bad, expected) in [
            ("", "Invalid execution input."),
            (" \n", "Invalid execution input."),
            (
                "not some json",
                "Unrecognized token 'not': was expecting (JSON String, Number, Array, Object or token 'null', 'true' or 'false')",
            ),
            (
                "{'not': 'json'",
                "Unexpected character (''' (code 39)): was expecting double-quote to start field name",
            ),
            ("{} {}", "trailing characters at line 1 column 4"),
        ] {
            assert_eq!(payload(bad, "Invalid execution input.").unwrap_err(), expected, "{bad}");
        }
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(payload(&nested(limits::JSON_DEPTH_MAX), "x").is_ok());
        let error = payload(&nested(limits::JSON_DEPTH_MAX + 1), "x").unwrap_err();
        assert_eq!(error, "nested 129 levels deep, more than 128");
    }
}
