//! What all processes of a simulation share: chance, time, the broker, the database, and what was seen to be wrong.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use stagepost_protocol::{Timestamp, TokenKey};
use tokio::{sync::Notify, time::Instant};

use crate::{
    activities::Attempts,
    broker::server::Server,
    faults::Faults,
    process::Process,
    rng::Rng,
    store::tables::Tables,
    trace::{Told, Trace},
};

/// When every simulation begins: in January 2027.
const BEGIN_MILLIS: i64 = 1_800_000_000_000;

/// One simulated installation.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    /// All runs in one process, with a broker that keeps nothing.
    pub(crate) embedded: bool,
    pub(crate) token_key: TokenKey,
    pub(crate) attempts: Attempts,
    broker: Mutex<Server>,
    tables: Mutex<Tables>,
    trace: Mutex<Trace>,
    calm: AtomicBool,
    violation: Mutex<Option<String>>,
    violated: Notify,
    began: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic is a violation of its own; what it left behind can still be looked at.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number for any text or bytes, the same in every run.
pub(crate) fn digest(value: &(impl Hash + ?Sized)) -> u64 {
    // Its keys are fixed.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl World {
    pub(crate) fn new(seed: u64, tail_max: usize) -> Arc<World> {
        let rng = Rng::new(seed);
        let embedded = rng.one_in(5);
        let faults = Faults::draw(&rng);
        Arc::new(World {
            faults: if embedded { faults.embedded() } else { faults },
            embedded,
            token_key: TokenKey::new(&rng.bits().to_be_bytes()),
            rng,
            attempts: Attempts::default(),
            broker: Mutex::default(),
            tables: Mutex::default(),
            trace: Mutex::new(Trace::new(tail_max)),
            calm: AtomicBool::new(false),
            violation: Mutex::default(),
            violated: Notify::new(),
            began: Instant::now(),
        })
    }

    pub(crate) fn broker(&self) -> MutexGuard<'_, Server> {
        lock(&self.broker)
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }

    /// The time on every wall.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(BEGIN_MILLIS).plus_millis(self.millis())
    }

    fn millis(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Whether something happens that does so `per_million` times in a million, while faults are on.
    pub(crate) fn happens(&self, per_million: u64) -> bool {
        per_million > 0 && !self.is_calm() && self.rng.below(1_000_000) < per_million
    }

    /// Whether the broker keeps what it has confirmed, whatever happens.
    pub(crate) fn broker_keeps(&self) -> bool {
        !self.embedded && self.faults.broker_losses.is_none()
    }

    /// A random time up to `most`, in whole milliseconds.
    pub(crate) fn up_to(&self, most: Duration) -> Duration {
        let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX - 1);
        Duration::from_millis(self.rng.below(millis + 1))
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// From now on nothing fails any more.
    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
        self.note("world", "calm");
    }

    /// Writes down what somebody does.
    pub(crate) fn note(&self, who: &str, what: impl AsRef<str>) {
        lock(&self.trace).note(self.millis(), who, what.as_ref());
    }

    pub(crate) fn told(&self) -> Told {
        lock(&self.trace).told()
    }

    /// Something happened that must not. The first counts.
    pub(crate) fn violate(&self, what: impl Into<String>) {
        let what = what.into();
        self.note("VIOLATION", &what);
        lock(&self.violation).get_or_insert(what);
        self.violated.notify_one();
    }

    pub(crate) fn violation(&self) -> Option<String> {
        lock(&self.violation).clone()
    }

    /// Waits until something happens that must not.
    pub(crate) async fn violated(&self) {
        while self.violation().is_none() {
            self.violated.notified().await;
        }
    }

    /// A new process, connected to nothing yet.
    pub(crate) fn process(self: &Arc<World>, name: String) -> Arc<Process> {
        let connection = self.broker().connect();
        let skew = i64::try_from(self.up_to(2 * self.faults.skew).as_millis()).unwrap_or(0);
        let skew = skew - i64::try_from(self.faults.skew.as_millis()).unwrap_or(0);
        Process::new(Arc::clone(self), name, connection, skew)
    }
}
