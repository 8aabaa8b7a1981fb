//! What can be typed.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use stagepost_protocol::Namespace;
use stagepost_server::{ApiClient, DEFAULT_ENDPOINT, bench::BenchArgs};
use stagepost_store::ExecutionStatus;

use super::{
    approvals::ApprovalsCommand, dead_letters::DeadLettersCommand, failure::Failure, triggers::TriggerCommand,
};

pub(crate) mod schedule;

use schedule::ScheduleArgs;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; with `start --wait`: the execution succeeded
  1  the execution failed, timed out or was aborted (`start --wait`); the definition has errors (`validate`);
     a case failed or too little is covered (`test`);
     something was found (`explore`)
  2  wrong usage: flags, files, JSON
  3  refused by the API: not found, exists already, an invalid definition, …
  4  cannot reach the server, the broker or the database, or they are in trouble
  5  the server cannot start or has failed
  130  interrupted";

/// Workflows as messages: AWS Step Functions on RabbitMQ and PostgreSQL, or on nothing but this binary.
#[derive(Debug, Parser)]
#[command(name = "stagepost", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in this process: no broker, no database
    Dev(DevArgs),
    /// Run on RabbitMQ and PostgreSQL
    Serve(ServeArgs),
    /// Publish again all that is pending, after the broker lost its messages
    Recover(RecoverArgs),
    /// Check definitions, without a server
    Validate(ValidateArgs),
    /// Run the cases of a definition with mocked tasks under virtual time, without a server
    Test(TestArgs),
    /// Run one state with a mocked result or error, and show its data on the way
    TestState(TestStateArgs),
    /// Walk every path of a definition and say what is wrong with it, without a server
    Explore(ExploreArgs),
    /// Create a state machine, or give it another definition
    Deploy(DeployArgs),
    /// Start an execution
    Start(StartArgs),
    /// Show how an execution or a state machine stands
    Describe(DescribeArgs),
    /// Show the events of an execution
    History(HistoryArgs),
    /// List the state machines, or the executions of one
    List(ListArgs),
    /// Stop an execution
    Stop(StopArgs),
    /// Let an execution that failed, timed out or was stopped go on where it ended
    Redrive(RedriveArgs),
    /// Signal a running execution: a state that waits for a signal of that name goes on with its input
    Signal(SignalArgs),
    /// Start executions by cron patterns, rates or at a time
    Schedule(ScheduleArgs),
    /// Complete the task of a token with an output
    SendSuccess(SendSuccessArgs),
    /// Fail the task of a token
    SendFailure(SendFailureArgs),
    /// Tell that the task of a token is still worked on
    SendHeartbeat(SendHeartbeatArgs),
    /// Let messages of queues and exchanges start executions
    Trigger {
        #[command(subcommand)]
        command: TriggerCommand,
    },
    /// List and show tasks for people, answer them, hand them on, make links to them
    Approvals {
        #[command(subcommand)]
        command: ApprovalsCommand,
    },
    /// List, show, requeue or discard messages that could not be used
    DeadLetters {
        #[command(subcommand)]
        command: DeadLettersCommand,
    },
    /// Measure this machine's, or an installation's, broker and database under Stagepost
    Bench(BenchArgs),
}

impl Command {
    /// Whether it is a process that runs on, and so tells what it does.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Command::Dev(_) | Command::Serve(_) | Command::Recover(_))
    }
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// What to log: error, warn, info, debug, or a filter such as `stagepost=debug`. Default: info for servers, else warn
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER", help_heading = "General")]
    pub(crate) log: Option<String>,
    /// How log lines look
    #[arg(
        long,
        global = true,
        env = "STAGEPOST_LOG_FORMAT",
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "General"
    )]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object to a line.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct NamespaceArgs {
    /// The region in ARNs
    #[arg(
        long,
        global = true,
        env = "STAGEPOST_REGION",
        default_value = "us-east-1",
        help_heading = "General"
    )]
    region: String,
    /// The account in ARNs: twelve digits
    #[arg(
        long,
        global = true,
        env = "STAGEPOST_ACCOUNT",
        default_value = "000000000000",
        help_heading = "General"
    )]
    account: String,
}

