//! Task: work that is done elsewhere.

use std::sync::Arc;

use stagepost_asl::{IntegrationPattern, Resource, StateKind, TaskState};
use stagepost_protocol::{Payload, limits};

use crate::{
    command::{Command, Dispatch, Env},
    dataflow::{Doc, Evaluation, too_large},
    decide::{Decider, Ready, StateFailure},
    execution::Execution,
    history::{EventKind, Failure, ScopeId, Service},
    live::Step,
    states::sqs,
};

/// What an attempt is given.
pub(crate) struct Work {
    pub(crate) input: Payload,
    pub(crate) timeout_seconds: Option<u64>,
    heartbeat_seconds: Option<u64>,
}

pub(crate) fn begin(decider: &mut Decider<'_>, scope: ScopeId, task: &TaskState) -> Option<Ready> {
    let evaluation = decider.evaluation(scope);
    if let Some(cause) = unusable(&task.resource, decider.env) {
        let failure = evaluation.runtime(&cause);
        return decider.fail(scope, failure);
    }
    let work = match work(evaluation, task) {
        Ok(work) => work,
        Err(failure) => return decider.fail(scope, failure),
    };
    match &task.resource {
        Resource::Activity { arn, .. } => {
            let Work { input, timeout_seconds, heartbeat_seconds } = work;
            let resource = Arc::from(arn.as_str());
            let scheduled =
                EventKind::ActivityScheduled { resource, input, timeout_seconds, heartbeat_seconds };
            decider.emit_next(scope, scheduled);
            if let Some(command) = command(decider.execution, scope, decider.env) {
                decider.command(command);
            }
            None
        }
        Resource::Service { action, pattern, .. } => send(decider, scope, task, action, *pattern, work),
        // `unusable` has refused it.
        Resource::Lambda { .. } => None,
    }
}

/// Why a resource cannot be called.
fn unusable(resource: &Resource, env: &Env<'_>) -> Option<String> {
    match resource {
        Resource::Activity { arn, registered: true, .. } if !(env.activity_exists)(arn) => {
            Some(format!("The activity {arn} does not exist."))
        }
        Resource::Activity { .. } => None,
        Resource::Service { service, action, pattern, .. }
            if service == "sqs"
                && action == "sendMessage"
                && matches!(
                    pattern,
                    IntegrationPattern::RequestResponse | IntegrationPattern::WaitForTaskToken
                ) =>
        {
            None
        }
        Resource::Lambda { arn } | Resource::Service { arn, .. } => {
            Some(format!("The resource '{arn}' is not supported by this version of Stagepost."))
        }
    }
}

pub(crate) fn work(evaluation: Evaluation<'_>, task: &TaskState) -> Result<Work, StateFailure> {
    let evaluation = evaluation.with_token_of_next_event();
    let seconds = |number: &Option<_>, field| match number {
        None => Ok(None),
        Some(stagepost_asl::Number::Fixed(seconds)) => Ok(Some(*seconds)),
        Some(number) => {
            let seconds = evaluation.whole_number(number, field, &evaluation.input()?.into_value())?;
            match u64::try_from(seconds) {
                Ok(seconds) if seconds > 0 => Ok(Some(seconds)),
                _ => {
                    Err(evaluation.runtime(&format!("{field} must be a positive integer but was: {seconds}")))
                }
            }
        }
    };
    let timeout_seconds = seconds(&task.timeout_seconds, "TimeoutSeconds")?;
    let heartbeat_seconds = seconds(&task.heartbeat_seconds, "HeartbeatSeconds")?;
    let input = evaluation.bounded(evaluation.parameters(task.parameters.as_ref())?)?;
    Ok(Work { input, timeout_seconds, heartbeat_seconds })
}

/// The service that a service integration's events name.
fn service(resource: &Resource) -> Service {
    match resource {
        Resource::Service { service, action, pattern, .. } => {
            let suffix = match pattern {
                IntegrationPattern::RequestResponse => "",
                IntegrationPattern::Sync => ".sync",
                IntegrationPattern::Sync2 => ".sync:2",
                IntegrationPattern::WaitForTaskToken => ".waitForTaskToken",
            };
            Service { resource_type: service.as_str().into(), resource: format!("{action}{suffix}").into() }
        }
        Resource::Activity { .. } | Resource::Lambda { .. } => {
            Service { resource_type: "".into(), resource: "".into() }
        }
    }
}

