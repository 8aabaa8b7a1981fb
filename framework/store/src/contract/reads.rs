//! What is read: wake-ups, what runs, executions for replay, histories and listings.

use std::sync::Arc;

use stagepost_protocol::{
    ExecutionId, MapItem, MapRun, MapRunArn, MapRunCounts, MapRunStatus, Payload, Shards, Slot, shard::SLOTS,
};

use super::{Database, at, ended, history_row, load_one, machine, new_execution, start};
use crate::{Batch, EndedExecution, ExecutionStatus, ExecutionsOf, ListExecutions, NewExecution, Snapshot};

const ALL: &[std::ops::Range<u16>] = std::slice::from_ref(&(0..SLOTS));

fn numbered(count: usize) -> Vec<NewExecution> {
    (0..count).map(|n| new_execution(&format!("e-{n}"))).collect()
}

pub(crate) async fn due_wake_ups_come_in_order_and_by_slot(db: Arc<dyn Database>) {
    let store = db.open().await;
    let mut started = numbered(40);
    for (n, e) in started.iter_mut().enumerate() {
        e.wake_at = (n % 10 != 9).then(|| at(10_000 - 100 * (n as i64 % 20)));
    }
    let ids = start(&*store, started.clone()).await;
    store.commit(Batch { ended: vec![ended(ids[0])], ..Batch::default() }).await.unwrap();
    let mut expected: Vec<_> = started[1..]
        .iter()
        .filter_map(|e| Some((e.wake_at?, e.id)))
        .filter(|(t, _)| *t <= at(9500))
        .collect();
    expected.sort();

    assert_eq!(store.due(ALL, at(9500), usize::MAX).await.unwrap(), expected);
    assert_eq!(store.due(ALL, at(9500), 7).await.unwrap(), expected[..7]);
    assert_eq!(store.due(&[], at(9500), 7).await.unwrap(), []);
    assert_eq!(store.due(ALL, at(0), 7).await.unwrap(), []);
    let shards = Shards::new(5).unwrap();
    let mut seen = Vec::new();
    for shard in shards.all() {
        let due = store.due(&[shards.slots(shard)], at(9500), 1000).await.unwrap();
        assert!(due.iter().all(|(_, id)| shards.of(*id) == shard) && due.is_sorted());
        seen.extend(due);
    }
    seen.sort();
    assert_eq!(seen, expected);
}

pub(crate) async fn running_executions_are_paged_by_id(db: Arc<dyn Database>) {
    let store = db.open().await;
    let mut ids = start(&*store, numbered(50)).await;
    store.commit(Batch { ended: vec![ended(ids[7])], ..Batch::default() }).await.unwrap();
    ids.remove(7);
    ids.sort();
    let slots = [0..300, 500..1024];
    ids.retain(|id| slots.iter().any(|r| r.contains(&Slot::of(*id).0)));
    let (mut found, mut after) = (Vec::<ExecutionId>::new(), None);
    loop {
        let page = store.running(&slots, after, 8).await.unwrap();
        assert!(page.len() <= 8);
        let Some(last) = page.last() else { break };
        after = Some(*last);
        found.extend(page);
    }
    assert_eq!(found, ids);
    assert_eq!(store.running(&slots, None, usize::MAX).await.unwrap(), ids);
    assert_eq!(store.running(&[], None, 8).await.unwrap(), []);
}

pub(crate) async fn load_gives_the_snapshot_and_what_follows(db: Arc<dyn Database>) {
    let store = db.open().await;
    let ids = start(&*store, numbered(3)).await;
    let mut history: Vec<_> = (1..=12).map(|n| history_row(ids[1], n, n, n)).collect();
    // Hidden notes only.
    history.push(history_row(ids[1], 13, 13, 12));
    history.extend((1..=3).map(|n| history_row(ids[0], n, n, n)));
    let snapshot = Snapshot { execution: ids[1], sequence: 10, payload: "state".to_owned() };
    let batch = Batch { history: history.clone(), snapshots: vec![snapshot.clone()], ..Batch::default() };
    store.commit(batch).await.unwrap();

    let none = new_execution("none").id;
    let loaded = store.load(&[ids[2], ids[1], none, ids[0], ids[1]]).await.unwrap();
    assert!(loaded[2].is_none());
    assert_eq!(loaded[1], loaded[4]);
    let [two, one, _, zero, _] = &loaded[..] else { panic!("{} loaded", loaded.len()) };
    let (two, one, zero) = (two.as_ref().unwrap(), one.as_ref().unwrap(), zero.as_ref().unwrap());
    assert_eq!((two.summary.id, two.history.len()), (ids[2], 0));
    assert_eq!((&one.snapshot, &one.history[..]), (&Some(snapshot), &history[10..13]));
    assert_eq!((&zero.snapshot, &zero.history[..]), (&None, &history[13..]));
    assert!(store.load(&[]).await.unwrap().is_empty());
    assert!(load_one(&*store, none).await.is_none());
}

