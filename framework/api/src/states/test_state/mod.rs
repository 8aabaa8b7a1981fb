//! TestState: one state on its own, with mocks of what is done elsewhere and a look at its data on the way
//! (<https://docs.aws.amazon.com/step-functions/latest/apireference/API_TestState.html>, and the developer guide's
//! "Testing state machines with TestState API").

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use stagepost_asl::{LONE_STATE, Resource, State, StateIndex, StateKind, StateMachine};
use stagepost_coordinator::client::OneCall;
use stagepost_engine::{
    Env, Origin,
    history::Failure,
    probe::{self, Begun, Probed, Setup, Working},
};
use stagepost_protocol::{
    IntegrationPattern, Payload, ReportOutcome, StateMachineArn, TokenKey, error_names, limits,
};
use uuid::Uuid;

use super::{Answer, Context, definitions, names};
use crate::wire::{
    ApiError, Code, Members, Text, json as json_text,
    members::{ARN, CAUSE, DATA, DEFINITION, ERROR, NAME},
};

mod context;
mod schema;
mod services;

/// A test takes no longer (TestState: "can run for up to five minutes").
const CALL_MAX: Duration = Duration::from_secs(300);
/// JSON in a text.
const DOCUMENT: Text = Text::sensitive(0, limits::PAYLOAD_BYTES_MAX);

/// A request.
struct Request<'a> {
    definition: &'a str,
    state_name: Option<&'a str>,
    role_arn: Option<&'a str>,
    input: &'a str,
    level: Level,
    reveal_secrets: bool,
    variables: Option<&'a str>,
    context: Option<&'a str>,
    mock: Option<Mock<'a>>,
    configuration: Configuration<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Info,
    /// `DEBUG` and `TRACE`: for states other than HTTP tasks the service answers both alike.
    Debug,
}

struct Mock<'a> {
    result: Option<&'a str>,
    error: Option<Failure>,
    validation: schema::Mode,
}

/// `stateConfiguration`.
#[derive(Default)]
struct Configuration<'a> {
    retries: Option<i64>,
    caused_by: Option<&'a str>,
    failed_iterations: Option<i64>,
    reader_data: Option<&'a str>,
}

impl Configuration<'_> {
    /// The name of a field that is given, as the service's messages spell it.
    fn given(&self) -> Option<&'static str> {
        let fields = [
            (self.failed_iterations.is_some(), "MapIterationFailureCount"),
            (self.retries.is_some(), "RetrierRetryCount"),
            (self.caused_by.is_some(), "ErrorCausedByState"),
            (self.reader_data.is_some(), "MapItemReaderData"),
        ];
        fields.into_iter().find_map(|(given, name)| given.then_some(name))
    }
}

