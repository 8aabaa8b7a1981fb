//! Queues and what they are bound to: declaring them, remembering them, and mending those that a crash of the broker broke.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ErrorKind, ExchangeKind};
use tokio::time::Instant;

use super::connection::Supervised;
use super::message::short;
use super::reconnect::Backoff;
use super::{NoAnswer, QueueKind, answer};
use crate::{Error, QueueSpec};

/// A queue that was created so short a time before the connection was lost may have come back broken.
const YOUNG: Duration = Duration::from_secs(10);

/// How often a message may come again before a quorum queue drops it: as often as there are numbers.
///
/// RabbitMQ 4 drops it after 20 times unless its queue says otherwise. `-1` would mean "never" there, but on 3.x, where
/// it is taken too, a message is dropped when it comes back for the first time. A number that is never reached means the
/// same on all of them, so a queue that was created on 3.13 keeps its messages when the broker becomes a 4.
const DELIVERY_LIMIT: i32 = i32::MAX;

/// Why a request about a queue failed. Lost connections are none of these: the request is repeated.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such queue, or the node that holds it is away.
    Missing(String),
    /// It is there with other properties.
    Conflict(String),
    /// We may not.
    Refused(String),
    /// It is there, but does not answer.
    Stuck(String),
    /// The broker connection was closed by us.
    Closed,
}

/// What is asked for, about a queue or an exchange.
#[derive(Debug, Clone)]
enum Request {
    Check,
    Create,
    CreateReply,
    Delete,
    CheckExchange,
    CreateExchange,
    Bind(Binding),
    Unbind(Binding),
}

/// What is published to the exchange with a routing key that the pattern matches goes to the queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Binding {
    queue: ShortString,
    exchange: ShortString,
    pattern: ShortString,
}

impl Binding {
    pub(super) fn new(queue: &str, exchange: &str, pattern: &str) -> Result<Binding, Error> {
        let texts = || -> Result<Binding, String> {
            Ok(Binding {
                queue: short("the queue's name", queue)?,
                exchange: short("the exchange's name", exchange)?,
                pattern: short("the routing key", pattern)?,
            })
        };
        let what = format!("bind queue '{queue}' to exchange '{exchange}'");
        texts().map_err(|reason| Error::Denied { what, reason })
    }
}

/// A refusal as the caller is told it.
fn denied(what: String, failure: Failure) -> Error {
    match failure {
        Failure::Closed => Error::Closed,
        Failure::Missing(reason)
        | Failure::Conflict(reason)
        | Failure::Refused(reason)
        | Failure::Stuck(reason) => Error::Denied { what, reason },
    }
}

#[derive(Debug, Clone, Copy)]
struct Known {
    ours: bool,
    /// When this process created it.
    created: Option<Instant>,
    /// It had only just been created when the connection was lost.
    suspect: bool,
}

/// The queues that were declared, and a channel to ask about queues.
pub(super) struct Topology {
    kind: QueueKind,
    known: Mutex<HashMap<String, Known>>,
    bindings: Mutex<BTreeSet<Binding>>,
    /// Some queue is suspect; saves looking.
    suspicion: AtomicBool,
    /// One queue is mended at a time, and none twice.
    mending: tokio::sync::Mutex<()>,
    /// With the number of its session. One request at a time.
    channel: tokio::sync::Mutex<Option<(u64, Channel)>>,
}

