//! What executions that wait for each other tell each other: a child's end goes to its parent's shard as a report on
//! the attempt that waits for it.

use serde_json::{Value, json};
use stagepost_engine::{Execution, Origin, StopChild};
use stagepost_protocol::{
    ExecutionArn, ExecutionId, MapChild, Parent, ParentKind, Payload, Report, ReportOutcome, ShardMessage,
    StateMachineArn, TaskToken, Timestamp, TokenKey, error_names, shard::Stop,
};
use stagepost_store::{EndedExecution, ExecutionStatus, ExecutionSummary};

use super::round::{Round, publish};

/// An execution that has ended and that another one waits for.
pub(super) struct Child<'a> {
    parent: &'a Parent,
    arn: &'a ExecutionArn,
    state_machine: &'a StateMachineArn,
    input: &'a Payload,
    started_at: Timestamp,
    stopped_at: Timestamp,
    status: ExecutionStatus,
    output: Option<&'a Payload>,
    error: Option<&'a str>,
    cause: Option<&'a str>,
    redrive_count: u32,
}

impl<'a> Child<'a> {
    /// The child that has just ended; `None` if nobody waits for it.
    pub(super) fn of(origin: &'a Origin, end: &'a EndedExecution, redrive_count: u32) -> Option<Child<'a>> {
        Some(Child {
            parent: origin.parent.as_ref()?,
            arn: &origin.arn,
            state_machine: &origin.state_machine,
            input: &origin.input,
            started_at: origin.started_at,
            stopped_at: end.stopped_at,
            status: end.status,
            output: end.output.as_ref(),
            error: end.error.as_deref(),
            cause: end.cause.as_deref(),
            redrive_count,
        })
    }

    /// The child as the store has it; `None` if nobody waits for it, or it runs.
    fn stored(summary: &'a ExecutionSummary) -> Option<Child<'a>> {
        Some(Child {
            parent: summary.parent.as_ref()?,
            arn: &summary.arn,
            state_machine: &summary.state_machine,
            input: &summary.input,
            started_at: summary.started_at,
            stopped_at: summary.stopped_at?,
            status: summary.status,
            output: summary.output.as_ref(),
            error: summary.error.as_deref(),
            cause: summary.cause.as_deref(),
            redrive_count: summary.redrive_count,
        })
    }

    /// What the parent is told; `None` for a status that is no end.
    pub(super) fn report(&self) -> Option<Report> {
        let (child, outcome) = match self.parent.kind {
            ParentKind::Request => return None,
            ParentKind::MapItem { index } => {
                let child = MapChild { index, redrives: self.redrive_count, not_redrivable: false };
                (Some(child), self.plain()?)
            }
            ParentKind::Sync => (None, self.described(|payload| payload.as_str().into())),
            ParentKind::Sync2 => (None, self.described(Payload::to_value)),
        };
        Some(Report {
            token: self.parent.token.clone(),
            worker: None,
            started_at: None,
            outcome,
            child,
            answer: None,
        })
    }

    fn plain(&self) -> Option<ReportOutcome> {
        let (error, cause) = (self.error.map(str::to_owned), self.cause.map(str::to_owned));
        match self.status {
            ExecutionStatus::Succeeded => {
                Some(ReportOutcome::Succeeded(self.output.cloned().unwrap_or_else(Payload::empty_object)))
            }
            ExecutionStatus::Failed => Some(ReportOutcome::Failed { error, cause }),
            ExecutionStatus::TimedOut => Some(ReportOutcome::TimedOut { error, cause }),
            ExecutionStatus::Aborted => Some(ReportOutcome::Aborted { error, cause }),
            ExecutionStatus::Running | ExecutionStatus::PendingRedrive => None,
        }
    }

    /// A description of the child, as a `.sync` task has it for its result, or for the cause of its failure
    /// (Step Functions developer guide, "Start workflow executions from a task state").
    fn described(&self, show: impl Fn(&Payload) -> Value) -> ReportOutcome {
        let mut description = json!({
            "ExecutionArn": self.arn.to_string(),
            "Input": show(self.input),
            "InputDetails": { "Included": true },
            "Name": self.arn.name,
            "RedriveCount": self.redrive_count,
            "StartDate": self.started_at.as_millis(),
            "StateMachineArn": self.state_machine.to_string(),
            "Status": self.status.as_str(),
            "StopDate": self.stopped_at.as_millis(),
        });
        if let Some(output) = self.output {
            description["Output"] = show(output);
            description["OutputDetails"] = json!({ "Included": true });
        }
        for (name, text) in [("Error", self.error), ("Cause", self.cause)] {
            if let Some(text) = text {
                description[name] = text.into();
            }
        }
        if self.status == ExecutionStatus::Succeeded {
            description["RedriveStatus"] = "NOT_REDRIVABLE".into();
            description["RedriveStatusReason"] = "Execution is SUCCEEDED and cannot be redriven".into();
            return ReportOutcome::Succeeded(Payload::from_value(&description));
        }
        description["RedriveStatus"] = "REDRIVABLE".into();
        let cause = Some(description.to_string());
        ReportOutcome::Failed { error: Some(error_names::TASK_FAILED.to_owned()), cause }
    }
}

