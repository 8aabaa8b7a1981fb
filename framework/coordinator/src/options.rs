//! Settings of a coordinator.

use std::{sync::Arc, time::Duration};

use stagepost_protocol::{ExecutionId, Shards, Timestamp, topology::Topology};

use crate::sources::RemoteQueues;

/// Where the time comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock::new(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            Timestamp::from_millis(i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
        })
    }

    /// Any other clock; for tests and simulation.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

/// Where random numbers come from: for the jitter of retries and for ids.
#[derive(Clone)]
pub struct Random(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Random {
    /// The system's random numbers.
    pub fn system() -> Random {
        Random::new(|| {
            let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
            high ^ low
        })
    }

    /// Any other source; for tests and simulation.
    pub fn new(next: impl Fn() -> u64 + Send + Sync + 'static) -> Random {
        Random(Arc::new(next))
    }

    /// 64 random bits.
    pub fn next(&self) -> u64 {
        (self.0)()
    }

    /// A new UUID that orders by time.
    pub(crate) fn uuid(&self, now: Timestamp) -> uuid::Uuid {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.next().to_be_bytes());
        random[8..].copy_from_slice(&self.next().to_be_bytes()[..2]);
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

/// Is told of executions, by their ids. Must return at once.
pub type Observer = Arc<dyn Fn(ExecutionId) + Send + Sync>;

/// Settings of a coordinator, with defaults that fit.
#[derive(Clone)]
pub struct Options {
    /// Names this process among the owners of shards. Default: random.
    pub owner: String,
    /// The names of queues.
    pub topology: Topology,
    /// How executions are spread; the same for all processes of an installation. Default: 4.
    pub shards: Shards,
    /// How long a shard stays with an owner that is not heard of. Default: 6 s.
    pub lease_ttl: Duration,
    /// At most so many messages and wake-ups are decided in one batch. Default: 512.
    pub batch_max: usize,
    /// At most so many unacknowledged deliveries per shard. Default: 2,048.
    pub prefetch: u16,
    /// The cache of executions takes about so much memory. Default: 64 MiB.
    pub cache_bytes_max: usize,
    /// How far ahead wake-ups are loaded from the store. Default: 60 s.
    pub wake_horizon: Duration,
    /// A snapshot of an execution is written after so many events at least; after more where it is large, so that
    /// snapshots cost less than the events between them. Default: 1,000.
    pub snapshot_events: u64,
    /// A start commits with a wake-up so far ahead, in case its publications are lost. Default: 5 s.
    pub start_guard: Duration,
    /// Publish everything that is pending in a shard when it is gained, because the broker keeps nothing: for the
    /// embedded default. Default: no.
    pub recover_shards: bool,
    /// At most so many Express executions of each kind run at a time in this process: a synchronous one beyond that
    /// is refused, an asynchronous one waits in its queue. Default: 1,000.
    pub express_running_max: u16,
    /// The longest that an Express execution runs. Default: 5 minutes, as at the service. It must stay well below the
    /// broker's limit for unacknowledged deliveries (RabbitMQ: 30 minutes).
    pub express_duration_max: Duration,
    /// About so many dead letters are kept in the store; further ones wait in their queue until some are requeued or
    /// discarded. 0: all stay in the queue. Default: 10,000.
    pub dead_letters_max: u32,
    /// Queues for token messages besides [`Topology::callbacks`]: names, or URLs where `remote_queues` opens them.
    pub callback_queues: Vec<String>,
    /// How queues that are not the broker's are consumed. Default: not at all.
    pub remote_queues: Option<RemoteQueues>,
    /// Is told of each execution that this coordinator ended, once that is committed.
    pub on_end: Option<Observer>,
    /// Where the time comes from.
    pub clock: Clock,
    /// Where random numbers come from.
    pub random: Random,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            owner: uuid::Uuid::new_v4().to_string(),
            topology: Topology::default(),
            shards: Shards::new(4).expect("4 is between 1 and 1,024"),
            lease_ttl: Duration::from_secs(6),
            batch_max: 512,
            prefetch: 2048,
            cache_bytes_max: 64 * 1024 * 1024,
            wake_horizon: Duration::from_secs(60),
            snapshot_events: 1_000,
            start_guard: Duration::from_secs(5),
            recover_shards: false,
            express_running_max: 1_000,
            express_duration_max: Duration::from_secs(5 * 60),
            dead_letters_max: 10_000,
            callback_queues: Vec::new(),
            remote_queues: None,
            on_end: None,
            clock: Clock::system(),
            random: Random::system(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_made_of_time_and_chance_and_order_by_time() {
        let chance = |bits: u64| Random::new(move || bits);
        let uuid = |millis, bits| chance(bits).uuid(Timestamp::from_millis(millis));
        assert_eq!(uuid(1_000, 7), uuid(1_000, 7));
        assert_ne!(uuid(1_000, 7), uuid(1_000, 8));
        assert!(uuid(1_000, u64::MAX) < uuid(1_001, 0));
        assert_eq!(uuid(1_000, 7).get_version_num(), 7);
    }
}
