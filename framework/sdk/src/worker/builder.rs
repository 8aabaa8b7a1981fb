//! How a worker is described.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stagepost_broker::Broker;
use stagepost_protocol::Namespace;
use stagepost_protocol::topology::Topology;

use super::error::{MissingStates, WorkerError};
use super::run;
use crate::activity::{Register, Registration};
use crate::context::Clock;
use crate::state::States;

/// How many attempts of an activity that does not block run at a time, unless it is set.
const CONCURRENCY_DEFAULT: u16 = 64;
/// How long running attempts may take to end when the worker stops, unless it is set.
const SHUTDOWN_GRACE_DEFAULT: Duration = Duration::from_secs(30);
/// How long a worker may be silent before others get its attempts, unless it is set.
const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// The shortest and the longest lease.
const LEASE_MIN: Duration = Duration::from_millis(500);
const LEASE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Longest name of a worker, in characters (GetActivityTask).
const NAME_CHARS_MAX: usize = 80;

/// Runs activities: connects to a broker or an API, takes tasks, reports results, until it is told to stop.
///
/// ```no_run
/// use stagepost::{Failure, State, Worker, activities, activity};
///
/// struct Stock { on_hand: u64 }
///
/// #[activity]
/// async fn check_stock(stock: State<Stock>, wanted: u64) -> Result<bool, Failure> {
///     Ok(stock.on_hand >= wanted)
/// }
///
/// # async fn main_() -> Result<(), stagepost::WorkerError> {
/// Worker::connect("amqp://localhost")
///     .state(Stock { on_hand: 10 })
///     .register(activities![check_stock])
///     .run()
///     .await
/// # }
/// ```
#[must_use = "a worker does nothing until `run` is awaited"]
#[derive(Debug)]
pub struct Worker {
    pub(super) connection: Connection,
    pub(super) states: States,
    pub(super) registrations: Vec<Registration>,
    pub(super) name: String,
    pub(super) namespace: Namespace,
    pub(super) topology: Topology,
    pub(super) shutdown_grace: Duration,
    pub(super) clock: Clock,
    pub(super) holder: String,
    pub(super) lease: Duration,
    concurrency: Option<u16>,
}

/// Where tasks come from.
pub(super) enum Connection {
    /// To be connected when the worker runs.
    Url(String),
    /// Somebody else's, who also closes it.
    Broker(Arc<dyn Broker>),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A URL may hold a password.
        f.write_str(match self {
            Connection::Url(_) => "Connection::Url",
            Connection::Broker(_) => "Connection::Broker",
        })
    }
}

impl Worker {
    /// A worker that connects to `url` when it runs: `amqp://user:password@host:5672/vhost` is a RabbitMQ broker,
    /// `http://host:8083` the API of a server (or of AWS's local emulator), which is polled. A URL that cannot be
    /// used is reported by [`Worker::run`].
    pub fn connect(url: impl Into<String>) -> Worker {
        Worker::new(Connection::Url(url.into()))
    }

    /// A worker on a broker that is there already: that of an embedded server in the same process. The worker does
    /// not close it.
    pub fn with_broker(broker: Arc<dyn Broker>) -> Worker {
        Worker::new(Connection::Broker(broker))
    }

    fn new(connection: Connection) -> Worker {
        Worker {
            connection,
            states: States::default(),
            registrations: Vec::new(),
            name: default_name(),
            namespace: Namespace::default(),
            topology: Topology::default(),
            shutdown_grace: SHUTDOWN_GRACE_DEFAULT,
            clock: Clock::default(),
            holder: uuid::Uuid::new_v4().to_string(),
            lease: LEASE_DEFAULT,
            concurrency: None,
        }
    }

