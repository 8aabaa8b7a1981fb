//! The stored text of a decision's events.
//!
//! ```text
//! [first id, time, [code, head, field…], [code, head, field…], …]
//! ```
//!
//! * Ids count up by one with each visible event and are not written.
//! * `head` is 0 where the event follows the visible event before it, in the same scope and at the same time, or else
//!   `[previous id, scope, time]`.
//! * A payload is `[payload]`, or 0 where it is the payload written last: a task's output, its state's output and
//!   the next state's input are mostly one.
//!
//! The codes and the order of the fields are a storage format: append only.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, SeqAccess, Visitor},
};
use stagepost_protocol::{Payload, Timestamp};

use super::{Assigned, ChildEnd, EventKind, Failure, HistoryEvent, ScopeId, Service, StateType, TOP_LEVEL};

/// The text of the events of one decision, as the store keeps it.
pub fn encode(events: &[HistoryEvent]) -> String {
    let Some(first) = events.first() else { return "[]".to_owned() };
    let mut writer = Writer { text: String::with_capacity(64 + 96 * events.len()), last: None };
    let mut cursor = Cursor::before(first.id - u64::from(!first.kind.is_hidden()), first.at);
    writer.text.push('[');
    writer.push_number(cursor.id);
    writer.text.push(',');
    writer.push_signed(first.at.as_millis());
    for event in events {
        debug_assert_eq!(event.id, cursor.id + u64::from(!event.kind.is_hidden()), "ids count up");
        writer.text.push_str(",[");
        writer.push_number(u64::from(code(&event.kind)));
        if cursor.predicts(event) {
            writer.text.push_str(",0");
        } else {
            writer.text.push_str(",[");
            writer.push_number(event.previous_id);
            writer.text.push(',');
            writer.push_number(u64::from(event.scope));
            writer.text.push(',');
            writer.push_signed(event.at.as_millis());
            writer.text.push(']');
        }
        writer.fields(&event.kind);
        writer.text.push(']');
        cursor.pass(event);
    }
    writer.text.push(']');
    writer.text
}

/// Reads what [`encode`] wrote.
pub fn decode(text: &str) -> Result<Vec<HistoryEvent>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let events = deserializer.deserialize_seq(RowVisitor)?;
    deserializer.end()?;
    Ok(events)
}

/// What is known before an event is read or written.
struct Cursor {
    id: u64,
    at: Timestamp,
    scope: ScopeId,
}

impl Cursor {
    fn before(id: u64, at: Timestamp) -> Cursor {
        Cursor { id, at, scope: TOP_LEVEL }
    }

    fn predicts(&self, event: &HistoryEvent) -> bool {
        event.previous_id == self.id && event.scope == self.scope && event.at == self.at
    }

    fn pass(&mut self, event: &HistoryEvent) {
        (self.id, self.at, self.scope) = (event.id, event.at, event.scope);
    }
}

