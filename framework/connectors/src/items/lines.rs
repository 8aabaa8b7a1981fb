//! JSON Lines: one JSON document a line. Empty lines are skipped, so that the last line may end with a line break.

use super::{
    decode::{Item, Step},
    error::ReadError,
    json,
};

/// Reads the line at the beginning of `bytes`; `number` counts the items before it.
pub(super) fn step(bytes: &[u8], last: bool, number: u64) -> Result<Step, ReadError> {
    if bytes.is_empty() && last {
        return Ok(Step::End);
    }
    let (line, used) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], end + 1),
        None if last => (bytes, bytes.len()),
        None => return Ok(Step::More),
    };
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(Step::Skip { used });
    }
    let value = json::value(line).map_err(|e| e.at(format_args!("item {number}")))?;
    Ok(Step::Item { used, item: Item { value, key: None } })
}
