//! From what both databases keep to the types of the traits, and back.

use std::borrow::Cow;

use stagepost_protocol::{
    ExecutionArn, ExecutionId, MapItem, MapRun, MapRunArn, Namespace, Parent, Payload, StateMachineArn,
};

use crate::{Error, ExecutionStatus, Result};

/// Texts that people and programs write (errors, causes, roles) without the NUL that PostgreSQL cannot keep, so
/// that no input makes a batch fail again and again.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

fn unreadable(what: &str) -> Error {
    Error::Database { what: "read a row", reason: format!("its {what} is none") }
}

pub(crate) fn id(bytes: &[u8]) -> Result<ExecutionId> {
    ExecutionId::from_slice(bytes).ok_or_else(|| unreadable("execution id"))
}

pub(crate) fn payload(text: &str) -> Result<Payload> {
    Payload::parse(text).map_err(|_| unreadable("payload"))
}

pub(crate) fn status(text: &str) -> Result<ExecutionStatus> {
    ExecutionStatus::parse(text).ok_or_else(|| unreadable("status"))
}

pub(crate) fn parent(text: Option<&str>) -> Result<Option<Parent>> {
    text.map(|text| Parent::from_text(text).ok_or_else(|| unreadable("parent"))).transpose()
}

pub(crate) fn map_item(
    namespace: &Namespace,
    map_run: Option<String>,
    items: Option<i64>,
) -> Option<MapItem> {
    let map_run = MapRunArn { namespace: namespace.clone(), name: map_run? };
    Some(MapItem { map_run, items: items.and_then(|n| u32::try_from(n).ok()).unwrap_or(1) })
}

pub(crate) fn map_run(record: &str) -> Result<MapRun> {
    MapRun::from_text(record).ok_or_else(|| unreadable("Map Run"))
}

pub(crate) fn arns(
    namespace: Namespace,
    state_machine: String,
    arn_state_machine: String,
    name: String,
) -> (ExecutionArn, StateMachineArn) {
    let arn =
        ExecutionArn { namespace: namespace.clone(), state_machine: arn_state_machine, name, run: None };
    (arn, StateMachineArn { namespace, name: state_machine })
}
