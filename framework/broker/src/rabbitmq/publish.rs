//! Publishes with confirmation, on a few channels ("lanes") that take turns.
//!
//! ```text
//! publish() ─┐                    ┌─► lane: send all ──► await all confirms ──► answer all
//! publish() ─┼─► bounded queue ───┤
//! publish() ─┘                    └─► lane: …
//! ```
//!
//! A lane takes everything that waits and publishes it as one batch, so that many small calls cost little more
//! than a large one. It takes the next batch only when the last one is confirmed whole: lapin hands a returned
//! message to whichever confirmation comes next, so only when all messages of a channel are confirmed is it
//! known which ones came back.
//!
//! Awaiting goes from the last message to the first: by the time that the last one is confirmed the others
//! are, almost always, and the task is woken once instead of once per message.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use stagepost_protocol::Message;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use super::Inner;
use super::connection::{Session, Supervised};
use super::message::{short, to_amqp};
use super::reconnect::Backoff;
use crate::{Error, Published, QueueSpec};

/// Calls that wait for a lane. More wait outside.
const WAITING_MAX: usize = 256;
/// A batch takes further calls until it has so many messages.
const BATCH_MAX: usize = 2000;
/// So many messages are sent before the first of them must be confirmed.
const WINDOW: usize = 1000;
/// So many bytes, likewise.
const WINDOW_BYTES: usize = 8 << 20;
/// A batch that is not confirmed after this time no longer holds up its lane.
const STALL: Duration = Duration::from_secs(10);
/// A message that the broker nacks is published again, with growing pauses, so many times: a quorum queue that
/// somebody has just declared is there before it takes messages, and one whose leader changes takes none for a moment.
pub(super) const NACKS_MAX: u32 = 4;
/// So many batches may be stalled; then the lanes wait.
const STALLED_MAX: usize = 32;

/// One call of `publish`.
pub(super) struct Call {
    pub(super) messages: Vec<Message>,
    pub(super) done: oneshot::Sender<Vec<Published>>,
}

/// A queue of calls for the lanes.
pub(super) fn calls() -> (mpsc::Sender<Call>, Arc<Mutex<mpsc::Receiver<Call>>>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (sender, Arc::new(Mutex::new(receiver)))
}

/// A channel in confirm mode, of a certain session.
pub(super) struct LaneChannel {
    pub(super) session: Arc<Session>,
    pub(super) channel: Channel,
}

/// Runs a lane until the broker is closed.
pub(super) async fn run_lane(inner: Arc<Inner>, calls: Arc<Mutex<mpsc::Receiver<Call>>>) {
    let stalled = Arc::new(Semaphore::new(STALLED_MAX));
    let mut channel: Option<LaneChannel> = None;
    loop {
        let batch = {
            let mut calls = calls.lock().await;
            tokio::select! {
                first = calls.recv() => match first {
                    Some(first) => gather(first, &mut calls),
                    None => return,
                },
                // Calls that still wait learn of it when the queue is dropped.
                () = inner.publishing.closed() => return,
            }
        };
        let mut running = Box::pin(batch.publish(Arc::clone(&inner), channel.take()));
        channel = loop {
            tokio::select! {
                free = &mut running => break free,
                () = tokio::time::sleep(STALL) => {
                    // A blocked broker holds up everything; another channel would not help.
                    if !inner.health.is_up() {
                        continue;
                    }
                    if let Ok(permit) = Arc::clone(&stalled).try_acquire_owned() {
                        tracing::warn!("the broker does not confirm some messages; others go on without them");
                        tokio::spawn(async move {
                            let _permit = permit;
                            // Its channel goes with it.
                            let _channel = running.await;
                        });
                        break None;
                    }
                }
            }
        };
    }
}

fn gather(first: Call, calls: &mut mpsc::Receiver<Call>) -> Batch {
    let mut batch = Batch::default();
    batch.add(first);
    while batch.items.len() < BATCH_MAX
        && let Ok(call) = calls.try_recv()
    {
        batch.add(call);
    }
    batch
}

/// Messages of some calls, published together.
#[derive(Default)]
struct Batch {
    items: Vec<Message>,
    results: Vec<Option<Published>>,
    /// Who gets how many of the results, in order.
    callers: Vec<(usize, oneshot::Sender<Vec<Published>>)>,
}

/// What became of one attempt to publish a message.
enum Outcome {
    Confirmed,
    /// It cannot be sent at all.
    Unfit(String),
    /// The broker says that it does not have it.
    Nacked,
    /// It was not sent whole, so the broker does not have it.
    Unsent(lapin::Error),
    /// No confirmation came, so the broker may have it; with the error, unless the connection just went.
    Lost(Option<lapin::Error>),
}

type Sending<'a> = Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send + 'a>>;

impl Batch {
    fn add(&mut self, call: Call) {
        self.callers.push((call.messages.len(), call.done));
        self.items.extend(call.messages);
    }

