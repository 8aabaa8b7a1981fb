//! Routes, and the loop that serves them.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
    serve::ListenerExt,
};
use tokio::{net::TcpListener, sync::oneshot, time::sleep};

use crate::{api::Api, approvals::pages, health, wire};

/// How long requests may still run after a shutdown was asked for.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// The routes of the API: `POST /`, the pages of approvals and what operators ask. Merge others (the UI) into it.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/", post(wire::request::handle))
        // The protocol's own limit answers in the protocol's words.
        .layer(DefaultBodyLimit::disable())
        .with_state(api.clone())
        .merge(pages::router(api.clone()))
        .merge(health_router(api))
}

/// Only what operators ask: for processes that do not answer the API.
pub fn health_router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .with_state(api)
}

/// Serves until `shutdown` completes; then takes no more connections, lets running requests end, and returns
/// after ten seconds at the latest. Call [`Api::close`] when `shutdown` completes, or long polls are cut off then.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    // Answers are small and whole: waiting for more to send (Nagle) only delays them.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
    });
    let (asked, drain) = oneshot::channel();
    let shutdown = async move {
        shutdown.await;
        // The receiver is gone only when serving has ended anyway.
        let _ = asked.send(());
    };
    let overdue = async {
        match drain.await {
            Ok(()) => sleep(DRAIN_MAX).await,
            // Serving ended by itself and wins the race below.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        result = axum::serve(listener, router).with_graceful_shutdown(shutdown) => result,
        () = overdue => {
            tracing::warn!("requests that still ran {} seconds after the shutdown were cut off", DRAIN_MAX.as_secs());
            Ok(())
        }
    }
}
