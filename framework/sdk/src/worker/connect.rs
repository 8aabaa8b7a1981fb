//! Connects a worker to what its URL names.

use std::pin::pin;

use stagepost_broker::Broker;
use stagepost_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};

use super::builder::Worker;
use super::client::Client;
use super::error::WorkerError;
use super::{poller, run};

/// Connects, runs, and lets go of the connection.
pub(super) async fn run(
    worker: Worker,
    url: &str,
    shutdown: impl Future<Output = ()>,
    hurry: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    let refused = |reason: &str| Err(WorkerError::Url { url: without_password(url), reason: reason.into() });
    match url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
        Some("amqp" | "amqps") => on_rabbitmq(worker, url, shutdown, hurry).await,
        Some("http") => match Client::new(url, &worker.namespace) {
            Ok(client) => poller::run(worker, client, shutdown, hurry).await,
            Err(reason) => refused(&reason),
        },
        Some("https") => refused(
            "a worker polls an API over http:// only; put a proxy that speaks TLS beside it, or connect to the broker \
             with amqps://",
        ),
        _ => refused("expected amqp://, amqps:// (a RabbitMQ broker) or http:// (the API of a server)"),
    }
}

async fn on_rabbitmq(
    worker: Worker,
    url: &str,
    shutdown: impl Future<Output = ()>,
    hurry: impl Future<Output = ()>,
) -> Result<(), WorkerError> {
    let mut shutdown = pin!(shutdown);
    let options = RabbitMqOptions { connection_name: worker.name.clone(), ..RabbitMqOptions::default() };
    // A broker that cannot be reached is waited for, but not longer than the worker is wanted.
    let broker = tokio::select! {
        connected = RabbitMqBroker::connect(url, options) => connected?,
        () = &mut shutdown => return Ok(()),
    };
    let ended = run::on_broker(worker, broker.clone(), shutdown, hurry).await;
    broker.close().await;
    ended
}

/// The URL as it may be shown.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => {
            let user = rest[..at].split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{}", &rest[at + 1..])
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (url, shown) in [
            ("amqp://u:p@h:5672/v", "amqp://u@h:5672/v"),
            ("amqp://u:p@ss@h", "amqp://u@h"),
            ("ftp://h/a@b", "ftp://h/a@b"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