const fn code(kind: &EventKind) -> u8 {
    match kind {
        EventKind::ExecutionStarted { .. } => 1,
        EventKind::ExecutionSucceeded { .. } => 2,
        EventKind::ExecutionFailed(_) => 3,
        EventKind::ExecutionTimedOut(_) => 4,
        EventKind::ExecutionAborted(_) => 5,
        EventKind::StateEntered { .. } => 6,
        EventKind::StateExited { .. } => 7,
        EventKind::StateAborted { .. } => 8,
        EventKind::ActivityScheduled { .. } => 9,
        EventKind::ActivityStarted { .. } => 10,
        EventKind::ActivitySucceeded { .. } => 11,
        EventKind::ActivityFailed(_) => 12,
        EventKind::ActivityTimedOut(_) => 13,
        EventKind::LambdaFunctionScheduled { .. } => 14,
        EventKind::LambdaFunctionStarted => 15,
        EventKind::LambdaFunctionSucceeded { .. } => 16,
        EventKind::LambdaFunctionFailed(_) => 17,
        EventKind::LambdaFunctionTimedOut(_) => 18,
        EventKind::TaskScheduled { .. } => 19,
        EventKind::TaskStarted { .. } => 20,
        EventKind::TaskSubmitted { .. } => 21,
        EventKind::TaskSucceeded { .. } => 22,
        EventKind::TaskFailed { .. } => 23,
        EventKind::TaskTimedOut { .. } => 24,
        EventKind::ParallelStateStarted { .. } => 25,
        EventKind::ParallelStateSucceeded => 26,
        EventKind::ParallelStateFailed => 27,
        EventKind::MapStateStarted { .. } => 28,
        EventKind::MapStateSucceeded => 29,
        EventKind::MapStateFailed => 30,
        EventKind::MapIterationStarted { .. } => 31,
        EventKind::MapIterationSucceeded { .. } => 32,
        EventKind::MapIterationFailed { .. } => 33,
        EventKind::MapIterationAborted { .. } => 34,
        EventKind::WaitScheduled { .. } => 35,
        EventKind::RetryScheduled { .. } => 36,
        EventKind::HeartbeatReceived => 37,
        EventKind::Yielded { .. } => 38,
        EventKind::MapPaused => 39,
        EventKind::EvaluationFailed { .. } => 40,
        EventKind::AttemptLeased { .. } => 45,
        EventKind::AttemptReleased { .. } => 46,
        EventKind::ExecutionRedriven { .. } => 60,
        EventKind::MapRunStarted { .. } => 70,
        EventKind::MapRunSucceeded => 71,
        EventKind::MapRunFailed(_) => 72,
        EventKind::MapRunAborted => 73,
        EventKind::MapItemsRequested => 74,
        EventKind::MapItemsRead { .. } => 75,
        EventKind::MapChildrenStarted { .. } => 76,
        EventKind::MapChildEnded { .. } => 77,
        EventKind::MapRunFailing(_) => 78,
        EventKind::MapResultsRequested => 79,
        EventKind::MapRunUpdated { .. } => 80,
        EventKind::MapRunRedriven { .. } => 81,
        EventKind::MapChildrenRedriven { .. } => 82,
        EventKind::MapChildNotRedrivable { .. } => 83,
        EventKind::SignalAwaited { .. } => 90,
        EventKind::SignalReceived { .. } => 91,
        EventKind::SignalTaken => 92,
    }
}

struct Writer<'a> {
    text: String,
    /// The payload written last.
    last: Option<&'a Payload>,
}

