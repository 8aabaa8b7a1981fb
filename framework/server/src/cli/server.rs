//! `dev`, `serve` and `recover`: what runs an installation.

use std::{net::SocketAddr, process::ExitCode};

use serde_json::json;
use stagepost_broker::rabbitmq::QueueKind;
use stagepost_protocol::Namespace;
use stagepost_server::{
    Backend, Installation, OpenError, Roles, Settings, Style, recover as recover_installation,
};

use super::{
    args::{DevArgs, ListenArgs, QueueType, RecoverArgs, ServeArgs, ServersArgs},
    failure::Failure,
    output,
};

/// What a process that SIGINT ended has as its exit code.
const INTERRUPTED: u8 = 130;

pub(crate) async fn dev(args: DevArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let mut settings = Settings::embedded(args.data);
    settings.namespace = namespace;
    apply(&args.listen, &mut settings)?;
    run(settings, args.listen.listen, dev_banner).await
}

pub(crate) async fn serve(args: ServeArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let mut settings = servers(args.servers)?;
    settings.namespace = namespace;
    settings.roles = Roles::parse(args.roles.iter().map(String::as_str))?;
    apply(&args.listen, &mut settings)?;
    run(settings, args.listen.listen, |settings, address| {
        let roles = args.roles.join(",");
        tracing::info!(%address, roles, shards = settings.coordinator.shards.count(), "serving");
    })
    .await
}

pub(crate) async fn recover(args: RecoverArgs) -> Result<ExitCode, Failure> {
    let settings = servers(args.servers)?;
    let recovered = tokio::select! {
        recovered = recover_installation(&settings) => recovered?,
        () = signal() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let (executions, messages, broken) = (recovered.executions, recovered.messages, recovered.broken);
    if args.json {
        output::json(&json!({ "executions": executions, "messages": messages, "broken": broken }));
    } else {
        output::data(&format!(
            "{executions} running executions looked at, {messages} messages published again"
        ));
    }
    if broken > 0 {
        return Err(Failure::server(format!(
            "{broken} executions could not be replayed; the log names them"
        )));
    }
    Ok(ExitCode::SUCCESS)
}

fn servers(args: ServersArgs) -> Result<Settings, Failure> {
    let missing = |name: &str| {
        Failure::usage(format!("{name} is not set")).with_hint(
            "AMQP_URL and DATABASE_URL name RabbitMQ and PostgreSQL; `stagepost dev` needs neither",
        )
    };
    let given = |url: Option<String>| url.filter(|url| !url.is_empty());
    let amqp_url = given(args.amqp_url).ok_or_else(|| missing("AMQP_URL"))?;
    let database_url = given(args.database_url).ok_or_else(|| missing("DATABASE_URL"))?;
    let mut settings = Settings::servers(amqp_url, database_url);
    settings.set_shards(args.shards)?;
    settings.set_queue_prefix(&args.queue_prefix)?;
    settings.postgres.schema = args.database_schema.filter(|schema| !schema.is_empty());
    settings.rabbitmq.queue_kind = match args.queue_type {
        QueueType::Quorum => QueueKind::Quorum,
        QueueType::Classic => QueueKind::Classic,
    };
    Ok(settings)
}

fn apply(args: &ListenArgs, settings: &mut Settings) -> Result<(), Failure> {
    // An empty variable is one that is not set.
    let triggers = args.triggers.iter().filter(|trigger| !trigger.is_empty());
    triggers.into_iter().try_for_each(|trigger| settings.add_trigger(trigger))?;
    if let Some(file) = args.triggers_file.as_deref().filter(|file| !file.as_os_str().is_empty()) {
        settings.add_triggers(&output::read_file(file)?)?;
    }
    for queue in args.callback_queues.iter().filter(|queue| !queue.is_empty()) {
        settings.add_callback_queue(queue)?;
    }
    settings.coordinator.dead_letters_max = args.dead_letters_max;
    match args.public_url.as_deref().filter(|url| !url.is_empty()) {
        Some(url) => settings.set_public_url(url)?,
        // What is listened on is where people reach it, if it is one address.
        None if args.listen.port() != 0 && !args.listen.ip().is_unspecified() => {
            settings.public_url = Some(format!("http://{}", args.listen));
        }
        None => {}
    }
    settings.files = args.files.clone().filter(|directory| !directory.as_os_str().is_empty());
    Ok(())
}

/// Opens, serves until a signal comes, and ends in order; a second signal ends at once.
async fn run(
    settings: Settings,
    address: SocketAddr,
    ready: impl FnOnce(&Settings, SocketAddr),
) -> Result<ExitCode, Failure> {
    // An address that is taken is told before anything is opened; it is listened on once all is there.
    if let Err(source) = std::net::TcpListener::bind(address) {
        return Err(OpenError::Listen { address, source }.into());
    }
    let mut installation = tokio::select! {
        opened = Installation::open(settings) => opened?,
        () = signal() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let address = match installation.serve(address).await {
        Ok(address) => address,
        Err(error) => {
            installation.shutdown().await;
            return Err(error.into());
        }
    };
    ready(installation.settings(), address);
    let failed = tokio::select! {
        part = installation.failed() => Some(part),
        () = signal() => None,
    };
    tracing::info!("shutting down; once more ends at once");
    tokio::select! {
        () = installation.shutdown() => {}
        () = signal() => return Ok(ExitCode::from(INTERRUPTED)),
    }
    match failed {
        None => {
            tracing::info!("bye");
            Ok(ExitCode::SUCCESS)
        }
        Some(part) => Err(Failure::server(format!("a part of this process has failed: {part}")).with_hint(
            "start it again: nothing is lost; the log above says what happened, please report it",
        )),
    }
}

/// Waits for SIGINT or SIGTERM.
async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            },
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be listened for");
                // Without a handler the signal ends the process by itself.
                let _ = tokio::signal::ctrl_c().await;
            }
        }
    }
    #[cfg(not(unix))]
    {
        // Without a handler the signal ends the process by itself.
        let _ = tokio::signal::ctrl_c().await;
    }
}

fn dev_banner(settings: &Settings, address: SocketAddr) {
    let style = Style::of(&std::io::stderr());
    let url = format!("http://{address}");
    let label = |text: &str| style.dim(&format!("  {text:<9}"));
    let data = match &settings.backend {
        Backend::Embedded { data: Some(data) } => data.display().to_string(),
        _ => "in memory, until this process ends (--data DIR keeps it)".to_owned(),
    };
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        "\n{} {version}, everything in this process\n\n{}{url}\n{}{url}/healthz  /readyz  /metrics\n{}{data}\n",
        style.bold("stagepost dev"),
        label("API"),
        label("health"),
        label("data"),
    );
    for trigger in &settings.triggers {
        let (name, machine) = (&trigger.name, &trigger.state_machine_arn.name);
        text += &format!("{}each message of {name} starts {machine}\n", label("trigger"));
    }
    let endpoint =
        if url == stagepost_server::DEFAULT_ENDPOINT { String::new() } else { format!(" --endpoint {url}") };
    text += &format!(
        "\n  Try, in another terminal:\n    \
         stagepost deploy definition.asl.json --name hello{endpoint}\n    \
         stagepost start hello --input '{{\"who\": \"world\"}}' --wait{endpoint}\n    \
         aws --endpoint-url {url} stepfunctions list-state-machines\n\n  \
         Workers connect to {url}. Ctrl-C ends it.\n\n"
    );
    output::notes(&text);
}
