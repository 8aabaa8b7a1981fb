//! Task: work that is done elsewhere.

use std::sync::Arc;

use stagepost_asl::{Resource, StateKind, TaskState};
use stagepost_protocol::{IntegrationPattern, Payload, ServiceCall, limits};

use crate::{
    command::{Call, Command, Dispatch, Env},
    dataflow::{Doc, Evaluation, too_large},
    decide::{Decider, Ready, StateFailure},
    execution::Execution,
    history::{EventKind, Failure, ScopeId, Service},
    live::Step,
    signals,
};

/// What an attempt is given.
pub(crate) struct Work {
    pub(crate) input: Payload,
    pub(crate) timeout_seconds: Option<u64>,
    heartbeat_seconds: Option<u64>,
    /// The role of `Credentials`.
    role_arn: Option<Arc<str>>,
    /// The name of the signal that it waits for, if that is what it does.
    signal: Option<Arc<str>>,
}

pub(crate) fn begin(decider: &mut Decider<'_>, scope: ScopeId, task: &TaskState) -> Option<Ready> {
    let evaluation = decider.evaluation(scope);
    if let Resource::Activity { arn, registered: true, .. } = &task.resource
        && !(decider.env.activity_exists)(arn)
    {
        let failure = evaluation.runtime(&format!("The activity {arn} does not exist."));
        return decider.fail(scope, failure);
    }
    let Work { input, timeout_seconds, heartbeat_seconds, role_arn, signal } = match work(evaluation, task) {
        Ok(work) => work,
        Err(failure) => return decider.fail(scope, failure),
    };
    let scheduled = match &task.resource {
        Resource::Activity { arn, .. } => {
            let resource = Arc::from(arn.as_str());
            EventKind::ActivityScheduled { resource, input, timeout_seconds, heartbeat_seconds }
        }
        Resource::Lambda { arn } => {
            let resource = Arc::from(arn.as_str());
            EventKind::LambdaFunctionScheduled { resource, input, timeout_seconds, role_arn }
        }
        resource @ Resource::Service { .. } => EventKind::TaskScheduled {
            service: service(resource),
            region: decider.execution.origin().arn.namespace.region.as_str().into(),
            parameters: input,
            timeout_seconds,
            heartbeat_seconds,
            role_arn,
        },
    };
    decider.emit_next(scope, scheduled);
    if !matches!(task.resource, Resource::Activity { .. }) {
        // Nobody has to come for a call: it begins as soon as it is scheduled.
        decider.emit_next(scope, started(&task.resource, None));
    }
    if let Some(name) = &signal {
        return signals::wait(decider, scope, task, name);
    }
    if let Some(command) = command(decider.execution, scope, decider.env) {
        decider.command(command);
    }
    None
}

/// Whether somebody who is given the token of an attempt could complete it: only then `$$.Task.Token` is there.
fn shows_token(resource: &Resource) -> bool {
    match resource {
        Resource::Activity { .. } => true,
        Resource::Lambda { .. } => false,
        Resource::Service { pattern, .. } => *pattern == IntegrationPattern::WaitForTaskToken,
    }
}

pub(crate) fn work(evaluation: Evaluation<'_>, task: &TaskState) -> Result<Work, StateFailure> {
    let evaluation =
        if shows_token(&task.resource) { evaluation.with_token_of_next_event() } else { evaluation };
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
    let role_arn = match &task.credentials {
        None => None,
        Some(credentials) => {
            let credentials = evaluation.fill(Some(credentials), evaluation.input()?)?.into_value();
            credentials["RoleArn"].as_str().map(Arc::from)
        }
    };
    let input = evaluation.bounded(evaluation.parameters(task.parameters.as_ref())?)?;
    let signal = if task.resource.waits_for_signal() {
        Some(signals::awaited(&input).map_err(|cause| evaluation.runtime(&cause))?)
    } else {
        None
    };
    Ok(Work { input, timeout_seconds, heartbeat_seconds, role_arn, signal })
}

/// The service that a service integration's events name.
fn service(resource: &Resource) -> Service {
    match resource {
        Resource::Service { service, action, pattern, .. } => Service {
            resource_type: service.as_str().into(),
            resource: format!("{action}{}", pattern.suffix()).into(),
        },
        Resource::Activity { .. } | Resource::Lambda { .. } => {
            Service { resource_type: "".into(), resource: "".into() }
        }
    }
}

/// The event that an attempt has begun, on a worker if it is one of an activity.
pub(crate) fn started(resource: &Resource, worker_name: Option<String>) -> EventKind {
    match resource {
        Resource::Activity { .. } => EventKind::ActivityStarted { worker_name },
        Resource::Lambda { .. } => EventKind::LambdaFunctionStarted,
        Resource::Service { .. } => EventKind::TaskStarted { service: service(resource) },
    }
}

/// Whether a call is accepted first and ends later.
pub(crate) fn is_submitted(resource: &Resource) -> bool {
    matches!(resource, Resource::Service { pattern, .. } if *pattern != IntegrationPattern::RequestResponse)
}

/// The event that the request of such a call was accepted.
pub(crate) fn submitted(resource: &Resource, output: Payload) -> EventKind {
    EventKind::TaskSubmitted { service: service(resource), output }
}

/// What a resource calls; `None` for activities, which are not called.
pub(crate) fn target(resource: &Resource) -> Option<ServiceCall> {
    Some(match resource {
        Resource::Activity { .. } => return None,
        Resource::Service { service, action, pattern, .. } => ServiceCall {
            service: service.clone(),
            action: action.clone(),
            pattern: *pattern,
            function: None,
        },
        Resource::Lambda { arn } => ServiceCall {
            service: "lambda".to_owned(),
            action: ServiceCall::FUNCTION.to_owned(),
            pattern: IntegrationPattern::RequestResponse,
            function: Some(arn.clone()),
        },
    })
}

/// The command of the open attempt in a scope; `None` where the request was accepted and is not to be made again.
pub(crate) fn command(execution: &Execution, scope: ScopeId, env: &Env<'_>) -> Option<Command> {
    let step: &Step = execution.live.scope(scope)?.step()?;
    let attempt = execution.live.scope(scope)?.attempt()?;
    let state = execution.definition().state(step.state());
    let StateKind::Task(task) = &state.kind else { return None };
    let token = env.token_key.sign(execution.id(), attempt.scheduled_id);
    let target = match &task.resource {
        Resource::Activity { name, .. } => {
            return Some(Command::Dispatch(Dispatch {
                event_id: attempt.scheduled_id,
                activity: name.clone(),
                state: state.name.to_string(),
                attempt: step.attempts,
                token,
                entered_event_id: step.entered_id,
                input: attempt.input.clone(),
                deadline: attempt.timeout_at,
                heartbeat_millis: attempt.heartbeat_millis,
                returns: attempt.returns,
            }));
        }
        // Whoever has the token answers. What began with `.sync` is asked for again: its end may have been missed.
        Resource::Service { pattern: IntegrationPattern::WaitForTaskToken, .. } if attempt.submitted => {
            return None;
        }
        // The execution itself gives it what it waits for.
        resource if resource.waits_for_signal() => return None,
        resource => target(resource)?,
    };
    Some(Command::Call(Call {
        event_id: attempt.scheduled_id,
        target,
        state: state.name.to_string(),
        attempt: step.attempts,
        token,
        entered_event_id: step.entered_id,
        input: attempt.input.clone(),
        deadline: attempt.timeout_at,
        heartbeat_millis: attempt.heartbeat_millis,
        returns: attempt.returns,
    }))
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
