//! Logs go to stderr.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

use super::{
    args::{LogArgs, LogFormat},
    failure::Failure,
};

/// Starts logging; servers say what they do, other commands only what goes wrong.
pub(crate) fn start(args: &LogArgs, server: bool) -> Result<(), Failure> {
    // Libraries below say much that means nothing to an operator. Of lapin's errors stagepost_broker tells those
    // that matter, in its own words.
    let default = if server { "warn,stagepost=info,lapin=off" } else { "warn,lapin=off" };
    let filter = args.log.as_deref().filter(|filter| !filter.is_empty()).unwrap_or(default);
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!("'{filter}' is not a log filter: {error}"))
            .with_hint("for instance: debug, or warn,stagepost_coordinator=debug")
    })?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    match args.log_format {
        LogFormat::Text => lines.with_target(server).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