impl<'a> Request<'a> {
    fn read(mut m: Members<'a>) -> Result<Request<'a>, ApiError> {
        let definition = m.required_text("definition", DEFINITION);
        let state_name = m.text("stateName", NAME);
        let role_arn = m.text("roleArn", ARN);
        let input = m.text("input", DATA).unwrap_or("{}");
        let level = match m.one_of("inspectionLevel", &["INFO", "DEBUG", "TRACE"]) {
            Some("DEBUG" | "TRACE") => Level::Debug,
            _ => Level::Info,
        };
        let reveal_secrets = m.flag("revealSecrets").unwrap_or(false);
        let variables = m.text("variables", DOCUMENT);
        let context = m.text("context", DOCUMENT);
        let mock = m.structure("mock", |m| Mock {
            result: m.text("result", DATA),
            error: m
                .structure("errorOutput", |m| Failure {
                    error: m.text("error", ERROR).map(str::to_owned),
                    cause: m.text("cause", CAUSE).map(str::to_owned),
                })
                .map(|(_, failure)| failure),
            validation: match m.one_of("fieldValidationMode", &["STRICT", "PRESENT", "NONE"]) {
                Some("NONE") => schema::Mode::None,
                Some("PRESENT") => schema::Mode::Present,
                _ => schema::Mode::Strict,
            },
        });
        let configuration = m.structure("stateConfiguration", |m| Configuration {
            retries: m.integer("retrierRetryCount", 0, i64::from(i32::MAX)),
            caused_by: m.text("errorCausedByState", NAME),
            failed_iterations: m.integer("mapIterationFailureCount", 0, i64::from(i32::MAX)),
            reader_data: m.text("mapItemReaderData", DATA),
        });
        m.finish()?;
        Ok(Request {
            definition,
            state_name,
            role_arn,
            input,
            level,
            reveal_secrets,
            variables,
            context,
            mock: mock.map(|(_, mock)| mock),
            configuration: configuration.map(|(_, configuration)| configuration).unwrap_or_default(),
        })
    }

    /// The definition and the state in it.
    fn state(&self) -> Result<(StateMachine, StateIndex), ApiError> {
        let parsed = match self.state_name {
            Some(_) => stagepost_asl::parse(self.definition),
            None => stagepost_asl::parse_state(self.definition),
        };
        let (machine, _) = parsed.map_err(|findings| definitions::refused(&findings))?;
        let name = self.state_name.unwrap_or(LONE_STATE);
        let index = machine.by_name.get(name).copied();
        let index = index.ok_or_else(|| ApiError::validation("State not found in definition"))?;
        Ok((machine, index))
    }

    /// Whether this state can be tried with what is given.
    fn check(&self, machine: &StateMachine, state: &State) -> Result<(), ApiError> {
        let Some(mock) = &self.mock else {
            return self.check_unmocked(state);
        };
        match &state.kind {
            StateKind::Task(_) | StateKind::Parallel(_) | StateKind::Map(_) => {}
            kind => {
                let kind = kind.type_name();
                let message = format!("State type '{kind}' is not supported when a mock is specified");
                return Err(ApiError::validation(message));
            }
        }
        if self.reveal_secrets {
            let message = "TestState does not support RevealSecrets when a mock is specified.";
            return Err(ApiError::validation(message));
        }
        if mock.result.is_some() == mock.error.is_some() {
            let message = "A test mock should have only one of the following fields: [result, errorOutput].";
            return Err(ApiError::validation(message));
        }
        let below = format!("{}/", state.pointer);
        if let Some(name) = self.configuration.caused_by
            && !machine.state_named(name).is_some_and(|state| state.pointer.starts_with(&below))
        {
            let message = format!(
                "ErrorCausedByState '{name}' is not a state within the Map or Parallel state under test."
            );
            return Err(ApiError::validation(message));
        }
        Ok(())
    }

    fn check_unmocked(&self, state: &State) -> Result<(), ApiError> {
        if let Some(field) = self.configuration.given() {
            let message = format!("TestState does not support {field} when a mock is not specified.");
            return Err(ApiError::validation(message));
        }
        match &state.kind {
            StateKind::Map(_) | StateKind::Parallel(_) => {
                let message = "TestState API does not support Map or Parallel states. Supported state types include: \
                               [Task, Wait, Pass, Succeed, Fail, Choice]";
                Err(ApiError::new(Code::InvalidDefinition, message))
            }
            StateKind::Task(task) => {
                if task.resource.waits_for_signal() {
                    let message =
                        "TestState supports tasks that wait for a signal only when a mock is specified.";
                    return Err(ApiError::validation(message));
                }
                let waits = match &task.resource {
                    Resource::Activity { .. } => true,
                    Resource::Service { pattern, .. } => *pattern != IntegrationPattern::RequestResponse,
                    Resource::Lambda { .. } => false,
                };
                if waits {
                    let message = "TestState supports Activity tasks and the .sync and .waitForTaskToken service \
                                   integration patterns only when a mock is specified.";
                    return Err(ApiError::validation(message));
                }
                if self.role_arn.is_none() {
                    return Err(ApiError::validation("RoleArn must be specified when testing a Task state"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Mock<'_> {
    /// What the state's work came to, if it is one that such a state can have.
    fn outcome(&self, state: &State) -> Result<Result<Payload, Failure>, ApiError> {
        if let Some(failure) = &self.error {
            return Ok(Err(failure.clone()));
        }
        let result = Payload::parse(self.result.unwrap_or_default())
            .map_err(|_| ApiError::validation("Mocked result must be valid JSON"))?;
        let value = result.to_value();
        match &state.kind {
            StateKind::Map(map) => {
                let writer = map.distributed.as_ref().and_then(|d| d.writer.as_ref());
                // Where the results are written elsewhere, the state's result says where.
                let written = writer.is_some_and(|writer| writer.resource.is_some());
                if written && !value.is_object() {
                    return Err(ApiError::validation("Mocked result must be a JSON object."));
                }
                if !written && !value.is_array() {
                    return Err(ApiError::validation("Mocked result must be an array."));
                }
            }
            StateKind::Parallel(parallel) => match value.as_array() {
                None => return Err(ApiError::validation("Mocked result must be an array.")),
                Some(results) if results.len() != parallel.branches.len() => {
                    let message =
                        "Mocked result must contain the same number of items as number of Parallel branches.";
                    return Err(ApiError::validation(message));
                }
                Some(_) => {}
            },
            StateKind::Task(task) => {
                if let Resource::Service { service, action, pattern, .. } = &task.resource
                    && let Some(shape) = services::result(service, action, *pattern)
                {
                    schema::check(&value, shape, self.validation)
                        .map_err(|e| ApiError::validation(e.to_string()))?;
                }
            }
            _ => {}
        }
        Ok(Ok(result))
    }
}

/// TestState.
pub(super) async fn test(cx: &Context<'_>, m: Members<'_>) -> Answer {
    let request = Request::read(m)?;
    request.role_arn.map_or(Ok(()), names::any_arn)?;
    let (machine, index) = request.state()?;
    let state = machine.state(index);
    request.check(&machine, state)?;
    let outcome = request.mock.as_ref().map(|mock| mock.outcome(state)).transpose()?;
    let input = json_text::payload(request.input, "Invalid execution input.")
        .map_err(|e| ApiError::about(Code::InvalidExecutionInput, e))?;
    let setup = setup(cx, &request, machine, index, input)?;

    let begun = evaluating(|env| probe::begin(setup, env)).map_err(ApiError::internal)?;
    let probed = match (begun, outcome) {
        (Begun::Ended(probed), _) => probed,
        (Begun::Working(working), Some(outcome)) => {
            check_failed_iterations(&request, &working)?;
            evaluating(|env| working.finish(outcome, env))
        }
        (Begun::Working(working), None) => {
            let outcome = call(cx, one_call(&working)?).await?;
            evaluating(|env| working.finish(outcome, env))
        }
    };
    Ok(answer(&request, &probed))
}

/// Gives an evaluation what it may know of the world.
fn evaluating<T>(evaluate: impl FnOnce(&Env<'_>) -> T) -> T {
    let key = TokenKey::new(Uuid::new_v4().as_bytes());
    let random = || Uuid::new_v4().as_u64_pair().0;
    evaluate(&Env { now: super::now(), token_key: &key, random: &random, activity_exists: &|_| true })
}

/// The work of a Task state, and how long it may take.
fn one_call(working: &Working) -> Result<(OneCall, Duration), ApiError> {
    let target = working.target().ok_or_else(|| ApiError::internal("only calls are made without a mock"))?;
    let wait = working.timeout_seconds().map_or(CALL_MAX, |s| Duration::from_secs(s).min(CALL_MAX));
    let deadline = super::now().plus_seconds_f64(wait.as_secs_f64());
    let (execution, state) = (working.execution().clone(), working.state_name().to_owned());
    Ok((OneCall { execution, state, target, input: working.parameters().clone(), deadline }, wait))
}

async fn call(
    cx: &Context<'_>,
    (call, wait): (OneCall, Duration),
) -> Result<Result<Payload, Failure>, ApiError> {
    Ok(match cx.api.commands.call(call, wait).await? {
        Some(ReportOutcome::Succeeded(output)) => Ok(output),
        Some(ReportOutcome::Failed { error, cause }) => Err(Failure { error, cause }),
        None => Err(Failure { error: Some(error_names::TIMEOUT.to_owned()), cause: None }),
        Some(other) => return Err(ApiError::internal(format!("a call came to {other:?}"))),
    })
}

fn setup(
    cx: &Context<'_>,
    request: &Request<'_>,
    definition: StateMachine,
    index: StateIndex,
    input: Payload,
) -> Result<Setup, ApiError> {
    let (machine, execution) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    let machine = StateMachineArn { namespace: cx.namespace.clone(), name: machine };
    let origin = Origin {
        arn: machine.execution(&execution),
        state_machine: machine,
        role_arn: request.role_arn.unwrap_or_default().to_owned(),
        input,
        started_at: super::now(),
        parent: None,
    };
    let state = definition.state(index);
    let configuration = &request.configuration;
    let retries = configuration.retries.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let context = match request.context {
        Some(text) => context::given(text, state)
            .map_err(|why| ApiError::validation(format!("Invalid Context object provided: {why}")))?,
        None => context::default(&definition, state, &origin, request.role_arn, retries),
    };
    let variables = match request.variables {
        None => Map::new(),
        Some(text) => serde_json::from_str(text)
            .map_err(|_| ApiError::validation("Variables must be a JSON object in a text"))?,
    };
    let items = match configuration.reader_data {
        None => None,
        Some(text) => {
            let items: Option<Value> = serde_json::from_str(text).ok();
            let items = items.filter(|items| items.is_array() || items.is_object());
            let message = "MapItemReaderData must be a JSON array or object in a text";
            Some(items.ok_or_else(|| ApiError::validation(message))?)
        }
    };
    let failed_iterations = configuration.failed_iterations.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let definition = Arc::new(definition);
    Ok(Setup { definition, state: index, origin, context, variables, items, failed_iterations, retries })
}

/// No more iterations can fail than there are.
fn check_failed_iterations(request: &Request<'_>, working: &Working) -> Result<(), ApiError> {
    let failed = request.configuration.failed_iterations.and_then(|n| usize::try_from(n).ok());
    match (failed, working.items()) {
        (Some(failed), Some(items)) if failed > items => Err(ApiError::validation(format!(
            "MapIterationFailureCount ({failed}) exceeds the number of items ({items})."
        ))),
        _ => Ok(()),
    }
}

fn answer(request: &Request<'_>, probed: &Probed) -> Value {
    let mut answer = Map::new();
    answer.insert("status".into(), probed.status.as_str().into());
    if let Some(output) = &probed.output {
        answer.insert("output".into(), output.as_str().into());
    }
    if let Some(failure) = &probed.failure {
        for (name, text) in [("error", &failure.error), ("cause", &failure.cause)] {
            if let Some(text) = text {
                answer.insert(name.into(), text.as_str().into());
            }
        }
    }
    if let Some(next) = &probed.next {
        answer.insert("nextState".into(), (**next).into());
    }
    if request.level == Level::Debug {
        answer.insert("inspectionData".into(), inspection(probed));
    }
    answer.into()
}

fn inspection(probed: &Probed) -> Value {
    let mut data = Map::new();
    for (stage, value) in &probed.seen {
        let value = if stage.is_number() { value.to_value() } else { value.as_str().into() };
        data.insert(stage.name().into(), value);
    }
    if !probed.variables.is_empty() {
        let variables: Map<String, Value> =
            probed.variables.iter().map(|(name, value)| (name.to_string(), value.to_value())).collect();
        data.insert("variables".into(), Value::Object(variables).to_string().into());
    }
    let mut details = Map::new();
    if let Some(retrier) = probed.retrier {
        details.insert("retryIndex".into(), retrier.into());
    }
    if let Some(seconds) = probed.backoff_seconds {
        // The API has whole seconds.
        details.insert("retryBackoffIntervalSeconds".into(), json!(seconds as i64));
    }
    if let Some(catcher) = probed.catcher {
        details.insert("catchIndex".into(), catcher.into());
    }
    if !details.is_empty() {
        data.insert("errorDetails".into(), details.into());
    }
    data.into()
}