pub(crate) async fn histories_are_paged_by_rows_and_bytes(db: Arc<dyn Database>) {
    let store = db.open().await;
    let ids = start(&*store, numbered(2)).await;
    let id = ids[0];
    // Rows of one to three events, some with notes only, each of 100 bytes.
    let (mut history, mut next) = (Vec::new(), 1);
    for sequence in 1..=60 {
        let events = [1, 0, 3, 2][sequence as usize % 4];
        let mut row = history_row(id, sequence, next, next + events - 1);
        row.payload = format!("{sequence:0100}");
        next += events;
        history.push(row);
        history.push(history_row(ids[1], sequence, sequence, sequence));
    }
    store.commit(Batch { history: history.clone(), ..Batch::default() }).await.unwrap();
    history.retain(|row| row.execution == id && row.last_event_id >= row.first_event_id);

    for from in [0, 1, 2, 3, 30, next - 1, next, u64::MAX] {
        let expected: Vec<_> = history.iter().filter(|r| r.last_event_id >= from).cloned().collect();
        assert_eq!(store.history(id, from, false, 1000, 1 << 20).await.unwrap(), expected, "from {from}");
        let rows = expected.len().min(5);
        assert_eq!(store.history(id, from, false, 5, 1 << 20).await.unwrap(), expected[..rows]);
        for (bytes, rows) in [(0, 1), (99, 1), (100, 1), (350, 3)] {
            let rows = rows.min(expected.len());
            assert_eq!(
                store.history(id, from, false, 1000, bytes).await.unwrap(),
                expected[..rows],
                "{bytes}"
            );
        }
        let expected: Vec<_> = history.iter().rev().filter(|r| r.first_event_id <= from).cloned().collect();
        assert_eq!(store.history(id, from, true, 1000, 1 << 20).await.unwrap(), expected, "down from {from}");
        let rows = expected.len().min(3);
        assert_eq!(store.history(id, from, true, 1000, 350).await.unwrap(), expected[..rows]);
    }
    assert!(store.history(new_execution("none").id, 0, false, 10, 100).await.unwrap().is_empty());
    assert!(store.history(new_execution("none").id, 9, true, 10, 100).await.unwrap().is_empty());
}

pub(crate) async fn executions_are_listed_newest_first(db: Arc<dyn Database>) {
    let store = db.open().await;
    let mut started = numbered(25);
    for (n, e) in started.iter_mut().enumerate() {
        // Several start in one millisecond.
        e.started_at = at(1000 + n as i64 / 4);
    }
    let mut other = new_execution("other");
    other.arn = machine("other").execution("other");
    (other.id, other.state_machine) = (other.arn.id(), machine("other"));
    let ended_ids: Vec<_> = started[..5].iter().map(|e| ended(e.id)).collect();
    start(&*store, started.clone()).await;
    start(&*store, vec![other.clone()]).await;
    store.commit(Batch { ended: ended_ids, ..Batch::default() }).await.unwrap();
    started.sort_by_key(|e| std::cmp::Reverse((e.started_at, e.id)));

    let mut query = ListExecutions {
        of: ExecutionsOf::StateMachine(machine("orders")),
        status: None,
        redriven: None,
        limit: 10,
        after: None,
    };
    let mut sizes = Vec::new();
    let mut listed = Vec::new();
    loop {
        let page = store.executions(&query).await.unwrap();
        sizes.push(page.items.len());
        listed.extend(page.items);
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [10, 10, 5]);
    assert!(listed.iter().map(|e| e.id).eq(started.iter().map(|e| e.id)));
    assert!(listed.iter().all(|e| e.output.is_none() && e.input == Payload::parse("null").unwrap()));

    query.status = Some(ExecutionStatus::Succeeded);
    query.limit = 5;
    let page = store.executions(&query).await.unwrap();
    assert_eq!((page.items.len(), page.next), (5, None));
    query.after = Some("not a key".to_owned());
    assert!(store.executions(&query).await.is_err());
    let query = ListExecutions {
        of: ExecutionsOf::StateMachine(machine("none")),
        status: None,
        redriven: None,
        limit: 5,
        after: None,
    };
    assert_eq!(store.executions(&query).await.unwrap().items, []);
}

