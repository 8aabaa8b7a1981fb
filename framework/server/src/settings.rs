//! What an installation is made of, as data. Flags and environment become this in the binary.

use std::path::PathBuf;

use stagepost_broker::rabbitmq::RabbitMqOptions;
use stagepost_connectors::aws;
use stagepost_coordinator::{Options, triggers::Trigger};
use stagepost_protocol::{Namespace, Shards, StateMachineArn, limits::NAME_CHARS_MAX, topology::Topology};
use stagepost_store::postgres;

/// Why settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// One of the two URLs is missing.
    #[error(
        "{missing} is not set, but {given} is: an installation needs both, or neither for the embedded default"
    )]
    OneUrl {
        /// The variable that is missing.
        missing: &'static str,
        /// The one that is there.
        given: &'static str,
    },
    /// A trigger is not `QUEUE=STATE_MACHINE`.
    #[error("'{text}' is not a trigger: {reason}")]
    Trigger {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A queue for token messages.
    #[error(
        "'{0}' cannot be a callback queue: it must be the name of a queue, or an http:// or https:// URL of one of SQS"
    )]
    CallbackQueue(String),
    /// A file of triggers.
    #[error("the triggers cannot be used: {reason}")]
    Triggers {
        /// What is wrong.
        reason: String,
    },
    /// The number of shards.
    #[error("{0} shards are not possible: it must be 1 to 1024")]
    Shards(u32),
    /// The queue prefix.
    #[error("'{0}' cannot be a queue prefix: use 1 to 64 letters, digits, '.', '-' and '_'")]
    QueuePrefix(String),
    /// A role.
    #[error("'{0}' is not a role: the roles are 'api', 'coordinator' and 'connectors'")]
    Role(String),
    /// The public URL.
    #[error(
        "'{0}' cannot be a public URL: it must be http://HOST or https://HOST, maybe with a port and a path"
    )]
    PublicUrl(String),
    /// No role.
    #[error("no role is given: the roles are 'api', 'coordinator' and 'connectors'")]
    NoRole,
}

/// Where executions and messages are kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Backend {
    /// SQLite in `DIR/stagepost.db`, or in memory where there is no directory, and a broker in this process.
    Embedded {
        /// The directory; made where it is missing.
        data: Option<PathBuf>,
    },
    /// RabbitMQ and PostgreSQL.
    Servers {
        /// `amqp://USER:PASSWORD@HOST:PORT/VHOST`.
        amqp_url: String,
        /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
        database_url: String,
    },
}

/// What a process of an installation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Answers the API.
    pub api: bool,
    /// Owns shards and moves executions on.
    pub coordinator: bool,
    /// Calls services for executions (Lambda, SQS, …).
    pub connectors: bool,
}

impl Roles {
    /// All of them.
    pub const ALL: Roles = Roles { api: true, coordinator: true, connectors: true };
    const NONE: Roles = Roles { api: false, coordinator: false, connectors: false };

    /// From their names.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Roles, SettingsError> {
        let mut roles = Roles::NONE;
        for name in names {
            match name.trim() {
                "api" => roles.api = true,
                "coordinator" => roles.coordinator = true,
                "connectors" => roles.connectors = true,
                other => return Err(SettingsError::Role(other.to_owned())),
            }
        }
        if roles == Roles::NONE { Err(SettingsError::NoRole) } else { Ok(roles) }
    }
}

/// What an installation is made of.
#[derive(Clone)]
pub struct Settings {
    /// Where executions and messages are kept.
    pub backend: Backend,
    /// What this process does. Default: everything.
    pub roles: Roles,
    /// The namespace of requests that name none. Default: account `000000000000` in `us-east-1`.
    pub namespace: Namespace,
    /// The coordinator's settings: shards and queue names too, which the API shares. The embedded default sets `owner` and
    /// `recover_shards`; how queues beyond the broker are consumed comes from `aws`.
    pub coordinator: Options,
    /// Triggers that a process with the coordinator's role makes sure of when it starts. Others are created by the API.
    pub triggers: Vec<Trigger>,
    /// How RabbitMQ is used, where it is.
    pub rabbitmq: RabbitMqOptions,
    /// How PostgreSQL is used, where it is.
    pub postgres: postgres::Options,
    /// Where the connectors find services, and who they are to them. Default: as the environment says, by the variables
    /// of AWS's SDKs.
    pub aws: aws::Settings,
    /// The directory below which definitions may read files as data sets and write results. Default: none.
    pub files: Option<PathBuf>,
    /// Where people reach this server: links to approvals begin with it. Default: none; then links begin as the request
    /// for them did, and messages about approvals hold none.
    pub public_url: Option<String>,
}

