//! Settings, definitions, state machines and activities.

use std::sync::Arc;

use stagepost_protocol::{Namespace, Payload};

use super::{Database, at, machine};
use crate::{ActivityRow, DefinitionRow, StateMachineRow};

pub(crate) async fn one_setting_wins(db: Arc<dyn Database>) {
    let store = db.open().await;
    let all: Vec<_> = (0..20)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.setting("secret", &format!("value-{n}")).await.unwrap() })
        })
        .collect();
    let winner = store.setting("secret", "value-x").await.unwrap();
    for one in all {
        assert_eq!(one.await.unwrap(), winner);
    }
    assert_eq!(store.setting("other", "o").await.unwrap(), "o");
    drop(store);
    assert_eq!(db.open().await.setting("secret", "new").await.unwrap(), winner);
}

fn definition(id: &str) -> DefinitionRow {
    DefinitionRow { id: id.to_owned(), text: format!(r#"{{"Comment": "{id}"}}"#) }
}

fn state_machine(name: &str, definition_id: &str) -> StateMachineRow {
    StateMachineRow {
        arn: machine(name),
        definition_id: definition_id.to_owned(),
        role_arn: "role".to_owned(),
        kind: "STANDARD".to_owned(),
        status: "ACTIVE".to_owned(),
        created_at: at(5),
        updated_at: at(6),
        settings: Payload::parse(r#"{"tags": []}"#).unwrap(),
    }
}

pub(crate) async fn state_machines_are_created_updated_listed_and_deleted(db: Arc<dyn Database>) {
    let store = db.open().await;
    let first = state_machine("m", "d-1");
    assert_eq!(store.create_state_machine(&first, &definition("d-1")).await.unwrap(), None);
    let second = state_machine("m", "d-2");
    let there = store.create_state_machine(&second, &definition("d-2")).await.unwrap();
    assert_eq!(there, Some(first.clone()));
    assert_eq!(store.state_machine(&first.arn).await.unwrap(), Some(first.clone()));
    assert_eq!(store.definition("d-1").await.unwrap(), Some(definition("d-1")));
    assert_eq!(store.definition("d-2").await.unwrap(), None);

    let updated = StateMachineRow { updated_at: at(9), kind: "EXPRESS".to_owned(), ..second };
    assert!(store.update_state_machine(&updated, Some(&definition("d-2"))).await.unwrap());
    assert_eq!(store.state_machine(&first.arn).await.unwrap(), Some(updated.clone()));
    assert_eq!(store.definition("d-2").await.unwrap(), Some(definition("d-2")));
    let renamed = StateMachineRow { role_arn: "other".to_owned(), ..updated };
    assert!(store.update_state_machine(&renamed, None).await.unwrap());
    let none = state_machine("none", "d-3");
    assert!(!store.update_state_machine(&none, Some(&definition("d-3"))).await.unwrap());
    assert_eq!(store.definition("d-3").await.unwrap(), None);

    for name in ["k", "l", "Z", "é"] {
        store.create_state_machine(&state_machine(name, "d-1"), &definition("d-1")).await.unwrap();
    }
    let elsewhere = Namespace { account: "111111111111".to_owned(), region: "eu-west-1".to_owned() };
    let names = async |namespace: &Namespace, after: Option<&str>| {
        let page = store.state_machines(namespace, 3, after).await.unwrap();
        (page.items.into_iter().map(|r| r.arn.name).collect::<Vec<_>>(), page.next)
    };
    let home = Namespace::default();
    let (page, next) = names(&home, None).await;
    assert_eq!(page, ["Z", "k", "l"]);
    assert_eq!(names(&home, next.as_deref()).await, (vec!["m".to_owned(), "é".to_owned()], None));
    assert_eq!(names(&elsewhere, None).await, (vec![], None));

    assert!(store.delete_state_machine(&first.arn).await.unwrap());
    assert!(!store.delete_state_machine(&first.arn).await.unwrap());
    assert_eq!(store.state_machine(&first.arn).await.unwrap(), None);
    assert!(store.definition("d-2").await.unwrap().is_some());
}

pub(crate) async fn activities_are_created_listed_and_deleted(db: Arc<dyn Database>) {
    let store = db.open().await;
    let home = Namespace::default();
    let activity = |name: &str, created_at: i64| ActivityRow {
        namespace: Namespace::default(),
        name: name.to_owned(),
        created_at: at(created_at),
        settings: Payload::empty_object(),
    };
    for name in ["b", "a", "c"] {
        assert_eq!(store.create_activity(&activity(name, 1)).await.unwrap(), None);
    }
    assert_eq!(store.create_activity(&activity("b", 2)).await.unwrap(), Some(activity("b", 1)));
    assert_eq!(store.activity(&home, "b").await.unwrap(), Some(activity("b", 1)));
    let page = store.activities(&home, 2, None).await.unwrap();
    assert_eq!((page.items.len(), page.next.as_deref()), (2, Some("b")));
    let page = store.activities(&home, 2, page.next.as_deref()).await.unwrap();
    assert_eq!((page.items, page.next), (vec![activity("c", 1)], None));
    let tagged =
        ActivityRow { settings: Payload::parse("{\"tags\":{\"k\":\"v\"}}").unwrap(), ..activity("b", 1) };
    assert!(store.update_activity(&tagged).await.unwrap());
    assert!(!store.update_activity(&activity("none", 1)).await.unwrap());
    assert_eq!(store.activity(&home, "b").await.unwrap(), Some(tagged));
    assert!(store.delete_activity(&home, "b").await.unwrap());
    assert!(!store.delete_activity(&home, "b").await.unwrap());
    assert_eq!(store.activity(&home, "b").await.unwrap(), None);
    assert!(store.ping().await.is_ok());
}
