//! A process that can die at any call. Whatever it had running hangs from then on, and nobody hears of it again: to
//! the rest of the world that is what death is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use stagepost_protocol::Timestamp;
use tokio::sync::Notify;

use crate::world::World;

/// A process.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) world: Arc<World>,
    /// Its connection to the broker.
    pub(crate) connection: u64,
    /// How many milliseconds its clock is ahead.
    skew: i64,
    dead: AtomicBool,
    death: Notify,
}

impl Process {
    pub(crate) fn new(world: Arc<World>, name: String, connection: u64, skew: i64) -> Arc<Process> {
        Arc::new(Process {
            name,
            world,
            connection,
            skew,
            dead: AtomicBool::new(false),
            death: Notify::new(),
        })
    }

    /// The time on its clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.world.now().plus_millis(self.skew)
    }

    /// The same as the SDK wants it.
    pub(crate) fn system_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(self.now().as_millis()).unwrap_or(0))
    }

    /// Ends it: whatever it does from now on has no effect.
    pub(crate) fn kill(&self) {
        if !self.dead.swap(true, Ordering::Relaxed) {
            self.world.note(&self.name, "dies");
            self.world.broker().hang_up(self.connection);
            self.death.notify_one();
        }
    }

    /// Lets it die now, at this rate, and goes on only if it lives.
    pub(crate) async fn survive(&self, per_million: u64) {
        if self.world.happens(per_million) {
            self.kill();
        }
        self.live().await;
    }

    /// Goes on only if it lives.
    pub(crate) async fn live(&self) {
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for its death.
    pub(crate) async fn death(&self) {
        while !self.dead.load(Ordering::Relaxed) {
            self.death.notified().await;
        }
    }

    /// A call begins: it is noted, and takes a while until it reaches the other side.
    pub(crate) async fn call(&self, what: impl AsRef<str>) {
        self.survive(self.world.faults.die_at_call).await;
        self.world.note(&self.name, what);
        tokio::time::sleep(self.world.up_to(self.world.faults.latency)).await;
        self.live().await;
    }

    /// A call is answered.
    pub(crate) async fn answered(&self) {
        self.survive(self.world.faults.die_at_call).await;
    }
}