impl Topology {
    pub(super) fn new(kind: QueueKind) -> Topology {
        Topology {
            kind,
            known: Mutex::default(),
            bindings: Mutex::default(),
            suspicion: AtomicBool::new(false),
            mending: tokio::sync::Mutex::default(),
            channel: tokio::sync::Mutex::new(None),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was declared as ours and not deleted since.
    pub(super) fn is_ours(&self, queue: &str) -> bool {
        self.known().get(queue).is_some_and(|known| known.ours)
    }

    /// It was declared and not deleted since.
    pub(super) fn is_known(&self, queue: &str) -> bool {
        self.known().contains_key(queue)
    }

    /// The queues of ours.
    pub(super) fn ours(&self) -> Vec<String> {
        self.known().iter().filter(|(_, known)| known.ours).map(|(name, _)| name.clone()).collect()
    }

    /// The queue had only just been created when the connection was lost, and did not work since.
    pub(super) fn is_suspect(&self, queue: &str) -> bool {
        self.suspicion.load(Ordering::Relaxed) && self.known().get(queue).is_some_and(|known| known.suspect)
    }

    /// The queue took or gave a message.
    pub(super) fn works(&self, queue: &str) {
        if self.suspicion.load(Ordering::Relaxed)
            && let Some(known) = self.known().get_mut(queue)
        {
            known.suspect = false;
        }
    }

    /// Marks the queues that a crash of the broker could have broken.
    pub(super) fn connection_lost(&self) {
        let mut suspicion = false;
        for known in self.known().values_mut() {
            known.suspect |= known.created.is_some_and(|created| created.elapsed() < YOUNG);
            suspicion |= known.suspect;
        }
        self.suspicion.store(suspicion, Ordering::Relaxed);
    }

    fn remember(&self, queue: &str, ours: bool, created: Option<Instant>) {
        let mut table = self.known();
        let known = table.entry(queue.to_owned()).or_insert(Known { ours, created, suspect: false });
        known.ours |= ours;
        if created.is_some() {
            (known.created, known.suspect) = (created, false);
        }
    }

    /// Declares a queue and remembers it.
    pub(super) async fn declare(&self, link: &Supervised, spec: &QueueSpec) -> Result<(), Error> {
        let name = spec.name.as_str();
        let what = || match spec.create {
            true => format!("declare queue '{name}'"),
            false => format!("use queue '{name}'"),
        };
        let created = if spec.create {
            self.create_if_missing(link, name).await
        } else {
            self.request(link, Request::Check, name).await.map(|_| None)
        };
        let created = created.map_err(|failure| denied(what(), failure))?;
        self.remember(name, spec.create, created);
        // A queue that was gone has lost its bindings with it.
        if created.is_some() { self.bind_again(link, Some(name)).await } else { Ok(()) }
    }

    fn bindings(&self) -> MutexGuard<'_, BTreeSet<Binding>> {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares a topic exchange, unless there is an exchange of that name.
    pub(super) async fn declare_exchange(&self, link: &Supervised, exchange: &str) -> Result<(), Error> {
        let declared = match self.request(link, Request::CheckExchange, exchange).await {
            Err(Failure::Missing(_)) => match self.request(link, Request::CreateExchange, exchange).await {
                // Somebody else was faster.
                Err(Failure::Conflict(_)) => self.request(link, Request::CheckExchange, exchange).await,
                created => created,
            },
            checked => checked,
        };
        declared.map(drop).map_err(|failure| denied(format!("declare exchange '{exchange}'"), failure))
    }

    /// Binds a queue and remembers it.
    pub(super) async fn bind(&self, link: &Supervised, binding: Binding) -> Result<(), Error> {
        self.send_binding(link, Request::Bind(binding.clone()), &binding).await?;
        self.bindings().insert(binding);
        Ok(())
    }

    /// Takes a binding back and forgets it.
    pub(super) async fn unbind(&self, link: &Supervised, binding: Binding) -> Result<(), Error> {
        self.bindings().remove(&binding);
        // RabbitMQ answers alike whether there was one or not, and even whether there is such a queue.
        self.send_binding(link, Request::Unbind(binding.clone()), &binding).await
    }

    async fn send_binding(
        &self,
        link: &Supervised,
        request: Request,
        binding: &Binding,
    ) -> Result<(), Error> {
        let what = match request {
            Request::Unbind(_) => format!("unbind queue '{}' from", binding.queue),
            _ => format!("bind queue '{}' to", binding.queue),
        };
        let sent = self.request(link, request, binding.queue.as_str()).await.map(drop);
        sent.map_err(|failure| denied(format!("{what} exchange '{}'", binding.exchange), failure))
    }

    /// Makes the bindings of a queue, or of all, again.
    async fn bind_again(&self, link: &Supervised, queue: Option<&str>) -> Result<(), Error> {
        let lost = |binding: &&Binding| queue.is_none_or(|queue| queue == binding.queue.as_str());
        let bindings: Vec<Binding> = self.bindings().iter().filter(lost).cloned().collect();
        for binding in bindings {
            self.declare_exchange(link, binding.exchange.as_str()).await?;
            self.send_binding(link, Request::Bind(binding.clone()), &binding).await?;
        }
        Ok(())
    }

    /// Deletes a queue that came back broken, and creates it anew; does nothing unless it is suspect.
    ///
    /// RabbitMQ 3.10 brings a quorum queue that was created less than a second or so before a crash back without
    /// its process: it can be looked at and seems empty, but takes no consumer and confirms nothing. What could
    /// have been in it was published in these seconds, and is published again by whoever has it committed. Any
    /// other queue that does not answer is left alone: it waits for the nodes that hold it.
    pub(super) async fn mend(&self, link: &Supervised, queue: &str) {
        let _one_at_a_time = self.mending.lock().await;
        if !self.is_suspect(queue) {
            return;
        }
        if let Ok(1..) = self.request(link, Request::Check, queue).await {
            tracing::debug!(queue, "a queue that does not answer has messages, so it is not broken");
            return;
        }
        tracing::warn!(queue, "the queue came back broken after a crash of the broker; it is created anew");
        if let Err(failure) = self.request(link, Request::Delete, queue).await {
            tracing::warn!(queue, ?failure, "the broken queue could not be deleted");
        }
        if let Err(error) = self.declare(link, &QueueSpec::ours(queue)).await {
            tracing::warn!(queue, %error, "the broken queue could not be created anew");
        }
    }

    /// Declares the queues of ours and their bindings again, after a reconnection. What is refused shows when it is used.
    pub(super) async fn restore(&self, link: &Supervised) {
        for queue in self.ours() {
            if let Err(error) = self.declare(link, &QueueSpec::ours(&queue)).await {
                tracing::warn!(queue, %error, "a queue cannot be declared again");
            }
        }
        if let Err(error) = self.bind_again(link, None).await {
            tracing::warn!(%error, "a binding cannot be made again");
        }
    }

    /// A queue that is there is taken as it is, of whatever type. Says when it was created by us.
    async fn create_if_missing(&self, link: &Supervised, name: &str) -> Result<Option<Instant>, Failure> {
        match self.request(link, Request::Check, name).await {
            Ok(_) => return Ok(None),
            Err(Failure::Missing(_)) => {}
            Err(failure) => return Err(failure),
        }
        match self.request(link, Request::Create, name).await {
            Ok(_) => Ok(Some(Instant::now())),
            // Somebody else was faster.
            Err(Failure::Conflict(_)) => self.request(link, Request::Check, name).await.map(|_| None),
            Err(failure) => Err(failure),
        }
    }

    /// Creates an exclusive queue that goes with the connection.
    pub(super) async fn create_reply(&self, link: &Supervised, name: &str) -> Result<(), Failure> {
        self.request(link, Request::CreateReply, name).await.map(|_| ())
    }

    /// How many messages wait in it.
    pub(super) async fn depth(&self, link: &Supervised, queue: &str) -> Result<Option<u64>, Error> {
        match self.request(link, Request::Check, queue).await {
            Ok(count) => Ok(Some(u64::from(count))),
            Err(Failure::Missing(_)) => Ok(None),
            Err(Failure::Closed) => Err(Error::Closed),
            Err(Failure::Conflict(reason) | Failure::Refused(reason) | Failure::Stuck(reason)) => {
                Err(Error::Denied { what: format!("look at queue '{queue}'"), reason })
            }
        }
    }

    /// Deletes a queue and forgets it.
    pub(super) async fn delete(&self, link: &Supervised, queue: &str) -> Result<(), Error> {
        self.known().remove(queue);
        self.bindings().retain(|binding| binding.queue.as_str() != queue);
        match self.request(link, Request::Delete, queue).await {
            Ok(_) | Err(Failure::Missing(_)) => Ok(()),
            Err(Failure::Closed) => Err(Error::Closed),
            Err(Failure::Conflict(reason) | Failure::Refused(reason) | Failure::Stuck(reason)) => {
                Err(Error::Denied { what: format!("delete queue '{queue}'"), reason })
            }
        }
    }

    /// Sends a request about a queue or an exchange, again if the connection is lost meanwhile. Gives the number of
    /// messages in the queue.
    async fn request(&self, link: &Supervised, request: Request, name: &str) -> Result<u32, Failure> {
        let short_name = short("the name", name).map_err(Failure::Refused)?;
        let mut backoff = Backoff::new();
        loop {
            let mut slot = self.channel.lock().await;
            let session = link.session().await.map_err(|_| Failure::Closed)?;
            // Out of its place, so that a request that is dropped half way leaves no channel with an answer due.
            let opened = slot
                .take()
                .filter(|(number, channel)| *number == session.number && channel.status().connected());
            let (owner, kind) = (Arc::clone(&session), self.kind);
            let (asked, short_name) = (request.clone(), short_name.clone());
            let asking = async move {
                let channel = match opened {
                    Some((_, channel)) => channel,
                    None => owner.connection.create_channel().await?,
                };
                let count = send(channel.clone(), asked, kind, short_name).await?;
                Ok((count, channel))
            };
            let error = match answer(link, &session, asking).await {
                Ok(Ok((count, channel))) => {
                    *slot = Some((session.number, channel));
                    return Ok(count);
                }
                Ok(Err(error)) => error,
                Err(NoAnswer::Lost | NoAnswer::Blocked) => continue,
                Err(NoAnswer::Late) => return Err(Failure::Stuck("it does not answer".into())),
            };
            drop(slot);
            if let Some(failure) = classify(&error) {
                return Err(failure);
            }
            tracing::debug!(name, ?request, %error, "asking again");
            backoff.wait().await;
        }
    }
}

async fn send(channel: Channel, request: Request, kind: QueueKind, name: ShortString) -> lapin::Result<u32> {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let (options, arguments) = match request {
        Request::Delete => return channel.queue_delete(name, QueueDeleteOptions::default()).await,
        Request::CheckExchange | Request::CreateExchange => {
            let passive = matches!(request, Request::CheckExchange);
            let options =
                ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
            let declared =
                channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default());
            return declared.await.map(|()| 0);
        }
        Request::Bind(binding) => {
            let (exchange, pattern) = (binding.exchange, binding.pattern);
            let options = QueueBindOptions::default();
            return channel
                .queue_bind(name, exchange, pattern, options, FieldTable::default())
                .await
                .map(|()| 0);
        }
        Request::Unbind(binding) => {
            let (exchange, pattern) = (binding.exchange, binding.pattern);
            return channel.queue_unbind(name, exchange, pattern, FieldTable::default()).await.map(|()| 0);
        }
        Request::Check => {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            (options, FieldTable::default())
        }
        Request::CreateReply => {
            let options =
                QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
            (options, FieldTable::default())
        }
        Request::Create => (durable, arguments(kind)),
    };
    channel.queue_declare(name, options, arguments).await.map(|queue| queue.message_count())
}

/// What a queue of ours is created with.
fn arguments(kind: QueueKind) -> FieldTable {
    let name = match kind {
        QueueKind::Quorum => "quorum",
        QueueKind::Classic => "classic",
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(name.into()));
    // Classic queues know no limit.
    if kind == QueueKind::Quorum {
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
    }
    arguments
}

/// What the broker's refusal means; `None`: the connection or the channel was lost, nothing was refused.
pub(super) fn classify(error: &lapin::Error) -> Option<Failure> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    let reason = error.get_message().as_str().to_owned();
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Some(Failure::Missing(reason)),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => Some(Failure::Conflict(reason)),
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED | AMQPSoftError::RESOURCELOCKED) => {
            Some(Failure::Refused(reason))
        }
        AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR) => Some(Failure::Stuck(reason)),
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Some(Failure::Refused(reason)),
        AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quorum_queue_has_a_delivery_limit_and_never_a_negative_one() {
        let created = |kind| {
            let arguments = arguments(kind);
            let text = |(name, value): (&ShortString, &AMQPValue)| match value {
                AMQPValue::LongString(text) => format!("{name}={text}"),
                AMQPValue::LongInt(number) => format!("{name}={number}"),
                other => panic!("{name} is {other:?}"),
            };
            arguments.inner().iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(created(QueueKind::Classic), ["x-queue-type=classic"]);
        assert_eq!(created(QueueKind::Quorum), ["x-delivery-limit=2147483647", "x-queue-type=quorum"]);
    }
}
