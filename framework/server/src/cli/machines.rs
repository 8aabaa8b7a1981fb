//! `deploy` and `list`.

use std::{path::Path, process::ExitCode};

use serde_json::{Value, json};
use stagepost_asl::Severity;
use stagepost_protocol::Namespace;
use stagepost_server::{CallError, Deployed, Style};

use super::{
    args::{DeployArgs, ListArgs, MachineType},
    executions::machine_arn,
    failure::Failure,
    output, validate,
};

pub(crate) async fn deploy(args: DeployArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let text = output::read_file(&args.file)?;
    let style = Style::of(&std::io::stderr());
    let kind = args.kind.map(MachineType::as_str);
    let deployed = api.deploy_with(&args.name, &text, args.role_arn.as_deref(), kind).await;
    let (arn, deployed) = deployed.map_err(|error| refused(error, &text, &args.file, style))?;
    let done = match deployed {
        Deployed::Created => "created",
        Deployed::Updated => "updated",
        Deployed::Unchanged => "unchanged",
    };
    if args.client.json {
        output::json(&json!({ "stateMachineArn": arn, "result": done }));
        return Ok(ExitCode::SUCCESS);
    }
    let warnings: Vec<_> =
        validate::findings(&text).into_iter().filter(|f| f.severity == Severity::Warning).collect();
    output::notes(&validate::rendered(&warnings, &text, &args.file, style));
    output::note(&format!("{} {done} {}", style.green("✓"), style.bold(&args.name)));
    output::data(&arn.to_string());
    Ok(ExitCode::SUCCESS)
}

/// What the API found in a definition, shown at its lines where this binary finds it too.
fn refused(error: CallError, text: &str, file: &Path, style: Style) -> Failure {
    if !error.is("InvalidDefinition") {
        return error.into();
    }
    let findings = validate::findings(text);
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    if errors == 0 {
        return error.into();
    }
    output::notes(&validate::rendered(&findings, text, file, style));
    let s = if errors == 1 { "" } else { "s" };
    Failure::refused(format!("the definition has {errors} error{s}; nothing was changed (InvalidDefinition)"))
}

pub(crate) async fn list(args: ListArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let limit = args.max.clamp(1, 1000);
    let text = |item: &Value, member: &str| item[member].as_str().unwrap_or("-").to_owned();
    let (items, table) = match &args.state_machine {
        None => {
            let request = json!({ "maxResults": limit });
            let items = api.pages("ListStateMachines", request, "stateMachines", args.max).await?;
            let row = |item: &Value| vec![text(item, "name"), output::time(&item["creationDate"])];
            let rows: Vec<_> = items.iter().map(row).collect();
            (items, output::table(&["NAME", "CREATED"], &rows))
        }
        Some(name) => {
            let machine = machine_arn(&api, name)?;
            let mut request = json!({ "stateMachineArn": machine, "maxResults": limit });
            if let Some(status) = args.status {
                request["statusFilter"] = status.as_str().into();
            }
            let items = api.pages("ListExecutions", request, "executions", args.max).await?;
            let row = |item: &Value| {
                let times = ["startDate", "stopDate"].map(|member| output::time(&item[member]));
                let [started, stopped] = times;
                vec![text(item, "name"), text(item, "status"), started, stopped]
            };
            let rows: Vec<_> = items.iter().map(row).collect();
            (items, output::table(&["NAME", "STATUS", "STARTED", "STOPPED"], &rows))
        }
    };
    if args.client.json {
        output::json(&Value::Array(items));
    } else if items.is_empty() {
        let (none, hint) = match &args.state_machine {
            None => ("there are no state machines", "stagepost deploy FILE --name NAME"),
            Some(_) => ("there are no such executions", "stagepost start STATE_MACHINE --input JSON"),
        };
        output::note(&format!("{none}\nhint: {hint}"));
    } else {
        output::data(&table);
    }
    Ok(ExitCode::SUCCESS)
}
