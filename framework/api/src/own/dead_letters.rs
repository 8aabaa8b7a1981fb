//! Dead letters: list, describe, requeue, discard. They are of the installation, whatever namespace a request is in.
//!
//! Whoever holds a task token completes its task: what could be one is masked unless a request says `reveal`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use stagepost_broker::Error as BrokerError;
use stagepost_coordinator::client::ClientError;
use stagepost_protocol::{DeadLetter, DeadReason, HeaderValue, Namespace, Properties, token::masked};
use stagepost_store::{ListRecords, Record};

use crate::{
    operations::{Answer, Context},
    wire::{ApiError, Code, Members, Text, page},
};

const ID: Text = Text::new(1, 64);
const QUEUE: Text = Text::new(1, 255);
/// Letters to a page, and to a look at the store: they come with their bodies.
const PAGE_MAX: usize = 50;
/// Letters that one request looks at for those of a reason.
const LOOKED_AT_MAX: usize = 1_000;
/// Letters that one request requeues or discards.
const CHANGED_MAX: usize = 100;

/// ListDeadLetters: newest first. A page may have few letters, or none, and still name a next one.
pub(super) async fn list(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let reasons: Vec<&'static str> = DeadReason::ALL.iter().map(|reason| reason.as_str()).collect();
    let source = m.text("source", QUEUE);
    let reason = m.one_of("reason", &reasons);
    let limit = page::size(m.integer("maxResults", 0, page::PAGE_MAX)).min(PAGE_MAX);
    let token = m.text("nextToken", Text::new(1, 3096));
    m.finish()?;
    let listing = format!("ListDeadLetters {source:?} {reason:?}");
    let mut after = page::after(&listing, token)?;
    let (mut found, mut looked_at) = (Vec::new(), 0);
    loop {
        let query = ListRecords {
            kind: DeadLetter::RECORD.to_owned(),
            namespace: Some(Namespace::default()),
            label: source.map(str::to_owned),
            descending: true,
            limit,
            after,
        };
        let page = cx.api.reader.records(&query).await?;
        looked_at += page.items.len();
        for record in &page.items {
            let letter = letter(record)?;
            if reason.is_none_or(|reason| letter.kind.as_str() == reason) {
                found.push(summary(&record.key, &letter, false));
            }
        }
        after = page.next;
        if after.is_none() || !found.is_empty() || looked_at >= LOOKED_AT_MAX {
            break;
        }
    }
    Ok(page::answer("deadLetters", found, &listing, after.as_deref()))
}

/// DescribeDeadLetter.
pub(super) async fn describe(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let id = m.required_text("deadLetterId", ID);
    let reveal = m.flag("reveal").unwrap_or(false);
    m.finish()?;
    let (_, letter) = find(cx, id).await?;
    let mut answer = summary(id, &letter, reveal);
    answer["properties"] = properties(&letter.properties, reveal);
    answer["headers"] = headers(&letter.properties, reveal);
    match std::str::from_utf8(&letter.body) {
        Ok(text) => {
            answer["bodyEncoding"] = "utf-8".into();
            answer["body"] = shown(text, reveal).into();
        }
        Err(_) => {
            answer["bodyEncoding"] = "base64".into();
            // Packed, or in another encoding, a token does not look like one.
            if reveal {
                answer["body"] = STANDARD.encode(&letter.body).into();
            }
        }
    }
    Ok(answer)
}

/// What is done to letters.
#[derive(Clone, Copy)]
enum Change<'a> {
    /// Publish them, to the queue that they came from unless one is named.
    Requeue(Option<&'a str>),
    Discard,
}

/// RequeueDeadLetters: each goes to the queue that it came from, or to the one that is named.
pub(super) async fn requeue(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let ids = ids(&mut m);
    let queue = m.text("queue", QUEUE);
    m.finish()?;
    changed(cx, &bounded(ids)?, "requeued", Change::Requeue(queue)).await
}

/// DiscardDeadLetters.
pub(super) async fn discard(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let ids = ids(&mut m);
    m.finish()?;
    changed(cx, &bounded(ids)?, "discarded", Change::Discard).await
}

fn ids<'a>(m: &mut Members<'a>) -> Vec<&'a str> {
    m.require("deadLetterIds");
    m.texts("deadLetterIds", ID).unwrap_or_default()
}

fn bounded(ids: Vec<&str>) -> Result<Vec<&str>, ApiError> {
    if (1..=CHANGED_MAX).contains(&ids.len()) {
        return Ok(ids);
    }
    let message = format!("deadLetterIds must name 1 to {CHANGED_MAX} dead letters, but names {}", ids.len());
    Err(ApiError::validation(message))
}

/// Changes one letter after the other, and says which were. What would not work for the next one either ends it.
async fn changed(cx: &Context<'_>, ids: &[&str], done: &str, change: Change<'_>) -> Answer {
    let (mut changed, mut failures) = (Vec::new(), Vec::new());
    let mut hopeless = None;
    for id in ids {
        let result = match (&hopeless, change) {
            (Some(error), _) => Err(ApiError::clone(error)),
            (None, Change::Requeue(queue)) => requeue_one(cx, id, queue).await,
            (None, Change::Discard) => discard_one(cx, id).await,
        };
        let Err(error) = result else {
            changed.push(id);
            continue;
        };
        let (code, message) = (error.code.as_str(), &error.message);
        failures.push(json!({ "deadLetterId": id, "code": code, "message": message }));
        if matches!(error.code, Code::ServiceUnavailable | Code::InternalFailure) {
            hopeless = Some(error);
        }
    }
    match hopeless {
        Some(error) if changed.is_empty() => Err(error),
        _ => Ok(json!({ done: changed, "failures": failures })),
    }
}

