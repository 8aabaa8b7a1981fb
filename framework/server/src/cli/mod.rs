//! The command line: reads flags and environment, calls the library, and tells people what happened.
//!
//! * `args` is what can be typed; `failure` what goes wrong, with its exit code and its hint; `output` what is
//!   printed. Data goes to stdout, everything else to stderr.
//! * `server` runs `dev`, `serve` and `recover`, the library's `bench` measures; `validate`, `test` and `explore` need no
//!   server; `machines`, `executions`, `schedules`, `tasks`, `approvals`, `dead_letters`, `triggers` and `test_state` are
//!   clients of one.

mod approvals;
mod args;
mod dead_letters;
mod executions;
mod explore;
mod failure;
mod logging;
mod machines;
mod output;
mod schedules;
mod server;
mod source;
mod tasks;
mod test;
mod test_state;
mod triggers;
mod validate;

use std::process::ExitCode;

use clap::Parser;
use stagepost_server::bench;

use args::{Cli, Command};
use failure::Failure;

/// Runs the command that was typed and returns its exit code.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match runtime() {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(Failure::server(format!("cannot start the runtime: {error}"))),
    };
    match ended {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code)
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    logging::start(&cli.log, cli.command.is_server())?;
    let namespace = cli.namespace.namespace()?;
    match cli.command {
        Command::Dev(args) => server::dev(args, namespace).await,
        Command::Serve(args) => server::serve(args, namespace).await,
        Command::Recover(args) => server::recover(args).await,
        Command::Validate(args) => validate::run(&args),
        Command::Test(args) => test::run(&args),
        Command::TestState(args) => test_state::run(args, namespace).await,
        Command::Explore(args) => explore::run(&args),
        Command::Deploy(args) => machines::deploy(args, namespace).await,
        Command::Start(args) => executions::start(args, namespace).await,
        Command::Describe(args) => executions::describe(args, namespace).await,
        Command::History(args) => executions::history(args, namespace).await,
        Command::List(args) => machines::list(args, namespace).await,
        Command::Stop(args) => executions::stop(args, namespace).await,
        Command::Redrive(args) => executions::redrive(args, namespace).await,
        Command::Signal(args) => executions::signal(args, namespace).await,
        Command::Schedule(args) => schedules::run(args, namespace).await,
        Command::SendSuccess(args) => tasks::success(args, namespace).await,
        Command::SendFailure(args) => tasks::failure(args, namespace).await,
        Command::SendHeartbeat(args) => tasks::heartbeat(args, namespace).await,
        Command::Trigger { command } => triggers::run(command, namespace).await,
        Command::Approvals { command } => approvals::run(command, namespace).await,
        Command::DeadLetters { command } => dead_letters::run(command, namespace).await,
        Command::Bench(args) => {
            bench::run(args).await.map_err(|error| Failure::server(format!("{error:#}")))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
