//! Results that go into no file: what became of the children of a Map Run, as the Map state's result.
//!
//! The result must fit an output, so no more than that is held, whatever the Map Run is.

use serde::{Deserialize, Serialize};
use stagepost_protocol::{Payload, limits};

use super::{
    results::{Transformation, texts},
    writer::{Children, PAGE_BYTES, PAGE_CHILDREN, WriteError},
};

/// The input of the connector `stagepost:collectResults`. Its output is the Map state's result: an array of the child
/// executions in the order of their items, as a result file has them with the transformation `NONE`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CollectRequest {
    /// The ARN of the Map Run.
    pub map_run: String,
}

/// Collects the results of a Map Run.
pub async fn collect_results(children: &dyn Children, map_run: &str) -> Result<Payload, WriteError> {
    let mut results: Vec<(u64, String)> = Vec::new();
    let (mut bytes, mut after) = (2, None);
    loop {
        let page = children.page(map_run, after.as_deref(), PAGE_CHILDREN, PAGE_BYTES).await;
        let page = page.map_err(|reason| WriteError::unread(&reason))?;
        for child in &page.children {
            for text in texts(child, Transformation::None)? {
                bytes += text.len() + 1;
                if bytes > limits::PAYLOAD_BYTES_MAX {
                    return Err(WriteError::too_large());
                }
                results.push((child.place, text));
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    results.sort_by_key(|(place, _)| *place);
    let texts: Vec<String> = results.into_iter().map(|(_, text)| text).collect();
    let all = format!("[{}]", texts.join(","));
    Payload::parse(&all)
        .map_err(|error| WriteError::new(format!("the results are no JSON together: {error}")))
}
