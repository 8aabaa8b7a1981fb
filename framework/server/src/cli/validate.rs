//! `validate`: findings as a compiler prints them.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use serde_json::{Value, json};
use stagepost_asl::{Finding, Severity, parse};
use stagepost_server::Style;

use super::{
    args::ValidateArgs,
    failure::Failure,
    output,
    source::{self, Place},
};

/// Longest part of a source line that is shown, in characters.
const LINE_CHARS_MAX: usize = 100;

pub(crate) fn run(args: &ValidateArgs) -> Result<ExitCode, Failure> {
    let mut all = Vec::new();
    let mut errors = 0;
    let style = Style::of(&std::io::stderr());
    for file in &args.files {
        let text = output::read_file(file)?;
        let findings = findings(&text);
        let found = count(&findings, Severity::Error);
        errors += found;
        if args.json {
            all.extend(findings.iter().map(|finding| as_json(finding, &text, file)));
            continue;
        }
        output::notes(&rendered(&findings, &text, file, style));
        let warnings = count(&findings, Severity::Warning);
        output::note(&verdict(file, found, warnings, style));
    }
    if args.json {
        output::json(&json!({ "findings": all }));
    }
    Ok(ExitCode::from(u8::from(errors > 0)))
}

/// All that is to say about a definition.
pub(crate) fn findings(text: &str) -> Vec<Finding> {
    match parse(text) {
        Ok((_, findings)) | Err(findings) => findings,
    }
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

fn verdict(file: &Path, errors: usize, warnings: usize, style: Style) -> String {
    let number = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let file = file.display();
    match (errors, warnings) {
        (0, 0) => format!("{} {file} is valid", style.green("✓")),
        (0, _) => format!("{} {file} is valid, with {}", style.green("✓"), number(warnings, "warning")),
        (_, 0) => format!("{} {file} is not valid: {}", style.red("✗"), number(errors, "error")),
        (_, _) => {
            let (errors, warnings) = (number(errors, "error"), number(warnings, "warning"));
            format!("{} {file} is not valid: {errors}, {warnings}", style.red("✗"))
        }
    }
}

/// The findings in the order of their places, each with its line and its help.
pub(crate) fn rendered(findings: &[Finding], text: &str, file: &Path, style: Style) -> String {
    let mut placed: Vec<_> = findings.iter().map(|finding| (place(finding, text), finding)).collect();
    placed.sort_by_key(|(place, _)| (place.line, place.column));
    let mut out = String::new();
    for (place, finding) in placed {
        render(&mut out, place, finding, text, file, style);
    }
    out
}

fn place(finding: &Finding, text: &str) -> Place {
    let named = if finding.pointer.is_empty() { source::named_in(&finding.message, text) } else { None };
    named.unwrap_or_else(|| source::find(text, &finding.pointer))
}

fn render(out: &mut String, place: Place, finding: &Finding, text: &str, file: &Path, style: Style) {
    let Place { line, column, width } = place;
    let severity = match finding.severity {
        Severity::Error => style.red("error"),
        Severity::Warning => style.yellow("warning"),
    };
    let gutter = line.to_string().len();
    let bar = style.dim("|");
    let message = output::harmless(&finding.message);
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{severity}[{}]: {}", finding.code, style.bold(&message));
    let _ = writeln!(out, "{:gutter$}{} {}:{line}:{column}", "", style.dim("-->"), file.display());
    let (shown, column) = excerpt(text.lines().nth(line - 1).unwrap_or_default(), column);
    let width = width.min(shown.chars().count().saturating_sub(column - 1)).max(1);
    let marks = "^".repeat(width);
    let marks = if finding.severity == Severity::Error { style.red(&marks) } else { style.yellow(&marks) };
    let _ = writeln!(out, "{:gutter$} {bar}", "");
    let _ = writeln!(out, "{} {bar} {shown}", style.dim(&line.to_string()));
    let _ = writeln!(out, "{:gutter$} {bar} {:indent$}{marks}", "", "", indent = column - 1);
    if !finding.pointer.is_empty() {
        let _ = writeln!(out, "{:gutter$} {} at {}", "", style.dim("="), output::harmless(&finding.pointer));
    }
    if let Some(help) = &finding.help {
        let _ = writeln!(out, "{:gutter$} {} help: {}", "", style.dim("="), output::harmless(help));
    }
    out.push('\n');
}

/// The part of a line around a column, and the column in it. A definition may be one long line.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let chars: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if chars.len() <= LINE_CHARS_MAX {
        return (chars.into_iter().collect(), column);
    }
    let from = (column - 1).saturating_sub(LINE_CHARS_MAX / 2).min(chars.len());
    let to = (from + LINE_CHARS_MAX).min(chars.len());
    let mut shown = String::new();
    let mut column = column - from;
    if from > 0 {
        shown.push('…');
        column += 1;
    }
    shown.extend(&chars[from..to]);
    if to < chars.len() {
        shown.push('…');
    }
    (shown, column)
}

fn as_json(finding: &Finding, text: &str, file: &Path) -> Value {
    let place = place(finding, text);
    let severity = if finding.severity == Severity::Error { "error" } else { "warning" };
    json!({
        "file": file.display().to_string(),
        "line": place.line,
        "column": place.column,
        "severity": severity,
        "code": finding.code,
        "pointer": finding.pointer,
        "message": finding.message,
        "help": finding.help,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(pointer: &str, message: &str, help: Option<&str>) -> Finding {
        Finding {
            severity: Severity::Error,
            code: "MISSING_TRANSITION_TARGET",
            pointer: pointer.to_owned(),
            message: message.to_owned(),
            help: help.map(str::to_owned),
        }
    }

    #[test]
    fn findings_show_the_line_that_they_are_about() {
        let text = "{\n  \"StartAt\": \"Nowhere\",\n  \"States\": {}\n}";
        let findings = [
            finding("/States", "no states", None),
            finding("/StartAt", "Missing target: Nowhere", Some("name a state")),
        ];
        assert_eq!(
            rendered(&findings, text, Path::new("order.asl.json"), Style::plain()),
            "\
error[MISSING_TRANSITION_TARGET]: Missing target: Nowhere
 --> order.asl.json:2:14
  |
2 |   \"StartAt\": \"Nowhere\",
  |              ^^^^^^^^^
  = at /StartAt
  = help: name a state

error[MISSING_TRANSITION_TARGET]: no states
 --> order.asl.json:3:3
  |
3 |   \"States\": {}
  |   ^^^^^^^^
  = at /States

"
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let line = format!("{}X{}", "a".repeat(300), "b".repeat(300));
        let (shown, column) = excerpt(&line, 301);
        assert_eq!(shown.chars().nth(column - 1), Some('X'));
        assert!(shown.starts_with('…') && shown.ends_with('…') && shown.chars().count() <= 102);
        assert_eq!(excerpt("short", 3), ("short".to_owned(), 3));
    }

    #[test]
    fn what_is_not_json_is_shown_where_it_breaks() {
        let text = "{\n  \"StartAt\": \"A\",\n  States: {}\n}";
        let found = findings(text);
        assert_eq!(found.len(), 1);
        let place = place(&found[0], text);
        assert_eq!((place.line, place.column), (3, 3), "{:?}", found[0]);
    }
}
