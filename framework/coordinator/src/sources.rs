//! Opens the queues that foreign messages come from: those of the broker by their name, others by their URL.

use std::sync::Arc;

use stagepost_broker::{ConsumeOptions, Consumer, Error, QueueSpec};
use tokio_util::sync::CancellationToken;

use crate::pipeline::{Backoff, Shared};

/// Consumes a queue that is not the broker's, by its URL, with a prefetch. The consumer goes on whatever happens.
pub type RemoteQueues = Arc<dyn Fn(&str, u16) -> Result<Box<dyn Consumer>, Error> + Send + Sync>;

/// Declares and consumes a queue, waiting as long as it takes; `None` when `stop` is cancelled.
pub(crate) async fn consume(
    shared: &Shared,
    queue: &str,
    prefetch: u16,
    stop: &CancellationToken,
) -> Option<Box<dyn Consumer>> {
    let mut backoff = Backoff::new();
    loop {
        let consumed = async {
            if queue.contains("://") {
                return remote(shared, queue, prefetch);
            }
            shared.broker.declare(&[QueueSpec::ours(queue)]).await?;
            shared.broker.consume(queue, ConsumeOptions { prefetch }).await
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            consumed = consumed => match consumed {
                Ok(consumer) => return Some(consumer),
                Err(error) => tracing::error!(%error, queue, "a queue cannot be consumed; trying again"),
            },
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = backoff.wait() => {}
        }
    }
}

fn remote(shared: &Shared, url: &str, prefetch: u16) -> Result<Box<dyn Consumer>, Error> {
    match &shared.remote_queues {
        Some(open) => open(url, prefetch),
        None => Err(Error::Denied {
            what: format!("consume queue '{url}'"),
            reason: "this process was started without access to queues beyond the broker".to_owned(),
        }),
    }
}