    /// Publishes until every message has a result. Gives its channel back if it can be used again.
    async fn publish(mut self, inner: Arc<Inner>, mut channel: Option<LaneChannel>) -> Option<LaneChannel> {
        self.results.resize_with(self.items.len(), || None);
        let mut pending: Vec<usize> = (0..self.items.len()).collect();
        let mut declared = HashSet::new();
        let mut suspicious = false;
        let mut nacks = 0;
        let mut backoff = Backoff::new();
        while !pending.is_empty() {
            let lane = match open(&inner, channel.take()).await {
                Ok(lane) => lane,
                Err(Error::Closed) => {
                    for index in pending {
                        self.results[index] = Some(Err(Error::Closed));
                    }
                    break;
                }
                Err(_) => {
                    backoff.wait().await;
                    continue;
                }
            };
            // After an error that a message may have caused, they go one by one.
            let count = if suspicious { 1 } else { pending.len() };
            let later = pending.split_off(count);
            let (outcomes, returned) = tokio::select! {
                done = self.attempt(&inner.publishing, &lane, &pending) => done,
                never = self.rescue(&inner, &lane.channel) => match never {},
            };
            let alone = suspicious && count == 1;
            let (mut again, mut confirmed) = (Vec::new(), Vec::new());
            let mut nacked = false;
            for (index, outcome) in outcomes {
                match outcome {
                    Outcome::Confirmed => confirmed.push(index),
                    Outcome::Nacked if inner.topology.is_suspect(&self.items[index].queue) => {
                        inner.topology.mend(&inner.consuming, &self.items[index].queue).await;
                        self.items[index].mark_republished();
                        again.push(index);
                    }
                    Outcome::Nacked if nacks < NACKS_MAX => {
                        nacked = true;
                        again.push(index);
                    }
                    Outcome::Nacked => {
                        let reason = "it does not take more messages, or lost this one";
                        self.refuse(index, reason.into());
                    }
                    Outcome::Unfit(reason) => self.refuse(index, reason),
                    Outcome::Unsent(error) | Outcome::Lost(Some(error)) if alone && is_refusal(&error) => {
                        self.refuse(index, error.to_string());
                    }
                    Outcome::Unsent(error) => {
                        suspicious |= is_refusal(&error);
                        again.push(index);
                    }
                    Outcome::Lost(error) => {
                        suspicious |= error.as_ref().is_some_and(is_refusal);
                        self.items[index].mark_republished();
                        again.push(index);
                    }
                }
            }
            again.extend(self.settle_confirmed(&inner, &mut confirmed, returned, &mut declared).await);
            again.sort_unstable();
            if again.is_empty() {
                backoff.reset();
                channel = Some(lane);
            } else if lane.channel.status().connected() {
                channel = Some(lane);
            }
            if nacked || (channel.is_none() && !again.is_empty()) {
                backoff.wait().await;
            }
            nacks += u32::from(nacked);
            pending = again;
            pending.extend(later);
        }
        self.answer();
        channel
    }

    /// Mends broken queues that confirm nothing, and ends the channel then, so that all is published again.
    async fn rescue(&self, inner: &Inner, channel: &Channel) -> Infallible {
        loop {
            tokio::time::sleep(STALL).await;
            let queues: HashSet<&str> = self.items.iter().map(|message| message.queue.as_str()).collect();
            let mut mended = false;
            for queue in queues.into_iter().filter(|queue| inner.topology.is_suspect(queue)) {
                inner.topology.mend(&inner.consuming, queue).await;
                mended |= !inner.topology.is_suspect(queue);
            }
            if mended && let Err(error) = channel.close(200, "OK".into()).await {
                tracing::debug!(%error, "the channel had ended already");
            }
        }
    }

    fn refuse(&mut self, index: usize, reason: String) {
        let queue = self.items[index].queue.clone();
        self.results[index] = Some(Err(Error::Refused { queue, reason }));
    }

