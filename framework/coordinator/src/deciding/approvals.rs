//! What decisions come to for approvals: that they are asked for, and how they are closed, goes to their records in the
//! batch of the decision. So an approval is closed by whatever ends its attempt, and no crash comes in between.

use stagepost_engine::{
    Execution, HistoryEvent,
    approvals::{ApprovalEnd, OpenApproval},
};
use stagepost_protocol::{
    ExecutionId, Timestamp,
    approval::{
        Answer, ApprovalEntry, ApprovalId, ApprovalRequest, ApprovalStatus, Closed, Opened, RECORD_KIND,
        REJECTED,
    },
};
use stagepost_store::Appended;

use super::round::Round;
use crate::cache::Entry;

/// The approvals that an execution waits for before a decision.
#[derive(Default)]
pub(super) struct Asked(Vec<OpenApproval>);

impl Asked {
    pub(super) fn of(entry: &Entry) -> Asked {
        if entry.asks_for_approvals { Asked(entry.execution.open_approvals()) } else { Asked::default() }
    }
}

impl Round<'_> {
    /// Notes which approvals a decision of these events opened and closed. `answer`: who completed which attempt.
    pub(super) fn note_approvals(
        &mut self,
        id: ExecutionId,
        before: &Asked,
        events: &[HistoryEvent],
        answer: Option<(u64, &Answer)>,
    ) {
        let now = self.now;
        let Some(entry) = self.deciding.cache.get(id).filter(|entry| entry.asks_for_approvals) else {
            return;
        };
        let execution = &entry.execution;
        let namespace = execution.origin().arn.namespace.clone();
        let mut noted = Vec::new();
        for asked in before.0.iter().filter(|asked| !execution.is_open(asked.event_id)) {
            let answer = answer.filter(|(event_id, _)| *event_id == asked.event_id).map(|(_, answer)| answer);
            // One that could not be read was never opened.
            if ApprovalRequest::read(&asked.parameters).is_ok() {
                noted.push((asked.event_id, closed(now, asked.end(events), answer), None));
            }
        }
        for asked in execution.open_approvals() {
            if before.0.iter().all(|before| before.event_id != asked.event_id) {
                // The connector says what is wrong with one that cannot be read.
                let entry = opened(now, execution, &asked);
                noted.extend(entry.map(|entry| (asked.event_id, entry, asked.deadline)));
            }
        }
        for (event_id, (status, entry), due_at) in noted {
            let key = ApprovalId { execution: id, event_id };
            let appended = self.approvals.entry(key).or_insert_with(|| Appended {
                kind: RECORD_KIND.to_owned(),
                namespace: namespace.clone(),
                key: key.to_string(),
                label: String::new(),
                due_at: None,
                entries: Vec::new(),
            });
            status.as_str().clone_into(&mut appended.label);
            appended.due_at = due_at;
            appended.entries.push(entry.to_payload());
        }
    }
}

fn opened(
    now: Timestamp,
    execution: &Execution,
    asked: &OpenApproval,
) -> Option<(ApprovalStatus, ApprovalEntry)> {
    let ApprovalRequest { title, details, schema, approvers, .. } =
        ApprovalRequest::read(&asked.parameters).ok()?;
    let opened = Opened {
        at: now,
        execution: execution.origin().arn.clone(),
        state: execution.definition().state(asked.state).name.to_string(),
        attempt: asked.attempt,
        deadline: asked.deadline,
        title,
        details,
        schema,
        approvers,
    };
    Some((ApprovalStatus::Open, ApprovalEntry::Opened(opened)))
}

fn closed(now: Timestamp, end: ApprovalEnd, answer: Option<&Answer>) -> (ApprovalStatus, ApprovalEntry) {
    let (status, output, error, cause) = match end {
        ApprovalEnd::Succeeded(output) => (ApprovalStatus::Approved, Some(output), None, None),
        ApprovalEnd::Failed { error, cause } if error.as_deref() == Some(REJECTED) => {
            (ApprovalStatus::Rejected, None, error, cause)
        }
        ApprovalEnd::Failed { error, cause } => (ApprovalStatus::Failed, None, error, cause),
        ApprovalEnd::TimedOut => (ApprovalStatus::TimedOut, None, None, None),
        ApprovalEnd::Cancelled => (ApprovalStatus::Cancelled, None, None, None),
    };
    let closed = Closed { at: now, status, answer: answer.cloned(), output, error, cause };
    (status, ApprovalEntry::Closed(closed))
}