fn send(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    task: &TaskState,
    action: &str,
    pattern: IntegrationPattern,
    work: Work,
) -> Option<Ready> {
    let service = service(&task.resource);
    let parameters = work.input.clone();
    let region = decider.execution.origin().arn.namespace.region.as_str().into();
    let scheduled = EventKind::TaskScheduled {
        service: service.clone(),
        region,
        parameters: work.input,
        timeout_seconds: work.timeout_seconds,
        heartbeat_seconds: work.heartbeat_seconds,
    };
    let event_id = decider.emit_next(scope, scheduled);
    decider.emit_next(scope, EventKind::TaskStarted { service: service.clone() });
    let message = match sqs::message(decider.execution.id(), event_id, &parameters) {
        Ok(message) => message,
        Err(problem) => {
            let cause = format!("The {action} request cannot be made: {problem}");
            let failure = match problem {
                sqs::Problem::Unsupported(_) => decider.evaluation(scope).runtime(&cause),
                sqs::Problem::Invalid(_) => StateFailure::new("SQS.AmazonSQSException", cause),
            };
            let failed = EventKind::TaskFailed { service, failure: failure.failure.clone() };
            decider.emit_next(scope, failed);
            return decider.fail(scope, failure);
        }
    };
    let answer = sqs::answer(&message);
    decider.command(Command::Send(message));
    if pattern == IntegrationPattern::WaitForTaskToken {
        decider.emit_next(scope, EventKind::TaskSubmitted { service, output: answer });
        return None;
    }
    succeeded(decider, scope, task, answer)
}

/// The command of the open attempt in a scope.
pub(crate) fn command(execution: &Execution, scope: ScopeId, env: &Env<'_>) -> Option<Command> {
    let step: &Step = execution.live.scope(scope)?.step()?;
    let attempt = execution.live.scope(scope)?.attempt()?;
    let state = execution.definition().state(step.state());
    let StateKind::Task(task) = &state.kind else { return None };
    match &task.resource {
        Resource::Activity { name, .. } => Some(Command::Dispatch(Dispatch {
            event_id: attempt.scheduled_id,
            activity: name.clone(),
            state: state.name.to_string(),
            attempt: step.attempts,
            token: env.token_key.sign(execution.id(), attempt.scheduled_id),
            entered_event_id: step.entered_id,
            input: attempt.input.clone(),
            deadline: attempt.timeout_at,
            heartbeat_millis: attempt.heartbeat_millis,
        })),
        Resource::Service { .. } => {
            sqs::message(execution.id(), attempt.scheduled_id, &attempt.input).ok().map(Command::Send)
        }
        Resource::Lambda { .. } => None,
    }
}

/// The attempt in a scope succeeded.
pub(crate) fn succeeded(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    task: &TaskState,
    output: Payload,
) -> Option<Ready> {
    if output.len() > limits::PAYLOAD_BYTES_MAX {
        let of = match &task.resource {
            Resource::Activity { arn, .. } | Resource::Lambda { arn } => arn,
            Resource::Service { service, .. } => service,
        };
        return failed(decider, scope, task, too_large(of).failure);
    }
    let event = match &task.resource {
        Resource::Activity { .. } => EventKind::ActivitySucceeded { output: output.clone() },
        Resource::Lambda { .. } => EventKind::LambdaFunctionSucceeded { output: output.clone() },
        resource @ Resource::Service { .. } => {
            EventKind::TaskSucceeded { service: service(resource), output: output.clone() }
        }
    };
    decider.emit_next(scope, event);
    let output =
        decider.evaluation(scope).output(Doc::Text(output), task.result_selector.as_ref(), &task.result_path);
    decider.conclude(scope, output, task.transition)
}

/// The attempt in a scope failed.
pub(crate) fn failed(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    task: &TaskState,
    failure: Failure,
) -> Option<Ready> {
    let event = match &task.resource {
        Resource::Activity { .. } => EventKind::ActivityFailed(failure.clone()),
        Resource::Lambda { .. } => EventKind::LambdaFunctionFailed(failure.clone()),
        resource @ Resource::Service { .. } => {
            EventKind::TaskFailed { service: service(resource), failure: failure.clone() }
        }
    };
    decider.emit_next(scope, event);
    decider.fail(scope, failure.into())
}

/// The attempt in a scope took too long, or was silent for too long.
pub(crate) fn timed_out(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    task: &TaskState,
    failure: StateFailure,
) -> Option<Ready> {
    let shown = failure.failure.clone();
    let event = match &task.resource {
        Resource::Activity { .. } => EventKind::ActivityTimedOut(shown),
        Resource::Lambda { .. } => EventKind::LambdaFunctionTimedOut(shown),
        resource @ Resource::Service { .. } => {
            EventKind::TaskTimedOut { service: service(resource), failure: shown }
        }
    };
    decider.emit_next(scope, event);
    decider.fail(scope, failure)
}
