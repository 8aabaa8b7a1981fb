//! What a trigger is, how it is checked, and how it is kept. Pure but for the last part, which asks the store.

use serde::{Deserialize, Serialize};
use stagepost_protocol::{Namespace, Payload, StateMachineArn, Timestamp, limits, topology::Topology};
use stagepost_store::{ListRecords, Record, Records};

use super::mapping::Mapping;

/// At most so many triggers are in an installation: each has a task in every coordinator.
pub const TRIGGERS_MAX: usize = 500;
/// At most so many messages of a trigger are unsettled in a coordinator, unless the trigger says otherwise.
pub const PREFETCH_DEFAULT: u16 = 64;
/// The most that a trigger can ask for.
pub const PREFETCH_MAX: u16 = 1_000;
/// Longest mapping, in bytes.
const MAPPING_BYTES_MAX: usize = 16 * 1024;
/// Longest name or URL of a queue, name of an exchange, or routing key, in bytes: AMQP's own limit.
const AMQP_NAME_BYTES_MAX: usize = 255;
/// Longest reason for a pause, in characters.
const REASON_CHARS_MAX: usize = 1_024;
/// Triggers of a page when all are loaded.
const PAGE: usize = 500;

/// Where messages come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SourceMembers", into = "SourceMembers")]
pub enum Source {
    /// A queue of the broker.
    Queue(String),
    /// A queue of the trigger's own, bound to an exchange.
    Exchange {
        /// The exchange.
        exchange: String,
        /// Which routing keys: `*` stands for one word, `#` for any number of them.
        routing_key: String,
    },
    /// A queue of SQS, or of what speaks its protocol, by its URL.
    Url(String),
}

/// [`Source`] as JSON.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SourceMembers {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exchange: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    routing_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue_url: Option<String>,
}

impl Source {
    /// The source with these members, as JSON names them.
    ///
    /// # Errors
    /// Says which members a source has.
    pub fn of(
        queue: Option<&str>,
        exchange: Option<&str>,
        routing_key: Option<&str>,
        queue_url: Option<&str>,
    ) -> Result<Source, &'static str> {
        match (queue, exchange, routing_key, queue_url) {
            (Some(queue), None, None, None) => Ok(Source::Queue(queue.to_owned())),
            (None, Some(exchange), Some(routing_key), None) => {
                Ok(Source::Exchange { exchange: exchange.to_owned(), routing_key: routing_key.to_owned() })
            }
            (None, None, None, Some(url)) => Ok(Source::Url(url.to_owned())),
            _ => Err("a source has either 'queue', or 'exchange' and 'routingKey', or 'queueUrl'"),
        }
    }
}

impl TryFrom<SourceMembers> for Source {
    type Error = &'static str;

    fn try_from(members: SourceMembers) -> Result<Source, &'static str> {
        let SourceMembers { queue, exchange, routing_key, queue_url } = &members;
        Source::of(queue.as_deref(), exchange.as_deref(), routing_key.as_deref(), queue_url.as_deref())
    }
}

impl From<Source> for SourceMembers {
    fn from(source: Source) -> SourceMembers {
        let members = SourceMembers::default();
        match source {
            Source::Queue(queue) => SourceMembers { queue: Some(queue), ..members },
            Source::Exchange { exchange, routing_key } => {
                SourceMembers { exchange: Some(exchange), routing_key: Some(routing_key), ..members }
            }
            Source::Url(url) => SourceMembers { queue_url: Some(url), ..members },
        }
    }
}

/// How the body of a message is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BodyFormat {
    /// It is JSON.
    #[default]
    Json,
    /// It is text, and becomes a JSON string.
    Text,
    /// It is bytes, and becomes a JSON string in base64.
    Binary,
    /// As its content type says: text and JSON are what they are, without a content type it is JSON, anything else
    /// is bytes.
    ByContentType,
}

