//! State machines: the registry of definitions.

use serde_json::{Value, json};
use stagepost_protocol::{MapItem, StateMachineArn, Timestamp};
use stagepost_store::{DefinitionRow, ExecutionSummary, StateMachineRow};
use uuid::Uuid;

use super::{
    Answer, Context, definitions, names, nothing, now,
    settings::{self, Settings},
};
use crate::wire::{
    ApiError, Code, Members, Text,
    members::{ARN, DEFINITION, NAME},
    page,
};

const KINDS: &[&str] = &["STANDARD", "EXPRESS"];

/// CreateStateMachine. Repeating it with another role or other tags changes nothing and succeeds, as documented.
pub(super) async fn create(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let name = m.required_text("name", NAME);
    let definition = m.required_text("definition", DEFINITION);
    let role_arn = m.required_text("roleArn", ARN);
    let kind = m.one_of("type", KINDS).unwrap_or("STANDARD");
    let mut settings = Settings::read(&mut m);
    let tags = settings::read_tags(&mut m).unwrap_or_default();
    let publish = Publish::read(&mut m);
    m.finish()?;
    names::name(name)?;
    names::any_arn(role_arn)?;
    settings.check()?;
    settings.tag(&tags)?;
    publish.check()?;
    definitions::check(definition, kind)?;

    let definition = DefinitionRow { id: Uuid::new_v4().to_string(), text: definition.to_owned() };
    settings.set_first_revision(&definition.id);
    let now = now();
    let row = StateMachineRow {
        arn: StateMachineArn { namespace: cx.namespace.clone(), name: name.to_owned() },
        definition_id: definition.id.clone(),
        role_arn: role_arn.to_owned(),
        kind: kind.to_owned(),
        status: "ACTIVE".to_owned(),
        created_at: now,
        updated_at: now,
        settings: settings.to_payload(),
    };
    let row = match cx.api.reader.create_state_machine(&row, &definition).await? {
        None => row,
        Some(existing) => repeated(cx, existing, &definition.text, kind, &settings).await?,
    };
    Ok(json!({
        "stateMachineArn": row.arn.to_string(),
        "creationDate": row.created_at.as_seconds_f64(),
    }))
}

/// The state machine that has the name already, if the request asks for the same one.
async fn repeated(
    cx: &Context<'_>,
    existing: StateMachineRow,
    definition: &str,
    kind: &str,
    settings: &Settings,
) -> Result<StateMachineRow, ApiError> {
    let stored = stored_definition(cx, &existing.definition_id).await?;
    let same = stored.text == definition
        && existing.kind == kind
        && Settings::of(&existing.settings).configures_like(settings);
    if same { Ok(existing) } else { Err(ApiError::about(Code::StateMachineAlreadyExists, &existing.arn)) }
}

/// `publish` and `versionDescription`: versions come later, and claiming to have made one would be worse than
/// refusing.
struct Publish<'a> {
    publish: bool,
    description: Option<&'a str>,
}

