//! What is measured: RabbitMQ and PostgreSQL, or the embedded default.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use stagepost_broker::{
    Broker,
    in_process::InProcessBroker,
    rabbitmq::{RabbitMqBroker, RabbitMqOptions},
};
use stagepost_store::{Store, postgres, sqlite};

use super::usage::Processes;

/// Where the measuring happens.
pub(super) enum Target {
    /// AMQP_URL and DATABASE_URL.
    Servers { amqp_url: String, database_url: String },
    /// SQLite and the in-process broker.
    Embedded,
}

/// A store and a broker of the benchmark's own.
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
    pub(super) coordinator_broker: Arc<dyn Broker>,
    /// A connection of its own, as a worker in a process of its own has.
    pub(super) worker_broker: Arc<dyn Broker>,
    schema: Option<(String, String)>,
    directory: Option<PathBuf>,
}

impl Target {
    pub(super) fn new(amqp_url: Option<String>, database_url: Option<String>) -> Result<Target> {
        match (amqp_url, database_url) {
            (Some(amqp_url), Some(database_url)) => Ok(Target::Servers { amqp_url, database_url }),
            (None, None) => Ok(Target::Embedded),
            _ => bail!(
                "only one of AMQP_URL and DATABASE_URL is set: set both to measure them, or none for the embedded default"
            ),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Target::Servers { .. } => "RabbitMQ and PostgreSQL",
            Target::Embedded => "the embedded default (SQLite, in-process broker)",
        }
    }

    pub(super) fn processes(&self) -> Processes {
        match self {
            Target::Servers { amqp_url, database_url } => {
                Processes::new(vec![port(amqp_url, 5672), port(database_url, 5432)])
            }
            Target::Embedded => Processes::new(Vec::new()),
        }
    }

    pub(super) async fn open(&self, prefix: &str) -> Result<Opened> {
        match self {
            Target::Servers { amqp_url, database_url } => {
                let schema = prefix.replace('-', "_");
                let options =
                    postgres::Options { schema: Some(schema.clone()), ..postgres::Options::default() };
                let store = postgres::PostgresStore::connect(database_url, options)
                    .await
                    .context("the database cannot be used")?;
                let broker = async || {
                    RabbitMqBroker::connect(amqp_url, RabbitMqOptions::default())
                        .await
                        .context("the broker cannot be used")
                };
                Ok(Opened {
                    store,
                    coordinator_broker: broker().await?,
                    worker_broker: broker().await?,
                    schema: Some((database_url.clone(), schema)),
                    directory: None,
                })
            }
            Target::Embedded => {
                let directory = std::env::temp_dir().join(prefix);
                std::fs::create_dir_all(&directory).context("no directory for the database can be made")?;
                let store =
                    sqlite::SqliteStore::open(directory.join("bench.db"), &sqlite::Options::default())?;
                let broker = InProcessBroker::new();
                Ok(Opened {
                    store,
                    coordinator_broker: broker.clone(),
                    worker_broker: broker,
                    schema: None,
                    directory: Some(directory),
                })
            }
        }
    }
}

impl Opened {
    /// Removes everything that the benchmark made.
    pub(super) async fn remove(self, queues: &[String]) -> Result<()> {
        for queue in queues {
            self.coordinator_broker.delete(queue).await?;
        }
        self.worker_broker.close().await;
        self.coordinator_broker.close().await;
        drop(self.store);
        if let Some((url, schema)) = &self.schema {
            let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
            let connection = tokio::spawn(connection);
            // The schema's name is of our own making.
            client.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE")).await?;
            drop(client);
            connection.await??;
        }
        if let Some(directory) = &self.directory {
            std::fs::remove_dir_all(directory)?;
        }
        Ok(())
    }
}

/// The port of a URL `scheme://[user[:password]@]host[:port][/path]`.
fn port(url: &str, default: u16) -> u16 {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or(authority);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_in_urls() {
        for (url, expected) in [
            ("amqp://guest:guest@127.0.0.1:45123/%2f", 45123),
            ("postgres://postgres@localhost/db", 5432),
            ("postgres://u:p:q@127.0.0.1:5/db?x=1:2", 5),
        ] {
            assert_eq!(port(url, 5432), expected, "{url}");
        }
        assert!(Target::new(Some("amqp://x".into()), None).is_err());
    }
}