impl BodyFormat {
    /// All of them, as JSON spells them.
    pub const NAMES: [&str; 4] = ["JSON", "TEXT", "BINARY", "BY_CONTENT_TYPE"];
}

/// A binding from messages of an existing producer to 'start an execution of this state machine'.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Trigger {
    /// Names it.
    pub name: String,
    /// Where messages come from.
    pub source: Source,
    /// What each message starts.
    pub state_machine_arn: StateMachineArn,
    /// How bodies are read.
    #[serde(default)]
    pub body: BodyFormat,
    /// A JSONata expression from `{body, headers, properties}` to `{input, name}`. Without one the body is the input, and
    /// the message's id the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<String>,
    /// At most so many messages are unsettled in a coordinator.
    #[serde(default = "prefetch_default")]
    pub prefetch: u16,
}

fn prefetch_default() -> u16 {
    PREFETCH_DEFAULT
}

impl Trigger {
    /// A trigger on a queue of the broker, with the defaults for everything else. Its name is the queue's, as far as
    /// it can be.
    pub fn on_queue(queue: &str, state_machine_arn: StateMachineArn) -> Trigger {
        let name: String = queue.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
        Trigger {
            name: name.chars().take(limits::NAME_CHARS_MAX).collect(),
            source: Source::Queue(queue.to_owned()),
            state_machine_arn,
            body: BodyFormat::default(),
            mapping: None,
            prefetch: PREFETCH_DEFAULT,
        }
    }

    /// Says what is wrong with it, all of it.
    ///
    /// # Errors
    /// A sentence for each problem.
    pub fn check(&self, topology: &Topology) -> Result<(), String> {
        let mut problems = Vec::new();
        let length = self.name.chars().count();
        if !(1..=limits::NAME_CHARS_MAX).contains(&length) || !self.name.chars().all(is_plain) {
            let max = limits::NAME_CHARS_MAX;
            problems.push(format!("its name must be 1 to {max} letters, digits, '-', '_' and '.'"));
        }
        let mut amqp_name = |what: &str, text: &str, min: usize| {
            if !(min..=AMQP_NAME_BYTES_MAX).contains(&text.len()) {
                problems.push(format!("{what} must have {min} to {AMQP_NAME_BYTES_MAX} bytes"));
            }
        };
        match &self.source {
            Source::Queue(queue) => {
                amqp_name("the name of its queue", queue, 1);
                if queue.contains("://") {
                    problems.push("'queue' is the name of a queue; a URL is a 'queueUrl'".to_owned());
                } else if topology.is_internal(queue) {
                    problems.push(format!("the queue '{queue}' is one that Stagepost itself uses"));
                }
            }
            Source::Exchange { exchange, routing_key } => {
                // The one without a name is the default exchange, to which nothing can be bound.
                amqp_name("the name of its exchange", exchange, 1);
                amqp_name("its routing key", routing_key, 0);
            }
            Source::Url(url) => {
                let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
                let path = rest.and_then(|rest| rest.split_once('/'));
                if !path.is_some_and(|(host, path)| !host.is_empty() && !path.is_empty()) {
                    problems.push("the URL of its queue must be https://HOST/… or http://HOST/…".to_owned());
                } else if rest.is_some_and(|rest| rest.contains(['@', ' ', '#', '?'])) {
                    problems.push("the URL of its queue has more than a host and a path".to_owned());
                } else if url.len() > AMQP_NAME_BYTES_MAX {
                    problems.push(format!("the URL of its queue has more than {AMQP_NAME_BYTES_MAX} bytes"));
                }
            }
        }
        if let Some(mapping) = &self.mapping {
            if mapping.len() > MAPPING_BYTES_MAX {
                problems.push(format!("its mapping has more than {MAPPING_BYTES_MAX} bytes"));
            } else if let Err(problem) = Mapping::parse(mapping) {
                problems.push(format!("its mapping is no JSONata expression: {problem}"));
            }
        }
        if !(1..=PREFETCH_MAX).contains(&self.prefetch) {
            problems.push(format!("its prefetch must be 1 to {PREFETCH_MAX}"));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }
}

/// The characters that queue names and names of executions have in common.
pub(super) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// How a trigger stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Messages start executions.
    Active,
    /// Messages wait in their queue.
    Paused,
    /// It was deleted; its binding is being taken back.
    Deleting,
}

