//! People decide on expense claims, with reminder, escalation and a default when nobody answers.
//!
//! This program is a whole installation on the embedded default: it deploys `definition.asl.json`, sends the claims of
//! `claims/` (or the files that are named as arguments), shows their steps as they pass, and plays the people: it reads
//! the messages that `Notify` sends, as a mail or chat program would, and answers some of them.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use stagepost_broker::{Broker, ConsumeOptions, QueueSpec};
use stagepost_protocol::{Message, Properties};
use stagepost_server::{ApiClient, Installation, Steps, Style};

const NAME: &str = "expense-claim";
/// Where the definition's `Notify` sends messages.
const MAIL: &str = "approval-mail";
const CALLBACKS: &str = "stagepost.callbacks";

#[tokio::main]
async fn main() -> Result<()> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut claims: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if claims.is_empty() {
        let all = ["lunch.json", "party.json", "laptop.json", "cable.json"];
        claims = all.map(|claim| home.join("claims").join(claim)).into();
    }
    let mut installation = Installation::open_embedded(None).await?;
    let api = installation.api_client().await?;
    let people = tokio::spawn(answer_mail(installation.broker(), api.clone()));

    api.deploy(NAME, &read(&home.join("definition.asl.json"))?).await?;
    let mut out = std::io::stdout();
    for claim in &claims {
        decide(&api, claim, &mut out).await?;
    }
    writeln!(out, "\nAll approvals, and who answered them:")?;
    for approval in
        api.call_own("ListApprovals", &json!({})).await?["approvals"].as_array().into_iter().flatten()
    {
        let by = approval["by"].as_str().unwrap_or("nobody");
        let text = |member: &str| approval[member].as_str().unwrap_or_default().to_owned();
        writeln!(out, "  {:10} {by:8} {}", text("status"), text("title"))?;
    }

    people.abort();
    installation.shutdown().await;
    writeln!(out, "\n{} claims done.", claims.len())?;
    Ok(())
}

/// Sends a claim and follows it to its end.
async fn decide(api: &ApiClient, file: &Path, out: &mut std::io::Stdout) -> Result<()> {
    let style = Style::of(out);
    writeln!(out, "\n{} {}", style.bold("Claim"), file.file_name().unwrap_or_default().display())?;
    let machine = api.state_machine_arn(NAME)?;
    let execution = api.start(&machine, &read(file)?, None).await?;
    let mut steps = Steps::new(style);
    let ended = api
        .follow(&execution, |events| {
            // A closed terminal ends the show, not the claims.
            let _ = write!(out, "{}", steps.show(events));
            let _ = out.flush();
        })
        .await?;
    let status = ended.status.as_str();
    ensure!(status == "SUCCEEDED", "the claim in {} ended as {status}", file.display());
    writeln!(out, "{} {}", style.bold("Result"), ended.output.unwrap_or_default())?;
    Ok(())
}

/// The people: the lead pays for lunch and refuses the party, the manager pays for the laptop. Nobody cares for cables.
async fn answer_mail(broker: Arc<dyn Broker>, api: ApiClient) -> Result<()> {
    broker.declare(&[QueueSpec::ours(MAIL), QueueSpec::ours(CALLBACKS)]).await?;
    let mut mail = broker.consume(MAIL, ConsumeOptions { prefetch: 8 }).await?;
    let acker = mail.acker();
    while let Some(letters) = mail.next(8).await {
        for letter in letters {
            let asked: Value = serde_json::from_slice(&letter.body)?;
            match (asked["approvers"][0].as_str(), asked["details"]["claim"].as_str()) {
                (Some("lead"), Some("lunch")) => approve(&api, &asked, "lead").await?,
                (Some("lead"), Some("party")) => reject(broker.as_ref(), &asked, "lead").await?,
                (Some("manager"), Some("laptop")) => approve(&api, &asked, "manager").await?,
                _ => {}
            }
            acker.ack(letter.tag).await;
        }
    }
    Ok(())
}

/// By the API, as `stagepost approvals approve` does it.
async fn approve(api: &ApiClient, asked: &Value, by: &str) -> Result<()> {
    let answer = json!({ "cents": asked["details"]["cents"] }).to_string();
    let request = json!({
        "approvalId": asked["approvalId"], "decision": "APPROVE", "by": by, "comment": "fine", "answer": answer
    });
    match api.call_own("AnswerApproval", &request).await {
        // On a slow machine the time may be over: then somebody is asked again.
        Err(error) if error.is("ApprovalClosed") => Ok(()),
        answered => Ok(answered.map(drop)?),
    }
}

/// By a token message, as any program that reaches the broker can.
async fn reject(broker: &dyn Broker, asked: &Value, by: &str) -> Result<()> {
    let cause = json!({ "By": by, "Comment": "not on the company" }).to_string();
    let answer =
        json!({ "taskToken": asked["taskToken"], "error": "Approval.Rejected", "cause": cause, "by": by });
    let message = Message {
        queue: CALLBACKS.into(),
        body: serde_json::to_vec(&answer)?.into(),
        properties: Properties::default(),
        persistent: true,
    };
    for published in broker.publish(vec![message]).await {
        published?;
    }
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}
