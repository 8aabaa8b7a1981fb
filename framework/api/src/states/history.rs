//! GetExecutionHistory: pages over the stored rows, which hold the events of a decision each.

use serde_json::Value;
use stagepost_engine::history;
use stagepost_protocol::ExecutionId;

use super::{Answer, Context, executions, names};
use crate::wire::{ApiError, Members, Text, members::ARN, page};

/// How many rows are read from the store at a time.
const ROWS_MAX: usize = 256;
/// About how many bytes of rows a page holds; one with more ends early and has a token for the rest.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(super) async fn get(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("executionArn", ARN);
    let limit = page::size(m.integer("maxResults", 0, page::PAGE_MAX));
    let reverse = m.flag("reverseOrder").unwrap_or(false);
    let token = m.text("nextToken", Text::new(1, 1024));
    let include_data = m.flag("includeExecutionData").unwrap_or(true);
    m.finish()?;
    let arn = names::execution(arn)?;
    let listing = format!("GetExecutionHistory {arn} {reverse}");
    let from = match page::after(&listing, token)? {
        Some(text) => Some(text.parse::<u64>().map_err(|_| page::invalid())?),
        None => None,
    };
    let execution = executions::find(cx, &arn).await?;
    let query = Query { execution: execution.id, reverse, limit, include_data };
    let (events, next) = query.run(cx, from).await?;
    Ok(page::answer("events", events, &listing, next.map(|next| next.to_string()).as_deref()))
}

struct Query {
    execution: ExecutionId,
    reverse: bool,
    limit: usize,
    include_data: bool,
}

impl Query {
    /// The events from `from` on (its id included), and the id of the first one of the next page.
    async fn run(&self, cx: &Context<'_>, from: Option<u64>) -> Result<(Vec<Value>, Option<u64>), ApiError> {
        // The largest id that both stores can compare with.
        let mut from = from.unwrap_or(if self.reverse { i64::MAX as u64 } else { 1 });
        let (mut events, mut bytes) = (Vec::new(), 0);
        loop {
            let rows =
                cx.api.reader.history(self.execution, from, self.reverse, ROWS_MAX, PAGE_BYTES_MAX).await?;
            let last = match (rows.last(), self.reverse) {
                (None, _) => return Ok((events, None)),
                (Some(row), false) => row.last_event_id.max(from).saturating_add(1),
                (Some(row), true) => row.first_event_id.min(from).saturating_sub(1),
            };
            for row in rows {
                bytes += row.payload.len();
                let mut decided = history::decode(&row.payload).map_err(|e| {
                    ApiError::internal(format!("history row {} of {}: {e}", row.sequence, self.execution))
                })?;
                if self.reverse {
                    decided.reverse();
                }
                for event in decided {
                    let earlier_page = if self.reverse { event.id > from } else { event.id < from };
                    if earlier_page {
                        continue;
                    }
                    let Some(shown) = history::describe(&event, self.include_data) else { continue };
                    if events.len() == self.limit || (bytes > PAGE_BYTES_MAX && !events.is_empty()) {
                        return Ok((events, Some(event.id)));
                    }
                    events.push(shown);
                }
            }
            if last == 0 {
                return Ok((events, None));
            }
            from = last;
        }
    }
}
