//! RabbitMQ and PostgreSQL for one test: those that `AMQP_URL` and `DATABASE_URL` name, with queues and a schema of
//! the test's own; or, for a test that kills them, an instance of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use stagepost_protocol::TokenKey;
use tokio_postgres::NoTls;

use crate::Queues;

/// One of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The broker.
    RabbitMq,
    /// The database.
    Postgres,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Service::RabbitMq => "rabbitmq",
            Service::Postgres => "postgres",
        }
    }
}

/// The two servers, as one test sees them. Dropping it removes what the test left there.
#[derive(Debug)]
pub struct Servers {
    /// The broker's URL.
    pub amqp_url: String,
    /// The database's URL; its search path is the test's schema.
    pub database_url: String,
    /// What the names of the test's queues begin with.
    pub prefix: String,
    /// The schema to drop and the URL to do it with.
    schema: Option<(String, String)>,
    /// The directory of an instance of our own.
    instance: Option<String>,
}

impl Servers {
    /// The servers of the environment; `None`, said aloud, when it names none.
    #[expect(clippy::print_stdout, reason = "says why a test did nothing")]
    pub async fn shared() -> Option<Servers> {
        let variable = |name: &str| std::env::var(name).ok().filter(|url| !url.is_empty());
        let (Some(amqp_url), Some(database_url)) = (variable("AMQP_URL"), variable("DATABASE_URL")) else {
            println!("skipped: AMQP_URL or DATABASE_URL is not set");
            return None;
        };
        let id = format!("{:08x}", uuid::Uuid::new_v4().as_fields().0);
        let schema = format!("it_{id}");
        execute(&database_url, &format!("CREATE SCHEMA {schema}")).await;
        let separator = if database_url.contains('?') { '&' } else { '?' };
        Some(Servers {
            amqp_url,
            database_url: format!("{database_url}{separator}options=-csearch_path%3D{schema}"),
            prefix: format!("it-{id}"),
            schema: Some((schema, database_url)),
            instance: None,
        })
    }

    /// Servers that the test may kill: `tests/services` starts them. `None`, said aloud, when the environment names no
    /// servers, since they may not be installed either.
    #[expect(clippy::print_stdout, reason = "says why a test did nothing")]
    pub async fn own() -> Option<Servers> {
        if std::env::var_os("AMQP_URL").is_none() {
            println!("skipped: AMQP_URL is not set");
            return None;
        }
        Some(Servers::start().await)
    }

    /// As [`Servers::own`], whatever the environment names.
    pub async fn start() -> Servers {
        let mut command = Command::new(services());
        command
            .arg("start")
            .env_remove("AMQP_URL")
            .env_remove("DATABASE_URL")
            .env_remove("STAGEPOST_SERVICES");
        let exports = run(command).await;
        let variable = |name: &str| {
            let from = exports.find(&format!("{name}=")).map(|at| at + name.len() + 1)?;
            Some(exports[from..].split_whitespace().next()?.to_owned())
        };
        Servers {
            amqp_url: variable("AMQP_URL").expect("tests/services exports it"),
            database_url: variable("DATABASE_URL").expect("tests/services exports it"),
            prefix: "stagepost".to_owned(),
            schema: None,
            instance: variable("STAGEPOST_SERVICES"),
        }
    }

    /// kill -9.
    pub async fn kill(&self, service: Service) {
        self.fault("kill", service).await;
    }

    /// SIGSTOP: it hangs.
    pub async fn pause(&self, service: Service) {
        self.fault("pause", service).await;
    }

    /// SIGCONT.
    pub async fn resume(&self, service: Service) {
        self.fault("resume", service).await;
    }

    /// Stops it if it runs and starts it on the same port and data; returns when it is ready.
    pub async fn restart(&self, service: Service) {
        self.fault("restart", service).await;
    }

    /// RabbitMQ's disk counts as full: it blocks who publishes.
    pub async fn fill_disk(&self) {
        self.fault("block", Service::RabbitMq).await;
    }

    /// RabbitMQ's disk has room again.
    pub async fn free_disk(&self) {
        self.fault("unblock", Service::RabbitMq).await;
    }

    async fn fault(&self, action: &str, service: Service) {
        let instance = self.instance.as_ref().expect("only servers of the test's own are killed");
        let mut command = Command::new(services());
        command.args([action, service.name()]).env("STAGEPOST_SERVICES", instance);
        run(command).await;
    }

    /// A connection to the broker.
    pub async fn queues(&self) -> Queues {
        Queues::connect(&self.amqp_url).await
    }

    /// The name of a queue of the installation, for instance of `callbacks`.
    pub fn queue(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// The names of the queues that every installation has.
    pub fn own_queues(&self) -> Vec<String> {
        let shards = (0..4).map(|shard| format!("shard.{shard:02}"));
        shards
            .chain(["callbacks", "express", "dead-letters"].map(String::from))
            .map(|name| self.queue(&name))
            .collect()
    }

    /// The key that signs the task tokens of the installation, which has been started before.
    pub async fn token_key(&self) -> TokenKey {
        let (client, connection) =
            tokio_postgres::connect(&self.database_url, NoTls).await.expect("PostgreSQL can be reached");
        let connection = tokio::spawn(connection);
        let found =
            client.query_one("SELECT value FROM settings WHERE name = 'task-token-secret'", &[]).await;
        let secret: String = found.expect("a coordinator has made it").get(0);
        drop(client);
        // It ends as the client is gone.
        let _ = connection.await;
        TokenKey::new(secret.as_bytes())
    }

    async fn clean_up(amqp_url: String, queues: Vec<String>, schema: String, database_url: String) {
        let there = Queues::connect(&amqp_url).await;
        for queue in queues {
            there.delete(&queue).await;
        }
        execute(&database_url, &format!("DROP SCHEMA IF EXISTS {schema} CASCADE")).await;
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Some(instance) = &self.instance {
            let mut command = Command::new(services());
            // What is left is in a temporary directory.
            let _ = command.arg("stop").env("STAGEPOST_SERVICES", instance).output();
        }
        let Some((schema, database_url)) = self.schema.take() else { return };
        let mut queues = self.own_queues();
        queues.extend(crate::orders::ACTIVITIES.iter().map(|name| self.queue(&format!("activity.{name}"))));
        queues.extend(crate::ACTIVITIES.iter().map(|name| self.queue(&format!("activity.{name}"))));
        let amqp_url = self.amqp_url.clone();
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(Servers::clean_up(amqp_url, queues, schema, database_url));
            }
        });
        // A queue that stays behind hurts nobody.
        let _ = cleaning.join();
    }
}

fn services() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services")
}

/// Runs a command to its end, and returns what it wrote to stdout.
async fn run(mut command: Command) -> String {
    let ended = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic in between");
    let ended = ended.expect("tests/services can be run");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "tests/services failed:\n{said}");
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

async fn execute(database_url: &str, sql: &str) {
    let (client, connection) =
        tokio_postgres::connect(database_url, NoTls).await.expect("PostgreSQL can be reached");
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.expect("PostgreSQL does it");
    drop(client);
    // It ends as the client is gone.
    let _ = connection.await;
}
