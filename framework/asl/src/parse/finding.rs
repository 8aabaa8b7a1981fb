//! What there is to say about a definition.

use std::{fmt, ops::Range};

use stagepost_protocol::IntegrationPattern;

use crate::model::{Resource, StateKind, StateMachine};

/// The codes of findings, as the service's `ValidateStateMachineDefinition` names them, and a few of ours.
pub mod codes {
    /// The text is not JSON.
    pub const INVALID_JSON: &str = "INVALID_JSON_DESCRIPTION";
    /// A field is missing, unknown, of the wrong type or out of range.
    pub const SCHEMA: &str = "SCHEMA_VALIDATION_FAILED";
    /// A JSONata expression cannot be read.
    pub const INVALID_JSONATA: &str = "INVALID_JSONATA_EXPRESSION";
    /// A JSONata expression asks for what there is not.
    pub const UNSUPPORTED_JSONATA: &str = "UNSUPPORTED_JSONATA_EXPRESSION";
    /// A transition leads nowhere, or nothing leads to a state.
    pub const TARGET: &str = "MISSING_TRANSITION_TARGET";
    /// The machine can never end.
    pub const NO_END: &str = "MISSING_END_STATE";
    /// Two states of one machine share a name.
    pub const DUPLICATE_STATE: &str = "DUPLICATE_STATE_NAME";
    /// A state's name is empty or too long.
    pub const STATE_NAME: &str = "INVALID_STATE_NAME";
    /// A Map state's label is too long or holds characters that it may not.
    pub const LABEL: &str = "INVALID_LABEL_NAME";
    /// The document is nested deeper than is accepted.
    pub const TOO_DEEP: &str = "TOO_DEEPLY_NESTED";
    /// Ours: the definition is larger than is accepted.
    pub const TOO_LARGE: &str = "DEFINITION_TOO_LARGE";
    /// Warning, ours: an object names a field twice; the last one counts.
    pub const DUPLICATE_FIELD: &str = "DUPLICATE_FIELD";
    /// Warning: a value looks like a path, but its field's name does not end in `.$`.
    pub const NO_DOLLAR: &str = "NO_DOLLAR";
    /// Warning: the `Result` of a Pass state is never evaluated.
    pub const STATIC_RESULT: &str = "PASS_RESULT_IS_STATIC";
    /// Warning, ours: a branch or an iteration can never end by itself.
    pub const ENDLESS_SCOPE: &str = "ENDLESS_SCOPE";
    /// Warning, ours: a path starts from a variable that no state assigns.
    pub const UNASSIGNED_VARIABLE: &str = "UNASSIGNED_VARIABLE";
    /// Warning: a value looks like a path, but its field's name does not end in `Path`.
    pub const NO_PATH: &str = "NO_PATH";
    /// Warning, ours: a Choice state without `Default`.
    pub const MISSING_DEFAULT: &str = "MISSING_DEFAULT";
    /// Warning, ours: a task waits for somebody's answer and has no time limit.
    pub const NO_TIMEOUT: &str = "NO_TIMEOUT";
    /// Warning, ours: a task waits for an answer with its token and tells the token to nobody.
    pub const NO_TASK_TOKEN: &str = "NO_TASK_TOKEN";
    /// Warning, ours: a rule of Retry or Catch is for an error that the language does not have.
    pub const UNKNOWN_ERROR: &str = "UNKNOWN_ERROR";
    /// Warning, ours: a rule of Retry or Catch never applies, because an earlier one does.
    pub const UNREACHABLE_RULE: &str = "UNREACHABLE_RULE";
    /// Warning, ours: a service integration that this version has no connector for.
    pub const NO_CONNECTOR: &str = "NO_CONNECTOR";
    /// Warning, ours: a service integration that the service itself is not known to offer.
    pub const UNKNOWN_SERVICE: &str = "UNKNOWN_SERVICE";

    /// The codes of errors.
    pub const ERRORS: &[&str] = &[
        INVALID_JSON,
        SCHEMA,
        INVALID_JSONATA,
        UNSUPPORTED_JSONATA,
        TARGET,
        NO_END,
        DUPLICATE_STATE,
        STATE_NAME,
        LABEL,
        TOO_DEEP,
        TOO_LARGE,
    ];
    /// The codes of warnings.
    pub const WARNINGS: &[&str] = &[
        DUPLICATE_FIELD,
        NO_DOLLAR,
        STATIC_RESULT,
        ENDLESS_SCOPE,
        UNASSIGNED_VARIABLE,
        NO_PATH,
        MISSING_DEFAULT,
        NO_TIMEOUT,
        NO_TASK_TOKEN,
        UNKNOWN_ERROR,
        UNREACHABLE_RULE,
        NO_CONNECTOR,
        UNKNOWN_SERVICE,
    ];
}