impl Settings {
    /// The embedded default, with its data in a directory or in memory.
    pub fn embedded(data: Option<PathBuf>) -> Settings {
        Settings::new(Backend::Embedded { data })
    }

    /// An installation on RabbitMQ and PostgreSQL.
    pub fn servers(amqp_url: impl Into<String>, database_url: impl Into<String>) -> Settings {
        Settings::new(Backend::Servers { amqp_url: amqp_url.into(), database_url: database_url.into() })
    }

    /// On RabbitMQ and PostgreSQL when `AMQP_URL` and `DATABASE_URL` are set, else the embedded default in memory.
    pub fn from_env() -> Result<Settings, SettingsError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Settings::from_urls(variable("AMQP_URL"), variable("DATABASE_URL"))
    }

    fn from_urls(amqp_url: Option<String>, database_url: Option<String>) -> Result<Settings, SettingsError> {
        match (amqp_url, database_url) {
            (Some(amqp_url), Some(database_url)) => Ok(Settings::servers(amqp_url, database_url)),
            (None, None) => Ok(Settings::embedded(None)),
            (Some(_), None) => Err(SettingsError::OneUrl { missing: "DATABASE_URL", given: "AMQP_URL" }),
            (None, Some(_)) => Err(SettingsError::OneUrl { missing: "AMQP_URL", given: "DATABASE_URL" }),
        }
    }

    fn new(backend: Backend) -> Settings {
        Settings {
            backend,
            roles: Roles::ALL,
            namespace: Namespace::default(),
            coordinator: Options::default(),
            triggers: Vec::new(),
            rabbitmq: RabbitMqOptions::default(),
            postgres: postgres::Options::default(),
            aws: aws::Settings::from_env(),
            files: None,
            public_url: None,
        }
    }

    /// Sets the number of shards; it must be the same for all processes of an installation.
    pub fn set_shards(&mut self, count: u32) -> Result<(), SettingsError> {
        let shards = u16::try_from(count).ok().and_then(Shards::new);
        self.coordinator.shards = shards.ok_or(SettingsError::Shards(count))?;
        Ok(())
    }

    /// Sets what the names of queues begin with, `stagepost` unless set.
    pub fn set_queue_prefix(&mut self, prefix: &str) -> Result<(), SettingsError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(plain) {
            return Err(SettingsError::QueuePrefix(prefix.to_owned()));
        }
        self.coordinator.topology = Topology::new(prefix);
        Ok(())
    }

    /// Sets where people reach this server.
    pub fn set_public_url(&mut self, url: &str) -> Result<(), SettingsError> {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let host = rest.map(|rest| rest.split('/').next().unwrap_or(""));
        let plain = url.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b));
        if host.is_none_or(str::is_empty) || !plain {
            return Err(SettingsError::PublicUrl(url.to_owned()));
        }
        self.public_url = Some(url.trim_end_matches('/').to_owned());
        Ok(())
    }

    /// Adds a trigger, written `QUEUE=STATE_MACHINE`; the state machine by its name or its ARN.
    pub fn add_trigger(&mut self, text: &str) -> Result<(), SettingsError> {
        let wrong =
            |reason: &str| SettingsError::Trigger { text: text.to_owned(), reason: reason.to_owned() };
        let expected = "it must be QUEUE=STATE_MACHINE, for instance web-orders=order-fulfilment";
        let (queue, machine) = text.split_once('=').ok_or_else(|| wrong(expected))?;
        if queue.is_empty() || machine.is_empty() {
            return Err(wrong(expected));
        }
        let state_machine = if machine.starts_with("arn:") {
            StateMachineArn::parse(machine).map_err(|error| wrong(&error.to_string()))?
        } else if machine.contains([':', '/', ' ']) || machine.chars().count() > NAME_CHARS_MAX {
            return Err(wrong("a state machine's name has at most 80 characters and no ':', '/' or space"));
        } else {
            StateMachineArn { namespace: self.namespace.clone(), name: machine.to_owned() }
        };
        self.push_trigger(Trigger::on_queue(queue, state_machine)).map_err(|reason| wrong(&reason))
    }

    /// Adds a queue for token messages: a name, `amqp:///QUEUE`, or the URL of a queue of SQS.
    pub fn add_callback_queue(&mut self, queue: &str) -> Result<(), SettingsError> {
        let name = queue.strip_prefix("amqp:///").unwrap_or(queue);
        let is_url = name.starts_with("https://") || name.starts_with("http://");
        let queues = &mut self.coordinator.callback_queues;
        if name.is_empty() || name.len() > 255 || (name.contains("://") && !is_url) {
            return Err(SettingsError::CallbackQueue(queue.to_owned()));
        }
        if name != self.coordinator.topology.callbacks() && !queues.iter().any(|other| other == name) {
            queues.push(name.to_owned());
        }
        Ok(())
    }

    /// Adds the triggers of a JSON document, a list of what CreateTrigger takes. A state machine may be given by its name.
    pub fn add_triggers(&mut self, json: &str) -> Result<(), SettingsError> {
        let wrong = |reason: String| SettingsError::Triggers { reason };
        let mut list: Vec<serde_json::Value> =
            serde_json::from_str(json).map_err(|error| wrong(format!("it must be a JSON list: {error}")))?;
        for (place, members) in (1..).zip(&mut list) {
            if let Some(name) = members["stateMachineArn"].as_str().filter(|name| !name.starts_with("arn:")) {
                let arn = StateMachineArn { namespace: self.namespace.clone(), name: name.to_owned() };
                members["stateMachineArn"] = arn.to_string().into();
            }
            let trigger = serde_json::from_value(members.take());
            let trigger: Trigger = trigger.map_err(|error| wrong(format!("trigger {place}: {error}")))?;
            let name = trigger.name.clone();
            self.push_trigger(trigger)
                .map_err(|reason| wrong(format!("trigger {place}, '{name}': {reason}")))?;
        }
        Ok(())
    }

    fn push_trigger(&mut self, trigger: Trigger) -> Result<(), String> {
        trigger.check(&self.coordinator.topology)?;
        if self.triggers.iter().any(|other| other.source == trigger.source) {
            return Err("its source has a trigger already, and each message starts one execution".to_owned());
        }
        if self.triggers.iter().any(|other| other.name == trigger.name) {
            return Err("another trigger has its name".to_owned());
        }
        self.triggers.push(trigger);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_urls_name_a_server() {
        let mut settings = Settings::embedded(None);
        for good in ["http://10.0.0.7:8083", "https://flows.example/", "https://example.org/flows/"] {
            settings.set_public_url(good).unwrap();
            assert_eq!(settings.public_url.as_deref(), Some(good.trim_end_matches('/')));
        }
        for bad in
            ["", "flows.example", "http://", "https:///x", "ftp://h", "http://h?x", "http://h x", "http://ü"]
        {
            let refused = settings.set_public_url(bad);
            assert_eq!(refused, Err(SettingsError::PublicUrl(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn triggers_name_a_queue_and_a_state_machine() {
        let mut settings = Settings::embedded(None);
        settings.add_trigger("web-orders=orders").unwrap();
        settings.add_trigger("eu=arn:aws:states:eu-west-1:111111111111:stateMachine:orders").unwrap();
        let arns: Vec<String> = settings.triggers.iter().map(|t| t.state_machine_arn.to_string()).collect();
        assert_eq!(arns[0], "arn:aws:states:us-east-1:000000000000:stateMachine:orders");
        assert_eq!(arns[1], "arn:aws:states:eu-west-1:111111111111:stateMachine:orders");
        for (bad, told) in [
            ("web-orders", "QUEUE=STATE_MACHINE"),
            ("=orders", "QUEUE=STATE_MACHINE"),
            ("q=", "QUEUE=STATE_MACHINE"),
            ("q=a b", "at most 80 characters"),
            ("q=arn:aws:states:us-east-1:1:activity:x", "stateMachine:NAME"),
            ("web-orders=other", "has a trigger already"),
            ("web/orders=other", "has its name"),
            ("stagepost.shard.00=orders", "itself uses"),
        ] {
            let error = settings.add_trigger(bad).unwrap_err().to_string();
            assert!(error.contains(told), "{bad}: {error}");
        }
    }

    #[test]
    fn callback_queues_are_names_or_urls() {
        let mut settings = Settings::embedded(None);
        for queue in ["answers", "amqp:///answers", "stagepost.callbacks", "https://sqs/1/q"] {
            settings.add_callback_queue(queue).unwrap();
        }
        assert_eq!(settings.coordinator.callback_queues, ["answers", "https://sqs/1/q"]);
        for bad in ["", "amqp:///", "ftp://h/q", "amqp://h/q"] {
            assert!(settings.add_callback_queue(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_hold_triggers_as_the_api_takes_them() {
        let mut settings = Settings::embedded(None);
        let file = r#"[
            {"name": "web", "source": {"queue": "web-orders"}, "stateMachineArn": "orders"},
            {"name": "events", "source": {"exchange": "orders", "routingKey": "order.#"},
             "stateMachineArn": "arn:aws:states:eu-west-1:111111111111:stateMachine:orders",
             "mapping": "{'input': body}", "body": "TEXT", "prefetch": 5}
        ]"#;
        settings.add_triggers(file).unwrap();
        let machines: Vec<&str> =
            settings.triggers.iter().map(|t| t.state_machine_arn.namespace.region.as_str()).collect();
        assert_eq!(machines, ["us-east-1", "eu-west-1"]);
        for (bad, told) in [
            ("{}", "JSON list"),
            (r#"[{"name": "x"}]"#, "trigger 1"),
            (
                r#"[{"name": "x", "source": {"queue": "q"}, "stateMachineArn": "m", "prefetch": 0}]"#,
                "'x': its prefetch",
            ),
            (
                r#"[{"name": "x", "source": {"queue": "web-orders"}, "stateMachineArn": "m"}]"#,
                "has a trigger already",
            ),
        ] {
            let error = settings.add_triggers(bad).unwrap_err().to_string();
            assert!(error.contains(told), "{bad}: {error}");
        }
    }

    #[test]
    fn roles_shards_and_prefixes_are_checked() {
        assert_eq!(Roles::parse(["api", " coordinator", "connectors"]), Ok(Roles::ALL));
        assert_eq!(Roles::parse(["api"]), Ok(Roles { api: true, ..Roles::NONE }));
        assert_eq!(Roles::parse(["ui"]), Err(SettingsError::Role("ui".into())));
        assert_eq!(Roles::parse([]), Err(SettingsError::NoRole));
        let mut settings = Settings::embedded(None);
        assert!(settings.set_shards(8).is_ok());
        assert_eq!(settings.set_shards(0), Err(SettingsError::Shards(0)));
        assert_eq!(settings.set_shards(70_000), Err(SettingsError::Shards(70_000)));
        assert!(settings.set_queue_prefix("team-a.stagepost").is_ok());
        assert!(settings.set_queue_prefix("").is_err());
        assert!(settings.set_queue_prefix("a b").is_err());
    }

    #[test]
    fn one_url_alone_is_refused() {
        let url = || Some("x".to_owned());
        assert!(matches!(Settings::from_urls(None, None).unwrap().backend, Backend::Embedded { data: None }));
        assert!(matches!(Settings::from_urls(url(), url()).unwrap().backend, Backend::Servers { .. }));
        let error = Settings::from_urls(url(), None).err().unwrap();
        assert!(error.to_string().starts_with("DATABASE_URL is not set, but AMQP_URL is"));
    }
}