    /// Sends the messages, then waits for their confirmations.
    async fn attempt(
        &self,
        link: &Supervised,
        lane: &LaneChannel,
        indexes: &[usize],
    ) -> (Vec<(usize, Outcome)>, Vec<BasicReturnMessage>) {
        let (mut outcomes, mut returned) = (Vec::with_capacity(indexes.len()), Vec::new());
        let mut sent: Vec<(usize, Sending<'_>)> = Vec::with_capacity(indexes.len().min(2 * WINDOW));
        let mut bytes = 0;
        for &index in indexes {
            let message = &self.items[index];
            let prepared =
                short("the queue's name", &message.queue).and_then(|queue| Ok((queue, to_amqp(message)?)));
            let (queue, properties) = match prepared {
                Ok(prepared) => prepared,
                Err(reason) => {
                    outcomes.push((index, Outcome::Unfit(reason)));
                    continue;
                }
            };
            if sent.len() >= 2 * WINDOW || bytes >= 2 * WINDOW_BYTES {
                let rest = sent.split_off(sent.len() / 2);
                confirm(link, lane.session.number, sent, &mut outcomes, &mut returned).await;
                sent = rest;
                bytes /= 2;
            }
            bytes += message.body.len();
            let mut sending = send(&lane.channel, queue, &message.body, properties);
            // The first poll hands the frames over; what remains is to wait until they were written.
            match sending.as_mut().now_or_never() {
                None => sent.push((index, sending)),
                Some(done) => sent.push((index, Box::pin(std::future::ready(done)))),
            }
        }
        confirm(link, lane.session.number, sent, &mut outcomes, &mut returned).await;
        (outcomes, returned)
    }

    /// Tells returned messages from those that arrived. Gives those to publish again, their queue being declared.
    async fn settle_confirmed(
        &mut self,
        inner: &Inner,
        confirmed: &mut Vec<usize>,
        returned: Vec<BasicReturnMessage>,
        declared: &mut HashSet<String>,
    ) -> Vec<usize> {
        let mut again = Vec::new();
        let mut usable: HashMap<String, bool> = HashMap::new();
        confirmed.sort_unstable();
        for message in returned {
            let Some(index) = self.take_returned(confirmed, &message) else { continue };
            let queue = self.items[index].queue.clone();
            let usable = match usable.get(&queue) {
                Some(usable) => *usable,
                None => {
                    let first = inner.topology.is_ours(&queue) && declared.insert(queue.clone());
                    let done = first
                        && inner.topology.declare(&inner.consuming, &QueueSpec::ours(&queue)).await.is_ok();
                    usable.insert(queue.clone(), done);
                    done
                }
            };
            if usable {
                again.push(index);
            } else {
                self.results[index] = Some(Err(Error::Unroutable { queue }));
            }
        }
        for index in confirmed.drain(..) {
            inner.topology.works(&self.items[index].queue);
            self.results[index] = Some(Ok(()));
        }
        again
    }

    /// Finds the message that came back. Messages that equal each other are interchangeable.
    fn take_returned(&self, confirmed: &mut Vec<usize>, returned: &BasicReturnMessage) -> Option<usize> {
        let to_queue = |index: &usize| self.items[*index].queue == returned.routing_key.as_str();
        let equal = |index: &usize| {
            let message = &self.items[*index];
            to_queue(index)
                && message.body == returned.data
                && to_amqp(message).is_ok_and(|properties| properties == returned.properties)
        };
        let found = confirmed.iter().position(equal).or_else(|| confirmed.iter().position(to_queue))?;
        Some(confirmed.remove(found))
    }

    fn answer(self) {
        let mut results = self.results.into_iter().map(|result| result.unwrap_or(Err(Error::Closed)));
        for (count, done) in self.callers {
            // A caller that went away does not want to know.
            let _gone = done.send(results.by_ref().take(count).collect());
        }
    }
}

fn send<'a>(
    channel: &'a Channel,
    queue: ShortString,
    body: &'a [u8],
    properties: BasicProperties,
) -> Sending<'a> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    Box::pin(channel.basic_publish(ShortString::default(), queue, options, body, properties))
}

/// Waits for confirmations, from the last to the first.
async fn confirm(
    link: &Supervised,
    session: u64,
    sent: Vec<(usize, Sending<'_>)>,
    outcomes: &mut Vec<(usize, Outcome)>,
    returned: &mut Vec<BasicReturnMessage>,
) {
    for (index, sending) in sent.into_iter().rev() {
        let confirmation = match link.while_up(session, sending).await {
            Some(Ok(confirmation)) => link.while_up(session, confirmation).await,
            Some(Err(error)) => {
                outcomes.push((index, Outcome::Unsent(error)));
                continue;
            }
            None => None,
        };
        let outcome = match confirmation {
            Some(Ok(confirmation)) => {
                let nack = confirmation.is_nack();
                returned.extend(Confirmation::take_message(confirmation));
                if nack { Outcome::Nacked } else { Outcome::Confirmed }
            }
            Some(Err(error)) => Outcome::Lost(Some(error)),
            None => Outcome::Lost(None),
        };
        outcomes.push((index, outcome));
    }
}

/// The broker closed the channel or the connection over something that was sent.
pub(super) fn is_refusal(error: &lapin::Error) -> bool {
    use lapin::protocol::{AMQPErrorKind, AMQPHardError};
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => {
            !matches!(error.kind(), AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED))
        }
        _ => false,
    }
}

/// A channel in confirm mode on the connection that stands now.
pub(super) async fn open(inner: &Inner, channel: Option<LaneChannel>) -> Result<LaneChannel, Error> {
    let session = inner.publishing.session().await?;
    if let Some(lane) = channel
        && lane.session.number == session.number
        && lane.channel.status().connected()
    {
        return Ok(lane);
    }
    let opening = async {
        let channel = session.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok::<_, lapin::Error>(channel)
    };
    let reason = match inner.publishing.while_up(session.number, opening).await {
        Some(Ok(channel)) => return Ok(LaneChannel { session, channel }),
        Some(Err(error)) => error.to_string(),
        None => "the connection was lost".into(),
    };
    tracing::debug!(reason, "no channel to publish on");
    Err(Error::Unreachable { url: String::new(), reason })
}