/// What a task that starts an execution is answered: what StartExecution answers, as Step Functions shows it.
pub fn start_answer(execution: &ExecutionArn, started_at: Timestamp) -> Payload {
    let id = execution.id().to_string();
    let request = format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]);
    let kind = "application/x-amz-json-1.0";
    let all = json!({ "x-amzn-RequestId": [request], "Content-Type": [kind] });
    let first = json!({ "x-amzn-RequestId": request, "Content-Type": kind });
    Payload::from_value(&json!({
        "ExecutionArn": execution.to_string(),
        "SdkHttpMetadata": { "AllHttpHeaders": all, "HttpHeaders": first, "HttpStatusCode": 200 },
        "SdkResponseMetadata": { "RequestId": request },
        "StartDate": started_at.as_millis(),
    }))
}

/// What a parent that waits for the end of an execution is told at its start. From here, and not from whoever asked for
/// the start, so that it comes before the end.
pub(super) fn begun(origin: &Origin) -> Option<Report> {
    let parent = origin.parent.as_ref()?;
    match parent.kind {
        ParentKind::Sync | ParentKind::Sync2 => {}
        ParentKind::Request | ParentKind::MapItem { .. } => return None,
    }
    let outcome = ReportOutcome::Submitted(start_answer(&origin.arn, origin.started_at));
    Some(Report {
        token: parent.token.clone(),
        worker: None,
        started_at: None,
        outcome,
        child: None,
        answer: None,
    })
}

/// The execution whose start a report tells of, and its parent's attempt. If that waits no more, nobody stopped the
/// execution: there was none.
pub(super) fn late_start(report: &Report) -> Option<(ExecutionArn, TaskToken)> {
    let ReportOutcome::Submitted(answer) = &report.outcome else { return None };
    let answer = answer.to_value();
    let execution = ExecutionArn::parse(answer.get("ExecutionArn")?.as_str()?).ok()?;
    Some((execution, report.token.clone()))
}

pub(super) fn stop_of_child(execution: ExecutionArn, parent: TaskToken) -> Stop {
    Stop { execution, error: None, cause: None, parent: Some(parent), redrives: None }
}

pub(super) fn stop_of_map_child(child: StopChild) -> Stop {
    Stop { redrives: Some(child.redrives), ..stop_of_child(child.execution, child.parent) }
}

/// What an execution that has ended waited for, to be stopped.
pub(super) fn stops_after_end(execution: &Execution, token_key: &TokenKey) -> Vec<Stop> {
    let synchronous = execution.sync_children(token_key).into_iter();
    let of_map_runs = execution.map_children(token_key).into_iter().map(stop_of_map_child);
    synchronous.map(|child| stop_of_child(child.execution, child.parent)).chain(of_map_runs).collect()
}

/// Why a request to redrive may not: the children of a Map Run are redriven by it alone.
pub(super) fn redriven_by_its_parent(origin: &Origin) -> Option<String> {
    let of_map_run = matches!(origin.parent.as_ref()?.kind, ParentKind::MapItem { .. });
    let why =
        "Execution is a child of a Map Run and can be redriven only by redriving the Map Run's execution";
    of_map_run.then(|| why.to_owned())
}

