//! Schedules: cron patterns, rates and single times that start executions.

use serde_json::{Map, Value, json};
use stagepost_protocol::{Payload, Timestamp};
use stagepost_schedule::{
    Backfill, BackfillError, Fired, Outcome, Overlap, RECORD_KIND, Schedule, Settings, SettingsError, Times,
};
use stagepost_store::{Record, StateMachineRow};

use super::records;
use crate::{
    operations::{Answer, Context},
    states::{now, state_machines},
    wire::{
        ApiError, Code, Members, Text, json as json_text,
        members::{ARN, DATA},
        page,
    },
};

const NAME: Text = Text::new(1, 64);
const EXPRESSION: Text = Text::new(1, 256);
const TIME_ZONE: Text = Text::new(1, 64);
const TIME: Text = Text::new(1, 64);
const STATUSES: &[&str] = &["ACTIVE", "PAUSED", "ENDED"];

/// A missed firing is made up for so long unless the schedule says otherwise.
const CATCH_UP_SECONDS: u32 = 3_600;
/// A page lists at most so many schedules: each is read with its input.
const PAGE_MAX: i64 = 100;
/// So many times are shown unless more are asked for, and at most.
const TIMES_SHOWN: usize = 10;
const TIMES_MAX: i64 = 1_000;
/// A change is tried so often against others.
const TRIES_MAX: usize = 10;

/// What CreateSchedule and UpdateSchedule ask for.
struct Request {
    name: String,
    settings: Settings,
}

impl Request {
    async fn read(cx: &Context<'_>, mut m: Members<'_>) -> Result<Request, ApiError> {
        let name = m.required_text("name", NAME);
        let expression = m.required_text("scheduleExpression", EXPRESSION);
        let time_zone = m.text("timeZone", TIME_ZONE).unwrap_or("UTC");
        let machine = m.required_text("stateMachineArn", ARN);
        let input = m.text("input", DATA).unwrap_or("{}");
        let overlap = m.one_of("overlapPolicy", &Overlap::ALL.map(Overlap::as_str));
        let overlap = overlap.and_then(Overlap::parse).unwrap_or_default();
        let jitter = m.integer("jitterSeconds", 0, u32::MAX.into());
        let catch_up = m.integer("catchUpWindowSeconds", 0, u32::MAX.into());
        let (starts_at, ends_at) = (m.text("startTime", TIME), m.text("endTime", TIME));
        m.finish()?;
        let (starts_at, ends_at) = (time("startTime", starts_at)?, time("endTime", ends_at)?);
        let input = json_text::payload(input, "Invalid execution input.")
            .map_err(|e| ApiError::about(Code::InvalidExecutionInput, e))?;
        let machine = state_machines::find(cx, machine).await?;
        check_overlap(&machine, overlap)?;
        let seconds = |given: Option<i64>, default: u32| {
            given.map_or(default, |seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
        };
        let settings = Settings {
            expression: expression.to_owned(),
            time_zone: time_zone.to_owned(),
            state_machine: machine.arn,
            input,
            overlap,
            jitter_seconds: seconds(jitter, 0),
            catch_up_seconds: seconds(catch_up, CATCH_UP_SECONDS),
            starts_at,
            ends_at,
        };
        Ok(Request { name: name.to_owned(), settings })
    }
}

/// Nobody can tell whether an Express execution still runs.
fn check_overlap(machine: &StateMachineRow, overlap: Overlap) -> Result<(), ApiError> {
    if machine.is_express() && overlap != Overlap::AllowAll {
        let message =
            "Executions of an EXPRESS state machine overlap: its schedules have the overlapPolicy ALLOW_ALL.";
        return Err(ApiError::validation(message));
    }
    Ok(())
}

fn time(member: &str, text: Option<&str>) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    match Timestamp::parse_rfc3339(text) {
        Some(time) => Ok(Some(time)),
        None => {
            let message = format!(
                "'{member}' is no time: '{text}'. Expected RFC 3339, for instance 2026-12-24T18:00:00Z"
            );
            Err(ApiError::validation(message))
        }
    }
}

fn invalid(error: &SettingsError) -> ApiError {
    ApiError::new(Code::InvalidSchedule, format!("Invalid Schedule: {error}"))
}

/// CreateSchedule. Repeating it with the same settings changes nothing and succeeds.
pub(super) async fn create(cx: &Context<'_>, m: Members<'_>) -> Answer {
    let Request { name, settings } = Request::read(cx, m).await?;
    let schedule = Schedule::new(&name, settings, now()).map_err(|error| invalid(&error))?;
    let record = record(cx, &name, 0, &schedule);
    if cx.api.reader.put_record(&record).await? {
        return Ok(shown(&name, &schedule));
    }
    let (_, existing) = find(cx, &name).await?;
    if existing.settings == schedule.settings {
        return Ok(shown(&name, &existing));
    }
    Err(ApiError::about(Code::ScheduleAlreadyExists, &name))
}

