//! Triggers: their registry. Coordinators look at it every few seconds and act on it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stagepost_coordinator::triggers::{
    self, BodyFormat, PREFETCH_DEFAULT, PREFETCH_MAX, Source, Status, StoredTrigger, TRIGGERS_MAX, Trigger,
};
use stagepost_protocol::StateMachineArn;

use super::records;
use crate::{
    operations::{Answer, Context},
    states::now,
    wire::{
        ApiError, Code, Members, Text,
        members::{ARN, NAME},
        page,
    },
};

const AMQP_NAME: Text = Text::new(0, 255);
const QUEUE_URL: Text = Text::new(1, 2048);
const MAPPING: Text = Text::new(0, 16 * 1024);
const REASON: Text = Text::new(0, 1024);
const STATUSES: [&str; 3] = ["ACTIVE", "PAUSED", "DELETING"];
/// A change is tried so often while others change the same trigger.
const ATTEMPTS_MAX: usize = 10;

/// CreateTrigger. Repeating it changes nothing and succeeds.
pub(super) async fn create(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let name = m.required_text("name", NAME).to_owned();
    m.require("source");
    let source = m.structure("source", |source| {
        let queue = source.text("queue", AMQP_NAME);
        let exchange = source.text("exchange", AMQP_NAME);
        let routing_key = source.text("routingKey", AMQP_NAME);
        let queue_url = source.text("queueUrl", QUEUE_URL);
        Source::of(queue, exchange, routing_key, queue_url)
    });
    m.require("stateMachineArn");
    let settings = Settings::read(&mut m);
    m.finish()?;
    let source = source.map_or(Err("it has no source"), |(_, source)| source);
    let trigger = Trigger {
        name: name.clone(),
        source: source.map_err(|problem| invalid(&name, problem))?,
        state_machine_arn: settings.state_machine()?.ok_or_else(|| ApiError::about(Code::InvalidArn, ""))?,
        body: settings.body.unwrap_or_default(),
        mapping: settings.mapping.filter(|mapping| !mapping.is_empty()).map(str::to_owned),
        prefetch: settings.prefetch.unwrap_or(PREFETCH_DEFAULT),
    };
    trigger.check(&cx.api.options.topology).map_err(|problems| invalid(&name, &problems))?;
    let there = triggers::all(&*cx.api.reader).await?;
    let same_name = |t: &&StoredTrigger| t.namespace == cx.namespace && t.trigger.name == name;
    if let Some(stored) = there.iter().find(same_name) {
        if stored.status != Status::Deleting && stored.trigger == trigger {
            return description(cx, stored).await;
        }
        return Err(ApiError::about(Code::TriggerAlreadyExists, name));
    }
    if let Some(other) = there.iter().find(|other| other.trigger.source == trigger.source) {
        let other = &other.trigger.name;
        return Err(invalid(&name, &format!("'{other}' takes its messages from the same source")));
    }
    if there.len() >= TRIGGERS_MAX {
        return Err(invalid(&name, &format!("there are {TRIGGERS_MAX} triggers already")));
    }
    let mut stored = StoredTrigger::new(cx.namespace.clone(), trigger, now());
    if !cx.api.reader.put_record(&stored.to_record()).await? {
        return Err(ApiError::about(Code::TriggerAlreadyExists, name));
    }
    stored.version = 1;
    description(cx, &stored).await
}

/// UpdateTrigger: what is not given stays. The source never changes, since messages of the old one may wait.
pub(super) async fn update(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let name = m.required_text("name", NAME);
    let has_source = m.structure("source", |_| ()).is_some();
    let settings = Settings::read(&mut m);
    m.finish()?;
    if has_source {
        return Err(invalid(name, "its source cannot be changed; create another trigger"));
    }
    let state_machine = settings.state_machine()?;
    change(cx, name, |stored| {
        let trigger = &mut stored.trigger;
        if let Some(state_machine) = &state_machine {
            trigger.state_machine_arn = state_machine.clone();
        }
        trigger.body = settings.body.unwrap_or(trigger.body);
        if let Some(mapping) = settings.mapping {
            trigger.mapping = Some(mapping.to_owned()).filter(|mapping| !mapping.is_empty());
        }
        trigger.prefetch = settings.prefetch.unwrap_or(trigger.prefetch);
        stored.updated_at = now();
        trigger.check(&cx.api.options.topology).map_err(|problems| invalid(name, &problems))
    })
    .await
}

/// PauseTrigger: messages wait in the queue.
pub(super) async fn pause(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let name = m.required_text("name", NAME);
    let reason = m.text("reason", REASON);
    m.finish()?;
    change(cx, name, |stored| {
        stored.set_status(Status::Paused, reason, now());
        Ok(())
    })
    .await
}

/// ResumeTrigger.
pub(super) async fn resume(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let name = m.required_text("name", NAME);
    m.finish()?;
    change(cx, name, |stored| {
        stored.set_status(Status::Active, None, now());
        Ok(())
    })
    .await
}

/// DescribeTrigger.
pub(super) async fn describe(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let name = m.required_text("name", NAME);
    m.finish()?;
    description(cx, &find(cx, name).await?).await
}

