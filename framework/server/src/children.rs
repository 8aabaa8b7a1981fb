//! The child executions of a Map Run, read from the store for the result writer.

use std::sync::Arc;

use async_trait::async_trait;
use stagepost_connectors::items::{Child, ChildPage, ChildStatus, Children};
use stagepost_protocol::{MapRunArn, ParentKind};
use stagepost_store::{ExecutionStatus, ExecutionSummary, ExecutionsOf, ListExecutions, Reader};

/// Most children of a page. A list holds neither inputs nor outputs, which may have 256 KiB each: they are read one by
/// one.
const PAGE_CHILDREN: usize = 16;

/// Reads them where they are stored. What was read of a data set and not started is not stored, so it is not among
/// them.
pub(crate) struct StoredChildren {
    store: Arc<dyn Reader>,
}

impl StoredChildren {
    pub(crate) fn new(store: Arc<dyn Reader>) -> StoredChildren {
        StoredChildren { store }
    }
}

#[async_trait]
impl Children for StoredChildren {
    async fn page(
        &self,
        map_run_arn: &str,
        after: Option<&str>,
        limit: usize,
        _max_bytes: usize,
    ) -> Result<ChildPage, String> {
        let arn: MapRunArn =
            map_run_arn.parse().map_err(|_| format!("'{map_run_arn}' is no Map Run's ARN"))?;
        let query = ListExecutions {
            of: ExecutionsOf::MapRun(arn),
            status: None,
            redriven: None,
            limit: limit.min(PAGE_CHILDREN),
            after: after.map(str::to_owned),
        };
        let page = self.store.executions(&query).await.map_err(|error| error.to_string())?;
        let mut children = Vec::with_capacity(page.items.len());
        for listed in page.items {
            let whole = self.store.execution(listed.id).await.map_err(|error| error.to_string())?;
            children.extend(whole.map(child));
        }
        Ok(ChildPage { children, next: page.next })
    }
}

fn child(execution: ExecutionSummary) -> Child {
    let place = match execution.parent.as_ref().map(|parent| &parent.kind) {
        Some(ParentKind::MapItem { index }) => *index,
        _ => 0,
    };
    Child {
        place,
        execution_arn: execution.arn.to_string(),
        state_machine_arn: execution.state_machine.to_string(),
        name: execution.arn.name,
        status: match execution.status {
            ExecutionStatus::Succeeded => ChildStatus::Succeeded,
            ExecutionStatus::Failed => ChildStatus::Failed,
            ExecutionStatus::TimedOut => ChildStatus::TimedOut,
            ExecutionStatus::Aborted => ChildStatus::Aborted,
            ExecutionStatus::Running | ExecutionStatus::PendingRedrive => ChildStatus::Pending,
        },
        input: execution.input,
        output: execution.output,
        error: execution.error,
        cause: execution.cause,
        start_date: Some(execution.started_at),
        stop_date: execution.stopped_at,
        redrive_count: execution.redrive_count,
        redrive_date: execution.redriven_at,
    }
}
