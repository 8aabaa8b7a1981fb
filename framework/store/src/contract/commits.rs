//! Commits: all or nothing, fenced, durable.

use std::sync::Arc;

use stagepost_protocol::{Parent, ParentKind, Payload, ShardId, TaskToken, shard::SLOTS};

use super::{Database, all_shards, at, ended, history_row, load_one, new_execution, start};
use crate::{
    Batch, EndedExecution, Error, ExecutionStatus, ExecutionsOf, Lease, ListExecutions, NewExecution,
    RedrivenExecution, Snapshot,
};

pub(crate) async fn a_batch_is_written_as_a_whole(db: Arc<dyn Database>) {
    let store = db.open().await;
    let leases = all_shards(&*store, "a", 4).await;
    let (one, two) = (new_execution("one"), new_execution("two"));
    let three = new_execution("three");
    start(&*store, vec![three.clone()]).await;
    let batch = Batch {
        leases,
        started: vec![one.clone(), two.clone()],
        history: vec![
            history_row(one.id, 1, 1, 3),
            history_row(two.id, 1, 1, 2),
            history_row(one.id, 2, 4, 4),
        ],
        redriven: Vec::new(),
        ended: vec![ended(three.id)],
        wakes: vec![(three.id, Some(at(9000)))],
        snapshots: vec![Snapshot { execution: two.id, sequence: 1, payload: "s".to_owned() }],
        map_runs: vec![],
        appended: vec![],
    };
    store.commit(batch.clone()).await.unwrap();

    let loaded = load_one(&*store, one.id).await.unwrap();
    assert_eq!(loaded.history, [batch.history[0].clone(), batch.history[2].clone()]);
    assert_eq!(loaded.snapshot, None);
    let s = loaded.summary;
    assert_eq!((s.id, &s.arn, &s.state_machine), (one.id, &one.arn, &one.state_machine));
    assert_eq!((&s.definition_id, &s.role_arn), (&one.definition_id, &one.role_arn));
    assert_eq!((&s.input, s.started_at, s.wake_at), (&one.input, one.started_at, one.wake_at));
    assert_eq!((s.status, s.stopped_at, &s.output), (ExecutionStatus::Running, None, &None));
    assert_eq!(s.trace_header, one.trace_header);
    assert_eq!(load_one(&*store, two.id).await.unwrap().snapshot, Some(batch.snapshots[0].clone()));

    let s = store.execution(three.id).await.unwrap().unwrap();
    assert_eq!((s.status, s.stopped_at), (ExecutionStatus::Succeeded, Some(at(2000))));
    assert_eq!((s.output, s.wake_at), (batch.ended[0].output.clone(), None));

    store.commit(Batch { wakes: vec![(one.id, None)], ..Batch::default() }).await.unwrap();
    assert_eq!(store.execution(one.id).await.unwrap().unwrap().wake_at, None);
    let replaced = Snapshot { execution: two.id, sequence: 7, payload: "t".to_owned() };
    store.commit(Batch { snapshots: vec![replaced.clone()], ..Batch::default() }).await.unwrap();
    assert_eq!(load_one(&*store, two.id).await.unwrap().snapshot, Some(replaced));
    store.commit(Batch::default()).await.unwrap();
    assert!(load_one(&*store, new_execution("none").id).await.is_none());
    assert_eq!(store.execution(new_execution("none").id).await.unwrap(), None);
}

pub(crate) async fn a_child_keeps_its_parent_and_an_end_may_keep_a_wake_up(db: Arc<dyn Database>) {
    let store = db.open().await;
    let parent = Parent { token: TaskToken::from_untrusted("t"), kind: ParentKind::MapItem { index: 3 } };
    let child = NewExecution { parent: Some(parent.clone()), ..new_execution("child") };
    let ended = EndedExecution { wake_at: Some(at(3000)), ..ended(child.id) };
    let batch = Batch { started: vec![child.clone()], ended: vec![ended], ..Batch::default() };
    store.commit(batch).await.unwrap();

    let summary = load_one(&*store, child.id).await.unwrap().summary;
    assert_eq!(summary.parent, Some(parent));
    assert_eq!((summary.redrive_count, summary.redriven_at), (0, None));
    assert_eq!(summary.wake_at, Some(at(3000)));
    let slots = std::iter::once(0..SLOTS).collect::<Vec<_>>();
    assert_eq!(store.due(&slots, at(3000), 9).await.unwrap(), [(at(3000), child.id)]);
    // It is gone once it is confirmed, and no other time takes its place.
    store.commit(Batch { wakes: vec![(child.id, Some(at(9000)))], ..Batch::default() }).await.unwrap();
    assert_eq!(store.execution(child.id).await.unwrap().unwrap().wake_at, None);
}

