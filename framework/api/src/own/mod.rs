//! The operations that are Stagepost's own, one file per family: `X-Amz-Target: Stagepost.NAME`, else as those of the
//! services.

use crate::operations::operations;

mod signals;

operations! {
    /// The operations of Stagepost that there are.
    "SignalExecution" => signals::send,
}
