//! The operations that are Stagepost's own, one file per family: `X-Amz-Target: Stagepost.NAME`, else as those of the
//! services.

mod approvals;
mod dead_letters;
mod schedules;
mod signals;
mod triggers;

use stagepost_store::{ListRecords, Page, Record};

use crate::{
    operations::{Context, operations},
    wire::ApiError,
};

operations! {
    /// The operations of Stagepost that there are.
    "AnswerApproval" => approvals::answer,
    "BackfillSchedule" => schedules::backfill,
    "CreateApprovalLink" => approvals::link,
    "CreateSchedule" => schedules::create,
    "CreateTrigger" => triggers::create,
    "DelegateApproval" => approvals::delegate,
    "DeleteSchedule" => schedules::delete,
    "DeleteTrigger" => triggers::delete,
    "DescribeApproval" => approvals::describe,
    "DescribeDeadLetter" => dead_letters::describe,
    "DescribeSchedule" => schedules::describe,
    "DescribeTrigger" => triggers::describe,
    "DiscardDeadLetters" => dead_letters::discard,
    "ListApprovals" => approvals::list,
    "ListDeadLetters" => dead_letters::list,
    "ListScheduleTimes" => schedules::list_times,
    "ListSchedules" => schedules::list,
    "ListTriggers" => triggers::list,
    "PauseSchedule" => schedules::pause,
    "PauseTrigger" => triggers::pause,
    "RequeueDeadLetters" => dead_letters::requeue,
    "ResumeSchedule" => schedules::resume,
    "ResumeTrigger" => triggers::resume,
    "SignalExecution" => signals::send,
    "UpdateSchedule" => schedules::update,
    "UpdateTrigger" => triggers::update,
}

/// A page of the records of a kind in the caller's namespace, by their keys; of all, or of those with a label.
async fn records(
    cx: &Context<'_>,
    kind: &str,
    label: Option<&str>,
    limit: usize,
    after: Option<String>,
) -> Result<Page<Record>, ApiError> {
    let query = ListRecords {
        kind: kind.to_owned(),
        namespace: Some(cx.namespace.clone()),
        label: label.map(str::to_owned),
        descending: false,
        limit,
        after,
    };
    Ok(cx.api.reader.records(&query).await?)
}
