//! What a coordinator counts, for `/metrics`.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

macro_rules! metrics {
    ($($(#[doc = $help:literal])* $kind:ident $name:ident,)*) => {
        /// Counters and gauges of one coordinator. Counters only grow.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $help])* pub $name: AtomicU64,)*
            /// The store cannot be reached.
            pub store_down: AtomicBool,
        }

        impl Metrics {
            /// Writes them in the Prometheus text format.
            pub fn render(&self, out: &mut String) {
                $(
                    let name = concat!("stagepost_coordinator_", stringify!($name));
                    let help = concat!($($help),*);
                    let kind = stringify!($kind);
                    let value = self.$name.load(Relaxed);
                    // Writing to a String cannot fail.
                    let _ = write!(out, "# HELP {name}{help}\n# TYPE {name} {kind}\n{name} {value}\n");
                )*
                let down = u8::from(self.store_down.load(Relaxed));
                let name = "stagepost_coordinator_store_down";
                let _ = write!(out, "# HELP {name} 1 while the store cannot be reached.\n# TYPE {name} gauge\n{name} {down}\n");
            }
        }
    };
}

metrics! {
    /// Executions started.
    counter executions_started,
    /// Executions ended, however.
    counter executions_ended,
    /// Decisions that changed an execution.
    counter decisions,
    /// Inputs that changed nothing: late or repeated results, early wake-ups.
    counter inputs_ignored,
    /// Events written.
    counter events,
    /// Batches committed.
    counter batches,
    /// Batches given up because the store refused them or could not be reached.
    counter batches_failed,
    /// Attempts given to workers.
    counter tasks_dispatched,
    /// Attempts given to workers once more after a crash.
    counter tasks_republished,
    /// Messages that could not be used.
    counter dead_letters,
    /// Executions whose history passed the number of events that is warned about.
    counter histories_long,
    /// Executions replayed from the store.
    counter replays,
    /// Express executions started by this process.
    counter express_started,
    /// Express executions that ended in this process, however.
    counter express_ended,
    /// Synchronous Express executions refused because too many ran.
    counter express_throttled,
    /// Express executions that this process runs.
    gauge express_running,
    /// Shards owned.
    gauge shards_owned,
    /// Executions in the cache.
    gauge executions_cached,
    /// Bytes of the cache, about.
    gauge cache_bytes,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_in_the_text_format() {
        let metrics = Metrics::default();
        add(&metrics.decisions, 3);
        let mut out = String::new();
        metrics.render(&mut out);
        assert!(
            out.contains(
                "# TYPE stagepost_coordinator_decisions counter\nstagepost_coordinator_decisions 3\n"
            ),
            "{out}"
        );
        assert!(out.contains("# HELP stagepost_coordinator_shards_owned Shards owned.\n"), "{out}");
    }
}
