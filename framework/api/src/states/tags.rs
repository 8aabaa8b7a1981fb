//! Tags of state machines and activities.

use serde_json::json;
use stagepost_protocol::ActivityArn;
use stagepost_store::{ActivityRow, StateMachineRow};

use super::{
    Answer, Context, names, nothing,
    settings::{self, Settings},
};
use crate::wire::{ApiError, Code, Members, Text, members::ARN};

/// What carries tags.
enum Resource {
    StateMachine(StateMachineRow),
    Activity(ActivityRow),
}

impl Resource {
    async fn find(cx: &Context<'_>, arn: &str) -> Result<Resource, ApiError> {
        let reader = &cx.api.reader;
        let found = match ActivityArn::parse(arn) {
            Ok(activity) => {
                reader.activity(&activity.namespace, &activity.name).await?.map(Resource::Activity)
            }
            Err(_) => match names::state_machine(arn)? {
                (machine, None) => reader.state_machine(&machine).await?.map(Resource::StateMachine),
                (_, Some(_)) => None,
            },
        };
        found.ok_or_else(|| ApiError::about(Code::ResourceNotFound, arn))
    }

    fn settings(&self) -> Settings {
        Settings::of(match self {
            Resource::StateMachine(row) => &row.settings,
            Resource::Activity(row) => &row.settings,
        })
    }

    async fn save(self, cx: &Context<'_>, arn: &str, settings: &Settings) -> Answer {
        let settings = settings.to_payload();
        let found = match self {
            Resource::StateMachine(row) => {
                cx.api.reader.update_state_machine(&StateMachineRow { settings, ..row }, None).await?
            }
            Resource::Activity(row) => {
                cx.api.reader.update_activity(&ActivityRow { settings, ..row }).await?
            }
        };
        if found { nothing() } else { Err(ApiError::about(Code::ResourceNotFound, arn)) }
    }
}

/// TagResource.
pub(super) async fn tag(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("resourceArn", ARN);
    m.require("tags");
    let tags = settings::read_tags(&mut m).unwrap_or_default();
    m.finish()?;
    let resource = Resource::find(cx, arn).await?;
    let mut settings = resource.settings();
    settings.tag(&tags)?;
    resource.save(cx, arn, &settings).await
}

/// UntagResource.
pub(super) async fn untag(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("resourceArn", ARN);
    m.require("tagKeys");
    let keys = m.texts("tagKeys", Text::new(1, 128)).unwrap_or_default();
    m.finish()?;
    let resource = Resource::find(cx, arn).await?;
    let mut settings = resource.settings();
    settings.untag(&keys);
    resource.save(cx, arn, &settings).await
}

/// ListTagsForResource.
pub(super) async fn list(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("resourceArn", ARN);
    m.finish()?;
    Ok(json!({ "tags": Resource::find(cx, arn).await?.settings().tags() }))
}