pub(crate) async fn what_is_redriven_runs_again(db: Arc<dyn Database>) {
    let store = db.open().await;
    let ids = start(&*store, vec![new_execution("one"), new_execution("two")]).await;
    let failed = |execution| EndedExecution {
        status: ExecutionStatus::Failed,
        output: None,
        error: Some("E".to_owned()),
        ..ended(execution)
    };
    store
        .commit(Batch { ended: ids.iter().map(|id| failed(*id)).collect(), ..Batch::default() })
        .await
        .unwrap();
    let redriven = ids.iter().zip([1, 2]).map(|(id, redrive_count)| RedrivenExecution {
        execution: *id,
        redriven_at: at(7000),
        redrive_count,
        wake_at: Some(at(8000)),
    });
    // The second one ends again at once.
    let batch = Batch { redriven: redriven.collect(), ended: vec![failed(ids[1])], ..Batch::default() };
    store.commit(batch).await.unwrap();
    let one = store.execution(ids[0]).await.unwrap().unwrap();
    assert_eq!((one.status, one.stopped_at, &one.error), (ExecutionStatus::Running, None, &None));
    assert_eq!((one.redrive_count, one.redriven_at), (1, Some(at(7000))));
    assert_eq!(one.wake_at, Some(at(8000)));
    let two = store.execution(ids[1]).await.unwrap().unwrap();
    assert_eq!((two.status, two.redrive_count, two.wake_at), (ExecutionStatus::Failed, 2, None));
    let slots = std::iter::once(0..SLOTS).collect::<Vec<_>>();
    assert_eq!(store.running(&slots, None, 9).await.unwrap(), [ids[0]]);
    start(&*store, vec![new_execution("three")]).await;
    for (wanted, count) in [(None, 3), (Some(true), 2), (Some(false), 1)] {
        let state_machine = super::machine("orders");
        let query = ListExecutions {
            of: ExecutionsOf::StateMachine(state_machine),
            status: None,
            redriven: wanted,
            limit: 9,
            after: None,
        };
        assert_eq!(store.executions(&query).await.unwrap().items.len(), count, "{wanted:?}");
    }
}

pub(crate) async fn what_a_batch_repeats_is_a_conflict_and_nothing_of_it_is_written(db: Arc<dyn Database>) {
    let store = db.open().await;
    let (one, two) = (new_execution("one"), new_execution("two"));
    let history = vec![history_row(one.id, 1, 1, 3)];
    store.commit(Batch { started: vec![one.clone()], history, ..Batch::default() }).await.unwrap();

    let started_again = Batch {
        started: vec![two.clone(), one.clone()],
        history: vec![history_row(two.id, 1, 1, 1)],
        ..Batch::default()
    };
    let decided_again = Batch {
        started: vec![two.clone()],
        history: vec![history_row(one.id, 2, 4, 5), history_row(one.id, 1, 4, 5)],
        ended: vec![ended(one.id)],
        wakes: vec![(one.id, None)],
        ..Batch::default()
    };
    for batch in [started_again, decided_again] {
        let error = store.commit(batch).await.unwrap_err();
        assert!(matches!(error, Error::Conflict(_)), "{error:?}");
    }
    assert!(load_one(&*store, two.id).await.is_none());
    let one = load_one(&*store, one.id).await.unwrap();
    assert_eq!((one.history.len(), one.summary.status), (1, ExecutionStatus::Running));
    assert_eq!(one.summary.wake_at, Some(at(5000)));
}

pub(crate) async fn commits_without_a_current_lease_write_nothing(db: Arc<dyn Database>) {
    let store = db.open().await;
    let leases = all_shards(&*store, "a", 4).await;
    let one = new_execution("one");
    let stale = |shard: u16, epoch: i64| {
        let mut leases = leases.clone();
        leases.retain(|l| l.shard != ShardId(shard));
        leases.push(Lease { shard: ShardId(shard), epoch });
        leases
    };
    let epoch = leases[2].epoch;
    for (shard, leases) in [
        (2, stale(2, epoch - 1)),
        (2, stale(2, epoch + 1)),
        // A shard that there is not.
        (9, stale(9, epoch)),
    ] {
        let history = vec![history_row(one.id, 1, 1, 3)];
        let batch = Batch { leases, started: vec![one.clone()], history, ..Batch::default() };
        let error = store.commit(batch).await.unwrap_err();
        assert!(matches!(error, Error::LeaseLost(ShardId(s)) if s == shard), "{error:?}");
        assert!(load_one(&*store, one.id).await.is_none());
    }
    // Released, it is nobody's, whatever the epoch.
    store.release("a", Some(&[ShardId(3)])).await.unwrap();
    let batch = Batch { leases: leases.clone(), started: vec![one.clone()], ..Batch::default() };
    assert!(matches!(store.commit(batch).await, Err(Error::LeaseLost(ShardId(3)))));
    let batch = Batch { leases: leases[..3].to_vec(), started: vec![one.clone()], ..Batch::default() };
    store.commit(batch).await.unwrap();
    assert!(load_one(&*store, one.id).await.is_some());
}