    /// Gives activities a value to share: those with a parameter [`State<T>`](crate::State) get it. A second value of
    /// the same type replaces the first.
    pub fn state<T: Send + Sync + 'static>(self, value: T) -> Worker {
        self.shared_state(Arc::new(value))
    }

    /// As [`Worker::state`], for a value that others hold too, or a trait object: `State<dyn Gateway>` takes what
    /// `shared_state::<dyn Gateway>(Arc::new(…))` gave.
    pub fn shared_state<T: ?Sized + Send + Sync + 'static>(mut self, value: Arc<T>) -> Worker {
        self.states.insert(value);
        self
    }

    /// Adds activities: functions by `register(activities![charge_card, refund_card])`, the methods of a value
    /// ([`Activities`](crate::Activities)) by `register(payments)`.
    pub fn register(mut self, activities: impl Register) -> Worker {
        self.registrations.extend(activities.into_registrations());
        self
    }

    /// How many attempts of one activity run at a time, for activities that do not set `concurrency` themselves; 0
    /// counts as 1. Default: 64, and for activities that block the number of cores.
    pub fn concurrency(mut self, attempts: u16) -> Worker {
        self.concurrency = Some(attempts.max(1));
        self
    }

    /// The worker's name, which histories show; cut to 80 characters. Default: host name, process id and a random
    /// part.
    pub fn name(mut self, name: impl Into<String>) -> Worker {
        self.name = name.into().chars().take(NAME_CHARS_MAX).collect();
        self
    }

    /// The account and region whose activities it works on. Default: `000000000000` in `us-east-1`.
    pub fn namespace(mut self, namespace: Namespace) -> Worker {
        self.namespace = namespace;
        self
    }

    /// What the names of the installation's queues begin with. Default: `stagepost`.
    pub fn queue_prefix(mut self, prefix: impl Into<String>) -> Worker {
        self.topology = Topology::new(prefix);
        self
    }

    /// How long running attempts may take to end when the worker stops; then they are asked to stop
    /// ([`Context::cancelled`](crate::Context::cancelled)), and some seconds later they are ended. Default: 30 s.
    pub fn shutdown_grace(mut self, grace: Duration) -> Worker {
        self.shutdown_grace = grace;
        self
    }

    /// What coordinators know this running worker by: no other may ever have the same, nor this one when it runs again.
    /// For tests that must do the same each time. Default: random.
    #[doc(hidden)]
    pub fn holder(mut self, holder: impl Into<String>) -> Worker {
        self.holder = holder.into();
        self
    }

    /// Where the time of deadlines and reports comes from, for tests under virtual time. Default: the system's clock.
    pub fn clock(mut self, time: impl Fn() -> SystemTime + Send + Sync + 'static) -> Worker {
        self.clock = Clock::new(time);
        self
    }

    /// How long the worker may be silent, because it died or is cut off from the broker, before what it runs ends
    /// elsewhere (with `States.HeartbeatTimeout`, or in another worker if the activity is `idempotent`). It says three
    /// times as often that it is there. A worker that was not heard for so long asks its activities to stop
    /// ([`Cancelled::LeaseLost`](crate::Cancelled::LeaseLost)), so it should be longer than the broker takes to restart.
    /// From 500 ms to a day; default: 30 s. Workers on a broker only: those who poll an API keep no lease.
    pub fn lease(mut self, lease: Duration) -> Worker {
        self.lease = lease.clamp(LEASE_MIN, LEASE_MAX);
        self
    }

    /// Runs until the process is told to stop (SIGINT or SIGTERM), then stops gracefully: takes no further task,
    /// gives back what it has not begun, and lets running attempts end within the grace period. A second signal cuts
    /// the grace short.
    ///
    /// # Errors
    /// What keeps it from starting (missing state is named by activity and type), or from going on. A broker that
    /// cannot be reached is no error: it is waited for.
    pub async fn run(self) -> Result<(), WorkerError> {
        run::with_signals(self).await
    }

    /// As [`Worker::run`], until `shutdown` completes instead of a signal.
    ///
    /// # Errors
    /// As for [`Worker::run`].
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
        run::until(self, shutdown, std::future::pending()).await
    }

    /// What can be told to be wrong before anything is connected.
    pub(super) fn check(&self) -> Result<(), WorkerError> {
        if self.registrations.is_empty() {
            return Err(WorkerError::NoActivities);
        }
        for (i, second) in self.registrations.iter().enumerate() {
            if let Some(first) = self.registrations[..i].iter().find(|first| first.queue() == second.queue())
            {
                let queue = second.queue_name(&self.topology, &self.namespace);
                return Err(WorkerError::SharedQueue { first: first.name, second: second.name, queue });
            }
        }
        let missing: Vec<_> = self
            .registrations
            .iter()
            .flat_map(|registration| registration.requirements.iter().map(|r| (registration.name, r)))
            .filter(|(_, requirement)| !self.states.satisfies(requirement))
            .map(|(activity, requirement)| (activity, requirement.type_name))
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(WorkerError::MissingState(MissingStates(missing))) }
    }

    /// How many attempts of this activity run at a time.
    pub(super) fn slots(&self, registration: &Registration) -> u16 {
        let default = || {
            if registration.options.blocking {
                std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX))
            } else {
                CONCURRENCY_DEFAULT
            }
        };
        registration.options.concurrency.or(self.concurrency).unwrap_or_else(default).max(1)
    }
}

/// Says where it runs, and differs between two workers at one place.
fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = host.or_else(|| std::env::var("HOSTNAME").or_else(|_| std::env::var("COMPUTERNAME")).ok());
    let host: String = host.as_deref().map_or("worker", str::trim).chars().take(40).collect();
    let random = uuid::Uuid::new_v4().as_fields().0;
    format!("{host}-{}-{random:08x}", std::process::id())
}