impl NamespaceArgs {
    pub(crate) fn namespace(&self) -> Result<Namespace, Failure> {
        let NamespaceArgs { region, account } = self;
        if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Failure::usage(format!("'{account}' is not an account: it must be twelve digits")));
        }
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            let reason = "it must be letters, digits and '-', for instance us-east-1";
            return Err(Failure::usage(format!("'{region}' is not a region: {reason}")));
        }
        Ok(Namespace { account: account.clone(), region: region.clone() })
    }
}

/// What `dev` and `serve` share.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Where to listen
    #[arg(long, env = "STAGEPOST_LISTEN", default_value = "127.0.0.1:8083", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
    /// A queue whose messages each start an execution of a state machine: makes sure of such a trigger. Repeatable
    #[arg(
        long = "trigger",
        env = "STAGEPOST_TRIGGERS",
        value_delimiter = ',',
        value_name = "QUEUE=STATE_MACHINE"
    )]
    pub(crate) triggers: Vec<String>,
    /// A file of triggers to make sure of: a JSON list of what CreateTrigger takes
    #[arg(long = "triggers", env = "STAGEPOST_TRIGGERS_FILE", value_name = "FILE")]
    pub(crate) triggers_file: Option<PathBuf>,
    /// A further queue for token messages: its name, or the URL of a queue of SQS. Repeatable
    #[arg(
        long = "callback-queue",
        env = "STAGEPOST_CALLBACK_QUEUES",
        value_delimiter = ',',
        value_name = "QUEUE|URL"
    )]
    pub(crate) callback_queues: Vec<String>,
    /// Keep about so many dead letters in the database; further ones wait in their queue. 0: all stay in the queue
    #[arg(long, env = "STAGEPOST_DEAD_LETTERS_MAX", default_value_t = 10_000, value_name = "N")]
    pub(crate) dead_letters_max: u32,
    /// Definitions may read files below this directory as data sets, and write results there. Default: no files
    #[arg(long, env = "STAGEPOST_FILES", value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,
    /// Where people reach this server: links to approvals begin with it. Default: http:// and what is listened on
    #[arg(long, env = "STAGEPOST_PUBLIC_URL", value_name = "URL")]
    pub(crate) public_url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// Keep data in this directory. Default: in memory, until the process ends
    #[arg(long, env = "STAGEPOST_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// The servers of an installation.
#[derive(Debug, Args)]
pub(crate) struct ServersArgs {
    /// RabbitMQ: amqp://USER:PASSWORD@HOST:PORT/VHOST
    #[arg(long, env = "AMQP_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) amqp_url: Option<String>,
    /// PostgreSQL: postgres://USER:PASSWORD@HOST:PORT/DATABASE
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// The PostgreSQL schema of the tables. Default: the first of the user's search path
    #[arg(long, env = "STAGEPOST_DATABASE_SCHEMA", value_name = "SCHEMA")]
    pub(crate) database_schema: Option<String>,
    /// What the names of queues begin with
    #[arg(long, env = "STAGEPOST_QUEUE_PREFIX", default_value = "stagepost", value_name = "PREFIX")]
    pub(crate) queue_prefix: String,
    /// The type of the queues that are created
    #[arg(long, env = "STAGEPOST_QUEUE_TYPE", value_enum, default_value_t, value_name = "TYPE")]
    pub(crate) queue_type: QueueType,
    /// How many slices executions are spread over; the same for all processes of an installation
    #[arg(long, env = "STAGEPOST_SHARDS", default_value_t = 4, value_name = "N")]
    pub(crate) shards: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum QueueType {
    /// Replicated and synced to disk.
    #[default]
    Quorum,
    /// Durable, on one node.
    Classic,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) servers: ServersArgs,
    /// What this process does: api, coordinator, connectors. Without `api` it still answers /healthz, /readyz and /metrics
    #[arg(
        long,
        env = "STAGEPOST_ROLES",
        value_delimiter = ',',
        default_value = "api,coordinator,connectors",
        value_name = "ROLES"
    )]
    pub(crate) roles: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    pub(crate) servers: ServersArgs,
    /// Print the counts as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Definitions; `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Print the findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The definition; `-` for standard input
    #[arg(value_name = "DEFINITION")]
    pub(crate) definition: PathBuf,
    /// Files of cases
    #[arg(required = true, value_name = "CASES")]
    pub(crate) cases: Vec<PathBuf>,
    /// Only cases whose name holds this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    /// How the results look
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: TestFormat,
    /// Fail when less of the definition is covered: states, choices, retriers and catchers together
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=100))]
    pub(crate) coverage_min: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum TestFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For continuous integration.
    Junit,
}

