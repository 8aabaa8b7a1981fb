//! `validate`: findings as a compiler prints them.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use serde_json::{Value, json};
use stagepost_asl::{Finding, Resource, Severity, Spot, StateKind, StateMachine, parse, parse::codes};
use stagepost_broker::in_process::InProcessBroker;
use stagepost_connectors::{
    Registry,
    aws::{Aws, Settings},
};
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
        let (text, findings) = read(file)?;
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

/// The text of a file and all that is to say about it. What is no text is shown as far as it is one.
fn read(file: &Path) -> Result<(String, Vec<Finding>), Failure> {
    let bytes = output::read_bytes(file)?;
    let error = match String::from_utf8(bytes) {
        Ok(text) => {
            let mut found = findings(&text);
            if found.iter().any(|f| f.code == codes::INVALID_JSON) && is_yaml(file) {
                found[0].help = Some(YAML_HELP.to_owned());
            }
            return Ok((text, found));
        }
        Err(error) => error,
    };
    let valid = error.utf8_error().valid_up_to();
    let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
    let before = text.get(..valid).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let (line, column) = (before.matches('\n').count() + 1, valid - start + 1);
    let byte = error.as_bytes()[valid];
    let finding = Finding {
        severity: Severity::Error,
        code: codes::INVALID_JSON,
        pointer: String::new(),
        message: format!("The byte 0x{byte:02x} is no UTF-8 text at line {line} column {column}"),
        help: Some("save the file as UTF-8".to_owned()),
        spot: None,
    };
    Ok((text, vec![finding]))
}

const YAML_HELP: &str = "YAML is not read: turn it into JSON, for instance with `yq -o json FILE`";

