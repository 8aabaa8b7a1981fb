//! Settings that state machines and activities carry for the API: logging, tracing, encryption and tags. They
//! are kept and described; logs, traces and keys themselves are not acted on.

use serde_json::{Map, Value, json};
use stagepost_protocol::Payload;

use crate::wire::{ApiError, Code, Members, Text, members::ARN};

/// The most tags that a resource may have.
const TAGS_MAX: usize = 50;

/// The settings of a stored row, or of a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Settings(Map<String, Value>);

const LOGGING: &str = "loggingConfiguration";
const TRACING: &str = "tracingConfiguration";
const ENCRYPTION: &str = "encryptionConfiguration";
const TAGS: &str = "tags";
/// The id of the first definition: the service shows a revision id only once there was an update.
const FIRST_REVISION: &str = "firstRevision";

impl Settings {
    pub(super) fn of(stored: &Payload) -> Settings {
        match stored.to_value() {
            Value::Object(settings) => Settings(settings),
            _ => Settings::default(),
        }
    }

    pub(super) fn to_payload(&self) -> Payload {
        Payload::from_value(&Value::Object(self.0.clone()))
    }

    /// Reads the configurations of a request.
    pub(super) fn read(m: &mut Members<'_>) -> Settings {
        let mut settings = Map::new();
        let mut keep = |name: &str, members: Option<&Map<String, Value>>| {
            if let Some(members) = members {
                settings.insert(name.to_owned(), Value::Object(members.clone()));
            }
        };
        let logging = m.structure(LOGGING, |l| {
            l.one_of("level", &["ALL", "ERROR", "FATAL", "OFF"]);
            l.flag("includeExecutionData");
            l.structures("destinations", |d| {
                d.structure("cloudWatchLogsLogGroup", |g| g.text("logGroupArn", ARN));
            });
        });
        keep(LOGGING, logging.map(|(members, ())| members));
        let tracing = m.structure(TRACING, |t| t.flag("enabled"));
        keep(TRACING, tracing.map(|(members, _)| members));
        let encryption = m.structure(ENCRYPTION, |e| {
            e.require("type");
            e.one_of("type", &["AWS_OWNED_KEY", "CUSTOMER_MANAGED_KMS_KEY"]);
            e.text("kmsKeyId", Text::new(1, 2048));
            e.integer("kmsDataKeyReusePeriodSeconds", 60, 900);
        });
        keep(ENCRYPTION, encryption.map(|(members, ())| members));
        Settings(settings)
    }

    /// Checks what the model's constraints do not say.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        let Some(logging) = self.0.get(LOGGING) else { return Ok(()) };
        let on = logging.get("level").and_then(Value::as_str).is_some_and(|level| level != "OFF");
        let destinations = logging.get("destinations").and_then(Value::as_array).map_or(0, Vec::len);
        if (on && destinations != 1) || destinations > 1 {
            let message = "Must specify exactly one Log Destination.";
            return Err(ApiError::about(Code::InvalidLoggingConfiguration, message));
        }
        Ok(())
    }

    /// Whether there is any configuration in it (tags are none).
    pub(super) fn configures(&self) -> bool {
        [LOGGING, TRACING, ENCRYPTION].iter().any(|name| self.0.contains_key(*name))
    }

    /// Takes over the configurations of `other` that are there.
    pub(super) fn configure(&mut self, other: &Settings) {
        for name in [LOGGING, TRACING, ENCRYPTION] {
            if let Some(value) = other.0.get(name) {
                self.0.insert(name.to_owned(), value.clone());
            }
        }
    }

    /// Logging, with the service's default.
    pub(super) fn logging(&self) -> Value {
        self.0
            .get(LOGGING)
            .cloned()
            .unwrap_or_else(|| json!({ "level": "OFF", "includeExecutionData": false }))
    }

    /// Tracing, with the service's default.
    pub(super) fn tracing(&self) -> Value {
        self.0.get(TRACING).cloned().unwrap_or_else(|| json!({ "enabled": false }))
    }

    /// Encryption, if it was set.
    pub(super) fn encryption(&self) -> Option<&Value> {
        self.0.get(ENCRYPTION)
    }

    /// Encryption, with the service's default.
    pub(super) fn encryption_or_default(&self) -> Value {
        self.encryption().cloned().unwrap_or_else(|| json!({ "type": "AWS_OWNED_KEY" }))
    }

    /// Whether two requests ask for the same configurations.
    pub(super) fn configures_like(&self, other: &Settings) -> bool {
        self.logging() == other.logging()
            && self.tracing() == other.tracing()
            && self.encryption_or_default() == other.encryption_or_default()
    }

    pub(super) fn first_revision(&self) -> Option<&str> {
        self.0.get(FIRST_REVISION).and_then(Value::as_str)
    }

    pub(super) fn set_first_revision(&mut self, definition_id: &str) {
        self.0.insert(FIRST_REVISION.to_owned(), definition_id.into());
    }

    /// The tags as ListTagsForResource shows them.
    pub(super) fn tags(&self) -> Value {
        let tags = self.0.get(TAGS).and_then(Value::as_object);
        tags.into_iter().flatten().map(|(key, value)| json!({ "key": key, "value": value })).collect()
    }

    /// Adds tags and replaces those of the same keys.
    pub(super) fn tag(&mut self, tags: &[Tag<'_>]) -> Result<(), ApiError> {
        if tags.is_empty() {
            return Ok(());
        }
        let entry = self.0.entry(TAGS).or_insert_with(|| json!({}));
        let Some(all) = entry.as_object_mut() else {
            return Err(ApiError::internal("the stored tags are not an object"));
        };
        for (key, value) in tags {
            all.insert((*key).to_owned(), (*value).into());
        }
        if all.len() > TAGS_MAX {
            let message = format!("{} tags, more than {TAGS_MAX}", all.len());
            return Err(ApiError::about(Code::TooManyTags, message));
        }
        Ok(())
    }

    /// Removes tags; keys that are not there are no error.
    pub(super) fn untag(&mut self, keys: &[&str]) {
        if let Some(all) = self.0.get_mut(TAGS).and_then(Value::as_object_mut) {
            all.retain(|key, _| !keys.contains(&key.as_str()));
        }
    }
}

/// Key and value of a tag.
pub(super) type Tag<'a> = (&'a str, &'a str);

/// Reads `tags`.
pub(super) fn read_tags<'a>(m: &mut Members<'a>) -> Option<Vec<Tag<'a>>> {
    m.structures("tags", |tag| {
        (tag.required_text("key", Text::new(1, 128)), tag.text("value", Text::new(0, 256)).unwrap_or(""))
    })
}
