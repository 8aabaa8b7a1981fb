//! Printing: data to stdout, everything else to stderr. A reader that goes away ends the process quietly.

use std::{
    io::{ErrorKind, IsTerminal as _, Read as _, Write as _},
    path::Path,
};

use serde_json::Value;
use stagepost_protocol::Timestamp;

use super::failure::Failure;

/// Prints a line of data.
pub(crate) fn data(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let printed = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    if let Err(error) = printed {
        // `stagepost list | head` is no failure.
        std::process::exit(if error.kind() == ErrorKind::BrokenPipe { 0 } else { 1 });
    }
}

/// Prints a line for people.
pub(crate) fn note(line: &str) {
    notes(&format!("{line}\n"));
}

/// Prints lines, with their line ends, for people.
pub(crate) fn notes(lines: &str) {
    // Where nobody can be told, there is nobody to tell.
    let _ = std::io::stderr().lock().write_all(lines.as_bytes());
}

/// Prints JSON as data: readable on a terminal, one line elsewhere.
pub(crate) fn json(value: &Value) {
    data(&if std::io::stdout().is_terminal() { format!("{value:#}") } else { value.to_string() });
}

/// Prints JSON text as data, as [`json`] does.
pub(crate) fn json_text(text: &str) {
    match serde_json::from_str::<Value>(text) {
        Ok(value) if std::io::stdout().is_terminal() => data(&format!("{value:#}")),
        _ => data(text),
    }
}

/// Text without characters that steer a terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n' || *c == '\t').collect()
}

/// Text on one line, cut to so many characters.
pub(crate) fn short(text: &str, chars_max: usize) -> String {
    let line = harmless(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    if line.chars().count() <= chars_max {
        return line;
    }
    let mut cut: String = line.chars().take(chars_max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Rows as aligned columns, with a heading.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.max().unwrap_or(0).max(heading[column].chars().count())
        })
        .collect();
    let line = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(heading)];
    lines.extend(rows.iter().map(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>())));
    lines.join("\n")
}

/// A time of the API's answers: seconds since the epoch, as RFC 3339.
pub(crate) fn time(seconds: &Value) -> String {
    let millis = seconds.as_f64().map(|seconds| (seconds * 1000.0).round() as i64);
    millis.map_or_else(|| "-".to_owned(), |millis| Timestamp::from_millis(millis).to_string())
}

/// JSON that was typed: itself, `@FILE`, or `@-` for standard input. Checked here, where the error can say where.
pub(crate) fn typed_json(flag: &str, text: &str) -> Result<String, Failure> {
    let (text, origin) = match text.strip_prefix('@') {
        Some(file) => (read_file(Path::new(file))?, file.to_owned()),
        None => (text.to_owned(), flag.to_owned()),
    };
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::usage(format!("{origin} is not JSON: {error}"))
            .with_hint("quote JSON for the shell, '{\"key\": 1}', or read it from a file, @input.json")),
    }
}

/// Reads a text file; `-` is standard input.
pub(crate) fn read_file(path: &Path) -> Result<String, Failure> {
    let text = String::from_utf8(read_bytes(path)?);
    text.map_err(|_| Failure::usage(format!("cannot read {}: it is not UTF-8 text", path.display())))
}

/// Reads a file; `-` is standard input.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| {
        let why = match error.kind() {
            ErrorKind::NotFound => "there is no such file".to_owned(),
            _ => error.to_string(),
        };
        Failure::usage(format!("cannot read {}: {why}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_long_cells_are_cut() {
        let rows = [vec!["größer".to_owned(), "1".to_owned()], vec!["a".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME    N\ngrößer  1\na       22");
        assert_eq!(short("a  b\n\x1b[31mc", 20), "a b [31mc");
        assert_eq!(short("abcdef", 4), "abc…");
    }

    #[test]
    fn typed_json_is_checked() {
        assert_eq!(typed_json("--input", r#"{"a": 1}"#).unwrap(), r#"{"a": 1}"#);
        let failure = typed_json("--input", "{a: 1}").unwrap_err();
        assert!(failure.message.starts_with("--input is not JSON: key must be a string at line 1"));
        let failure = typed_json("--input", "@/nowhere/x.json").unwrap_err();
        assert_eq!(failure.message, "cannot read /nowhere/x.json: there is no such file");
        assert_eq!(failure.code, 2);
    }
}