#[derive(Debug, Args)]
pub(crate) struct ExploreArgs {
    /// The definition; `-` for standard input
    #[arg(value_name = "DEFINITION")]
    pub(crate) definition: PathBuf,
    /// An input of the execution: JSON or `@FILE`. Repeatable. Default: nothing is known of it
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) input: Vec<String>,
    /// Write the cases of findings into this directory, for `stagepost test`
    #[arg(long, value_name = "DIR")]
    pub(crate) cases: Option<PathBuf>,
    /// Findings of this kind do not count: uncaught, no-default, fails, endless, waits-forever, unreached, unused. Repeatable
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub(crate) allow: Vec<String>,
    /// Run at most so many paths
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    pub(crate) max_paths: usize,
    /// A path visits a task at most so often
    #[arg(long, default_value_t = 12, value_name = "N")]
    pub(crate) max_visits: u32,
    /// Stop after so many seconds
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub(crate) timeout: f64,
    /// How the findings look
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: ExploreFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ExploreFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

fn kind(text: &str) -> Result<String, String> {
    let kinds = stagepost_testing::KINDS.map(|(kind, _)| kind);
    if kinds.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(format!("the kinds are {}", kinds.join(", ")))
    }
}

/// What all commands that ask a server share.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// Where the API is
    #[arg(long, env = "STAGEPOST_ENDPOINT", default_value = DEFAULT_ENDPOINT, value_name = "URL")]
    endpoint: String,
    /// Print the API's answer as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl ClientArgs {
    pub(crate) fn client(&self, namespace: Namespace) -> Result<ApiClient, Failure> {
        Ok(ApiClient::new(&self.endpoint)?.with_namespace(namespace))
    }
}

/// The type of a state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MachineType {
    Standard,
    Express,
}

