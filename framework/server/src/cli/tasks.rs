//! `send-success`, `send-failure` and `send-heartbeat`: answers to a task token.

use std::process::ExitCode;

use serde_json::json;
use stagepost_protocol::Namespace;

use super::{
    args::{SendFailureArgs, SendHeartbeatArgs, SendSuccessArgs},
    failure::Failure,
    output,
};

pub(crate) async fn success(args: SendSuccessArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let text = output::typed_json("--output", &args.output)?;
    args.client.client(namespace)?.send_success(&args.token, &text).await?;
    Ok(accepted(args.client.json, "the task has succeeded"))
}

pub(crate) async fn failure(args: SendFailureArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    api.send_failure(&args.token, args.error.as_deref(), args.cause.as_deref()).await?;
    Ok(accepted(args.client.json, "the task has failed"))
}

pub(crate) async fn heartbeat(args: SendHeartbeatArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    api.call("SendTaskHeartbeat", &json!({ "taskToken": args.token })).await?;
    Ok(accepted(args.client.json, "the heartbeat was taken"))
}

fn accepted(json: bool, what: &str) -> ExitCode {
    if json {
        output::json(&json!({}));
    } else {
        output::note(what);
    }
    ExitCode::SUCCESS
}
