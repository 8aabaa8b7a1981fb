//! The loop over the embedded store and the broker in process, at a time that the test says. A coordinator of another time
//! decides: to it nothing is due.

use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;
use stagepost_broker::{Broker, in_process::InProcessBroker};
use stagepost_protocol::Namespace;
use stagepost_schedule::{Overlap, Settings};
use stagepost_store::{
    DefinitionRow, ExecutionsOf, ListExecutions, ListRecords, Reader, Records,
    sqlite::{self, SqliteStore},
};

use super::*;
use crate::{Coordinator, Parts, options::Clock};

/// The first minute of the year 2100.
const BEGIN: i64 = 4_102_444_800_000;
const MINUTE: i64 = 60_000;

struct Rig {
    store: Arc<SqliteStore>,
    broker: Arc<InProcessBroker>,
    now: Arc<AtomicI64>,
    coordinator: Option<Coordinator>,
}

impl Rig {
    async fn new() -> Rig {
        let store = SqliteStore::open(":memory:", &sqlite::Options::default()).unwrap();
        let broker = InProcessBroker::new();
        let mut rig = Rig { store, broker, now: Arc::new(AtomicI64::new(BEGIN)), coordinator: None };
        rig.start().await;
        rig
    }

    async fn start(&mut self) {
        let parts = Parts { store: self.store.clone(), broker: self.broker.clone() };
        let started = Coordinator::start(parts, Options::default(), TokenKey::new(b"k")).await;
        self.coordinator = Some(started.unwrap());
    }

    async fn stop(&mut self) {
        self.coordinator.take().unwrap().shutdown().await;
    }

    /// Somebody who looks after schedules.
    fn looker(&self) -> Schedules {
        let now = self.now.clone();
        let clock = Clock::new(move || Timestamp::from_millis(now.load(Ordering::Relaxed)));
        let options = Options { clock, ..Options::default() };
        let parts = Parts { store: self.store.clone(), broker: self.broker.clone() };
        let shared = Arc::new(Shared::new(parts, Arc::default(), &options));
        Schedules { shared, options, token_key: TokenKey::new(b"k"), client: OnceCell::new() }
    }

    async fn machine(&self, state: serde_json::Value) -> StateMachineArn {
        let row = StateMachineRow {
            arn: StateMachineArn { namespace: Namespace::default(), name: "m".into() },
            definition_id: "d".into(),
            role_arn: "r".into(),
            kind: "STANDARD".into(),
            status: "ACTIVE".into(),
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
            settings: Payload::empty_object(),
        };
        let text = json!({ "StartAt": "S", "States": { "S": state } }).to_string();
        self.store.create_state_machine(&row, &DefinitionRow { id: "d".into(), text }).await.unwrap();
        row.arn
    }

    async fn schedule(&self, name: &str, machine: &StateMachineArn, overlap: Overlap) {
        let settings = Settings {
            expression: "rate(1 minute)".into(),
            time_zone: "UTC".into(),
            state_machine: machine.clone(),
            input: Payload::empty_object(),
            overlap,
            jitter_seconds: 0,
            catch_up_seconds: 3_600,
            starts_at: None,
            ends_at: None,
        };
        let schedule = Schedule::new(name, settings, Timestamp::from_millis(BEGIN)).unwrap();
        let body = Payload::from_serialize(&schedule).unwrap();
        self.put(name, schedule.due_at(name), body).await;
    }

    async fn put(&self, name: &str, due_at: Option<Timestamp>, body: Payload) {
        let record = Record {
            kind: RECORD_KIND.into(),
            namespace: Namespace::default(),
            key: name.into(),
            label: String::new(),
            due_at,
            version: 0,
            body,
        };
        assert!(self.store.put_record(&record).await.unwrap());
    }

    async fn record(&self, name: &str) -> (Record, Schedule) {
        let record = self.store.record(RECORD_KIND, &Namespace::default(), name).await.unwrap().unwrap();
        let schedule = record.body.read().unwrap();
        (record, schedule)
    }

    /// The executions of the state machine, oldest first, as `name STATUS`.
    async fn executions(&self, machine: &StateMachineArn) -> Vec<String> {
        let of = ExecutionsOf::StateMachine(machine.clone());
        let query = ListExecutions { of, status: None, redriven: None, limit: 1_000, after: None };
        let found = self.store.executions(&query).await.unwrap().items;
        found.iter().rev().map(|e| format!("{} {}", e.arn.name, e.status.as_str())).collect()
    }

    fn after(&self, minutes: i64) {
        self.now.store(BEGIN + minutes * MINUTE, Ordering::Relaxed);
    }
}

