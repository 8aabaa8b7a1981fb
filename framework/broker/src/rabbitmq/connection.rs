//! Keeps one connection to RabbitMQ alive: connects, tells when the connection is lost, and connects again.
//!
//! lapin's own recovery is off. It would replay a topology that it recorded itself and publish again what it
//! believes to be unconfirmed; what must happen here depends on what the callers know.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::watch;
use tokio::time::Instant;

use super::reconnect::Backoff;
use crate::{Error, Health};

/// A TCP connection and the AMQP handshake take no longer, or the attempt counts as failed.
const HANDSHAKE_MAX: Duration = Duration::from_secs(20);
/// A silent broker counts as lost after twice this time, unless the URL has a `heartbeat`.
const HEARTBEAT_SECONDS: u16 = 15;
/// The connection's state is looked at so often, in case no event tells.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// A connection that stood so long was good: the next attempt comes soon.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// Closing politely may take so long.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A connection that stands, or stood a moment ago.
pub(super) struct Session {
    /// Counts the connections.
    pub(super) number: u64,
    pub(super) connection: Connection,
}

/// What there is at the moment.
#[derive(Clone)]
enum Link {
    Connecting,
    Up(Arc<Session>),
    Closed,
}

/// The healths of all connections; the worst one is the broker's.
pub(super) struct HealthBoard {
    slots: Mutex<Vec<Health>>,
    worst: watch::Sender<Health>,
}

impl HealthBoard {
    pub(super) fn new(connections: usize) -> Arc<HealthBoard> {
        let slots = Mutex::new(vec![Health::Up; connections]);
        Arc::new(HealthBoard { slots, worst: watch::Sender::new(Health::Up) })
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Health> {
        self.worst.subscribe()
    }

    /// The broker takes messages as far as is known.
    pub(super) fn is_up(&self) -> bool {
        *self.worst.borrow() == Health::Up
    }

    fn set(&self, slot: usize, health: Health) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots[slot] = health;
        let badness = |health: &&Health| match health {
            Health::Up => 0,
            Health::Blocked(_) => 1,
            Health::Down(_) => 2,
        };
        let worst = slots.iter().max_by_key(badness).cloned().unwrap_or(Health::Up);
        drop(slots);
        self.worst.send_if_modified(|now| {
            let changes = *now != worst;
            if changes {
                *now = worst;
            }
            changes
        });
    }
}

/// How to connect.
#[derive(Clone)]
pub(super) struct Target {
    uri: AMQPUri,
    name: String,
    /// The URL without its password, for messages.
    pub(super) shown: String,
}

impl Target {
    pub(super) fn parse(url: &str, name: &str) -> Result<Target, Error> {
        let mut uri: AMQPUri = url.parse().map_err(|reason: String| {
            // What cannot be parsed may have its password anywhere: only the scheme and the host are shown.
            let host = url.rsplit('@').next().unwrap_or_default();
            let scheme = url.split("://").next().filter(|scheme| scheme.len() < url.len()).unwrap_or("");
            let shown = if url.contains('@') { format!("{scheme}://…@{host}") } else { url.to_owned() };
            Error::Url { url: shown, reason }
        })?;
        let authority = &uri.authority;
        let shown = format!("{}://{}:{}/{}", uri.scheme, authority.host, authority.port, uri.vhost);
        if uri.scheme == AMQPScheme::AMQPS && cfg!(not(feature = "amqps")) {
            // lapin would fail at every attempt, and we would try for ever.
            let reason = "this program was built without the feature 'amqps' of stagepost-broker".into();
            return Err(Error::Url { url: shown, reason });
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        Ok(Target { uri, name: name.to_owned(), shown })
    }

    async fn connect(&self) -> lapin::Result<Connection> {
        let properties = ConnectionProperties::default().with_connection_name(self.name.as_str().into());
        match tokio::time::timeout(HANDSHAKE_MAX, Connection::connect_uri(self.uri.clone(), properties)).await
        {
            Ok(connection) => connection,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    /// The first connection: waits for a broker that cannot be reached, but not for one that refuses.
    pub(super) async fn connect_first(&self, timeout: Option<Duration>) -> Result<Connection, Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut backoff = Backoff::new();
        loop {
            let error = match self.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            if is_refusal(&error) {
                let what = format!("let us in at '{}'", self.shown);
                return Err(Error::Denied { what, reason: error.to_string() });
            }
            let wait = backoff.next();
            if deadline.is_some_and(|deadline| Instant::now() + wait > deadline) {
                return Err(Error::Unreachable { url: self.shown.clone(), reason: error.to_string() });
            }
            tracing::warn!(broker = self.shown, %error, "the broker cannot be reached, trying again");
            tokio::time::sleep(wait).await;
        }
    }
}

/// Credentials or the virtual host are wrong.
fn is_refusal(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => matches!(
            error.kind(),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
        ),
        ErrorKind::AuthProviderError(_) => true,
        _ => false,
    }
}

/// A connection that comes back by itself.
pub(super) struct Supervised {
    link: watch::Receiver<Link>,
}

impl Supervised {
    /// Supervises `connection`. `lost` is called whenever a connection was lost. It ends when `stop` turns true
    /// or its sender is dropped.
    pub(super) fn start(
        target: Target,
        connection: Connection,
        slot: usize,
        health: Arc<HealthBoard>,
        stop: watch::Receiver<bool>,
        lost: impl Fn() + Send + 'static,
    ) -> Supervised {
        let (sender, link) = watch::channel(Link::Connecting);
        tokio::spawn(async move {
            let mut supervisor = Supervisor { target, slot, health, stop, sender, number: 0 };
            supervisor.run(connection, lost).await;
            let _nobody_waits = supervisor.sender.send(Link::Closed);
            supervisor.health.set(slot, Health::Down("it was closed".into()));
        });
        Supervised { link }
    }

