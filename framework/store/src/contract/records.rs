//! Records.

use std::sync::Arc;

use stagepost_protocol::{Namespace, Payload};

use super::{Database, all_shards, at};
use crate::{Appended, Batch, Error, Lease, ListRecords, Record};

fn record(key: &str, label: &str, due_at: Option<i64>) -> Record {
    Record {
        kind: "k".to_owned(),
        namespace: Namespace::default(),
        key: key.to_owned(),
        label: label.to_owned(),
        due_at: due_at.map(at),
        version: 0,
        body: Payload::parse("{\"a\":1}").unwrap(),
    }
}

pub(crate) async fn a_record_is_changed_by_who_knows_its_version(db: Arc<dyn Database>) {
    let store = db.open().await;
    let home = Namespace::default();
    let new = record("one", "OPEN", Some(5));
    assert!(store.put_record(&new).await.unwrap());
    assert!(!store.put_record(&new).await.unwrap());
    let first = Record { version: 1, ..new.clone() };
    assert_eq!(store.record("k", &home, "one").await.unwrap(), Some(first.clone()));
    assert_eq!(store.record("other", &home, "one").await.unwrap(), None);
    let changed = Record {
        label: "DONE".to_owned(),
        due_at: None,
        body: Payload::parse("[\"\\u0000ä\"]").unwrap(),
        ..first.clone()
    };
    assert!(store.put_record(&changed).await.unwrap());
    assert!(!store.put_record(&changed).await.unwrap());
    let second = Record { version: 2, ..changed };
    assert_eq!(store.record("k", &home, "one").await.unwrap(), Some(second.clone()));
    drop(store);

    let store = db.open().await;
    assert!(!store.delete_record("k", &home, "one", Some(1)).await.unwrap());
    assert!(store.delete_record("k", &home, "one", Some(2)).await.unwrap());
    assert!(!store.delete_record("k", &home, "one", None).await.unwrap());
    assert!(!store.put_record(&second).await.unwrap());
    assert!(store.put_record(&new).await.unwrap());
    assert!(store.delete_record("k", &home, "one", None).await.unwrap());
}

