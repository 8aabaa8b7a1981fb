//! `stagepost schedule …`.

use clap::{Args, Subcommand, ValueEnum};

use super::ClientArgs;

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    #[command(subcommand)]
    pub(crate) command: ScheduleCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Create a schedule
    Create(SettingsArgs),
    /// Give a schedule other settings: what is left out has its default
    Update(SettingsArgs),
    /// List schedules
    List(ListSchedulesArgs),
    /// Show a schedule and its newest firings
    Show(NameArgs),
    /// Show when a schedule, or an expression, fires next
    Next(NextArgs),
    /// Let a schedule fire nothing
    Pause(NameArgs),
    /// Let a schedule fire again, from now on
    Resume(NameArgs),
    /// Start the executions of past times that were not started
    Backfill(BackfillArgs),
    /// Delete a schedule. What it has started runs on
    Delete(NameArgs),
}

/// What happens when the execution of an earlier firing still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OverlapPolicy {
    /// Start another one.
    AllowAll,
    /// Leave the firing out.
    Skip,
    /// Start when the earlier one has ended; one firing waits.
    BufferOne,
    /// Stop the earlier one, and start another.
    CancelOther,
}

impl OverlapPolicy {
    /// As the API spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            OverlapPolicy::AllowAll => "ALLOW_ALL",
            OverlapPolicy::Skip => "SKIP",
            OverlapPolicy::BufferOne => "BUFFER_ONE",
            OverlapPolicy::CancelOther => "CANCEL_OTHER",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// The name of the schedule: up to 60 letters, digits, '-', '_' and '.'
    pub(crate) name: String,
    /// When it fires: '0 9 * * MON-FRI', 'cron(0 9 ? * MON-FRI *)', 'rate(15 minutes)' or 'at(2026-12-24T18:00:00)'
    pub(crate) expression: String,
    /// The state machine that it starts: its name or its ARN
    #[arg(long)]
    pub(crate) state_machine: String,
    /// The time zone of the expression, for instance Europe/Berlin
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    pub(crate) time_zone: String,
    /// The input of the executions: JSON, `@FILE`, or `@-` for standard input
    #[arg(long, default_value = "{}", value_name = "JSON|@FILE")]
    pub(crate) input: String,
    /// What happens when the execution of an earlier firing still runs
    #[arg(long, value_enum, default_value = "allow-all", value_name = "POLICY")]
    pub(crate) overlap: OverlapPolicy,
    /// Move each firing by up to so many seconds, always the same for the same firing
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) jitter: u32,
    /// Make up for a firing that was missed for so many seconds
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    pub(crate) catch_up: u32,
    /// Fire nothing before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) start: Option<String>,
    /// Fire nothing after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) end: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The name of the schedule
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// How a schedule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScheduleStatus {
    Active,
    Paused,
    Ended,
}

impl ScheduleStatus {
    /// As the API spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ScheduleStatus::Active => "ACTIVE",
            ScheduleStatus::Paused => "PAUSED",
            ScheduleStatus::Ended => "ENDED",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListSchedulesArgs {
    /// Only schedules with this status
    #[arg(long, value_enum)]
    pub(crate) status: Option<ScheduleStatus>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) max: usize,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NextArgs {
    /// The name of the schedule
    #[arg(required_unless_present = "expression", conflicts_with_all = ["expression", "time_zone"])]
    pub(crate) name: Option<String>,
    /// An expression, instead of a schedule
    #[arg(long)]
    pub(crate) expression: Option<String>,
    /// The time zone of the expression
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    pub(crate) time_zone: String,
    /// Show the times after this one (RFC 3339). Default: now
    #[arg(long, value_name = "TIME")]
    pub(crate) after: Option<String>,
    /// So many
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(crate) max: usize,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BackfillArgs {
    /// The name of the schedule
    pub(crate) name: String,
    /// The first time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) from: String,
    /// The last time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}
