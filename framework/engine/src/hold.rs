//! Who has an attempt: claims, leases that are over, and attempts that are given back (design: one assignment per
//! attempt).
//!
//! A first delivery is begun without a word, unless its worker stood still for so long that others may have been given
//! what it was delivered. Everything here is about the rest, so a step that goes well never comes by.
//!
//! | the attempt is | a claim by somebody else |
//! | --- | --- |
//! | ended, or was given back and out again since | nothing to run |
//! | a worker's, by its lease or by announcement | nothing to run: that worker stands for it |
//! | nobody's, and may run twice | granted |
//! | nobody's, and this is the first delivery | granted: nobody else can have begun it |
//! | by announcement of who asks | in doubt: it has ended there, or it would not be asked for |
//! | nobody's, as far as is known | in doubt for a lease: until then whoever has it ends or announces it |
//!
//! A doubt is a lease without a holder. When it is over, what was delivered before ends, for half of the work may be
//! done; what was only published again is given to a worker afresh.

use std::{sync::Arc, time::Duration};

use stagepost_asl::{StateKind, TaskState};
use stagepost_protocol::{Claim, DeliveredAs, Lease, error_names};

use crate::{
    command::Ignored,
    decide::{Decider, StateFailure},
    history::{EventKind, Failure, ScopeId},
    live, states,
};

/// The state of the open attempt that this event scheduled.
fn open<'d>(decider: &Decider<'d>, event_id: u64) -> Result<(ScopeId, &'d TaskState), Ignored> {
    let Some(scope) = decider.execution.live.scope_of_attempt(event_id) else {
        let known = event_id >= 1 && event_id <= decider.execution.last_event_id();
        return Err(if known { Ignored::AttemptClosed } else { Ignored::UnknownAttempt });
    };
    match &decider.state(scope).kind {
        StateKind::Task(task) => Ok((scope, task)),
        _ => Err(Ignored::UnknownAttempt),
    }
}

/// A worker asks for an attempt that somebody else may have begun. `doubt_millis`: no lease is longer.
pub(crate) fn claim(
    decider: &mut Decider<'_>,
    event_id: u64,
    worker: Option<String>,
    claim: Claim,
    doubt_millis: u64,
) -> Option<Ignored> {
    let scope = match open(decider, event_id) {
        Ok((scope, _)) => scope,
        Err(ignored) => return Some(ignored),
    };
    let attempt = decider.execution.live.attempt(event_id)?;
    if claim.returns < attempt.returns {
        return Some(Ignored::GivenAgain);
    }
    let holder = claim.lease.as_ref().map(|lease| lease.holder.as_str());
    let own = attempt.holder().is_some_and(|has| Some(&**has) == holder);
    let first = claim.delivered == DeliveredAs::First;
    let twice = attempt.lease.as_ref().is_some_and(|lease| lease.again);
    if own && (twice || first) {
        return Some(Ignored::AlreadyHeld);
    }
    // Where the request was accepted, only a job's end is asked for once more, which does no harm.
    let nothing_to_ask = states::task::command(decider.execution, scope, decider.env).is_none();
    // Who has begun it asks for it only once it has ended there: its report is on its way, or was lost with the broker.
    if attempt.taken || (attempt.holder().is_some() && !own) || nothing_to_ask {
        return Some(Ignored::HeldElsewhere);
    }
    let submitted = attempt.submitted;
    if let Some(lease) = claim.lease
        && (lease.idempotent || submitted || first)
    {
        let lease = Lease { idempotent: lease.idempotent || submitted, ..lease };
        decider.emit_next(scope, leased(worker, &lease));
        return None;
    }
    // A doubt that ends well for the attempt becomes one that does not, and never the other way round.
    let again = claim.delivered != DeliveredAs::Redelivered;
    let known = attempt.lease.as_ref().is_some_and(|doubt| !doubt.again || again);
    if known && !own {
        return Some(Ignored::HeldElsewhere);
    }
    let doubt = EventKind::AttemptLeased { holder: None, worker: None, millis: doubt_millis, again };
    decider.emit_next(scope, doubt);
    None
}