impl Status {
    /// As the API and the store spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Active => "ACTIVE",
            Status::Paused => "PAUSED",
            Status::Deleting => "DELETING",
        }
    }

    fn parse(text: &str) -> Option<Status> {
        [Status::Active, Status::Paused, Status::Deleting].into_iter().find(|status| status.as_str() == text)
    }
}

/// A trigger as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTrigger {
    /// Where it is filed.
    pub namespace: Namespace,
    /// What its user wrote.
    pub trigger: Trigger,
    /// How it stands.
    pub status: Status,
    /// Why it was paused, for people.
    pub reason: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it, or its status, was changed last.
    pub updated_at: Timestamp,
    /// See [`Record::version`].
    pub version: i64,
}

/// The body of a trigger's record.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    trigger: Trigger,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    created_at: i64,
    updated_at: i64,
}

impl StoredTrigger {
    /// The kind of the records that keep triggers.
    pub const RECORD: &'static str = "trigger";

    /// A new one.
    pub fn new(namespace: Namespace, trigger: Trigger, now: Timestamp) -> StoredTrigger {
        StoredTrigger {
            namespace,
            trigger,
            status: Status::Active,
            reason: None,
            created_at: now,
            updated_at: now,
            version: 0,
        }
    }

    /// Changes its status.
    pub fn set_status(&mut self, status: Status, reason: Option<&str>, now: Timestamp) {
        self.status = status;
        self.reason = reason.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect());
        self.updated_at = now;
    }

    /// As the store keeps it.
    pub fn to_record(&self) -> Record {
        let kept = Kept {
            trigger: self.trigger.clone(),
            reason: self.reason.clone(),
            created_at: self.created_at.as_millis(),
            updated_at: self.updated_at.as_millis(),
        };
        Record {
            kind: StoredTrigger::RECORD.to_owned(),
            namespace: self.namespace.clone(),
            key: self.trigger.name.clone(),
            label: self.status.as_str().to_owned(),
            due_at: None,
            version: self.version,
            body: Payload::from_serialize(&kept).expect("its members are texts and numbers"),
        }
    }

    /// Reads what [`StoredTrigger::to_record`] wrote; `None` where a newer version wrote something else.
    pub fn from_record(record: &Record) -> Option<StoredTrigger> {
        let kept: Kept = record.body.read().ok()?;
        Some(StoredTrigger {
            namespace: record.namespace.clone(),
            trigger: kept.trigger,
            status: Status::parse(&record.label)?,
            reason: kept.reason,
            created_at: Timestamp::from_millis(kept.created_at),
            updated_at: Timestamp::from_millis(kept.updated_at),
            version: record.version,
        })
    }

    /// The queue that its messages are taken from: a name, or the URL of one that is not the broker's.
    pub fn queue(&self, topology: &Topology) -> String {
        match &self.trigger.source {
            Source::Queue(queue) => queue.clone(),
            Source::Exchange { .. } => topology.trigger(&self.namespace, &self.trigger.name),
            Source::Url(url) => url.clone(),
        }
    }
}