    /// Waits for a connection.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut link = self.link.clone();
        let found = link.wait_for(|link| !matches!(link, Link::Connecting)).await;
        match found.as_deref() {
            Ok(Link::Up(session)) => Ok(Arc::clone(session)),
            _ => Err(Error::Closed),
        }
    }

    /// Waits for a connection that is newer than that of this number.
    pub(super) async fn session_after(&self, number: u64) -> Result<Arc<Session>, Error> {
        let mut link = self.link.clone();
        let newer = |link: &Link| match link {
            Link::Up(session) => session.number > number,
            Link::Connecting => false,
            Link::Closed => true,
        };
        match link.wait_for(newer).await.as_deref() {
            Ok(Link::Up(session)) => Ok(Arc::clone(session)),
            _ => Err(Error::Closed),
        }
    }

    /// What a request on a connection gives; `None` when the connection is lost first. A request that meets with the
    /// end of its connection may never be answered by lapin, so nothing may wait for an answer alone.
    pub(super) async fn while_up<T>(&self, session: u64, request: impl Future<Output = T>) -> Option<T> {
        let lost = async {
            let mut link = self.link.clone();
            let stands = |link: &Link| matches!(link, Link::Up(now) if now.number == session);
            // An error means that the supervisor is gone, which is as good.
            let _lost = link.wait_for(|link| !stands(link)).await.map(|_| ());
        };
        tokio::select! {
            biased;
            answer = request => Some(answer),
            () = lost => None,
        }
    }

    /// Waits until the supervision has ended.
    pub(super) async fn closed(&self) {
        let mut link = self.link.clone();
        // An error means that the supervisor is gone, which is as good.
        let _ended = link.wait_for(|link| matches!(link, Link::Closed)).await;
    }
}

/// Waits until the broker is closed or gone.
async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the broker is gone, which is as good.
    let _stopped = stop.wait_for(|stop| *stop).await.map(|_| ());
}

struct Supervisor {
    target: Target,
    slot: usize,
    health: Arc<HealthBoard>,
    stop: watch::Receiver<bool>,
    sender: watch::Sender<Link>,
    number: u64,
}

impl Supervisor {
    async fn run(&mut self, first: Connection, lost: impl Fn()) {
        let mut connection = first;
        let mut backoff = Backoff::new();
        loop {
            let since = Instant::now();
            let Some(reason) = self.stand(connection).await else { return };
            tracing::warn!(broker = self.target.shown, reason, "the connection to the broker was lost");
            lost();
            if since.elapsed() > GOOD_AFTER {
                backoff.reset();
            }
            self.health.set(self.slot, Health::Down(reason));
            connection = tokio::select! {
                connection = self.reconnect(&mut backoff) => connection,
                () = stopped(self.stop.clone()) => return,
            };
            tracing::info!(broker = self.target.shown, "connected to the broker again");
        }
    }

    async fn reconnect(&self, backoff: &mut Backoff) -> Connection {
        loop {
            backoff.wait().await;
            match self.target.connect().await {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::debug!(broker = self.target.shown, %error, "the broker cannot be reached");
                    self.health.set(self.slot, Health::Down(error.to_string()));
                }
            }
        }
    }

    /// Holds a connection until it is lost, and says why; `None` when supervision ends.
    async fn stand(&mut self, connection: Connection) -> Option<String> {
        let mut events = Box::pin(connection.events_listener());
        self.number += 1;
        let session = Arc::new(Session { number: self.number, connection });
        let connection = &session.connection;
        // What happened before we listened shows in the state only.
        if !connection.status().blocked() {
            self.health.set(self.slot, Health::Up);
        }
        let _nobody_waits = self.sender.send(Link::Up(Arc::clone(&session)));
        let mut check = tokio::time::interval(CHECK_EVERY);
        let mut stopped = Box::pin(stopped(self.stop.clone()));
        let reason = loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(broker = self.target.shown, reason, "the broker takes no messages for now");
                        self.health.set(self.slot, Health::Blocked(reason));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!(broker = self.target.shown, "the broker takes messages again");
                        self.health.set(self.slot, Health::Up);
                    }
                    // Also for errors of single channels.
                    Some(Event::Error(error)) if !connection.status().connected() => break error.to_string(),
                    Some(_) => {}
                    None => break "it ended".to_owned(),
                },
                _ = check.tick() => {
                    if !connection.status().connected() {
                        break "it ended".to_owned();
                    }
                }
                () = &mut stopped => {
                    let closing = connection.close(200, "OK".into());
                    if !matches!(tokio::time::timeout(CLOSE_MAX, closing).await, Ok(Ok(()))) {
                        tracing::debug!(broker = self.target.shown, "the connection ended without a farewell");
                    }
                    return None;
                }
            }
        };
        let _nobody_waits = self.sender.send(Link::Connecting);
        Some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_shows_a_password() {
        for url in ["amqp://user:secret@host:x/%2f", "http://user:secret@host", "secret"] {
            match Target::parse(url, "test") {
                Err(Error::Url { url: shown, reason }) => {
                    assert!(!reason.contains("secret"), "{reason}");
                    assert!(url == "secret" || !shown.contains("secret"), "{shown}");
                }
                _ => panic!("'{url}' is no broker"),
            }
        }
        let target = Target::parse("amqp://user:secret@host/%2f", "test").unwrap();
        assert_eq!(target.shown, "amqp://host:5672//");
    }
}
