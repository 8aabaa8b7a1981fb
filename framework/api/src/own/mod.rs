//! The operations that are Stagepost's own, one file per family: `X-Amz-Target: Stagepost.NAME`, else as those of the
//! services.

mod dead_letters;
mod signals;

use crate::operations::operations;

operations! {
    /// The operations of Stagepost that there are.
    "DescribeDeadLetter" => dead_letters::describe,
    "DiscardDeadLetters" => dead_letters::discard,
    "ListDeadLetters" => dead_letters::list,
    "RequeueDeadLetters" => dead_letters::requeue,
    "SignalExecution" => signals::send,
}