impl<'a> Writer<'a> {
    fn push_number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.text.push_str(std::str::from_utf8(&digits[at..]).expect("digits are ASCII"));
    }

    fn push_signed(&mut self, number: i64) {
        if number < 0 {
            self.text.push('-');
        }
        self.push_number(number.unsigned_abs());
    }

    fn number(&mut self, number: u64) {
        self.text.push(',');
        self.push_number(number);
    }

    fn time(&mut self, time: Timestamp) {
        self.text.push(',');
        self.push_signed(time.as_millis());
    }

    fn optional_number(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.number(number),
            None => self.text.push_str(",null"),
        }
    }

    fn string(&mut self, string: &str) {
        self.text.push(',');
        if string.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
            self.text.push('"');
            self.text.push_str(string);
            self.text.push('"');
        } else {
            self.text.push_str(&serde_json::Value::from(string).to_string());
        }
    }

    fn optional_string(&mut self, string: Option<&str>) {
        match string {
            Some(string) => self.string(string),
            None => self.text.push_str(",null"),
        }
    }

    fn payload(&mut self, payload: &'a Payload) {
        if self.last == Some(payload) {
            self.text.push_str(",0");
            return;
        }
        self.text.push_str(",[");
        self.text.push_str(payload.as_str());
        self.text.push(']');
        self.last = Some(payload);
    }

    fn json<T: serde::Serialize>(&mut self, value: &T) {
        self.text.push(',');
        self.text.push_str(&serde_json::to_string(value).expect("it has no maps, so it always serialises"));
    }

    fn failure(&mut self, failure: &Failure) {
        self.optional_string(failure.error.as_deref());
        self.optional_string(failure.cause.as_deref());
    }

    fn service(&mut self, service: &Service) {
        self.string(&service.resource_type);
        self.string(&service.resource);
    }

    fn state_type(&mut self, state_type: StateType) {
        self.number(state_type as u64);
    }

    fn fields(&mut self, kind: &'a EventKind) {
        match kind {
            EventKind::ExecutionStarted { input, role_arn } => {
                self.payload(input);
                self.string(role_arn);
            }
            EventKind::ExecutionSucceeded { output }
            | EventKind::ActivitySucceeded { output }
            | EventKind::LambdaFunctionSucceeded { output } => self.payload(output),
            EventKind::ExecutionFailed(failure)
            | EventKind::ExecutionTimedOut(failure)
            | EventKind::ExecutionAborted(failure)
            | EventKind::ActivityFailed(failure)
            | EventKind::ActivityTimedOut(failure)
            | EventKind::LambdaFunctionFailed(failure)
            | EventKind::LambdaFunctionTimedOut(failure)
            | EventKind::MapRunFailed(failure)
            | EventKind::MapRunFailing(failure) => self.failure(failure),
            EventKind::StateEntered { state_type, name, input } => {
                self.state_type(*state_type);
                self.string(name);
                self.payload(input);
            }
            EventKind::StateExited { state_type, name, output, last, assigned } => {
                self.state_type(*state_type);
                self.string(name);
                self.payload(output);
                self.number(u64::from(*last));
                for Assigned { name, value } in assigned {
                    self.string(name);
                    self.payload(value);
                }
            }
            EventKind::EvaluationFailed { state, location, failure } => {
                self.string(state);
                self.optional_string(location.as_deref());
                self.failure(failure);
            }
            EventKind::StateAborted { state_type } => self.state_type(*state_type),
            EventKind::ActivityScheduled { resource, input, timeout_seconds, heartbeat_seconds } => {
                self.string(resource);
                self.payload(input);
                self.optional_number(*timeout_seconds);
                self.optional_number(*heartbeat_seconds);
            }
            EventKind::ActivityStarted { worker_name } => self.optional_string(worker_name.as_deref()),
            EventKind::LambdaFunctionScheduled { resource, input, timeout_seconds, role_arn } => {
                self.string(resource);
                self.payload(input);
                self.optional_number(*timeout_seconds);
                if let Some(role_arn) = role_arn {
                    self.string(role_arn);
                }
            }
            EventKind::TaskScheduled {
                service,
                region,
                parameters,
                timeout_seconds,
                heartbeat_seconds,
                role_arn,
            } => {
                self.service(service);
                self.string(region);
                self.payload(parameters);
                self.optional_number(*timeout_seconds);
                self.optional_number(*heartbeat_seconds);
                if let Some(role_arn) = role_arn {
                    self.string(role_arn);
                }
            }
            EventKind::TaskStarted { service } => self.service(service),
            EventKind::TaskSubmitted { service, output } | EventKind::TaskSucceeded { service, output } => {
                self.service(service);
                self.payload(output);
            }
            EventKind::TaskFailed { service, failure } | EventKind::TaskTimedOut { service, failure } => {
                self.service(service);
                self.failure(failure);
            }
            EventKind::ExecutionRedriven { count, client_token } => {
                self.number(u64::from(*count));
                self.optional_string(client_token.as_deref());
            }
            EventKind::ParallelStateStarted { branches } => self.number(u64::from(*branches)),
            EventKind::MapStateStarted { length, max_concurrency, tolerated_failures, items } => {
                self.number(u64::from(*length));
                self.number(u64::from(*max_concurrency));
                self.optional_number(tolerated_failures.map(u64::from));
                if let Some(items) = items {
                    self.payload(items);
                }
            }
            EventKind::MapIterationStarted { name, index }
            | EventKind::MapIterationSucceeded { name, index }
            | EventKind::MapIterationAborted { name, index } => {
                self.string(name);
                self.number(u64::from(*index));
            }
            EventKind::MapIterationFailed { name, index, result } => {
                self.string(name);
                self.number(u64::from(*index));
                if let Some(result) = result {
                    self.payload(result);
                }
            }
            EventKind::AttemptLeased { holder, worker, millis, again } => {
                self.optional_string(holder.as_deref());
                self.optional_string(worker.as_deref());
                self.number(*millis);
                self.number(u64::from(*again));
            }
            EventKind::AttemptReleased { by } => self.optional_string(by.as_deref()),
            EventKind::WaitScheduled { until } => self.time(*until),
            EventKind::RetryScheduled { retrier, due } => {
                self.number(u64::from(*retrier));
                self.time(*due);
            }
            EventKind::Yielded { name, input } => {
                self.string(name);
                self.payload(input);
            }
            EventKind::SignalAwaited { name } => self.string(name),
            EventKind::SignalReceived { id, name, input } => {
                self.string(id);
                self.string(name);
                self.payload(input);
            }
            EventKind::MapRunStarted { arn, settings } => {
                self.string(arn);
                self.json(settings);
            }
            EventKind::MapItemsRead { items, cursor } => {
                self.payload(items);
                if let Some(cursor) = cursor {
                    self.payload(cursor);
                }
            }
            EventKind::MapChildrenStarted { sizes } => self.json(sizes),
            EventKind::MapRunRedriven { arn, count } => {
                self.string(arn);
                self.number(u64::from(*count));
            }
            EventKind::MapChildrenRedriven { count } => self.number(u64::from(*count)),
            EventKind::MapChildNotRedrivable { index } => self.number(*index),
            EventKind::MapChildEnded { index, end, result } => {
                self.number(*index);
                self.number(*end as u64);
                if let Some(result) = result {
                    self.payload(result);
                }
            }
            EventKind::MapRunUpdated {
                max_concurrency,
                tolerated_failure_count,
                tolerated_failure_percentage,
            } => {
                self.optional_number(*max_concurrency);
                self.optional_number(*tolerated_failure_count);
                self.json(tolerated_failure_percentage);
            }
            EventKind::MapRunSucceeded
            | EventKind::MapRunAborted
            | EventKind::MapItemsRequested
            | EventKind::MapResultsRequested
            | EventKind::LambdaFunctionStarted
            | EventKind::ParallelStateSucceeded
            | EventKind::ParallelStateFailed
            | EventKind::MapStateSucceeded
            | EventKind::MapStateFailed
            | EventKind::HeartbeatReceived
            | EventKind::SignalTaken
            | EventKind::MapPaused => {}
        }
    }
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = Vec<HistoryEvent>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the events of a decision: [id, time, event, …]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        let Some(id) = seq.next_element()? else { return Ok(events) };
        let at = seq.next_element()?.ok_or_else(|| A::Error::custom("the time is missing"))?;
        let mut cursor = Cursor::before(id, at);
        let mut last = None;
        while let Some(event) = seq.next_element_seed(EventSeed { cursor: &cursor, last: &mut last })? {
            cursor.pass(&event);
            events.push(event);
        }
        Ok(events)
    }
}