/// ListTriggers, by name.
pub(super) async fn list(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let status = m.one_of("statusFilter", &STATUSES);
    let limit = page::size(m.integer("maxResults", 0, page::PAGE_MAX));
    let token = m.text("nextToken", Text::new(1, 1024));
    m.finish()?;
    let listing = format!("ListTriggers {} {status:?}", cx.namespace);
    let found = records(cx, StoredTrigger::RECORD, status, limit, page::after(&listing, token)?).await?;
    let (mut items, mut machines) = (Vec::new(), BTreeMap::new());
    for stored in found.items.iter().filter_map(StoredTrigger::from_record) {
        let arn = &stored.trigger.state_machine_arn;
        let exists = match machines.get(&arn.to_string()) {
            Some(exists) => *exists,
            None => {
                let exists = cx.api.reader.state_machine(arn).await?.is_some();
                machines.insert(arn.to_string(), exists);
                exists
            }
        };
        items.push(item(&stored, exists));
    }
    Ok(page::answer("triggers", items, &listing, found.next.as_deref()))
}

/// DeleteTrigger. The binding to an exchange is taken back by the coordinators, some seconds later.
pub(super) async fn delete(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let name = m.required_text("name", NAME);
    m.finish()?;
    for _ in 0..ATTEMPTS_MAX {
        let mut stored = find(cx, name).await?;
        let done = match stored.trigger.source {
            _ if stored.status == Status::Deleting => true,
            Source::Exchange { .. } => {
                stored.set_status(Status::Deleting, None, now());
                cx.api.reader.put_record(&stored.to_record()).await?
            }
            Source::Queue(_) | Source::Url(_) => {
                let (kind, version) = (StoredTrigger::RECORD, Some(stored.version));
                cx.api.reader.delete_record(kind, &cx.namespace, name, version).await?
            }
        };
        if done {
            return Ok(json!({}));
        }
    }
    Err(contended(name))
}

/// What CreateTrigger and UpdateTrigger share.
struct Settings<'a> {
    state_machine_arn: Option<&'a str>,
    body: Option<BodyFormat>,
    mapping: Option<&'a str>,
    prefetch: Option<u16>,
}

impl<'a> Settings<'a> {
    fn read(m: &mut Members<'a>) -> Settings<'a> {
        let body = m.one_of("body", &BodyFormat::NAMES);
        Settings {
            state_machine_arn: m.text("stateMachineArn", ARN),
            // Those are the names of all formats.
            body: body.and_then(|name| serde_json::from_value(name.into()).ok()),
            mapping: m.text("mapping", MAPPING),
            prefetch: m
                .integer("prefetch", 1, i64::from(PREFETCH_MAX))
                .and_then(|prefetch| u16::try_from(prefetch).ok()),
        }
    }

    fn state_machine(&self) -> Result<Option<StateMachineArn>, ApiError> {
        let parse =
            |arn| StateMachineArn::parse(arn).map_err(|error| ApiError::about(Code::InvalidArn, error));
        self.state_machine_arn.map(parse).transpose()
    }
}

fn invalid(name: &str, problems: &str) -> ApiError {
    ApiError::new(Code::InvalidTrigger, format!("The trigger '{name}' cannot be used: {problems}."))
}

fn contended(name: &str) -> ApiError {
    let message = format!("The trigger '{name}' is being changed by others; try again.");
    ApiError::new(Code::ServiceUnavailable, message)
}

async fn find(cx: &Context<'_>, name: &str) -> Result<StoredTrigger, ApiError> {
    let record = cx.api.reader.record(StoredTrigger::RECORD, &cx.namespace, name).await?;
    let record = record.ok_or_else(|| ApiError::about(Code::TriggerDoesNotExist, name))?;
    StoredTrigger::from_record(&record)
        .ok_or_else(|| ApiError::internal(format!("the trigger '{name}' was written by a newer version")))
}

/// Changes a trigger that is not being deleted, and describes it.
async fn change(
    cx: &Context<'_>,
    name: &str,
    change: impl Fn(&mut StoredTrigger) -> Result<(), ApiError>,
) -> Answer {
    for _ in 0..ATTEMPTS_MAX {
        let mut stored = find(cx, name).await?;
        if stored.status == Status::Deleting {
            return Err(ApiError::about(Code::TriggerDoesNotExist, name));
        }
        change(&mut stored)?;
        if cx.api.reader.put_record(&stored.to_record()).await? {
            return description(cx, &stored).await;
        }
    }
    Err(contended(name))
}

async fn description(cx: &Context<'_>, stored: &StoredTrigger) -> Answer {
    let exists = cx.api.reader.state_machine(&stored.trigger.state_machine_arn).await?.is_some();
    Ok(item(stored, exists))
}

fn item(stored: &StoredTrigger, state_machine_exists: bool) -> Value {
    let mut item = json!(stored.trigger);
    item["status"] = stored.status.as_str().into();
    if let Some(reason) = &stored.reason {
        item["statusReason"] = reason.as_str().into();
    }
    if !state_machine_exists {
        item["problem"] = "its state machine does not exist; messages wait until it does".into();
    }
    item["creationDate"] = stored.created_at.as_seconds_f64().into();
    item["updateDate"] = stored.updated_at.as_seconds_f64().into();
    item
}