pub(crate) async fn concurrent_commits_fail_one_by_one(db: Arc<dyn Database>) {
    let store = db.open().await;
    let leases = all_shards(&*store, "a", 4).await;
    let taken = start(&*store, vec![new_execution("taken")]).await[0];
    let commits = (0..40).map(|n| {
        let (store, leases) = (store.clone(), leases.clone());
        tokio::spawn(async move {
            let e = new_execution(&format!("e-{n}"));
            let mut batch = Batch { leases, started: vec![e.clone()], ..Batch::default() };
            batch.history = vec![history_row(e.id, 1, 1, 1)];
            match n % 4 {
                1 => batch.started.push(new_execution("taken")),
                2 => batch.leases[1].epoch -= 1,
                _ => {}
            }
            (n, e.id, store.commit(batch).await)
        })
    });
    for commit in commits.collect::<Vec<_>>() {
        let (n, id, result) = commit.await.unwrap();
        let there = load_one(&*store, id).await.is_some_and(|e| e.history.len() == 1);
        match n % 4 {
            1 => assert!(matches!(result, Err(Error::Conflict(_))) && !there, "{n}: {result:?}"),
            2 => assert!(matches!(result, Err(Error::LeaseLost(ShardId(1)))) && !there, "{n}: {result:?}"),
            _ => assert!(result.is_ok() && there, "{n}: {result:?}"),
        }
    }
    assert!(load_one(&*store, taken).await.unwrap().history.is_empty());
}

pub(crate) async fn an_execution_may_start_and_end_in_one_batch(db: Arc<dyn Database>) {
    let store = db.open().await;
    let one = new_execution("one");
    let batch = Batch {
        started: vec![one.clone()],
        history: vec![history_row(one.id, 1, 1, 5)],
        ended: vec![ended(one.id)],
        ..Batch::default()
    };
    store.commit(batch).await.unwrap();
    let one = load_one(&*store, one.id).await.unwrap().summary;
    assert_eq!((one.status, one.wake_at), (ExecutionStatus::Succeeded, None));
}

pub(crate) async fn committed_data_is_there_after_opening_again(db: Arc<dyn Database>) {
    let store = db.open().await;
    let leases = all_shards(&*store, "a", 4).await;
    let one = new_execution("one");
    let history = vec![history_row(one.id, 1, 1, 3)];
    store.commit(Batch { started: vec![one.clone()], history, ..Batch::default() }).await.unwrap();
    let before = load_one(&*store, one.id).await;
    drop(store);
    let store = db.open().await;
    assert!(before.is_some());
    assert_eq!(load_one(&*store, one.id).await, before);
    assert_eq!(all_shards(&*store, "a", 4).await, leases);
}

pub(crate) async fn any_text_is_kept(db: Arc<dyn Database>) {
    let store = db.open().await;
    let mut one = new_execution("Zürich-注文-🚚");
    let large = format!(r#"{{"text": "{}\u0000"}}"#, "日本語 \\\" 🚚 ".repeat(20_000));
    one.input = Payload::parse(&large).unwrap();
    let mut row = history_row(one.id, 1, 1, 3);
    row.payload = large.clone();
    let end = EndedExecution {
        status: ExecutionStatus::Failed,
        output: None,
        error: Some("It's; DROP TABLE history --".to_owned()),
        cause: Some("before\0after".to_owned()),
        ..ended(one.id)
    };
    let snapshots = vec![Snapshot { execution: one.id, sequence: 0, payload: large.clone() }];
    let batch = Batch {
        started: vec![one.clone()],
        history: vec![row.clone()],
        ended: vec![end.clone()],
        snapshots: snapshots.clone(),
        ..Batch::default()
    };
    store.commit(batch).await.unwrap();
    let loaded = load_one(&*store, one.id).await.unwrap();
    assert_eq!((loaded.summary.arn, loaded.summary.input.as_str()), (one.arn, large.as_str()));
    assert_eq!(loaded.history, [row]);
    assert_eq!(loaded.snapshot, Some(snapshots[0].clone()));
    assert_eq!(loaded.summary.error, end.error);
    // PostgreSQL has no NUL in texts; a failure's text is for people, so both stores replace it.
    assert_eq!(loaded.summary.cause.as_deref(), Some("before\u{fffd}after"));
}