struct EventSeed<'c> {
    cursor: &'c Cursor,
    last: &'c mut Option<Payload>,
}

impl<'de> DeserializeSeed<'de> for EventSeed<'_> {
    type Value = HistoryEvent;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<HistoryEvent, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EventSeed<'_> {
    type Value = HistoryEvent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event: [code, head, field…]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<HistoryEvent, A::Error> {
        let mut reader = Reader { seq, last: self.last };
        let code: u8 = reader.required()?;
        let (previous_id, scope, at) = match reader.required()? {
            Head::Predicted => (self.cursor.id, self.cursor.scope, self.cursor.at),
            Head::Written(previous_id, scope, at) => (previous_id, scope, at),
        };
        let kind = reader.kind(code)?;
        let id = self.cursor.id + u64::from(!kind.is_hidden());
        if reader.seq.next_element::<serde::de::IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("the event has too many fields"));
        }
        Ok(HistoryEvent { id, previous_id, at, scope, kind })
    }
}

enum Head {
    Predicted,
    Written(u64, ScopeId, Timestamp),
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Head, D::Error> {
        struct HeadVisitor;
        impl<'de> Visitor<'de> for HeadVisitor {
            type Value = Head;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("0 or [previous id, scope, time]")
            }

            fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Head, E> {
                Ok(Head::Predicted)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Head, A::Error> {
                let (previous_id, scope, at) =
                    Deserialize::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))?;
                Ok(Head::Written(previous_id, scope, at))
            }
        }
        deserializer.deserialize_any(HeadVisitor)
    }
}

/// `None`: the payload before it.
struct Slot(Option<Payload>);

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Slot, D::Error> {
        struct SlotVisitor;
        impl<'de> Visitor<'de> for SlotVisitor {
            type Value = Slot;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("0 or [payload]")
            }

            fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Slot, E> {
                Ok(Slot(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Slot, A::Error> {
                let payload =
                    seq.next_element()?.ok_or_else(|| A::Error::custom("the payload is missing"))?;
                match seq.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(Slot(Some(payload))),
                    Some(_) => Err(A::Error::custom("one payload was expected")),
                }
            }
        }
        deserializer.deserialize_any(SlotVisitor)
    }
}