fn map_run(execution: &str, event: u64, started: i64) -> MapRun {
    let execution = machine("orders").execution(execution);
    MapRun {
        arn: MapRunArn::new(&machine("orders").labelled("l"), execution.id(), event),
        execution,
        status: MapRunStatus::Running,
        started_at: at(started),
        stopped_at: None,
        max_concurrency: 3,
        tolerated_failure_count: 0,
        tolerated_failure_percentage: 12.5,
        items: MapRunCounts { pending: 1, ..MapRunCounts::default() },
        executions: MapRunCounts::default(),
        redrive_count: 0,
        redriven_at: None,
    }
}

pub(crate) async fn map_runs_are_replaced_and_listed_newest_first(db: Arc<dyn Database>) {
    let store = db.open().await;
    let runs: Vec<MapRun> = (0..5).map(|n| map_run("e", n, 1000 + n as i64)).collect();
    let other = map_run("f", 0, 1000);
    let all = runs.iter().chain([&other]).cloned().collect();
    store.commit(Batch { map_runs: all, ..Batch::default() }).await.unwrap();
    let mut ended = runs[3].clone();
    (ended.status, ended.stopped_at) = (MapRunStatus::Succeeded, Some(at(2000)));
    store.commit(Batch { map_runs: vec![ended.clone()], ..Batch::default() }).await.unwrap();

    assert_eq!(store.map_run(&ended.arn).await.unwrap(), Some(ended.clone()));
    assert_eq!(store.map_run(&map_run("e", 9, 0).arn).await.unwrap(), None);
    let execution = runs[0].execution.id();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.map_runs(execution, 2, after.as_deref()).await.unwrap();
        assert!(page.items.len() <= 2);
        found.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected = [&runs[4], &ended, &runs[2], &runs[1], &runs[0]].map(Clone::clone);
    assert_eq!(found, expected);
}

pub(crate) async fn child_executions_are_listed_by_their_map_run(db: Arc<dyn Database>) {
    let store = db.open().await;
    let run = map_run("e", 4, 1000);
    let children: Vec<NewExecution> = (0..3)
        .map(|n| {
            let state_machine = machine("orders").labelled("l");
            let arn = state_machine.execution(&format!("c-{n}"));
            let map_item = Some(MapItem { map_run: run.arn.clone(), items: n + 1 });
            let started_at = at(1000 + i64::from(n));
            NewExecution { id: arn.id(), arn, state_machine, map_item, started_at, ..new_execution("x") }
        })
        .collect();
    let mut ids = start(&*store, children.clone()).await;
    start(&*store, vec![new_execution("e")]).await;
    let query = |of, status| ListExecutions { of, status, redriven: None, limit: 10, after: None };
    let of_run = || ExecutionsOf::MapRun(run.arn.clone());
    let found = store.executions(&query(of_run(), None)).await.unwrap();
    ids.reverse();
    assert_eq!(found.items.iter().map(|e| e.id).collect::<Vec<_>>(), ids);
    assert_eq!(found.items[0].map_item, children[2].map_item);
    assert_eq!(found.items[0].arn, children[2].arn);
    let succeeded = store.executions(&query(of_run(), Some(ExecutionStatus::Succeeded))).await.unwrap();
    assert_eq!(succeeded.items, []);
    let of_machine = ExecutionsOf::StateMachine(machine("orders"));
    let found = store.executions(&query(of_machine, None)).await.unwrap();
    assert_eq!(found.items.iter().map(|e| e.arn.name.as_str()).collect::<Vec<_>>(), ["e"]);
    assert_eq!(found.items[0].map_item, None);

    // The run is redriven: who failed before waits for it, who failed since or succeeded does not.
    let end = |id, status, stopped| EndedExecution { status, stopped_at: at(stopped), ..ended(id) };
    let ends = vec![
        end(ids[0], ExecutionStatus::Failed, 5_000),
        end(ids[1], ExecutionStatus::Aborted, 5_001),
        end(ids[2], ExecutionStatus::Succeeded, 4_000),
    ];
    store.commit(Batch { ended: ends, ..Batch::default() }).await.unwrap();
    let redriven = || ExecutionsOf::RedrivenMapRun(run.arn.clone(), at(5_001));
    for (status, expected) in [
        (ExecutionStatus::PendingRedrive, &ids[..1]),
        (ExecutionStatus::Failed, &[]),
        (ExecutionStatus::Aborted, &ids[1..2]),
        (ExecutionStatus::Succeeded, &ids[2..]),
    ] {
        let found = store.executions(&query(redriven(), Some(status))).await.unwrap().items;
        assert_eq!(found.iter().map(|e| e.id).collect::<Vec<_>>(), expected, "{status:?}");
        assert!(found.iter().all(|e| e.status == status), "{found:?}");
    }
    let all = store.executions(&query(redriven(), None)).await.unwrap().items;
    assert_eq!(all[0].status, ExecutionStatus::PendingRedrive);
}
