//! RabbitMQ against the contract, and what only RabbitMQ can meet with: cut connections. Needs `AMQP_URL`.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;

use stagepost_broker::Broker;
use stagepost_broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};

async fn connect() -> Option<Arc<dyn Broker>> {
    let Ok(url) = std::env::var("AMQP_URL") else {
        println!("skipped: AMQP_URL is not set");
        return None;
    };
    Some(RabbitMqBroker::connect(&url, RabbitMqOptions::default()).await.unwrap())
}

stagepost_broker::contract_tests!(connect);