struct Reader<'c, A> {
    seq: A,
    last: &'c mut Option<Payload>,
}

impl<'de, A: SeqAccess<'de>> Reader<'_, A> {
    fn required<T: Deserialize<'de>>(&mut self) -> Result<T, A::Error> {
        self.seq.next_element()?.ok_or_else(|| A::Error::custom("the event has too few fields"))
    }

    fn payload(&mut self) -> Result<Payload, A::Error> {
        let slot = self.required()?;
        self.filled(slot)
    }

    fn child_end(&mut self) -> Result<ChildEnd, A::Error> {
        let number: usize = self.required()?;
        ChildEnd::ALL.get(number).copied().ok_or_else(|| A::Error::custom(format!("unknown end {number}")))
    }

    fn optional_payload(&mut self) -> Result<Option<Payload>, A::Error> {
        self.seq.next_element()?.map(|slot| self.filled(slot)).transpose()
    }

    fn filled(&mut self, Slot(payload): Slot) -> Result<Payload, A::Error> {
        match payload {
            Some(payload) => Ok(self.last.insert(payload).clone()),
            None => self.last.clone().ok_or_else(|| A::Error::custom("there is no payload before this one")),
        }
    }

    /// Pairs of name and value, to the end.
    fn assigned(&mut self) -> Result<Vec<Assigned>, A::Error> {
        let mut assigned = Vec::new();
        while let Some(name) = self.seq.next_element()? {
            assigned.push(Assigned { name, value: self.payload()? });
        }
        Ok(assigned)
    }

    fn failure(&mut self) -> Result<Failure, A::Error> {
        Ok(Failure { error: self.required()?, cause: self.required()? })
    }

    fn service(&mut self) -> Result<Service, A::Error> {
        Ok(Service { resource_type: self.required()?, resource: self.required()? })
    }

    fn state_type(&mut self) -> Result<StateType, A::Error> {
        let number: usize = self.required()?;
        StateType::ALL.get(number).copied().ok_or_else(|| A::Error::custom("unknown state type"))
    }

    fn kind(&mut self, code: u8) -> Result<EventKind, A::Error> {
        Ok(match code {
            1 => {
                EventKind::ExecutionStarted { input: self.payload()?, role_arn: self.required::<Arc<str>>()? }
            }
            2 => EventKind::ExecutionSucceeded { output: self.payload()? },
            3 => EventKind::ExecutionFailed(self.failure()?),
            4 => EventKind::ExecutionTimedOut(self.failure()?),
            5 => EventKind::ExecutionAborted(self.failure()?),
            6 => EventKind::StateEntered {
                state_type: self.state_type()?,
                name: self.required()?,
                input: self.payload()?,
            },
            7 => EventKind::StateExited {
                state_type: self.state_type()?,
                name: self.required()?,
                output: self.payload()?,
                last: self.required::<u8>()? != 0,
                assigned: self.assigned()?,
            },
            8 => EventKind::StateAborted { state_type: self.state_type()? },
            45 => EventKind::AttemptLeased {
                holder: self.required()?,
                worker: self.required()?,
                millis: self.required()?,
                again: self.required::<u64>()? != 0,
            },
            46 => EventKind::AttemptReleased { by: self.required()? },
            60 => EventKind::ExecutionRedriven { count: self.required()?, client_token: self.required()? },
            9 => EventKind::ActivityScheduled {
                resource: self.required()?,
                input: self.payload()?,
                timeout_seconds: self.required()?,
                heartbeat_seconds: self.required()?,
            },
            10 => EventKind::ActivityStarted { worker_name: self.required()? },
            11 => EventKind::ActivitySucceeded { output: self.payload()? },
            12 => EventKind::ActivityFailed(self.failure()?),
            13 => EventKind::ActivityTimedOut(self.failure()?),
            14 => EventKind::LambdaFunctionScheduled {
                resource: self.required()?,
                input: self.payload()?,
                timeout_seconds: self.required()?,
                role_arn: self.seq.next_element()?,
            },
            15 => EventKind::LambdaFunctionStarted,
            16 => EventKind::LambdaFunctionSucceeded { output: self.payload()? },
            17 => EventKind::LambdaFunctionFailed(self.failure()?),
            18 => EventKind::LambdaFunctionTimedOut(self.failure()?),
            19 => EventKind::TaskScheduled {
                service: self.service()?,
                region: self.required()?,
                parameters: self.payload()?,
                timeout_seconds: self.required()?,
                heartbeat_seconds: self.required()?,
                role_arn: self.seq.next_element()?,
            },
            20 => EventKind::TaskStarted { service: self.service()? },
            21 => EventKind::TaskSubmitted { service: self.service()?, output: self.payload()? },
            22 => EventKind::TaskSucceeded { service: self.service()?, output: self.payload()? },
            23 => EventKind::TaskFailed { service: self.service()?, failure: self.failure()? },
            24 => EventKind::TaskTimedOut { service: self.service()?, failure: self.failure()? },
            25 => EventKind::ParallelStateStarted { branches: self.required()? },
            26 => EventKind::ParallelStateSucceeded,
            27 => EventKind::ParallelStateFailed,
            28 => EventKind::MapStateStarted {
                length: self.required()?,
                max_concurrency: self.required()?,
                tolerated_failures: self.required()?,
                items: self.optional_payload()?,
            },
            29 => EventKind::MapStateSucceeded,
            30 => EventKind::MapStateFailed,
            31 => EventKind::MapIterationStarted { name: self.required()?, index: self.required()? },
            32 => EventKind::MapIterationSucceeded { name: self.required()?, index: self.required()? },
            33 => EventKind::MapIterationFailed {
                name: self.required()?,
                index: self.required()?,
                result: self.optional_payload()?,
            },
            34 => EventKind::MapIterationAborted { name: self.required()?, index: self.required()? },
            35 => EventKind::WaitScheduled { until: self.required()? },
            36 => EventKind::RetryScheduled { retrier: self.required()?, due: self.required()? },
            37 => EventKind::HeartbeatReceived,
            38 => EventKind::Yielded { name: self.required()?, input: self.payload()? },
            39 => EventKind::MapPaused,
            40 => EventKind::EvaluationFailed {
                state: self.required()?,
                location: self.required()?,
                failure: self.failure()?,
            },
            70 => EventKind::MapRunStarted { arn: self.required()?, settings: self.required()? },
            71 => EventKind::MapRunSucceeded,
            72 => EventKind::MapRunFailed(self.failure()?),
            73 => EventKind::MapRunAborted,
            74 => EventKind::MapItemsRequested,
            75 => EventKind::MapItemsRead { items: self.payload()?, cursor: self.optional_payload()? },
            76 => EventKind::MapChildrenStarted { sizes: self.required()? },
            77 => EventKind::MapChildEnded {
                index: self.required()?,
                end: self.child_end()?,
                result: self.optional_payload()?,
            },
            78 => EventKind::MapRunFailing(self.failure()?),
            79 => EventKind::MapResultsRequested,
            80 => EventKind::MapRunUpdated {
                max_concurrency: self.required()?,
                tolerated_failure_count: self.required()?,
                tolerated_failure_percentage: self.required()?,
            },
            81 => EventKind::MapRunRedriven { arn: self.required()?, count: self.required()? },
            82 => EventKind::MapChildrenRedriven { count: self.required()? },
            83 => EventKind::MapChildNotRedrivable { index: self.required()? },
            90 => EventKind::SignalAwaited { name: self.required()? },
            91 => EventKind::SignalReceived {
                id: self.required()?,
                name: self.required()?,
                input: self.payload()?,
            },
            92 => EventKind::SignalTaken,
            _ => return Err(A::Error::custom(format!("unknown event code {code}"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(text: &str) -> Payload {
        Payload::parse(text).unwrap()
    }

    #[test]
    fn a_completed_step_is_stored_compactly_and_its_payload_once() {
        let (at, output) = (Timestamp::from_millis(1000), payload(r#"{"a": 1}"#));
        let event = |id, kind| HistoryEvent { id, previous_id: id - 1, at, scope: TOP_LEVEL, kind };
        let events = [
            event(7, EventKind::ActivityStarted { worker_name: Some("w\"1".into()) }),
            event(8, EventKind::ActivitySucceeded { output: output.clone() }),
            event(
                9,
                EventKind::StateExited {
                    state_type: StateType::Task,
                    name: "A".into(),
                    output: output.clone(),
                    last: false,
                    assigned: vec![],
                },
            ),
            event(
                10,
                EventKind::StateEntered {
                    state_type: StateType::Task,
                    name: "B".into(),
                    input: output.clone(),
                },
            ),
            event(
                11,
                EventKind::ActivityScheduled {
                    resource: "arn".into(),
                    input: output,
                    timeout_seconds: Some(60),
                    heartbeat_seconds: None,
                },
            ),
        ];
        let text = encode(&events);
        assert_eq!(
            text,
            r#"[6,1000,[10,0,"w\"1"],[11,0,[{"a": 1}]],[7,0,0,"A",0,0],[6,0,0,"B",0],[9,0,"arn",0,60,null]]"#
        );
        assert_eq!(decode(&text).unwrap(), events);
    }

    #[test]
    fn scopes_times_and_hidden_notes_are_kept() {
        let event = |id, previous_id, at, scope, kind| HistoryEvent {
            id,
            previous_id,
            at: Timestamp::from_millis(at),
            scope,
            kind,
        };
        let retry = EventKind::RetryScheduled { retrier: 1, due: Timestamp::from_millis(-5) };
        let failed = |result| EventKind::MapIterationFailed { name: "M".into(), index: 3, result };
        let leased = |holder: Option<&str>, again| EventKind::AttemptLeased {
            holder: holder.map(Arc::from),
            worker: holder.map(|_| "w".into()),
            millis: 30_000,
            again,
        };
        let events = [
            event(4, 4, 10, 2, retry),
            event(5, 3, 11, 3, failed(None)),
            event(6, 3, 11, 4, failed(Some(payload("0")))),
            event(6, 6, 12, 4, EventKind::HeartbeatReceived),
            event(6, 6, 12, 4, leased(Some("h"), true)),
            event(6, 6, 12, 4, leased(None, false)),
            event(6, 6, 12, 4, EventKind::AttemptReleased { by: Some("h".into()) }),
            event(6, 6, 12, 4, EventKind::AttemptReleased { by: None }),
        ];
        assert_eq!(decode(&encode(&events)).unwrap(), events);
        assert_eq!(decode(&encode(&[])).unwrap(), []);
    }

    #[test]
    fn calls_are_kept_with_and_without_a_role() {
        let at = Timestamp::from_millis(5);
        let service = || Service { resource_type: "lambda".into(), resource: "invoke".into() };
        let call = |role_arn| EventKind::TaskScheduled {
            service: service(),
            region: "us-east-1".into(),
            parameters: payload("{}"),
            timeout_seconds: None,
            heartbeat_seconds: Some(3),
            role_arn,
        };
        let function = |role_arn| EventKind::LambdaFunctionScheduled {
            resource: "arn".into(),
            input: payload("1"),
            timeout_seconds: Some(2),
            role_arn,
        };
        let kinds = [call(None), call(Some("role".into())), function(None), function(Some("role".into()))];
        let events: Vec<_> = kinds
            .into_iter()
            .zip(1..)
            .map(|(kind, id)| HistoryEvent { id, previous_id: id - 1, at, scope: TOP_LEVEL, kind })
            .collect();
        assert_eq!(decode(&encode(&events)).unwrap(), events);
        // As versions before the field wrote it.
        let old = decode(r#"[2,5,[19,0,"sqs","sendMessage","us-east-1",[{}],null,null]]"#).unwrap();
        assert!(matches!(&old[0].kind, EventKind::TaskScheduled { role_arn: None, .. }));
    }

    #[test]
    fn texts_from_before_variables_and_expressions_are_read() {
        let events = decode(r#"[3,10,[28,0,2,0,null],[7,0,7,"M",[1],1]]"#).unwrap();
        let started = EventKind::MapStateStarted {
            length: 2,
            max_concurrency: 0,
            tolerated_failures: None,
            items: None,
        };
        assert_eq!(events[0].kind, started);
        let EventKind::StateExited { assigned, last: true, .. } = &events[1].kind else {
            panic!("{events:?}")
        };
        assert_eq!(assigned, &[]);
    }

    #[test]
    fn damaged_texts_are_refused() {
        for bad in
            ["", "{}", "[1]", "[1,2,[99,0]]", "[1,2,[2,0,0]]", "[1,2,[2,0,[1,2]]]", "[1,2,[30,0,1]]", "[] []"]
        {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }
}
