//! `trigger`: create, change, list, show, pause, resume and delete triggers.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use stagepost_protocol::Namespace;
use stagepost_server::{ApiClient, Style};

use super::{args::ClientArgs, executions::machine_arn, failure::Failure, output};

/// Longest source in a table, in characters.
const SOURCE_CHARS_MAX: usize = 60;

#[derive(Debug, Subcommand)]
pub(crate) enum TriggerCommand {
    /// Let each message of a queue or an exchange start an execution
    Create(CreateArgs),
    /// Change what its messages start, or how they are read
    Update(UpdateArgs),
    /// List them
    List(ListArgs),
    /// Show one
    Show(NameArgs),
    /// Let messages wait in the queue
    Pause(PauseArgs),
    /// Let messages start executions again
    Resume(NameArgs),
    /// Delete one. Messages that wait stay in their queue
    Delete(NameArgs),
}

/// How the body of a message is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Body {
    /// JSON.
    Json,
    /// Text, which becomes a JSON string.
    Text,
    /// Bytes, which become a JSON string in base64.
    Binary,
    /// As the content type says.
    ByContentType,
}

impl Body {
    /// As the API spells it.
    fn as_str(self) -> &'static str {
        match self {
            Body::Json => "JSON",
            Body::Text => "TEXT",
            Body::Binary => "BINARY",
            Body::ByContentType => "BY_CONTENT_TYPE",
        }
    }
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct SourceArgs {
    /// Take messages from this queue of the broker
    #[arg(
        long,
        required_unless_present_any = ["exchange", "queue_url"],
        conflicts_with_all = ["exchange", "queue_url"],
        value_name = "QUEUE"
    )]
    queue: Option<String>,
    /// Take messages from this exchange, through a queue of the trigger's own
    #[arg(long, requires = "routing_key", conflicts_with = "queue_url", value_name = "EXCHANGE")]
    exchange: Option<String>,
    /// Which routing keys of the exchange: `*` stands for one word, `#` for any number of them
    #[arg(long, requires = "exchange", value_name = "KEY")]
    routing_key: Option<String>,
    /// Take messages from this queue of SQS, or of what speaks its protocol
    #[arg(long, value_name = "URL")]
    queue_url: Option<String>,
}

/// What can be set, and changed later.
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// A JSONata expression from `{body, headers, properties}` to `{input, name}`, or `@FILE`. Default: the body is the
    /// input, the message's id the name
    #[arg(long, value_name = "EXPRESSION|@FILE")]
    mapping: Option<String>,
    /// How bodies are read. Default of a new one: json
    #[arg(long, value_enum, value_name = "FORMAT")]
    body: Option<Body>,
    /// At most so many messages are unsettled in a coordinator. Default of a new one: 64
    #[arg(long, value_name = "N")]
    prefetch: Option<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name
    name: String,
    /// The state machine that each message starts: its name or its ARN
    #[arg(long)]
    state_machine: String,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Its name
    name: String,
    /// The state machine that each message starts from now on
    #[arg(long)]
    state_machine: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// At most so many
    #[arg(long, default_value_t = 100, value_name = "N")]
    max: usize,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// Its name
    name: String,
    /// Why, for people
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

impl SourceArgs {
    fn request(&self) -> Value {
        let members = [
            ("queue", &self.queue),
            ("exchange", &self.exchange),
            ("routingKey", &self.routing_key),
            ("queueUrl", &self.queue_url),
        ];
        members
            .into_iter()
            .filter_map(|(name, text)| Some((name.to_owned(), Value::from(text.as_deref()?))))
            .collect()
    }
}

impl SettingsArgs {
    fn add(&self, api: &ApiClient, state_machine: Option<&str>, request: &mut Value) -> Result<(), Failure> {
        if let Some(name) = state_machine {
            request["stateMachineArn"] = machine_arn(api, name)?.to_string().into();
        }
        if let Some(mapping) = &self.mapping {
            let text = match mapping.strip_prefix('@') {
                Some(file) => output::read_file(file.as_ref())?,
                None => mapping.clone(),
            };
            request["mapping"] = text.into();
        }
        if let Some(body) = self.body {
            request["body"] = body.as_str().into();
        }
        if let Some(prefetch) = self.prefetch {
            request["prefetch"] = prefetch.into();
        }
        Ok(())
    }
}

pub(crate) async fn run(command: TriggerCommand, namespace: Namespace) -> Result<ExitCode, Failure> {
    match command {
        TriggerCommand::Create(args) => {
            let api = args.client.client(namespace)?;
            let mut request = json!({ "name": args.name, "source": args.source.request() });
            args.settings.add(&api, Some(&args.state_machine), &mut request)?;
            change(&api, "CreateTrigger", &request, "is there", args.client.json).await
        }
        TriggerCommand::Update(args) => {
            let api = args.client.client(namespace)?;
            let mut request = json!({ "name": args.name });
            args.settings.add(&api, args.state_machine.as_deref(), &mut request)?;
            change(&api, "UpdateTrigger", &request, "was changed", args.client.json).await
        }
        TriggerCommand::List(args) => list(args, namespace).await,
        TriggerCommand::Show(args) => show(args, namespace).await,
        TriggerCommand::Pause(args) => {
            let api = args.client.client(namespace)?;
            let request = json!({ "name": args.name, "reason": args.reason });
            change(&api, "PauseTrigger", &request, "is paused; messages wait in its queue", args.client.json)
                .await
        }
        TriggerCommand::Resume(args) => {
            let api = args.client.client(namespace)?;
            let request = json!({ "name": args.name });
            change(&api, "ResumeTrigger", &request, "is active", args.client.json).await
        }
        TriggerCommand::Delete(args) => {
            let api = args.client.client(namespace)?;
            let request = json!({ "name": args.name });
            change(&api, "DeleteTrigger", &request, "was deleted", args.client.json).await
        }
    }
}

