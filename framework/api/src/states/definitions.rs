//! Definitions in requests: validation, and its findings in the service's words.

use serde_json::{Value, json};
use stagepost_asl::{Finding, Severity, parse::express_findings};

use super::{Answer, Context};
use crate::wire::{ApiError, Code, Members, json as json_text, members::DEFINITION};

/// How many findings an error message holds.
const FINDINGS_IN_MESSAGE: usize = 20;
/// How many findings ValidateStateMachineDefinition answers with unless asked for fewer.
const DIAGNOSTICS_MAX: usize = 100;

/// All findings of a definition, and whether it can be used by a state machine of type `kind`.
fn findings(text: &str, kind: &str) -> (bool, Vec<Finding>) {
    let (machine, mut findings) = match stagepost_asl::parse(text) {
        Ok(parsed) => parsed,
        Err(findings) => return (false, findings),
    };
    let refused = if kind == "EXPRESS" { express_findings(&machine) } else { Vec::new() };
    let usable = refused.is_empty();
    findings.extend(refused);
    (usable, findings)
}

/// Refuses a definition that holds an error.
pub(super) fn check(text: &str, kind: &str) -> Result<(), ApiError> {
    match findings(text, kind) {
        (true, _) => Ok(()),
        (false, findings) => Err(refused(&findings)),
    }
}

/// Says what is wrong with a definition.
pub(super) fn refused(findings: &[Finding]) -> ApiError {
    let errors: Vec<&Finding> = findings.iter().filter(|f| f.severity == Severity::Error).collect();
    let mut said: Vec<String> = errors.iter().take(FINDINGS_IN_MESSAGE).map(ToString::to_string).collect();
    if errors.len() > said.len() {
        said.push(format!("and {} more", errors.len() - said.len()));
    }
    ApiError::about(Code::InvalidDefinition, said.join(", "))
}

/// How much of a text that is no JSON its location repeats, in characters.
const SOURCE_CHARS_MAX: usize = 500;

/// Message and location. For a text that begins with a word the service says where the word ends, twice.
fn words(text: &str, finding: &Finding) -> (String, Option<String>) {
    match json_text::unrecognized(text).filter(|_| finding.code == "INVALID_JSON_DESCRIPTION") {
        Some((complaint, line, column)) => {
            let source: String = text.chars().take(SOURCE_CHARS_MAX).collect();
            let place = format!("[Source: (String)\"{source}\"; line: {line}, column: {column}]");
            (format!("{complaint}\n at {place}"), Some(place))
        }
        None => (finding.message.clone(), finding.location()),
    }
}

/// ValidateStateMachineDefinition.
pub(super) async fn validate(_: &Context<'_>, mut m: Members<'_>) -> Answer {
    let text = m.required_text("definition", DEFINITION);
    let kind = m.one_of("type", &["STANDARD", "EXPRESS"]).unwrap_or("STANDARD");
    let severity = m.one_of("severity", &["ERROR", "WARNING"]);
    let max = m.integer("maxResults", 0, DIAGNOSTICS_MAX as i64);
    m.finish()?;
    let (ok, mut findings) = findings(text, kind);
    if severity != Some("WARNING") {
        findings.retain(|f| f.severity == Severity::Error);
    }
    let max = max.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(DIAGNOSTICS_MAX);
    let diagnostics: Vec<Value> = findings.iter().take(max).map(|f| diagnostic(text, f)).collect();
    Ok(json!({
        "result": if ok { "OK" } else { "FAIL" },
        "diagnostics": diagnostics,
        "truncated": findings.len() > max,
    }))
}

fn diagnostic(text: &str, finding: &Finding) -> Value {
    let severity = match finding.severity {
        Severity::Error => "ERROR",
        Severity::Warning => "WARNING",
    };
    let (message, location) = words(text, finding);
    let mut diagnostic = json!({ "severity": severity, "code": finding.code, "message": message });
    if let Some(location) = location {
        diagnostic["location"] = location.into();
    }
    diagnostic
}