fn is_yaml(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// All that is to say about a definition.
pub(crate) fn findings(text: &str) -> Vec<Finding> {
    match parse(text) {
        Ok((machine, mut findings)) => {
            findings.extend(without_connector(&machine));
            findings
        }
        Err(findings) => findings,
    }
}

/// Tasks that call what nobody in this version serves.
fn without_connector(machine: &StateMachine) -> Vec<Finding> {
    let registry = Registry::standard(InProcessBroker::new(), &Aws::new(Settings::default()));
    let calls = machine.states.iter().filter_map(|state| match &state.kind {
        StateKind::Task(task) => Some((state, &task.resource)),
        _ => None,
    });
    let unserved = calls.filter_map(|(state, resource)| match resource {
        // What the installation does itself, in every pattern that the language accepts.
        resource if resource.waits_for_signal() || resource.asks_for_approval() => None,
        Resource::Service { service, action, .. } if service == "states" && action == "startExecution" => {
            None
        }
        Resource::Service { service, action, pattern, .. } if !registry.has(service, action, *pattern) => {
            Some((state, format!("{service}:{action}{}", pattern.suffix())))
        }
        _ => None,
    });
    unserved
        .map(|(state, call)| Finding {
            severity: Severity::Warning,
            code: codes::NO_CONNECTOR,
            pointer: format!("{}/Resource", state.pointer),
            message: format!("This version of Stagepost has no connector for '{call}': the task will fail"),
            help: Some(
                "docs/compatibility.md lists those that there are; an activity can make the call".to_owned(),
            ),
            spot: None,
        })
        .collect()
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
    match &finding.spot {
        Some(Spot::Field(pointer)) => return source::find_name(text, pointer),
        Some(Spot::Part(pointer, part)) => return source::find_part(text, pointer, part),
        None => {}
    }
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
            spot: None,
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

    /// What is printed for a definition: its findings' lines with the marks, without the rest.
    fn marks(text: &str) -> Vec<String> {
        let shown = rendered(&findings(text), text, Path::new("f.json"), Style::plain());
        let lines: Vec<&str> = shown.lines().collect();
        let marked =
            lines.windows(2).filter(|pair| pair[1].trim_start().starts_with("| ") && pair[1].contains('^'));
        marked
            .map(|pair| {
                let from = pair[1].find('^').unwrap();
                let width = pair[1].matches('^').count();
                pair[0].chars().skip(from).take(width).collect()
            })
            .collect()
    }

    #[test]
    fn marks_stand_below_what_is_wrong() {
        let state = |fields: &str| {
            format!(
                "{{\n\"StartAt\": \"S\",\n\"States\": {{\"S\": {{\"Type\": \"Pass\", \"End\": true, {fields}}}}}}}"
            )
        };
        let query =
            |text: &str| state(&format!(r#""QueryLanguage": "JSONata", "Output": {{"a": "{text}"}}"#));
        for (text, expected) in [
            (state(r#""Coment": """#), vec!["\"Coment\""]),
            (state(r#""Output": 1"#), vec!["\"Output\""]),
            (state(r#""InputPath": "$.a[x]""#), vec!["x"]),
            (state(r#""Parameters": {"b": {"c.$": "States.Formt('{}')"}}"#), vec!["States.Formt"]),
            (state(r#""Parameters": {"c.$": "$.a["}"#), vec!["["]),
            (query("{% $states.input.a & phone %}"), vec!["phone"]),
            (query(r#"{% \"t\\u00e4\" & (1, 2) %}"#), vec![","]),
            (query("{% $states.results %}"), vec!["$states.results"]),
            (text_with_next(), vec!["\"Tvo\"", "\"Two\""]),
        ] {
            assert_eq!(marks(&text), expected, "{text}");
        }
    }

    #[test]
    fn calls_that_nobody_serves_are_told() {
        let task = |resource: &str| {
            let fields = format!(r#""Type": "Task", "Resource": "arn:aws:states:::{resource}", "End": true"#);
            findings(&format!(r#"{{"StartAt": "S", "States": {{"S": {{{fields}}}}}}}"#))
        };
        assert_eq!(task("lambda:invoke"), []);
        assert_eq!(task("activity:charge"), []);
        assert_eq!(task("states:startExecution.sync:2"), []);
        for resource in ["sagemaker:createModel", "lambda:invoke.sync"] {
            let found = task(resource);
            let first = (found.len(), found[0].code, found[0].pointer.as_str());
            assert_eq!(first, (1, "NO_CONNECTOR", "/States/S/Resource"), "{resource}");
        }
    }

    fn text_with_next() -> String {
        "{\"StartAt\": \"One\", \"States\": {\n\"One\": {\"Type\": \"Pass\", \"Next\": \"Tvo\"},\n\
         \"Two\": {\"Type\": \"Pass\", \"End\": true}}}"
            .to_owned()
    }

    #[test]
    fn files_that_are_no_json_are_told_so() {
        let dir = std::env::temp_dir().join(format!("stagepost-validate-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (name, bytes, line, column, message, help) in [
            (
                "latin.json",
                &b"{\n \"a\": \"\xe4\"}"[..],
                2,
                8,
                "The byte 0xe4 is no UTF-8 text",
                "save the file as",
            ),
            (
                "bom.json",
                b"\xef\xbb\xbf{}",
                1,
                1,
                "The text begins with a byte order mark",
                "save the file as",
            ),
            ("m.yaml", b"StartAt: A\n", 1, 1, "expected value", "YAML is not read"),
            ("nan.json", b"{\"TimeoutSeconds\": NaN}", 1, 20, "expected value", "the definition has to be"),
        ] {
            let file = dir.join(name);
            std::fs::write(&file, bytes).unwrap();
            let (text, found) = read(&file).unwrap();
            let place = place(&found[0], &text);
            assert_eq!((found.len(), place.line, place.column), (1, line, column), "{name}: {found:?}");
            assert!(found[0].message.starts_with(message), "{name}: {found:?}");
            assert!(found[0].help.as_ref().unwrap().starts_with(help), "{name}: {found:?}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
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