impl Round<'_> {
    /// Sends the end of a child to the shard of its parent.
    pub(super) fn tell_parent(&mut self, report: Report) {
        let Some(parent) = report.token.claimed_execution() else { return };
        let options = &self.deciding.options;
        let queue = options.topology.shard(options.shards.of(parent));
        let message = ShardMessage::Reports(vec![report]).encode(queue, None);
        publish(&mut self.deciding.declared, self.decided, message);
    }

    /// Publishes again what follows from the end of an execution that the store has, since whoever decided it may not
    /// have got to that. Who is told twice takes it once.
    pub(super) fn republish_end(&mut self, id: ExecutionId) {
        let report = self.known.ended.get(&id).and_then(Child::stored).and_then(|child| child.report());
        if let Some(report) = report {
            self.tell_parent(report);
        }
        for stop in self.known.stops.remove(&id).unwrap_or_default() {
            self.send_stop(stop);
        }
    }

    /// Stops an execution that nobody waits for any more, if it is this attempt's and still runs.
    pub(super) fn stop_child(&mut self, execution: ExecutionArn, parent: TaskToken) {
        self.send_stop(stop_of_child(execution, parent));
    }

    pub(super) fn send_stop(&mut self, stop: Stop) {
        let options = &self.deciding.options;
        let queue = options.topology.shard(options.shards.of(stop.execution.id()));
        publish(&mut self.deciding.declared, self.decided, ShardMessage::Stop(stop).encode(queue, None));
    }

    /// The wake-up of an execution that has ended: what follows from its end may not be published.
    pub(super) fn wake_ended(&mut self, id: ExecutionId) {
        if self.known.ended.get(&id).is_some_and(|summary| summary.wake_at.is_some()) {
            self.republish_end(id);
            self.deciding.ending.insert(id);
            self.in_flight(id);
        }
    }

    /// What follows from an end is published: the wake-up that stood for it may go.
    pub(super) fn forget_end(&mut self, id: ExecutionId) {
        // Not if it goes on by a redrive.
        if self.deciding.owns(id) && !self.deciding.cache.contains(id) {
            self.wakes.insert(id, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use stagepost_protocol::{Namespace, TaskToken};

    use super::*;

    fn summary(kind: ParentKind, status: ExecutionStatus) -> ExecutionSummary {
        let state_machine = StateMachineArn { namespace: Namespace::default(), name: "m".into() };
        let arn = state_machine.execution("e");
        let failed = status != ExecutionStatus::Succeeded;
        ExecutionSummary {
            id: arn.id(),
            arn,
            state_machine,
            definition_id: "d".into(),
            role_arn: "r".into(),
            status,
            started_at: Timestamp::from_millis(1),
            stopped_at: Some(Timestamp::from_millis(2)),
            input: Payload::from_value(&json!({ "a": 1 })),
            output: (!failed).then(|| Payload::from_value(&json!([2]))),
            error: failed.then(|| "E".into()),
            cause: failed.then(|| "C".into()),
            wake_at: None,
            trace_header: None,
            parent: Some(Parent { token: TaskToken::from_untrusted("t"), kind }),
            redrive_count: 3,
            redriven_at: None,
            map_item: None,
        }
    }

    fn outcome(kind: ParentKind, status: ExecutionStatus) -> ReportOutcome {
        Child::stored(&summary(kind, status)).unwrap().report().unwrap().outcome
    }

    #[test]
    fn a_synchronous_child_is_described() {
        use ExecutionStatus::{Aborted, Failed, Succeeded, TimedOut};
        for (kind, input, output) in [
            (ParentKind::Sync, json!(r#"{"a":1}"#), json!("[2]")),
            (ParentKind::Sync2, json!({ "a": 1 }), json!([2])),
        ] {
            let ReportOutcome::Succeeded(described) = outcome(kind.clone(), Succeeded) else { panic!() };
            assert_eq!(
                described.to_value(),
                json!({
                    "ExecutionArn": "arn:aws:states:us-east-1:000000000000:execution:m:e", "Name": "e",
                    "StateMachineArn": "arn:aws:states:us-east-1:000000000000:stateMachine:m",
                    "Input": input, "InputDetails": { "Included": true }, "StartDate": 1, "StopDate": 2,
                    "Output": output, "OutputDetails": { "Included": true }, "Status": "SUCCEEDED",
                    "RedriveCount": 3, "RedriveStatus": "NOT_REDRIVABLE",
                    "RedriveStatusReason": "Execution is SUCCEEDED and cannot be redriven",
                })
            );
            for status in [Failed, Aborted, TimedOut] {
                let ReportOutcome::Failed { error, cause } = outcome(kind.clone(), status) else { panic!() };
                assert_eq!(error.as_deref(), Some("States.TaskFailed"));
                let described: Value = serde_json::from_str(&cause.unwrap()).unwrap();
                assert_eq!((&described["Error"], &described["Cause"]), (&json!("E"), &json!("C")));
                assert_eq!((&described["Status"], &described["Input"]), (&json!(status.as_str()), &input));
                assert_eq!(described.get("Output"), None);
            }
        }
    }

    #[test]
    fn an_execution_that_nobody_waits_for_tells_nobody() {
        let summary = summary(ParentKind::Request, ExecutionStatus::Succeeded);
        assert_eq!(Child::stored(&summary).unwrap().report(), None);
    }

    #[test]
    fn the_child_of_a_map_run_says_how_it_ended_and_for_which_item() {
        let kind = ParentKind::MapItem { index: 4 };
        let child = MapChild { index: 4, redrives: 3, not_redrivable: false };
        let failed = |s| outcome(kind.clone(), s);
        let (error, cause) = (Some("E".to_owned()), Some("C".to_owned()));
        let plain = Payload::from_value(&json!([2]));
        assert_eq!(failed(ExecutionStatus::Succeeded), ReportOutcome::Succeeded(plain));
        let (e, c) = (error.clone(), cause.clone());
        assert_eq!(failed(ExecutionStatus::Failed), ReportOutcome::Failed { error: e, cause: c });
        let (e, c) = (error.clone(), cause.clone());
        assert_eq!(failed(ExecutionStatus::TimedOut), ReportOutcome::TimedOut { error: e, cause: c });
        assert_eq!(failed(ExecutionStatus::Aborted), ReportOutcome::Aborted { error, cause });
        let summary = summary(kind.clone(), ExecutionStatus::Failed);
        assert_eq!(Child::stored(&summary).unwrap().report().unwrap().child, Some(child));
    }
}
