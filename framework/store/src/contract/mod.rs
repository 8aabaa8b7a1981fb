//! What holds for both stores. Each test gets a database of its own and may open it again; the implementations
//! run all of them with [`suite`].

pub(crate) mod commits;
pub(crate) mod leases;
pub(crate) mod reads;
pub(crate) mod records;
pub(crate) mod registry;

use std::sync::Arc;

use async_trait::async_trait;
use stagepost_protocol::{ExecutionId, Namespace, Payload, ShardId, StateMachineArn, Timestamp};

use crate::{
    Batch, EndedExecution, ExecutionStatus, HistoryRow, Lease, NewExecution, Store, StoredExecution,
};

/// A database that no other test uses.
#[async_trait]
pub(crate) trait Database: Send + Sync {
    /// Opens it. The store before must have been dropped.
    async fn open(&self) -> Arc<dyn Store>;
}

/// Makes a `#[tokio::test]` of every test of the contract: `suite!(run)`, where `run` takes a name and a test.
macro_rules! suite {
    ($run:path) => {
        $crate::contract::suite!($run, commits:
            a_batch_is_written_as_a_whole,
            what_is_redriven_runs_again,
            a_child_keeps_its_parent_and_an_end_may_keep_a_wake_up,
            what_a_batch_repeats_is_a_conflict_and_nothing_of_it_is_written,
            commits_without_a_current_lease_write_nothing,
            concurrent_commits_fail_one_by_one,
            an_execution_may_start_and_end_in_one_batch,
            committed_data_is_there_after_opening_again,
            any_text_is_kept,
        );
        $crate::contract::suite!($run, leases:
            three_owners_share_all_shards_and_never_one,
            an_expired_owner_loses_its_shards_to_a_higher_epoch,
            an_owner_that_returns_too_late_takes_its_shards_anew,
            released_shards_go_to_others_at_once,
            an_idle_heartbeat_keeps_its_leases_and_is_cheap,
        );
        $crate::contract::suite!($run, reads:
            due_wake_ups_come_in_order_and_by_slot,
            running_executions_are_paged_by_id,
            load_gives_the_snapshot_and_what_follows,
            histories_are_paged_by_rows_and_bytes,
            executions_are_listed_newest_first,
            map_runs_are_replaced_and_listed_newest_first,
            child_executions_are_listed_by_their_map_run,
        );
        $crate::contract::suite!($run, registry:
            one_setting_wins,
            state_machines_are_created_updated_listed_and_deleted,
            activities_are_created_listed_and_deleted,
        );
        $crate::contract::suite!($run, records:
            a_record_is_changed_by_who_knows_its_version,
            one_of_many_changes_of_a_record_wins,
            records_are_listed_by_key_and_found_when_due,
            a_commit_adds_to_the_lists_that_records_hold,
        );
    };
    ($run:path, $part:ident: $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $run(|db| Box::pin($crate::contract::$part::$name(db))).await;
            }
        )+
    };
}
pub(crate) use suite;

/// A test of the contract.
pub(crate) type Test = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) fn machine(name: &str) -> StateMachineArn {
    StateMachineArn { namespace: Namespace::default(), name: name.to_owned() }
}

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// An execution of the state machine `orders`, started at 1,000.
pub(crate) fn new_execution(name: &str) -> NewExecution {
    let arn = machine("orders").execution(name);
    NewExecution {
        id: arn.id(),
        arn,
        state_machine: machine("orders"),
        definition_id: "d-1".to_owned(),
        role_arn: "arn:aws:iam::000000000000:role/r".to_owned(),
        input: Payload::parse(r#"{"n": 1}"#).unwrap(),
        started_at: at(1000),
        wake_at: Some(at(5000)),
        trace_header: Some("00-1-2-01".to_owned()),
        parent: None,
        map_item: None,
    }
}

/// A row of one decision.
pub(crate) fn history_row(execution: ExecutionId, sequence: u64, first: u64, last: u64) -> HistoryRow {
    let payload = format!("[{sequence}]");
    HistoryRow { execution, first_event_id: first, last_event_id: last, sequence, epoch: 1, payload }
}

pub(crate) fn ended(execution: ExecutionId) -> EndedExecution {
    EndedExecution {
        execution,
        status: ExecutionStatus::Succeeded,
        stopped_at: at(2000),
        output: Some(Payload::parse("[true]").unwrap()),
        error: None,
        cause: None,
        wake_at: None,
    }
}

/// Takes all of `count` shards for an owner.
pub(crate) async fn all_shards(store: &dyn Store, owner: &str, count: u16) -> Vec<Lease> {
    let (leases, _) = store.lease(owner, std::time::Duration::from_secs(60), count).await.unwrap();
    assert_eq!(
        leases.iter().map(|l| l.shard).collect::<Vec<_>>(),
        (0..count).map(ShardId).collect::<Vec<_>>()
    );
    leases
}

/// Commits the start of these executions.
pub(crate) async fn start(store: &dyn Store, started: Vec<NewExecution>) -> Vec<ExecutionId> {
    let ids = started.iter().map(|e| e.id).collect();
    store.commit(Batch { started, ..Batch::default() }).await.unwrap();
    ids
}

pub(crate) async fn load_one(store: &dyn Store, id: ExecutionId) -> Option<StoredExecution> {
    store.load(&[id]).await.unwrap().pop().unwrap()
}
