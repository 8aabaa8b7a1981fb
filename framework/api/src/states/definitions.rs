//! Definitions in requests: validation, and its findings in the service's words.

use serde_json::{Value, json};
use stagepost_asl::{Finding, Severity};

use super::{Answer, Context};
use crate::wire::{ApiError, Code, Members, members::DEFINITION};

/// How many findings an error message holds.
const FINDINGS_IN_MESSAGE: usize = 20;
/// How many findings ValidateStateMachineDefinition answers with unless asked for fewer.
const DIAGNOSTICS_MAX: usize = 100;

/// Refuses a definition that holds an error.
pub(super) fn check(text: &str) -> Result<(), ApiError> {
    let Err(findings) = stagepost_asl::parse(text) else { return Ok(()) };
    let errors: Vec<&Finding> = findings.iter().filter(|f| f.severity == Severity::Error).collect();
    let mut said: Vec<String> = errors.iter().take(FINDINGS_IN_MESSAGE).map(|f| sentence(f)).collect();
    if errors.len() > said.len() {
        said.push(format!("and {} more", errors.len() - said.len()));
    }
    Err(ApiError::about(Code::InvalidDefinition, said.join(", ")))
}

fn sentence(finding: &Finding) -> String {
    match location(finding) {
        Some(location) => format!("{}: {} at {location}", finding.code, finding.message),
        None => format!("{}: {}", finding.code, finding.message),
    }
}

/// Where a finding is; none for those about the text as a whole, which is no document with places in it.
fn location(finding: &Finding) -> Option<&str> {
    match finding.pointer.as_str() {
        "" if finding.code == "INVALID_JSON_DESCRIPTION" => None,
        "" if finding.message == "Definition must be a valid JSON object" => None,
        "" => Some("/"),
        pointer => Some(pointer),
    }
}

/// ValidateStateMachineDefinition.
pub(super) async fn validate(_: &Context<'_>, mut m: Members<'_>) -> Answer {
    let text = m.required_text("definition", DEFINITION);
    m.one_of("type", &["STANDARD", "EXPRESS"]);
    let severity = m.one_of("severity", &["ERROR", "WARNING"]);
    let max = m.integer("maxResults", 0, DIAGNOSTICS_MAX as i64);
    m.finish()?;
    let (ok, mut findings) = match stagepost_asl::parse(text) {
        Ok((_, warnings)) => (true, warnings),
        Err(findings) => (false, findings),
    };
    if severity != Some("WARNING") {
        findings.retain(|f| f.severity == Severity::Error);
    }
    let max = max.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(DIAGNOSTICS_MAX);
    let diagnostics: Vec<Value> = findings.iter().take(max).map(diagnostic).collect();
    Ok(json!({
        "result": if ok { "OK" } else { "FAIL" },
        "diagnostics": diagnostics,
        "truncated": findings.len() > max,
    }))
}

fn diagnostic(finding: &Finding) -> Value {
    let severity = match finding.severity {
        Severity::Error => "ERROR",
        Severity::Warning => "WARNING",
    };
    let mut diagnostic = json!({ "severity": severity, "code": finding.code, "message": finding.message });
    if let Some(location) = location(finding) {
        diagnostic["location"] = location.into();
    }
    diagnostic
}