/// All triggers of an installation, by namespace and name. Those that a newer version wrote in another form are left
/// out, and the log says so.
///
/// # Errors
/// As [`Records::records`].
pub async fn all(records: &dyn Records) -> Result<Vec<StoredTrigger>, stagepost_store::Error> {
    let mut query = ListRecords {
        kind: StoredTrigger::RECORD.to_owned(),
        namespace: None,
        label: None,
        descending: false,
        limit: PAGE,
        after: None,
    };
    let mut triggers = Vec::new();
    loop {
        let page = records.records(&query).await?;
        for record in &page.items {
            match StoredTrigger::from_record(record) {
                Some(stored) => triggers.push(stored),
                // Every few seconds: no warning.
                None => tracing::debug!(
                    trigger = record.key,
                    "a trigger cannot be read: a newer version wrote it"
                ),
            }
        }
        query.after = page.next;
        // Creating refuses more; of two that were created at once the last may be one too many.
        if query.after.is_none() || triggers.len() > TRIGGERS_MAX {
            return Ok(triggers);
        }
    }
}

/// Why a trigger of the configuration cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigureError {
    /// It cannot be one.
    #[error("the trigger '{name}' cannot be used: {problems}")]
    Invalid {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problems: String,
    },
    /// There is one with this name and another source.
    #[error(
        "the trigger '{name}' exists and takes its messages from elsewhere: delete it first, or give this one another name"
    )]
    OtherSource {
        /// Its name.
        name: String,
    },
    /// Another one has its source.
    #[error("the trigger '{name}' cannot be created: '{other}' takes its messages from the same source")]
    Taken {
        /// Its name.
        name: String,
        /// The one that is there.
        other: String,
    },
    /// There are too many.
    #[error("there are {TRIGGERS_MAX} triggers already")]
    TooMany,
    /// The store.
    #[error(transparent)]
    Store(#[from] stagepost_store::Error),
}