impl<'a> Publish<'a> {
    fn read(m: &mut Members<'a>) -> Publish<'a> {
        let publish = m.flag("publish").unwrap_or(false);
        Publish { publish, description: m.text("versionDescription", Text::sensitive(0, 256)) }
    }

    fn check(&self) -> Result<(), ApiError> {
        if self.publish {
            let message = "Versions are not supported yet: send the request without 'publish'.";
            return Err(ApiError::validation(message));
        }
        if self.description.is_some_and(|d| !d.is_empty()) {
            return Err(ApiError::validation("Version description can only be set when publish is true"));
        }
        Ok(())
    }
}

/// UpdateStateMachine. Running executions keep the definition and the role that they were started with.
pub(super) async fn update(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("stateMachineArn", ARN);
    let definition = m.text("definition", DEFINITION);
    let role_arn = m.text("roleArn", ARN);
    let configured = Settings::read(&mut m);
    let publish = Publish::read(&mut m);
    m.finish()?;
    names::state_machine(arn)?;
    if definition.is_none() && role_arn.is_none() && !configured.configures() {
        let message = "Either the definition, the role ARN, the LoggingConfiguration, or the TracingConfiguration must be specified";
        return Err(ApiError::new(Code::MissingRequiredParameter, message));
    }
    role_arn.map_or(Ok(()), names::any_arn)?;
    configured.check()?;
    publish.check()?;
    definition.map_or(Ok(()), |text| definitions::check(text, "STANDARD"))?;

    let mut row = find(cx, arn).await?;
    if row.is_express() {
        definition.map_or(Ok(()), |text| definitions::check(text, &row.kind))?;
    }
    let current = stored_definition(cx, &row.definition_id).await?;
    let mut settings = Settings::of(&row.settings);
    let before = (row.role_arn.clone(), settings.clone());
    settings.configure(&configured);
    if let Some(role_arn) = role_arn {
        row.role_arn = role_arn.to_owned();
    }
    let text = definition.map_or_else(|| current.text.clone(), str::to_owned);
    // A revision is a definition with its settings: whatever changed, there is a new one.
    let changed = text != current.text || (&row.role_arn, &settings) != (&before.0, &before.1);
    let revision = changed.then(|| DefinitionRow { id: Uuid::new_v4().to_string(), text });
    if let Some(revision) = &revision {
        row.definition_id.clone_from(&revision.id);
    }
    row.updated_at = now();
    row.settings = settings.to_payload();
    if !cx.api.reader.update_state_machine(&row, revision.as_ref()).await? {
        return Err(missing(arn));
    }
    let mut answer = json!({ "updateDate": row.updated_at.as_seconds_f64() });
    show_revision(&mut answer, &settings, &row.definition_id);
    Ok(answer)
}

/// DescribeStateMachine.
pub(super) async fn describe(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("stateMachineArn", ARN);
    let metadata_only = metadata_only(&mut m);
    m.finish()?;
    let row = find(cx, arn).await?;
    let definition = stored_definition(cx, &row.definition_id).await?;
    let settings = Settings::of(&row.settings);
    let mut answer = json!({
        "stateMachineArn": row.arn.to_string(),
        "name": row.arn.name,
        "status": row.status,
        "definition": if metadata_only { "{}" } else { definition.text.as_str() },
        "roleArn": row.role_arn,
        "type": row.kind,
        "creationDate": row.created_at.as_seconds_f64(),
        "loggingConfiguration": settings.logging(),
        "tracingConfiguration": settings.tracing(),
    });
    answer["encryptionConfiguration"] = settings.encryption_or_default();
    if !metadata_only {
        show_variables(&mut answer, &definition.text);
    }
    show_revision(&mut answer, &settings, &row.definition_id);
    Ok(answer)
}

/// DescribeStateMachineForExecution: what the execution runs, whatever its state machine has become since.
pub(super) async fn describe_for_execution(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("executionArn", ARN);
    let metadata_only = metadata_only(&mut m);
    m.finish()?;
    let arn = names::execution(arn)?;
    let Some(execution) = cx.api.reader.execution(arn.id()).await? else {
        return Err(ApiError::about(Code::ExecutionDoesNotExist, arn));
    };
    // That of a child execution of a Map Run names that of its parent.
    let (definition_id, label) = match execution.definition_id.split_once('/') {
        Some((id, label)) => (id, Some(label)),
        None => (execution.definition_id.as_str(), None),
    };
    let mut definition = stored_definition(cx, definition_id).await?;
    if let Some(label) = label {
        definition.text = processor(&definition.text, label)?;
    }
    let machine = cx.api.reader.state_machine(&execution.state_machine).await?;
    let settings = machine.as_ref().map(|row| Settings::of(&row.settings)).unwrap_or_default();
    let mut answer = json!({
        "stateMachineArn": execution.state_machine.to_string(),
        "name": execution.state_machine.name,
        "definition": if metadata_only { "{}" } else { definition.text.as_str() },
        "roleArn": execution.role_arn,
        "updateDate": update_date(machine.as_ref(), &execution).as_seconds_f64(),
        "loggingConfiguration": settings.logging(),
        "tracingConfiguration": settings.tracing(),
    });
    if let Some(MapItem { map_run, .. }) = &execution.map_item {
        answer["mapRunArn"] = map_run.to_string().into();
        answer["label"] = label.unwrap_or_default().into();
    }
    answer["encryptionConfiguration"] = settings.encryption_or_default();
    if !metadata_only && label.is_none() {
        show_variables(&mut answer, &definition.text);
    }
    if machine.is_some() {
        show_revision(&mut answer, &settings, &execution.definition_id);
    }
    Ok(answer)
}

/// The item processor of the distributed Map state with this label, as the definition has it.
fn processor(definition: &str, label: &str) -> Result<String, ApiError> {
    let unknown = || ApiError::internal(format!("the definition has no Map state with the label {label}"));
    let (machine, _) = stagepost_asl::parse(definition).map_err(|_| unknown())?;
    let (state, ..) = machine.distributed_maps().find(|(.., d)| &*d.label == label).ok_or_else(unknown)?;
    let document: Value = serde_json::from_str(definition).map_err(|_| unknown())?;
    let state = document.pointer(&state.pointer).ok_or_else(unknown)?;
    let processor = state.get("ItemProcessor").or_else(|| state.get("Iterator")).ok_or_else(unknown)?;
    Ok(processor.to_string())
}

/// When the revision that an execution runs was made: known for the first and the current one; of others, only
/// that it was before the execution.
fn update_date(machine: Option<&StateMachineRow>, execution: &ExecutionSummary) -> Timestamp {
    match machine {
        Some(row) if Settings::of(&row.settings).first_revision() == Some(&execution.definition_id) => {
            row.created_at
        }
        Some(row) if row.definition_id == execution.definition_id => row.updated_at,
        _ => execution.started_at,
    }
}

/// ListStateMachines.
pub(super) async fn list(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let limit = page::size(m.integer("maxResults", 0, page::PAGE_MAX));
    let token = m.text("nextToken", Text::new(1, 1024));
    m.finish()?;
    let listing = format!("ListStateMachines {}", cx.namespace);
    let after = page::after(&listing, token)?;
    let found = cx.api.reader.state_machines(&cx.namespace, limit, after.as_deref()).await?;
    let items: Vec<Value> = found.items.iter().map(item).collect();
    Ok(page::answer("stateMachines", items, &listing, found.next.as_deref()))
}

fn item(row: &StateMachineRow) -> Value {
    json!({
        "stateMachineArn": row.arn.to_string(),
        "name": row.arn.name,
        "type": row.kind,
        "creationDate": row.created_at.as_seconds_f64(),
    })
}

/// DeleteStateMachine. Running executions go on to their end; deleting what is not there succeeds.
pub(super) async fn delete(cx: &Context<'_>, mut m: Members<'_>) -> Answer {
    let arn = m.required_text("stateMachineArn", ARN);
    m.finish()?;
    let (parsed, qualifier) = names::state_machine(arn)?;
    if qualifier.is_some() {
        let message = "The ARN of a state machine without a version, an alias or a label is needed.";
        return Err(ApiError::validation(message));
    }
    cx.api.reader.delete_state_machine(&parsed).await?;
    nothing()
}

/// The state machine of an ARN. One with a version, an alias or a label names nothing: there are none yet.
pub(crate) async fn find(cx: &Context<'_>, arn: &str) -> Result<StateMachineRow, ApiError> {
    let (parsed, qualifier) = names::state_machine(arn)?;
    if qualifier.is_some() {
        return Err(missing(arn));
    }
    cx.api.reader.state_machine(&parsed).await?.ok_or_else(|| missing(arn))
}

fn missing(arn: &str) -> ApiError {
    ApiError::about(Code::StateMachineDoesNotExist, arn)
}

async fn stored_definition(cx: &Context<'_>, id: &str) -> Result<DefinitionRow, ApiError> {
    match cx.api.reader.definition(id).await? {
        Some(definition) => Ok(definition),
        None => Err(ApiError::internal(format!("definition {id} is not in the store"))),
    }
}

/// Reads `includedData`.
pub(super) fn metadata_only(m: &mut Members<'_>) -> bool {
    m.one_of("includedData", &["ALL_DATA", "METADATA_ONLY"]) == Some("METADATA_ONLY")
}

/// The variables that the definition's states refer to, where there are any.
fn show_variables(answer: &mut Value, definition: &str) {
    let Ok((machine, _)) = stagepost_asl::parse(definition) else { return };
    let references = machine.variable_references();
    if !references.is_empty() {
        answer["variableReferences"] = json!(references);
    }
}

/// The service shows no revision id before the first update.
fn show_revision(answer: &mut Value, settings: &Settings, definition_id: &str) {
    if settings.first_revision() != Some(definition_id) {
        answer["revisionId"] = definition_id.into();
    }
}
