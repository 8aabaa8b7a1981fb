//! Tests of definitions without a server, a broker or a worker.
//!
//! * [`Simulation`] runs one execution on the real engine, under virtual time, with mocks in the place of its tasks: a
//!   year of waiting takes milliseconds, and every run with the same mocks is the same run.
//! * [`Cases`] is a file of such runs with what is expected of them, as `stagepost test` reads it; [`assert_cases`] is
//!   the same for `cargo test`:
//!
//! ```
//! # const DEFINITION: &str = r#"{"StartAt": "A", "States": {"A": {"Type": "Pass", "End": true}}}"#;
//! # const CASES: &str = r#"{"cases": [{"name": "it ends", "input": 1, "expect": {"output": 1}}]}"#;
//! // include_str!("../definition.asl.json"), include_str!("../cases.json")
//! stagepost_testing::assert_cases(DEFINITION, CASES);
//! ```
//! * [`explore`] walks every path of a definition and tells what is wrong with it, with a case for each finding.
//!
//! Pure as the engine is: no clock, no IO; the texts are the caller's.

mod cases;
mod check;
mod coverage;
mod explore;
mod run;
mod suite;
mod text;
mod world;

use std::sync::Arc;

use stagepost_asl::{Finding, StateMachine};

pub use cases::{Case, CaseError, Cases, Context, Expect, Range};
pub use coverage::{Count, Coverage, Item};
pub use explore::{Bounds, Exploration, Finding as Defect, KINDS, Known, explore};
pub use run::{EVENTS_MAX, Mock, Repeated, Run, STARTS_AT, Simulation, Status};
pub use suite::{CaseResult, Report, run_cases, run_selected};
pub use text::{Paint, Tone, duration, plain};
pub use world::{Answer, Asked, Said, Stop};

/// Reads a definition; the error is what is wrong with it.
pub fn parse(definition: &str) -> Result<Arc<StateMachine>, Vec<Finding>> {
    stagepost_asl::parse(definition).map(|(machine, _)| Arc::new(machine))
}

/// Runs a file of cases and panics with the report unless all of them pass: for `cargo test`.
///
/// # Panics
///
/// When the definition or the cases cannot be read, or a case fails.
#[track_caller]
pub fn assert_cases(definition: &str, cases: &str) {
    let machine = match parse(definition) {
        Ok(machine) => machine,
        Err(findings) => panic!("the definition is not valid:\n{}", lines(&findings)),
    };
    let cases = match Cases::parse(cases, &machine) {
        Ok(cases) => cases,
        Err(errors) => panic!("the cases cannot be read:\n{}", lines(&errors)),
    };
    let report = run_cases(&machine, &cases);
    assert!(report.failed() == 0, "\n{}{}", report.render(&plain), report.summary(&plain));
}

fn lines(errors: &[impl std::fmt::Display]) -> String {
    errors.iter().map(|error| format!("  {error}")).collect::<Vec<_>>().join("\n")
}