/// UpdateSchedule: gives a schedule other settings, all of them; what is left out has its default.
pub(super) async fn update(cx: &Context<'_>, m: Members<'_>) -> Answer {
    let Request { name, settings } = Request::read(cx, m).await?;
    change(cx, &name, |schedule, now| {
        schedule.update(&name, settings.clone(), now).map_err(|error| invalid(&error))
    })
    .await
}

/// DescribeSchedule.
pub(super) async fn describe(cx: &Context<'_>, m: Members<'_>) -> Answer {
    let name = named(m)?;
    let (_, schedule) = find(cx, &name).await?;
    Ok(shown(&name, &schedule))
}

/// PauseSchedule.
pub(super) async fn pause(cx: &Context<'_>, m: Members<'_>) -> Answer {
    let name = named(m)?;
    change(cx, &name, |schedule, now| {
        schedule.pause(now);
        Ok(())
    })
    .await
}

/// ResumeSchedule.
pub(super) async fn resume(cx: &Context<'_>, m: Members<'_>) -> Answer {
    let name = named(m)?;
    change(cx, &name, |schedule, now| {
        let times = times_of(schedule)?;
        schedule.resume(&times, now);
        Ok(())
    })
    .await
}

/// DeleteSchedule. What it has started runs on.
pub(super) async fn delete(cx: &Context<'_>, m: Members<'_>) -> Answer {
    let name = named(m)?;
    match cx.api.reader.delete_record(RECORD_KIND, &cx.namespace, &name, None).await? {
        true => Ok(json!({})),
        false => Err(missing(&name)),
    }
}

/// BackfillSchedule: starts the executions of past times that were not started.
pub(super) async fn backfill(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let name = m.required_text("name", NAME).to_owned();
    let (from, to) = (m.required_text("from", TIME), m.required_text("to", TIME));
    m.finish()?;
    let (from, to) = (time("from", Some(from))?, time("to", Some(to))?);
    let backfill = Backfill { from: from.unwrap_or_default(), to: to.unwrap_or_default() };
    change(cx, &name, |schedule, now| {
        schedule.backfill(backfill.clone(), now).map_err(|error: BackfillError| {
            ApiError::new(Code::InvalidSchedule, format!("Invalid Schedule: {error}"))
        })
    })
    .await
}

/// ListSchedules, by name.
pub(super) async fn list(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let status = m.one_of("statusFilter", STATUSES);
    let limit = page::size(m.integer("maxResults", 0, PAGE_MAX));
    let token = m.text("nextToken", Text::new(1, 3096));
    m.finish()?;
    let listing = format!("ListSchedules {} {}", cx.namespace, status.unwrap_or(""));
    let found = records(cx, RECORD_KIND, status, limit, page::after(&listing, token)?).await?;
    let mut schedules = Vec::with_capacity(found.items.len());
    for record in &found.items {
        schedules.push(Value::Object(summary(&record.key, &read(record)?)));
    }
    Ok(page::answer("schedules", schedules, &listing, found.next.as_deref()))
}

/// ListScheduleTimes: when a schedule, or an expression that is to become one, will fire.
pub(super) async fn list_times(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let name = m.text("name", NAME);
    let expression = m.text("scheduleExpression", EXPRESSION);
    let time_zone = m.text("timeZone", TIME_ZONE);
    let after = m.text("after", TIME);
    let count = m.integer("maxResults", 0, TIMES_MAX).and_then(|n| usize::try_from(n).ok());
    m.finish()?;
    let mut after = time("after", after)?.unwrap_or_else(now);
    let count = count.filter(|count| *count > 0).unwrap_or(TIMES_SHOWN);
    let times = match (name, expression) {
        (Some(name), None) => {
            let (_, schedule) = find(cx, name).await?;
            let times = times_of(&schedule)?;
            let next = || schedule.settings.next_after(&times, after).inspect(|at| after = *at);
            std::iter::from_fn(next).take(count).collect::<Vec<_>>()
        }
        (None, Some(expression)) => {
            let times = Times::parse(expression, time_zone.unwrap_or("UTC"), None);
            let times = times.map_err(|error| invalid(&error.into()))?;
            let next = || times.next_after(after).inspect(|at| after = *at);
            std::iter::from_fn(next).take(count).collect()
        }
        _ => {
            let message = "Exactly one of name and scheduleExpression must be specified";
            return Err(ApiError::validation(message));
        }
    };
    Ok(json!({ "times": times.iter().map(Timestamp::to_string).collect::<Vec<_>>() }))
}