/// Makes sure that a trigger of the configuration is there and is what the configuration says. One that was paused stays
/// so. Several processes may do this at once.
///
/// # Errors
/// Where it cannot be kept.
pub async fn configure(
    records: &dyn Records,
    namespace: &Namespace,
    trigger: &Trigger,
    topology: &Topology,
    now: Timestamp,
) -> Result<(), ConfigureError> {
    let name = || trigger.name.clone();
    trigger.check(topology).map_err(|problems| ConfigureError::Invalid { name: name(), problems })?;
    loop {
        let triggers = all(records).await?;
        let is_it =
            |stored: &&StoredTrigger| stored.namespace == *namespace && stored.trigger.name == trigger.name;
        let next = match triggers.iter().find(is_it) {
            Some(stored) if stored.trigger.source != trigger.source => {
                return Err(ConfigureError::OtherSource { name: name() });
            }
            Some(stored) if stored.trigger == *trigger && stored.status != Status::Deleting => return Ok(()),
            Some(stored) => {
                let mut next = StoredTrigger { trigger: trigger.clone(), ..stored.clone() };
                if next.status == Status::Deleting {
                    next.status = Status::Active;
                }
                next.updated_at = now;
                next
            }
            None => {
                if let Some(other) = triggers.iter().find(|other| other.trigger.source == trigger.source) {
                    return Err(ConfigureError::Taken { name: name(), other: other.trigger.name.clone() });
                }
                if triggers.len() >= TRIGGERS_MAX {
                    return Err(ConfigureError::TooMany);
                }
                StoredTrigger::new(namespace.clone(), trigger.clone(), now)
            }
        };
        if records.put_record(&next.to_record()).await? {
            tracing::info!(trigger = trigger.name, "the trigger is as the configuration says");
            return Ok(());
        }
        // Somebody else changed it at the same time.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arn() -> StateMachineArn {
        StateMachineArn { namespace: Namespace::default(), name: "orders".into() }
    }

    fn read(members: &str) -> Result<Trigger, String> {
        let rest = format!(r#""name":"t","stateMachineArn":"{}""#, arn());
        serde_json::from_str(&format!("{{{rest},{members}}}")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_trigger_is_read_with_its_defaults_and_kept_as_it_is() {
        let trigger = read(r#""source":{"queue":"web-orders"}"#).unwrap();
        assert_eq!(trigger, Trigger { name: "t".into(), ..Trigger::on_queue("web-orders", arn()) });
        for source in [
            r#"{"queue":"q"}"#,
            r#"{"exchange":"e","routingKey":"a.#"}"#,
            r#"{"queueUrl":"https://sqs.eu-west-1.amazonaws.com/1/q"}"#,
        ] {
            let trigger = read(&format!(
                r#""source":{source},"body":"BY_CONTENT_TYPE","mapping":"{{\"input\":body}}","prefetch":5"#
            ))
            .unwrap();
            let mut stored = StoredTrigger::new(Namespace::default(), trigger, Timestamp::from_millis(17));
            stored.set_status(Status::Paused, Some("why"), Timestamp::from_millis(18));
            let record = Record { version: 3, ..stored.to_record() };
            assert_eq!(record.label, "PAUSED");
            let again = StoredTrigger::from_record(&record).unwrap();
            assert_eq!(again, StoredTrigger { version: 3, ..stored });
            assert!(again.trigger.check(&Topology::default()).is_ok());
        }
    }

    #[test]
    fn a_source_is_one_of_three() {
        for source in
            ["{}", r#"{"queue":"q","queueUrl":"http://h/q"}"#, r#"{"exchange":"e"}"#, r#"{"routingKey":"k"}"#]
        {
            let error = read(&format!(r#""source":{source}"#)).unwrap_err();
            assert!(
                error.contains("either 'queue', or 'exchange' and 'routingKey', or 'queueUrl'"),
                "{error}"
            );
        }
        assert!(read(r#""source":{"topic":"t"}"#).unwrap_err().contains("topic"));
        assert!(read(r#""source":{"queue":"q"},"kind":1"#).unwrap_err().contains("kind"));
    }

    #[test]
    fn everything_that_is_wrong_is_told() {
        let good = Trigger::on_queue("web-orders", arn());
        let exchange = |exchange: &str, routing_key: &str| Source::Exchange {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
        };
        for (bad, told) in [
            (Trigger { name: String::new(), ..good.clone() }, "its name"),
            (Trigger { name: "a b".into(), ..good.clone() }, "its name"),
            (Trigger { name: "x".repeat(81), ..good.clone() }, "its name"),
            (Trigger { prefetch: 0, ..good.clone() }, "prefetch"),
            (Trigger { prefetch: 1_001, ..good.clone() }, "prefetch"),
            (Trigger { mapping: Some("{".into()), ..good.clone() }, "no JSONata expression"),
            (Trigger { mapping: Some(" ".repeat(16_385)), ..good.clone() }, "16384 bytes"),
            (Trigger { source: Source::Queue(String::new()), ..good.clone() }, "1 to 255"),
            (Trigger { source: Source::Queue("https://h/q".into()), ..good.clone() }, "queueUrl"),
            (Trigger { source: Source::Queue("stagepost.shard.00".into()), ..good.clone() }, "itself uses"),
            (Trigger { source: exchange("", "k"), ..good.clone() }, "exchange"),
            (Trigger { source: exchange("e", &"k".repeat(256)), ..good.clone() }, "routing key"),
            (Trigger { source: Source::Url("amqp://h/q".into()), ..good.clone() }, "https://HOST"),
            (Trigger { source: Source::Url("https://h".into()), ..good.clone() }, "https://HOST"),
            (Trigger { source: Source::Url("https://u:p@h/q".into()), ..good.clone() }, "host and a path"),
        ] {
            let problems = bad.check(&Topology::default()).unwrap_err();
            assert!(problems.contains(told), "{problems}");
        }
        let bad = Trigger { name: "a b".into(), prefetch: 0, ..good.clone() };
        let problems = bad.check(&Topology::default()).unwrap_err();
        assert!(problems.contains("name") && problems.contains("prefetch"), "{problems}");
        assert!(good.check(&Topology::default()).is_ok());
        let odd = Trigger::on_queue("orders/web (new)", arn());
        assert_eq!(odd.name, "orders-web--new-");
        assert!(odd.check(&Topology::default()).is_ok());
    }
}