pub(crate) async fn one_of_many_changes_of_a_record_wins(db: Arc<dyn Database>) {
    let store = db.open().await;
    for version in 0..3 {
        let all: Vec<_> = (0..10)
            .map(|n| {
                let changed = Record { version, label: n.to_string(), ..record("one", "", None) };
                let store = store.clone();
                tokio::spawn(
                    async move { store.put_record(&changed).await.unwrap().then_some(changed.label) },
                )
            })
            .collect();
        let mut winners = Vec::new();
        for one in all {
            winners.extend(one.await.unwrap());
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        let stored = store.record("k", &Namespace::default(), "one").await.unwrap().unwrap();
        assert_eq!((stored.label, stored.version), (winners.remove(0), version + 1));
    }
}

pub(crate) async fn records_are_listed_by_key_and_found_when_due(db: Arc<dyn Database>) {
    let store = db.open().await;
    let away = Namespace { account: "111111111111".to_owned(), region: "eu-west-1".to_owned() };
    for (key, label, due_at) in
        [("b", "OPEN", Some(30)), ("a/x", "DONE", None), ("c", "OPEN", Some(10)), ("d", "OPEN", Some(20))]
    {
        assert!(store.put_record(&record(key, label, due_at)).await.unwrap());
    }
    let elsewhere = Record { namespace: away.clone(), ..record("z", "OPEN", Some(15)) };
    assert!(store.put_record(&elsewhere).await.unwrap());
    let other = Record { kind: "other".to_owned(), ..record("b", "OPEN", Some(1)) };
    assert!(store.put_record(&other).await.unwrap());

    let all = ListRecords {
        kind: "k".to_owned(),
        namespace: Some(Namespace::default()),
        label: None,
        descending: false,
        limit: 3,
        after: None,
    };
    let keys = async |query: &ListRecords| {
        let page = store.records(query).await.unwrap();
        (page.items.into_iter().map(|r| r.key).collect::<Vec<_>>().join(" "), page.next)
    };
    let (page, next) = keys(&all).await;
    assert_eq!(page, "a/x b c");
    assert_eq!(keys(&ListRecords { after: next, ..all.clone() }).await, ("d".to_owned(), None));
    let open = ListRecords { label: Some("OPEN".to_owned()), descending: true, limit: 2, ..all.clone() };
    let (page, next) = keys(&open).await;
    assert_eq!(page, "d c");
    assert_eq!(keys(&ListRecords { after: next, ..open }).await, ("b".to_owned(), None));
    let everywhere = ListRecords { namespace: None, limit: 4, ..all.clone() };
    let (page, next) = keys(&everywhere).await;
    assert_eq!(page, "a/x b c d");
    assert_eq!(keys(&ListRecords { after: next, ..everywhere }).await, ("z".to_owned(), None));
    let none = ListRecords { namespace: Some(away), label: Some("DONE".to_owned()), ..all.clone() };
    assert_eq!(keys(&none).await, (String::new(), None));
    assert!(store.records(&ListRecords { after: Some("x".to_owned()), ..all }).await.is_err());

    let due = async |until: i64, limit: usize| {
        let found = store.due_records("k", at(until), limit).await.unwrap();
        found.into_iter().map(|r| r.key).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(due(20, 10).await, "c z d");
    assert_eq!(due(100, 2).await, "c z");
    assert_eq!(due(9, 2).await, "");

    let counted = [store.count_records("k").await.unwrap(), store.count_records("none").await.unwrap()];
    assert_eq!(counted, [5, 0]);
}

pub(crate) async fn a_commit_adds_to_the_lists_that_records_hold(db: Arc<dyn Database>) {
    let store = db.open().await;
    let entry = |key: &str, label: &str, due_at: Option<i64>, entries: &[&str]| Appended {
        kind: "k".to_owned(),
        namespace: Namespace::default(),
        key: key.to_owned(),
        label: label.to_owned(),
        due_at: due_at.map(at),
        entries: entries.iter().map(|text| Payload::parse(text).unwrap()).collect(),
    };
    let commit = |appended: Vec<Appended>| store.commit(Batch { appended, ..Batch::default() });
    let stored = async |key: &str| {
        let record = store.record("k", &Namespace::default(), key).await.unwrap().unwrap();
        (record.label, record.due_at, record.version, record.body.as_str().to_owned())
    };
    commit(vec![
        entry("a", "OPEN", Some(5), &[r#"{"n":"ä]\u0000"}"#]),
        entry("b", "DONE", None, &["1", "[2]"]),
    ])
    .await
    .unwrap();
    assert_eq!(stored("a").await, ("OPEN".into(), Some(at(5)), 1, r#"[{"n":"ä]\u0000"}]"#.into()));
    assert_eq!(stored("b").await, ("DONE".into(), None, 1, "[1,[2]]".into()));
    commit(vec![entry("a", "DONE", None, &["3"]), entry("c", "OPEN", None, &["4"])]).await.unwrap();
    assert_eq!(stored("a").await, ("DONE".into(), None, 2, r#"[{"n":"ä]\u0000"},3]"#.into()));

    // Who changes the record meanwhile and knows its version is not overwritten, and notices.
    let mut record = store.record("k", &Namespace::default(), "c").await.unwrap().unwrap();
    record.body = Payload::parse("[4,5]").unwrap();
    assert!(store.put_record(&record).await.unwrap());
    commit(vec![entry("c", "DONE", None, &["6"])]).await.unwrap();
    assert_eq!(stored("c").await, ("DONE".into(), None, 3, "[4,5,6]".into()));
    assert!(!store.put_record(&record).await.unwrap());

    // All or nothing.
    let lease = all_shards(&*store, "o", 1).await.remove(0);
    let stale = Lease { epoch: lease.epoch - 1, ..lease };
    let appended = vec![entry("d", "OPEN", None, &["1"])];
    let refused = store.commit(Batch { leases: vec![stale], appended, ..Batch::default() }).await;
    assert!(matches!(refused, Err(Error::LeaseLost(_))), "{refused:?}");
    assert_eq!(store.record("k", &Namespace::default(), "d").await.unwrap(), None);
}