/// A request that has a name and nothing else.
fn named(mut m: Members<'_>) -> Result<String, ApiError> {
    let name = m.required_text("name", NAME).to_owned();
    m.finish()?;
    Ok(name)
}

fn missing(name: &str) -> ApiError {
    ApiError::about(Code::ScheduleDoesNotExist, name)
}

fn times_of(schedule: &Schedule) -> Result<Times, ApiError> {
    schedule.settings.times().map_err(|error| invalid(&error.into()))
}

fn read(record: &Record) -> Result<Schedule, ApiError> {
    record.body.read().map_err(|error| ApiError::internal(format!("the schedule '{}': {error}", record.key)))
}

async fn find(cx: &Context<'_>, name: &str) -> Result<(i64, Schedule), ApiError> {
    let record = cx.api.reader.record(RECORD_KIND, &cx.namespace, name).await?;
    let record = record.ok_or_else(|| missing(name))?;
    Ok((record.version, read(&record)?))
}

fn record(cx: &Context<'_>, name: &str, version: i64, schedule: &Schedule) -> Record {
    Record {
        kind: RECORD_KIND.to_owned(),
        namespace: cx.namespace.clone(),
        key: name.to_owned(),
        label: schedule.status().to_owned(),
        due_at: schedule.due_at(name),
        version,
        body: Payload::from_serialize(schedule).expect("a schedule has no maps and so always serialises"),
    }
}

/// Changes a schedule as it is, also while the coordinator or somebody else changes it.
async fn change(
    cx: &Context<'_>,
    name: &str,
    change: impl Fn(&mut Schedule, Timestamp) -> Result<(), ApiError>,
) -> Answer {
    for _ in 0..TRIES_MAX {
        let (version, mut schedule) = find(cx, name).await?;
        change(&mut schedule, now())?;
        if cx.api.reader.put_record(&record(cx, name, version, &schedule)).await? {
            return Ok(shown(name, &schedule));
        }
    }
    let message = format!("The schedule '{name}' is being changed all the time; try again.");
    Err(ApiError::new(Code::ServiceUnavailable, message))
}

fn summary(name: &str, schedule: &Schedule) -> Map<String, Value> {
    let settings = &schedule.settings;
    let mut shown = Map::new();
    let mut put = |member: &str, value: Value| shown.insert(member.to_owned(), value);
    put("name", name.into());
    put("status", schedule.status().into());
    put("scheduleExpression", settings.expression.as_str().into());
    put("timeZone", settings.time_zone.as_str().into());
    put("stateMachineArn", settings.state_machine.to_string().into());
    if let Some(next) = schedule.next.filter(|_| !schedule.paused) {
        put("nextTime", next.to_string().into());
    }
    shown
}

fn shown(name: &str, schedule: &Schedule) -> Value {
    let settings = &schedule.settings;
    let mut shown = summary(name, schedule);
    let mut put = |member: &str, value: Value| shown.insert(member.to_owned(), value);
    put("input", settings.input.as_str().into());
    put("overlapPolicy", settings.overlap.as_str().into());
    put("jitterSeconds", settings.jitter_seconds.into());
    put("catchUpWindowSeconds", settings.catch_up_seconds.into());
    for (member, time) in [
        ("startTime", settings.starts_at),
        ("endTime", settings.ends_at),
        ("creationTime", Some(schedule.created_at)),
        ("updateTime", Some(schedule.updated_at)),
        ("waitingTime", schedule.waiting),
    ] {
        if let Some(time) = time {
            put(member, time.to_string().into());
        }
    }
    let backfills = schedule.backfills.iter();
    let backfills = backfills.map(|b| json!({ "from": b.from.to_string(), "to": b.to.to_string() }));
    put("backfills", backfills.collect());
    let counts = schedule.counts;
    put(
        "counts",
        json!({
            "started": counts.started,
            "skipped": counts.skipped,
            "missed": counts.missed,
            "failed": counts.failed,
        }),
    );
    put("recent", schedule.recent.iter().rev().map(fired).collect());
    shown.into()
}

fn fired(fired: &Fired) -> Value {
    let mut shown = json!({ "scheduledTime": fired.scheduled.to_string(), "time": fired.at.to_string() });
    match &fired.outcome {
        Outcome::Started(execution) => shown["executionArn"] = execution.to_string().into(),
        Outcome::Failed(reason) => shown["error"] = reason.as_str().into(),
    }
    shown
}