async fn discard_one(cx: &Context<'_>, id: &str) -> Result<(), ApiError> {
    let (record, _) = find(cx, id).await?;
    let (namespace, version) = (Namespace::default(), Some(record.version));
    match cx.api.reader.delete_record(DeadLetter::RECORD, &namespace, id, version).await? {
        true => Ok(()),
        false => Err(taken(id)),
    }
}

/// Publishes a letter to a queue; it is no dead letter any more when the broker has it. Of several requests at a time one
/// publishes it; a crash in between lets it be a dead letter still, and be requeued once more.
async fn requeue_one(cx: &Context<'_>, id: &str, queue: Option<&str>) -> Result<(), ApiError> {
    let (record, letter) = find(cx, id).await?;
    let Some(queue) = queue.map(str::to_owned).or_else(|| letter.source.clone()) else {
        let message =
            format!("It is not known which queue dead letter '{id}' came from; name one in 'queue'");
        return Err(ApiError::validation(message));
    };
    if !cx.api.reader.put_record(&record).await? {
        return Err(taken(id));
    }
    match cx.api.commands.publish(letter.revive(queue.clone())).await {
        Ok(()) => {}
        Err(ClientError::Broker(
            error @ (BrokerError::Unroutable { .. }
            | BrokerError::Refused { .. }
            | BrokerError::Denied { .. }),
        )) => {
            let message = format!("Dead letter '{id}' was not requeued: {error}");
            return Err(ApiError::validation(message));
        }
        Err(error) => return Err(error.into()),
    }
    let (namespace, version) = (Namespace::default(), record.version + 1);
    let deleted = cx.api.reader.delete_record(DeadLetter::RECORD, &namespace, id, Some(version)).await;
    deleted.map(drop).map_err(|error| {
        let ApiError { code, message } = error.into();
        let done = format!("Dead letter '{id}' is on queue '{queue}' again, but is still listed; discard it");
        ApiError::new(code, format!("{done}: {message}"))
    })
}

async fn find(cx: &Context<'_>, id: &str) -> Result<(Record, DeadLetter), ApiError> {
    let record = match id.contains('\0') {
        true => None,
        false => cx.api.reader.record(DeadLetter::RECORD, &Namespace::default(), id).await?,
    };
    let record = record.ok_or_else(|| missing(id))?;
    let letter = letter(&record)?;
    Ok((record, letter))
}

fn letter(record: &Record) -> Result<DeadLetter, ApiError> {
    let letter = DeadLetter::from_payload(&record.body);
    letter
        .ok_or_else(|| ApiError::internal(format!("the stored dead letter '{}' cannot be read", record.key)))
}

/// Somebody else was faster.
fn taken(id: &str) -> ApiError {
    ApiError::validation(format!("Dead letter '{id}' is being requeued or discarded by another request"))
}

fn missing(id: &str) -> ApiError {
    ApiError::about(Code::ResourceNotFound, id)
}

/// What listings say of a letter.
fn summary(id: &str, letter: &DeadLetter, reveal: bool) -> Value {
    let mut summary = json!({
        "deadLetterId": id,
        "reason": letter.kind.as_str(),
        "message": shown(&letter.reason, reveal),
        "takenDate": letter.taken_at.as_seconds_f64(),
        "bodyBytes": letter.body.len(),
    });
    let optional = [("source", &letter.source), ("messageId", &letter.properties.message_id)];
    for (member, text) in optional {
        if let Some(text) = text {
            summary[member] = shown(text, reveal).into();
        }
    }
    summary
}

fn shown(text: &str, reveal: bool) -> String {
    if reveal { text.to_owned() } else { masked(text).into_owned() }
}

fn properties(properties: &Properties, reveal: bool) -> Value {
    let mut all = Map::new();
    for (name, text) in [
        ("messageId", &properties.message_id),
        ("correlationId", &properties.correlation_id),
        ("replyTo", &properties.reply_to),
        ("contentType", &properties.content_type),
        ("type", &properties.kind),
    ] {
        all.extend(text.as_ref().map(|text| (name.to_owned(), shown(text, reveal).into())));
    }
    all.extend(properties.priority.map(|n| ("priority".to_owned(), n.into())));
    all.extend(properties.timestamp.map(|n| ("timestamp".to_owned(), n.into())));
    all.into()
}

fn headers(properties: &Properties, reveal: bool) -> Value {
    let value = |value: &HeaderValue| match value {
        HeaderValue::Text(text) => shown(text, reveal).into(),
        // A text within stays a text: what is masked has no quotes in it.
        HeaderValue::Other(json) => HeaderValue::Other(shown(json, reveal)).to_json(),
        other => other.to_json(),
    };
    let headers = properties.headers.iter();
    headers.map(|(name, header)| (shown(name, reveal), value(header))).collect::<Map<_, _>>().into()
}