impl MachineType {
    /// As the API spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            MachineType::Standard => "STANDARD",
            MachineType::Express => "EXPRESS",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// The definition; `-` for standard input
    pub(crate) file: PathBuf,
    /// The name of the state machine
    #[arg(long)]
    pub(crate) name: String,
    /// Its role. Nothing assumes it; a new state machine gets one by default
    #[arg(long, value_name = "ARN")]
    pub(crate) role_arn: Option<String>,
    /// Whether its executions are kept (standard, the default of a new one), or run in memory for at most five minutes
    /// (express). It never changes
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<MachineType>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The state machine: its name or its ARN
    pub(crate) state_machine: String,
    /// The input: JSON, `@FILE`, or `@-` for standard input
    #[arg(long, default_value = "{}", value_name = "JSON|@FILE")]
    pub(crate) input: String,
    /// The name of the execution: a name starts one execution, however often it is tried
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Show the states as they pass, and print the output. An Express execution shows no states
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 where the workflow goes on (SUCCEEDED, CAUGHT_ERROR), 1 where it does not (FAILED, RETRIABLE)."
)]
pub(crate) struct TestStateArgs {
    /// A file with one state, or with a state machine (`--state`)
    pub(crate) file: PathBuf,
    /// The state of the state machine in the file
    #[arg(long, value_name = "NAME")]
    pub(crate) state: Option<String>,
    /// The input of the state: JSON, `@FILE`, or `@-` for standard input
    #[arg(long, default_value = "{}", value_name = "JSON|@FILE")]
    pub(crate) input: String,
    /// What its work gave: of a Task, Parallel or Map state. Without this and `--error`, a task is really called
    #[arg(long, value_name = "JSON|@FILE", conflicts_with = "error")]
    pub(crate) result: Option<String>,
    /// How its work failed
    #[arg(long)]
    pub(crate) error: Option<String>,
    /// Why it failed, for people
    #[arg(long, requires = "error")]
    pub(crate) cause: Option<String>,
    /// How often the retrier was used that applies to the error
    #[arg(long, value_name = "N", requires = "error")]
    pub(crate) retries: Option<u32>,
    /// The variables that the state sees: a JSON object
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) variables: Option<String>,
    /// The context object that the state sees, instead of a made one
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) context: Option<String>,
    /// The role in the context object, where nothing is mocked
    #[arg(long, value_name = "ARN")]
    pub(crate) role_arn: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// An execution (ARN or STATE_MACHINE:NAME) or a state machine (name or ARN)
    pub(crate) what: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The execution: its ARN or STATE_MACHINE:NAME
    pub(crate) execution: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// List the executions of this state machine, newest first. Default: list the state machines
    pub(crate) state_machine: Option<String>,
    /// Only executions with this status
    #[arg(long, value_parser = status, requires = "state_machine")]
    pub(crate) status: Option<ExecutionStatus>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) max: usize,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