/// What the service answers to a text that is no JSON object; it gives no location for it.
pub(super) const NOT_AN_OBJECT: &str = "Definition must be a valid JSON object";

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The definition cannot be used.
    Error,
    /// It can, but probably not as meant.
    Warning,
}

/// Where a person should look, more exactly than by the pointer that the service gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot {
    /// At the name of the field that this pointer leads to.
    Field(String),
    /// At these bytes of the string that this pointer leads to.
    Part(String, Range<usize>),
}

/// Something to say about a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// A stable code in the service's style, for instance `SCHEMA_VALIDATION_FAILED`, `MISSING_TRANSITION_TARGET`.
    pub code: &'static str,
    /// Where, as a JSON pointer. What concerns a field that is missing or does not belong is reported at the
    /// object around it.
    pub pointer: String,
    /// What, as the service says it where that is known.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Where exactly, if that is known.
    pub spot: Option<Spot>,
}

impl Finding {
    /// Where, as the service's API spells it: `/States/A/Choices[0]/Next`. `None` where it gives no location.
    pub fn location(&self) -> Option<String> {
        let nowhere = [codes::INVALID_JSON, codes::TOO_DEEP, codes::TOO_LARGE, codes::NO_END];
        if self.pointer.is_empty() {
            let known = !nowhere.contains(&self.code) && self.message != NOT_AN_OBJECT;
            return known.then(|| "/".to_owned());
        }
        let mut location = String::with_capacity(self.pointer.len());
        let mut previous = "";
        for part in self.pointer.split('/').skip(1) {
            let indexed =
                ["Choices", "And", "Or", "Retry", "Catch", "Branches", "ErrorEquals"].contains(&previous);
            if indexed && part.bytes().all(|b| b.is_ascii_digit()) {
                location.push_str(&format!("[{part}]"));
            } else {
                location.push('/');
                location.push_str(&part.replace("~1", "/").replace("~0", "~"));
            }
            previous = part;
        }
        Some(location)
    }
}

impl fmt::Display for Finding {
    /// As the service writes it into the message of an `InvalidDefinition`: `CODE: message at LOCATION`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = self.location();
        write!(f, "{}: {} at {}", self.code, self.message, location.as_deref().unwrap_or("null"))
    }
}

/// What a definition that [`parse`](super::parse) accepted may not hold when it is to run as an Express state machine: jobs
/// and task tokens outlive its five minutes, and Map Runs belong to standard executions (developer guide, "Choosing
/// workflow type" and "Map state in Distributed mode"). The service refuses activities
/// too; here they are how any work is done, so they are accepted.
pub fn express_findings(machine: &StateMachine) -> Vec<Finding> {
    let refused = |resource: &Resource| match resource {
        resource if resource.waits_for_signal() => Some("tasks that wait for a signal".to_owned()),
        Resource::Service { pattern, .. } => match pattern {
            IntegrationPattern::Sync | IntegrationPattern::Sync2 => {
                Some("'.sync' service integration".to_owned())
            }
            IntegrationPattern::WaitForTaskToken => {
                // The service's words end with a space here.
                Some("'.waitForTaskToken' service integration ".to_owned())
            }
            IntegrationPattern::RequestResponse => None,
        },
        Resource::Activity { .. } | Resource::Lambda { .. } => None,
    };
    let tasks = machine.states.iter().filter_map(|state| match &state.kind {
        StateKind::Task(task) => refused(&task.resource).map(|what| (state, what)),
        _ => None,
    });
    let maps = machine.distributed_maps().map(|(state, ..)| {
        (format!("{}/ItemProcessor", state.pointer), "a Map state in DISTRIBUTED mode".to_owned())
    });
    tasks
        .map(|(state, what)| (format!("{}/Resource", state.pointer), what))
        .chain(maps)
        .map(|(pointer, what)| Finding {
            severity: Severity::Error,
            code: codes::SCHEMA,
            pointer,
            message: format!("Express state machine does not support {what}"),
            help: Some("create the state machine with type STANDARD".to_owned()),
            spot: None,
        })
        .collect()
}
