//! Signals: what is sent to a running execution by name.
//!
//! ```text
//! Input::Signal ─► kept, in order ─► the state that has waited longest for a signal of this name
//!                       ▲
//!                       └── or the next one that begins to wait for it
//! ```
//!
//! Each signal goes to one state. What is kept is bounded; beyond that a signal is refused.

use std::sync::Arc;

use serde::Deserialize;
use stagepost_asl::{StateKind, TaskState};
use stagepost_protocol::{Payload, signal};

use crate::{
    command::Ignored,
    decide::{Decider, Ready},
    history::{EventKind, ScopeId, TOP_LEVEL},
    states,
};

/// The parameters of a task that waits for a signal.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Parameters {
    name: String,
}

/// The name of the signal that a task with these parameters waits for, or why it can wait for none.
pub(crate) fn awaited(parameters: &Payload) -> Result<Arc<str>, String> {
    let expected = "The parameters of a task that waits for a signal are {\"Name\": \"…\"}";
    let read: Parameters = parameters.read().map_err(|error| format!("{expected}: {error}"))?;
    signal::check_name(&read.name).map_err(|error| format!("{expected}: {error}"))?;
    Ok(read.name.into())
}

/// Takes a signal that was sent to the execution.
pub(crate) fn receive(decider: &mut Decider<'_>, id: &str, name: &str, input: Payload) -> Option<Ignored> {
    let live = &decider.execution.live;
    if live.signals.has_seen(id) {
        return Some(Ignored::AlreadySignaled);
    }
    let waiting = live.waiting_for_signal(name);
    if waiting.is_none() && !live.signals.has_room_for(&input) {
        return Some(Ignored::TooManySignals);
    }
    let last = decider.execution.last_event_id();
    let received = EventKind::SignalReceived { id: id.into(), name: name.into(), input };
    decider.emit(TOP_LEVEL, last, received);
    if let Some(scope) = waiting
        && let StateKind::Task(task) = &decider.state(scope).kind
    {
        let next = take(decider, scope, task, name);
        decider.run(next);
    }
    None
}

/// The attempt in a scope waits for a signal, and may have one at once.
pub(crate) fn wait(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    task: &TaskState,
    name: &Arc<str>,
) -> Option<Ready> {
    decider.emit_next(scope, EventKind::SignalAwaited { name: Arc::clone(name) });
    take(decider, scope, task, name)
}

/// Gives the attempt in a scope the oldest signal of this name, if one is kept.
fn take(decider: &mut Decider<'_>, scope: ScopeId, task: &TaskState, name: &str) -> Option<Ready> {
    let input = decider.execution.live.signals.first(name)?.clone();
    decider.emit_next(scope, EventKind::SignalTaken);
    states::task::succeeded(decider, scope, task, input)
}