fn leased(worker: Option<String>, lease: &Lease) -> EventKind {
    EventKind::AttemptLeased {
        holder: Some(lease.holder.as_str().into()),
        worker: worker.map(Arc::from),
        millis: lease.millis,
        again: lease.idempotent,
    }
}

/// The worker that has begun an attempt stands for it by a lease from now on.
pub(crate) fn hold(
    decider: &mut Decider<'_>,
    scope: ScopeId,
    worker: Option<String>,
    lease: &Lease,
) -> Option<Ignored> {
    let holder = decider.scope(scope).attempt()?.holder();
    if holder.is_some_and(|holder| **holder == *lease.holder) {
        return Some(Ignored::AlreadyStarted);
    }
    decider.emit_next(scope, leased(worker, lease));
    None
}

/// A worker gives an attempt back: another one gets it at once. It had its first delivery, or may run it twice, so a
/// doubt is over with it.
pub(crate) fn release(
    decider: &mut Decider<'_>,
    event_id: u64,
    holder: &str,
    returns: u32,
) -> Option<Ignored> {
    let scope = match open(decider, event_id) {
        Ok((scope, _)) => scope,
        Err(ignored) => return Some(ignored),
    };
    let attempt = decider.execution.live.attempt(event_id)?;
    if returns < attempt.returns {
        return Some(Ignored::GivenAgain);
    }
    if attempt.holder().is_some_and(|has| **has != *holder) {
        return Some(Ignored::HeldElsewhere);
    }
    give_again(decider, scope, Some(holder.into()));
    None
}

fn give_again(decider: &mut Decider<'_>, scope: ScopeId, by: Option<Arc<str>>) {
    decider.emit_next(scope, EventKind::AttemptReleased { by });
    if let Some(command) = states::task::command(decider.execution, scope, decider.env) {
        decider.command(command);
    }
}

/// The lease that an attempt is held by is over, and with it those of all attempts that its holder has.
pub(crate) fn lease_over(decider: &mut Decider<'_>, event_id: u64) -> Option<Ignored> {
    let Some(lease) = decider.execution.live.attempt(event_id).and_then(|attempt| attempt.lease.clone())
    else {
        return Some(Ignored::NothingDue);
    };
    let lost: Vec<u64> = match &lease.holder {
        Some(holder) => decider.execution.live.attempts().of(holder).collect(),
        None => vec![event_id],
    };
    for event_id in lost {
        // The end of one may have ended others. What is too much for one decision is left to the next.
        if decider.is_long() || decider.execution.end().is_some() {
            break;
        }
        let Ok((scope, task)) = open(decider, event_id) else { continue };
        let Some(lease) = decider.execution.live.attempt(event_id).and_then(|a| a.lease.clone()) else {
            continue;
        };
        if lease.again {
            give_again(decider, scope, None);
        } else {
            let next = states::task::timed_out(decider, scope, task, lost_with(&lease));
            decider.run(next);
        }
    }
    None
}

/// How an attempt fails whose worker was lost.
fn lost_with(lease: &live::Lease) -> StateFailure {
    let cause = match (&lease.holder, &lease.worker) {
        (Some(holder), worker) => {
            let worker = worker.as_ref().unwrap_or(holder);
            let silent = Duration::from_millis(lease.millis);
            format!(
                "The worker '{worker}' that had begun the attempt was not heard of for its lease of {silent:?}."
            )
        }
        (None, _) => {
            "The attempt may have been begun by a worker that is gone, and is not known to be idempotent."
                .to_owned()
        }
    };
    Failure::bounded(Some(error_names::HEARTBEAT_TIMEOUT.to_owned()), Some(cause)).into()
}
