//! What operators ask: does the process live, can it work, what has it counted?

use std::{fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use stagepost_broker::Health;
use tokio::time::timeout;

use crate::{
    api::Api,
    metrics::{self, Kind},
};

/// How long `/readyz` waits for the store.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

type Text = (StatusCode, [(HeaderName, &'static str); 1], String);

/// `/healthz`: the process lives and answers.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// `/readyz`: 200 when store and broker can be used, else 503; a line for each says how it stands.
pub(crate) async fn readyz(State(api): State<Arc<Api>>) -> Text {
    let store = match timeout(PING_TIMEOUT, api.reader.ping()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("the database did not answer within {} seconds", PING_TIMEOUT.as_secs())),
    };
    let broker = match &*api.broker.borrow() {
        Health::Up => None,
        Health::Blocked(why) => Some(format!("the broker takes no messages for now: {why}")),
        Health::Down(why) => Some(format!("the broker is not connected: {why}")),
    };
    let ready = store.is_none() && broker.is_none();
    let mut text = String::new();
    for (name, trouble) in [("store", store), ("broker", broker)] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {}", trouble.as_deref().unwrap_or("ok"));
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], text)
}

/// `/metrics`: everything that is counted, in the Prometheus text format.
pub(crate) async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let mut text = String::new();
    api.requests.render(&mut text);
    let name = "stagepost_store_statements_total";
    metrics::family(&mut text, name, Kind::Counter, "Statements that this process sent to the database.");
    metrics::sample(&mut text, name, &[], api.reader.statements_sent());
    let name = "stagepost_broker_up";
    metrics::family(&mut text, name, Kind::Gauge, "1 while the broker is connected and takes messages.");
    metrics::sample(&mut text, name, &[], u8::from(*api.broker.borrow() == Health::Up));
    let name = "stagepost_api_polls_waiting";
    metrics::family(&mut text, name, Kind::Gauge, "Polls for activity tasks that wait now.");
    metrics::sample(&mut text, name, &[], api.polls_waiting());
    for source in &api.sources {
        source(&mut text);
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
