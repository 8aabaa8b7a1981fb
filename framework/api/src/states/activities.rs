//! Activities: their registry. A task whose activity was deleted stays on its queue.

use serde_json::{Value, json};
use stagepost_protocol::ActivityArn;
use stagepost_store::ActivityRow;

use super::{
    Answer, Context, names, nothing, now,
    settings::{self, Settings},
};
use crate::wire::{
    ApiError, Code, Members, Text,
    members::{ARN, NAME},
    page,
};

/// CreateActivity. Repeating it with other tags changes nothing and succeeds, as documented.
pub(super) async fn create(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let name = m.required_text("name", NAME);
    let tags = settings::read_tags(&mut m).unwrap_or_default();
    let mut settings = Settings::read(&mut m);
    m.finish()?;
    names::activity_name(name)?;
    settings.tag(&tags)?;
    let row = ActivityRow {
        namespace: cx.namespace.clone(),
        name: name.to_owned(),
        created_at: now(),
        settings: settings.to_payload(),
    };
    let row = match cx.api.reader.create_activity(&row).await? {
        None => row,
        Some(existing) if Settings::of(&existing.settings).configures_like(&settings) => existing,
        Some(existing) => return Err(ApiError::about(Code::ActivityAlreadyExists, arn(&existing))),
    };
    Ok(json!({
        "activityArn": arn(&row).to_string(),
        "creationDate": row.created_at.as_seconds_f64(),
    }))
}

/// DescribeActivity.
pub(super) async fn describe(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("activityArn", ARN);
    m.finish()?;
    let row = find(cx, &names::activity(arn)?).await?;
    let mut answer = item(&row);
    answer["encryptionConfiguration"] = Settings::of(&row.settings).encryption_or_default();
    Ok(answer)
}

/// ListActivities.
pub(super) async fn list(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let limit = page::size(m.integer("maxResults", 0, page::PAGE_MAX));
    let token = m.text("nextToken", Text::new(1, 1024));
    m.finish()?;
    let listing = format!("ListActivities {}", cx.namespace);
    let after = page::after(&listing, token)?;
    let found = cx.api.reader.activities(&cx.namespace, limit, after.as_deref()).await?;
    let items: Vec<Value> = found.items.iter().map(item).collect();
    Ok(page::answer("activities", items, &listing, found.next.as_deref()))
}

/// DeleteActivity. Deleting what is not there succeeds.
pub(super) async fn delete(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("activityArn", ARN);
    m.finish()?;
    let arn = names::activity(arn)?;
    cx.api.reader.delete_activity(&arn.namespace, &arn.name).await?;
    nothing()
}

/// An activity that must be there.
pub(super) async fn find(cx: &Context<'_>, arn: &ActivityArn) -> Result<ActivityRow, ApiError> {
    let row = cx.api.reader.activity(&arn.namespace, &arn.name).await?;
    row.ok_or_else(|| ApiError::about(Code::ActivityDoesNotExist, arn))
}

fn arn(row: &ActivityRow) -> ActivityArn {
    ActivityArn { namespace: row.namespace.clone(), name: row.name.clone() }
}

fn item(row: &ActivityRow) -> Value {
    json!({
        "activityArn": arn(row).to_string(),
        "name": row.name,
        "creationDate": row.created_at.as_seconds_f64(),
    })
}
