//! The operations that are Stagepost's own, one file per family: `X-Amz-Target: Stagepost.NAME`, else as those of the
//! services.

mod dead_letters;
mod schedules;
mod signals;
mod triggers;

use crate::operations::operations;

operations! {
    /// The operations of Stagepost that there are.
    "BackfillSchedule" => schedules::backfill,
    "CreateSchedule" => schedules::create,
    "CreateTrigger" => triggers::create,
    "DeleteSchedule" => schedules::delete,
    "DeleteTrigger" => triggers::delete,
    "DescribeDeadLetter" => dead_letters::describe,
    "DescribeSchedule" => schedules::describe,
    "DescribeTrigger" => triggers::describe,
    "DiscardDeadLetters" => dead_letters::discard,
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