/// Changes a trigger and says so; coordinators act on it within seconds.
async fn change(
    api: &ApiClient,
    operation: &str,
    request: &Value,
    done: &str,
    json: bool,
) -> Result<ExitCode, Failure> {
    let answer = api.call_own(operation, request).await?;
    if json {
        output::json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    let style = Style::of(&std::io::stderr());
    let name = request["name"].as_str().unwrap_or_default();
    output::note(&format!("{} {} {done}", style.green("✓"), style.bold(name)));
    if let Some(problem) = answer["problem"].as_str() {
        output::note(&format!("{} {problem}", style.bold("note:")));
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: ListArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let request = json!({ "maxResults": args.max.clamp(1, 1000) });
    let triggers = api.own_pages("ListTriggers", request, "triggers", args.max).await?;
    if args.client.json {
        output::json(&Value::Array(triggers));
    } else if triggers.is_empty() {
        output::note(
            "there are no triggers\nhint: stagepost trigger create NAME --queue QUEUE --state-machine NAME",
        );
    } else {
        output::data(&table(&triggers));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(triggers: &[Value]) -> String {
    let text = |trigger: &Value, member: &str| output::harmless(trigger[member].as_str().unwrap_or("-"));
    let row = |trigger: &Value| {
        let machine = text(trigger, "stateMachineArn");
        vec![
            text(trigger, "name"),
            text(trigger, "status"),
            output::short(&source(&trigger["source"]), SOURCE_CHARS_MAX),
            machine.rsplit(':').next().unwrap_or(&machine).to_owned(),
            trigger["problem"]
                .as_str()
                .or(trigger["statusReason"].as_str())
                .map_or_else(String::new, output::harmless),
        ]
    };
    let rows: Vec<_> = triggers.iter().map(row).collect();
    output::table(&["NAME", "STATUS", "SOURCE", "STARTS", "NOTE"], &rows)
}

/// A source on one line.
fn source(source: &Value) -> String {
    let text = |member: &str| source[member].as_str().unwrap_or("-");
    match (source["queue"].as_str(), source["queueUrl"].as_str()) {
        (Some(queue), _) => format!("queue {queue}"),
        (None, Some(url)) => url.to_owned(),
        (None, None) => format!("exchange {} key {}", text("exchange"), text("routingKey")),
    }
}

async fn show(args: NameArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let trigger = api.call_own("DescribeTrigger", &json!({ "name": args.name })).await?;
    if args.client.json {
        output::json(&trigger);
    } else {
        output::data(&shown(&trigger, Style::of(&std::io::stdout())));
    }
    Ok(ExitCode::SUCCESS)
}

/// A trigger for people, a line for each member.
fn shown(trigger: &Value, style: Style) -> String {
    let mut lines = Vec::new();
    let mut line = |label: &str, value: String| {
        lines.push(format!("{}  {}", style.dim(&format!("{label:<8}")), output::harmless(&value)));
    };
    for (member, label) in [
        ("name", "name"),
        ("status", "status"),
        ("statusReason", "because"),
        ("problem", "problem"),
        ("stateMachineArn", "starts"),
        ("body", "body"),
        ("mapping", "mapping"),
    ] {
        if let Some(text) = trigger[member].as_str() {
            line(label, text.to_owned());
        }
        if member == "problem" {
            line("source", source(&trigger["source"]));
        }
    }
    line("prefetch", trigger["prefetch"].to_string());
    line("created", output::time(&trigger["creationDate"]));
    line("changed", output::time(&trigger["updateDate"]));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_shown_on_a_line_and_whole() {
        let web = json!({
            "name": "web", "source": { "queue": "web-orders" }, "status": "PAUSED", "statusReason": "migration",
            "stateMachineArn": "arn:aws:states:us-east-1:000000000000:stateMachine:orders",
            "body": "JSON", "mapping": "{'input': body}", "prefetch": 64, "creationDate": 0.0, "updateDate": 1.0,
        });
        let events = json!({
            "name": "events", "source": { "exchange": "e", "routingKey": "a.#" }, "status": "ACTIVE",
            "problem": "its state machine does not exist", "stateMachineArn": "arn:x:gone",
        });
        assert_eq!(
            table(&[web.clone(), events]),
            "NAME    STATUS  SOURCE              STARTS  NOTE\n\
             web     PAUSED  queue web-orders    orders  migration\n\
             events  ACTIVE  exchange e key a.#  gone    its state machine does not exist"
        );
        assert_eq!(
            shown(&web, Style::plain()),
            "name      web\nstatus    PAUSED\nbecause   migration\nsource    queue web-orders\n\
             starts    arn:aws:states:us-east-1:000000000000:stateMachine:orders\nbody      JSON\n\
             mapping   {'input': body}\nprefetch  64\ncreated   1970-01-01T00:00:00.000Z\n\
             changed   1970-01-01T00:00:01.000Z"
        );
    }
}
