//! What a command ends with when it does not do what it was asked: a paragraph, a hint, an exit code.

use stagepost_server::{CallError, EndpointError, OpenError, SettingsError, Style};

use super::output;

/// See the exit codes in `args`.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

const USAGE: u8 = 2;
const REFUSED: u8 = 3;
const UNREACHABLE: u8 = 4;
const SERVER: u8 = 5;

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), hint: None }
    }

    /// What was typed cannot be used.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(USAGE, message)
    }

    /// The API refused.
    pub(crate) fn refused(message: impl Into<String>) -> Failure {
        Failure::new(REFUSED, message)
    }

    /// The server cannot run.
    pub(crate) fn server(message: impl Into<String>) -> Failure {
        Failure::new(SERVER, message)
    }

    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Says which of several things it is about.
    #[must_use]
    pub(crate) fn about(mut self, thing: &str) -> Failure {
        self.message = format!("{thing}: {}", self.message);
        self
    }

    pub(crate) fn print(&self) {
        let style = Style::of(&std::io::stderr());
        // Causes come from outside; they shall not steer the terminal.
        let message = output::harmless(&self.message);
        output::note(&format!("{} {message}", style.red("error:")));
        if let Some(hint) = &self.hint {
            output::note(&format!("{} {hint}", style.bold("hint:")));
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        let message = error.to_string();
        match error {
            CallError::Refused { code, .. } => {
                Failure { hint: refusal_hint(&code).map(str::to_owned), ..Failure::refused(message) }
            }
            CallError::Unreachable { .. } => Failure::new(UNREACHABLE, message).with_hint(
                "is a server running there? `stagepost dev` starts one; --endpoint or STAGEPOST_ENDPOINT names another",
            ),
            CallError::NotTheApi { .. } => Failure::new(UNREACHABLE, message)
                .with_hint("--endpoint or STAGEPOST_ENDPOINT must name a Stagepost server with the role 'api'"),
            _ => Failure::new(UNREACHABLE, message)
                .with_hint("the server's log and its /readyz say more; the command can be repeated"),
        }
    }
}

fn refusal_hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "StateMachineDoesNotExist" => {
            "`stagepost list` shows the state machines; `stagepost deploy` creates one"
        }
        "ExecutionDoesNotExist" => {
            "an execution is named by its ARN or by STATE_MACHINE:NAME; `stagepost list STATE_MACHINE` shows them"
        }
        "ExecutionAlreadyExists" => {
            "a name starts one execution; use another --name, or none for a name of its own"
        }
        "ApprovalDoesNotExist" => "`stagepost approvals list` shows the approvals with their ids",
        "ApprovalClosed" => "`stagepost approvals show ID` tells what happened to it",
        "TaskTimedOut" => {
            "the task has ended already: by another answer, by its timeout, or with its execution"
        }
        "TaskDoesNotExist" => "the task has ended, or its execution has",
        "InvalidToken" => "the whole token is needed, as the task got it, from this installation",
        "InvalidExecutionInput" | "InvalidOutput" => {
            "it must be one JSON value of at most 256 KiB; @FILE reads it from a file"
        }
        "TriggerDoesNotExist" => {
            "`stagepost trigger list` shows the triggers; one that is being deleted counts as gone"
        }
        "TriggerAlreadyExists" => {
            "`stagepost trigger update` changes one; delete it first to give it another source"
        }
        "InvalidName" => "use letters, digits, '-' and '_', at most 80 of them",
        _ => return None,
    })
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Failure {
        Failure::usage(error.to_string())
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Failure {
        Failure::usage(error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        use stagepost_broker::Error as Broker;
        use stagepost_store::Error as Store;
        let message = error.to_string();
        match error {
            OpenError::Listen { address, source } => {
                let failure = Failure::server(message);
                match source.kind() {
                    std::io::ErrorKind::AddrInUse => failure.with_hint(format!(
                        "another process listens there; --listen {}:0 takes a free port",
                        address.ip()
                    )),
                    _ => failure,
                }
            }
            OpenError::Trigger(_) => Failure::usage(message)
                .with_hint("triggers come from --trigger, --triggers and `stagepost trigger create`"),
            OpenError::Broker(Broker::Unreachable { .. }) | OpenError::Store(Store::Unavailable(_)) => {
                Failure::new(UNREACHABLE, message)
            }
            OpenError::Broker(Broker::Denied { .. }) => Failure::server(message)
                .with_hint("user, password and VHOST come from AMQP_URL; the broker's log may say more"),
            OpenError::Broker(Broker::Url { .. }) => Failure::usage(message)
                .with_hint("AMQP_URL is of the form amqp://USER:PASSWORD@HOST:PORT/VHOST, where %2f is the default VHOST"),
            OpenError::Store(Store::Url { url, .. }) if !url.contains("://") && url != "DATABASE_URL" => {
                Failure::server(message)
                    .with_hint("--data names a directory that this process may write and no other one uses")
            }
            OpenError::Store(Store::Url { .. }) => Failure::usage(message)
                .with_hint("DATABASE_URL is of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
            _ => Failure::server(message),
        }
    }
}
