//! The operations that are Stagepost's own, one file per family: `X-Amz-Target: Stagepost.NAME`, else as those of the
//! services.

mod dead_letters;
mod schedules;
mod signals;

use crate::operations::operations;

operations! {
    /// The operations of Stagepost that there are.
    "BackfillSchedule" => schedules::backfill,
    "CreateSchedule" => schedules::create,
    "DeleteSchedule" => schedules::delete,
    "DescribeDeadLetter" => dead_letters::describe,
    "DescribeSchedule" => schedules::describe,
    "DiscardDeadLetters" => dead_letters::discard,
    "ListDeadLetters" => dead_letters::list,
    "ListScheduleTimes" => schedules::list_times,
    "ListSchedules" => schedules::list,
    "PauseSchedule" => schedules::pause,
    "RequeueDeadLetters" => dead_letters::requeue,
    "ResumeSchedule" => schedules::resume,
    "SignalExecution" => signals::send,
    "UpdateSchedule" => schedules::update,
}