fn status(text: &str) -> Result<ExecutionStatus, String> {
    let spelled = text.to_ascii_uppercase().replace('-', "_");
    ExecutionStatus::parse(&spelled)
        .ok_or_else(|| "the statuses are running, succeeded, failed, timed-out, aborted".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// The execution: its ARN or STATE_MACHINE:NAME
    pub(crate) execution: String,
    /// The error that it ends with
    #[arg(long)]
    pub(crate) error: Option<String>,
    /// Why, for people
    #[arg(long)]
    pub(crate) cause: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    /// The execution: its ARN or STATE_MACHINE:NAME
    pub(crate) execution: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SignalArgs {
    /// The execution: its ARN or STATE_MACHINE:NAME
    pub(crate) execution: String,
    /// The name of the signal
    pub(crate) name: String,
    /// What the state gets: JSON, `@FILE`, or `@-` for standard input
    #[arg(long, default_value = "{}", value_name = "JSON|@FILE")]
    pub(crate) input: String,
    /// The id of the signal: an id signals once, however often it is tried
    #[arg(long)]
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SendSuccessArgs {
    /// The task token
    #[arg(allow_hyphen_values = true)]
    pub(crate) token: String,
    /// The output: JSON, `@FILE`, or `@-` for standard input
    #[arg(long, default_value = "{}", value_name = "JSON|@FILE")]
    pub(crate) output: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SendFailureArgs {
    /// The task token
    #[arg(allow_hyphen_values = true)]
    pub(crate) token: String,
    /// The error, which Retry and Catch match
    #[arg(long)]
    pub(crate) error: Option<String>,
    /// Why, for people
    #[arg(long)]
    pub(crate) cause: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SendHeartbeatArgs {
    /// The task token
    #[arg(allow_hyphen_values = true)]
    pub(crate) token: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("stagepost").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_read() {
        for line in [
            "dev",
            "dev --listen 127.0.0.1:0 --data /tmp/x --trigger a=b --trigger c=d --log debug",
            "test a.json b.json c.json --only x --format junit --coverage-min 80",
            "test-state a.json --state s --input {} --error E --cause c --retries 1 --variables {} --context {} --json",
            "explore a.json --input {} --input @b.json --cases d --allow unused --max-paths 5 --timeout 2.5 --format json",
            "serve --amqp-url amqp://h --database-url postgres://h/d --roles api --shards 8 --log-format json",
            "recover --queue-prefix team --json",
            "validate a.json b.json",
            "deploy a.json --name n --role-arn arn:aws:iam::000000000000:role/r",
            "start n --input @file --name x --wait --endpoint http://h:1",
            "describe n:x --json",
            "history n:x",
            "list n --status timed-out --max 3",
            "stop n:x --error E --cause c",
            "redrive n:x --json",
            "schedule create s rate(5minutes) --state-machine n --time-zone UTC --input {} --overlap buffer-one --jitter 5 --catch-up 6 --start a --end b",
            "schedule list --status paused --max 3 --json",
            "schedule next s --after a --max 3",
            "schedule next --expression rate(5minutes) --time-zone UTC",
            "schedule backfill s --from a --to b",
            "signal n:x approved --input @- --id 7 --json",
            "send-success -token --output {}",
            "send-failure --error E --cause c -- -token",
            "send-heartbeat token --region eu-west-1 --account 111111111111",
            "dev --triggers triggers.json --callback-queue answers --callback-queue https://sqs/1/q",
            "trigger create web --queue q --state-machine m --mapping {'input':body} --body by-content-type --prefetch 5",
            "trigger create web --exchange e --routing-key a.# --state-machine m --json",
            "trigger create web --queue-url https://sqs/1/q --state-machine m",
            "trigger update web --state-machine m --mapping @map.jsonata --body text",
            "trigger list --max 5 --json",
            "trigger show web",
            "trigger pause web --reason migration",
            "trigger resume web",
            "trigger delete web --json",
            "approvals list --status open --for ada --max 5 --json",
            "approvals show id",
            "approvals approve a b --by ada --comment ok --answer {}",
            "approvals reject a b --by ada --comment no",
            "approvals delegate a --to bob --to eve --by ada --comment away",
            "approvals link a --for bob --expires 2d --view",
            "dead-letters list --source q --reason not-json --max 5 --json",
            "dead-letters show ID --reveal",
            "dead-letters requeue A B --queue q",
            "dead-letters requeue --all --source q",
            "dead-letters discard --all --reason expired --json",
            "bench sequence --executions 10 --steps 2 --in-flight 5 --floor --json",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
        let Ok(Cli { command: Command::SendSuccess(args), .. }) = parse("send-success -token") else {
            panic!("a token may begin with a hyphen");
        };
        assert_eq!(args.token, "-token");
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "",
            "deploy a.json",
            "start",
            "validate",
            "list --status failed",
            "test-state a.json --result {} --error E",
            "test-state a.json --retries 1",
            "list n --status done",
            "approvals",
            "approvals list --status done",
            "approvals approve",
            "approvals delegate a",
            "approvals link a --expires soon",
            "dev --listen nowhere",
            "trigger",
            "trigger create web --state-machine m",
            "trigger create web --queue q",
            "trigger create web --queue q --queue-url u --state-machine m",
            "trigger create web --exchange e --state-machine m",
            "trigger create web --queue q --state-machine m --body xml",
            "trigger pause",
            "dead-letters",
            "dead-letters requeue",
            "dead-letters discard ID --all",
            "dead-letters list --reason whatever",
            "schedule",
            "schedule create s rate(5minutes)",
            "schedule create s rate(5minutes) m",
            "schedule next",
            "schedule next s --expression x",
            "schedule backfill s --from a",
            "nonsense",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn namespaces_are_checked() {
        let namespace = |region: &str, account: &str| {
            NamespaceArgs { region: region.to_owned(), account: account.to_owned() }.namespace()
        };
        assert_eq!(namespace("us-east-1", "000000000000").unwrap(), Namespace::default());
        assert!(namespace("us-east-1", "12").is_err());
        assert!(namespace("us east", "000000000000").is_err());
    }
}
