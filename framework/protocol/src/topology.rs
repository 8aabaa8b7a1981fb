//! The names of queues. They are spelled here and nowhere else.

use crate::{Namespace, RunnerId, ShardId};

/// The names of an installation's queues: a prefix, `stagepost` unless set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    prefix: String,
}

impl Default for Topology {
    fn default() -> Topology {
        Topology::new("stagepost")
    }
}

impl Topology {
    /// Names that begin with `prefix`.
    pub fn new(prefix: impl Into<String>) -> Topology {
        Topology { prefix: prefix.into() }
    }

    /// What the names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// `stagepost.shard.NN`: everything that changes an execution of that shard.
    pub fn shard(&self, shard: ShardId) -> String {
        format!("{}.shard.{:02}", self.prefix, shard.0)
    }

    /// `stagepost.activity.NAME`, or `stagepost.activity.ACCOUNT.REGION.NAME` outside the default namespace.
    pub fn activity(&self, namespace: &Namespace, name: &str) -> String {
        if *namespace == Namespace::default() {
            format!("{}.activity.{name}", self.prefix)
        } else {
            format!("{}.activity.{}.{}.{name}", self.prefix, namespace.account, namespace.region)
        }
    }

    /// `stagepost.connectors`: calls of services, for whoever has the role of making them.
    pub fn connectors(&self) -> String {
        format!("{}.connectors", self.prefix)
    }

    /// `stagepost.callbacks`: token messages.
    pub fn callbacks(&self) -> String {
        format!("{}.callbacks", self.prefix)
    }

    /// `stagepost.signals`: signals to executions.
    pub fn signals(&self) -> String {
        format!("{}.signals", self.prefix)
    }

    /// `stagepost.express`: executions of EXPRESS state machines that are to be run, asynchronously.
    pub fn express(&self) -> String {
        format!("{}.express", self.prefix)
    }

    /// `stagepost.express.RUNNER`: what is said about attempts of the Express executions that this process runs. It
    /// goes with the process.
    pub fn runner(&self, runner: RunnerId) -> String {
        format!("{}.express.{runner}", self.prefix)
    }

    /// Whether a queue is one of those that [`Topology::runner`] names: it may be gone for good.
    pub fn is_runner(&self, queue: &str) -> bool {
        let rest = queue.strip_prefix(self.prefix.as_str());
        rest.is_some_and(|rest| rest.starts_with(".express."))
    }

    /// `stagepost.trigger.NAME`, or `stagepost.trigger.ACCOUNT.REGION.NAME` outside the default namespace: what comes to
    /// a trigger from an exchange.
    pub fn trigger(&self, namespace: &Namespace, name: &str) -> String {
        if *namespace == Namespace::default() {
            format!("{}.trigger.{name}", self.prefix)
        } else {
            format!("{}.trigger.{}.{}.{name}", self.prefix, namespace.account, namespace.region)
        }
    }

    /// Whether a queue is one of those that are named here.
    pub fn is_internal(&self, queue: &str) -> bool {
        const WHOLE: [&str; 5] = ["connectors", "callbacks", "signals", "express", "dead-letters"];
        const BEGIN: [&str; 5] = ["shard.", "activity.", "express.", "trigger.", "control."];
        let rest = queue.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_prefix('.'));
        rest.is_some_and(|rest| WHOLE.contains(&rest) || BEGIN.iter().any(|begin| rest.starts_with(begin)))
    }

    /// Whether a queue is one of those that [`Topology::shard`] names: what is reported there is about an execution
    /// that is kept.
    pub fn is_shard(&self, queue: &str) -> bool {
        let rest = queue.strip_prefix(self.prefix.as_str());
        rest.is_some_and(|rest| rest.starts_with(".shard."))
    }

    /// `stagepost.control.HOLDER`: what coordinators say to this running worker. It goes with the worker.
    pub fn control(&self, holder: &str) -> String {
        format!("{}.control.{holder}", self.prefix)
    }

    /// `stagepost.dead-letters`: messages that could not be used, with the reason in a header.
    pub fn dead_letters(&self) -> String {
        format!("{}.dead-letters", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_have_the_documented_names() {
        let t = Topology::default();
        assert_eq!(t.shard(ShardId(3)), "stagepost.shard.03");
        assert_eq!(t.activity(&Namespace::default(), "charge_card"), "stagepost.activity.charge_card");
        let other = Namespace { account: "111111111111".into(), region: "eu-west-1".into() };
        assert_eq!(t.activity(&other, "a"), "stagepost.activity.111111111111.eu-west-1.a");
        assert_eq!(Topology::new("x").callbacks(), "x.callbacks");
        assert_eq!(t.signals(), "stagepost.signals");
        assert_eq!(t.express(), "stagepost.express");
        let runner = RunnerId::from_bytes([0, 1, 2, 3, 4, 5, 6, 255]);
        assert_eq!(t.runner(runner), "stagepost.express.00010203040506ff");
        assert!(t.is_runner(&t.runner(runner)) && !t.is_runner(&t.express()));
        assert_eq!(t.connectors(), "stagepost.connectors");
        assert_eq!(t.control("w"), "stagepost.control.w");
        assert!(t.is_shard(&t.shard(ShardId(3))) && !t.is_shard(&t.runner(runner)));
        assert_eq!(t.dead_letters(), "stagepost.dead-letters");
        assert_eq!(t.trigger(&Namespace::default(), "web"), "stagepost.trigger.web");
        assert_eq!(t.trigger(&other, "web"), "stagepost.trigger.111111111111.eu-west-1.web");
        for queue in [t.callbacks(), t.express(), t.runner(runner), t.shard(ShardId(0)), t.dead_letters()] {
            assert!(t.is_internal(&queue), "{queue}");
        }
        for queue in
            ["orders", "stagepost.orders", "stagepostshard.1", "x.callbacks", "stagepost.callbacks.eu"]
        {
            assert!(!t.is_internal(queue), "{queue}");
        }
    }
}