/// Looks until nothing is due.
async fn look(schedules: &Schedules) {
    while schedules.advance_due().await.unwrap() == Duration::ZERO {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_that_are_due_at_once_each_start_one_execution_though_two_look() {
    let mut rig = Rig::new().await;
    let machine = rig.machine(json!({ "Type": "Pass", "End": true })).await;
    let count = 2 * BATCH_MAX + 50;
    for n in 0..count {
        rig.schedule(&format!("s-{n}"), &machine, Overlap::AllowAll).await;
    }
    rig.after(1);
    let (one, two) = (rig.looker(), rig.looker());
    tokio::join!(look(&one), look(&two));
    assert_eq!(rig.executions(&machine).await.len(), count);
    let query = ListRecords {
        kind: RECORD_KIND.into(),
        namespace: None,
        label: None,
        descending: false,
        limit: 1_000,
        after: None,
    };
    for record in rig.store.records(&query).await.unwrap().items {
        let schedule: Schedule = record.body.read().unwrap();
        assert_eq!((schedule.counts.started, schedule.recent.len()), (1, 1), "{}", record.key);
        assert_eq!(record.due_at, Some(Timestamp::from_millis(BEGIN + 2 * MINUTE)));
        assert_eq!(record.label, "ACTIVE");
    }
    rig.stop().await;
}

#[tokio::test]
async fn what_was_started_and_not_stored_is_not_started_again() {
    let mut rig = Rig::new().await;
    let machine = rig.machine(json!({ "Type": "Pass", "End": true })).await;
    rig.schedule("s", &machine, Overlap::AllowAll).await;
    let (before, _) = rig.record("s").await;
    let schedules = rig.looker();
    rig.after(1);
    look(&schedules).await;
    // As if whoever started it had died then.
    let (after, _) = rig.record("s").await;
    assert!(rig.store.put_record(&Record { version: after.version, ..before }).await.unwrap());
    look(&schedules).await;
    assert_eq!(rig.executions(&machine).await, ["s-21000101T000100Z SUCCEEDED"]);
    let (_, schedule) = rig.record("s").await;
    assert_eq!((schedule.counts.started, schedule.counts.failed), (1, 0));
    rig.stop().await;
}

#[tokio::test]
async fn an_execution_that_must_not_run_beside_another_waits_or_stops_it() {
    let mut rig = Rig::new().await;
    let machine = rig.machine(json!({ "Type": "Wait", "Seconds": 1_000_000, "End": true })).await;
    rig.schedule("skip", &machine, Overlap::Skip).await;
    rig.schedule("x", &machine, Overlap::CancelOther).await;
    let schedules = rig.looker();
    rig.after(1);
    look(&schedules).await;
    rig.after(2);
    look(&schedules).await;
    let mut executions = rig.executions(&machine).await;
    executions.sort();
    let expected =
        ["skip-21000101T000100Z RUNNING", "x-21000101T000100Z ABORTED", "x-21000101T000200Z RUNNING"];
    assert_eq!(executions, expected);
    let first = rig.record("x").await.1.recent[0].outcome.clone();
    let Outcome::Started(first) = first else { panic!("{first:?}") };
    let summary = rig.store.execution(first.id()).await.unwrap().unwrap();
    assert_eq!(summary.error.as_deref(), Some(OVERLAP_ERROR));
    assert_eq!(rig.record("skip").await.1.counts.skipped, 1);
    rig.stop().await;
}

#[tokio::test]
async fn who_dies_after_a_start_leaves_word_of_it() {
    let mut rig = Rig::new().await;
    let machine = rig.machine(json!({ "Type": "Wait", "Seconds": 1_000_000, "End": true })).await;
    rig.schedule("skip", &machine, Overlap::Skip).await;
    rig.schedule("x", &machine, Overlap::CancelOther).await;
    rig.stop().await;
    rig.after(1);
    let asked = async {
        let Options { topology, shards, .. } = Options::default();
        loop {
            let mut waiting = 0;
            for shard in shards.all() {
                waiting += rig.broker.depth(&topology.shard(shard)).await.unwrap().unwrap_or(0);
            }
            if waiting == 2 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    // It dies before it is answered.
    let one = rig.looker();
    tokio::select! {
        () = look(&one) => panic!("nobody answers"),
        () = asked => {}
    }
    rig.start().await;
    rig.after(2);
    look(&rig.looker()).await;
    let mut executions = rig.executions(&machine).await;
    executions.sort();
    let expected =
        ["skip-21000101T000100Z RUNNING", "x-21000101T000100Z ABORTED", "x-21000101T000200Z RUNNING"];
    assert_eq!(executions, expected);
    let counts = rig.record("skip").await.1.counts;
    assert_eq!((counts.started, counts.skipped), (1, 1));
    rig.stop().await;
}

#[tokio::test]
async fn what_cannot_start_is_told_and_what_cannot_be_read_is_set_aside() {
    let mut rig = Rig::new().await;
    let nobody = StateMachineArn { namespace: Namespace::default(), name: "nobody".into() };
    rig.schedule("s", &nobody, Overlap::AllowAll).await;
    rig.put("broken", Some(Timestamp::from_millis(BEGIN)), Payload::empty_object()).await;
    let schedules = rig.looker();
    rig.after(1);
    look(&schedules).await;
    let (record, schedule) = rig.record("s").await;
    assert_eq!((schedule.counts.started, schedule.counts.failed), (0, 1));
    assert!(matches!(&schedule.recent[0].outcome, Outcome::Failed(reason) if reason.contains("nobody")));
    assert_eq!(record.due_at, Some(Timestamp::from_millis(BEGIN + 2 * MINUTE)));
    let broken = rig.store.record(RECORD_KIND, &Namespace::default(), "broken").await.unwrap().unwrap();
    assert_eq!(broken.due_at, None);
    rig.stop().await;
}
