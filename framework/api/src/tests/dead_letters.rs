//! Dead letters.

use serde_json::{Value, json};
use stagepost_protocol::{
    DeadLetter, DeadReason, ExecutionId, HeaderValue, Message, Namespace, Properties, Timestamp, TokenKey,
    message::HEADER_REPUBLISHED,
};
use stagepost_store::{Record, Records as _};

use super::Server;

/// Keeps a letter as the coordinator does. Ids are in the order of `n`.
async fn keep(
    server: &Server,
    n: u32,
    source: Option<&str>,
    kind: DeadReason,
    body: &'static [u8],
) -> String {
    let token = TokenKey::new(b"k").sign(ExecutionId::from_bytes([1; 16]), 5);
    let headers = [
        ("stagepost-task-token".to_owned(), HeaderValue::from(token.as_str())),
        ("list".to_owned(), HeaderValue::Other(format!(r#"["{}", 1]"#, token.as_str()))),
    ];
    let letter = DeadLetter {
        source: source.map(str::to_owned),
        kind,
        reason: format!("because of {}", token.as_str()),
        taken_at: Timestamp::from_millis(1_500),
        body: body.into(),
        properties: Properties {
            message_id: Some(format!("m-{n}")),
            headers: headers.into(),
            ..Properties::default()
        },
    };
    let id = format!("0190a5b2-0000-7000-8000-{n:012}");
    let record = Record {
        kind: DeadLetter::RECORD.to_owned(),
        namespace: Namespace::default(),
        key: id.clone(),
        label: source.unwrap_or_default().to_owned(),
        due_at: None,
        version: 0,
        body: letter.to_payload(),
    };
    assert!(server.memory.put_record(&record).await.unwrap());
    id
}

fn listed(answer: &Value) -> Vec<String> {
    let letters = answer["deadLetters"].as_array().unwrap();
    letters.iter().map(|letter| letter["messageId"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn dead_letters_are_listed_newest_first_by_source_and_reason() {
    let server = Server::new();
    assert_eq!(server.call_own("ListDeadLetters", json!({})).await.unwrap(), json!({ "deadLetters": [] }));
    for n in 0..120 {
        let (source, kind) = match n % 3 {
            0 => (Some("web"), DeadReason::NotJson),
            1 => (Some("callbacks"), DeadReason::Expired),
            _ => (None, DeadReason::Other),
        };
        keep(&server, n, source, kind, b"{}").await;
    }
    let page = server.call_own("ListDeadLetters", json!({ "maxResults": 2 })).await.unwrap();
    assert_eq!(listed(&page), ["m-119", "m-118"]);
    let next = json!({ "maxResults": 2, "nextToken": page["nextToken"] });
    assert_eq!(listed(&server.call_own("ListDeadLetters", next).await.unwrap()), ["m-117", "m-116"]);
    let first = &page["deadLetters"][0];
    assert_eq!((&first["takenDate"], &first["bodyBytes"]), (&json!(1.5), &json!(2)));
    assert_eq!(first["message"], "because of ***");
    assert_eq!((first.get("source"), &first["reason"]), (None, &json!("other")));

    let query = json!({ "source": "web", "maxResults": 1000 });
    assert_eq!(listed(&server.call_own("ListDeadLetters", query).await.unwrap()).len(), 40);
    let query = json!({ "reason": "expired" });
    let mut found = Vec::new();
    let mut page = server.call_own("ListDeadLetters", query.clone()).await.unwrap();
    loop {
        found.extend(listed(&page));
        let Some(token) = page.get("nextToken") else { break };
        let next = json!({ "reason": "expired", "nextToken": token });
        page = server.call_own("ListDeadLetters", next).await.unwrap();
    }
    assert_eq!((found.len(), found[0].as_str()), (40, "m-118"));
    let (code, message) = server.call_own("ListDeadLetters", json!({ "reason": "bad" })).await.unwrap_err();
    assert_eq!(code, "ValidationException");
    assert!(message.contains("invalid-token"), "{message}");
    let other = json!({ "source": "web", "nextToken": page::token() });
    assert_eq!(server.call_own("ListDeadLetters", other).await.unwrap_err().0, "InvalidToken");
}

mod page {
    pub(super) fn token() -> String {
        crate::wire::page::token("ListDeadLetters None None", "x")
    }
}

#[tokio::test]
async fn secrets_are_shown_only_when_asked_for() {
    let server = Server::new();
    let token = TokenKey::new(b"k").sign(ExecutionId::from_bytes([1; 16]), 5);
    let body: &'static str = Box::leak(format!(r#"{{"taskToken":"{}","output":1}}"#, token.as_str()).into());
    let text = keep(&server, 1, Some("callbacks"), DeadReason::Expired, body.as_bytes()).await;
    let packed = keep(&server, 2, Some("callbacks"), DeadReason::NotJson, b"\x1f\x8b\x08").await;
    let describe = async |id: &str, reveal| {
        server.call_own("DescribeDeadLetter", json!({ "deadLetterId": id, "reveal": reveal })).await
    };

    let hidden = describe(&text, false).await.unwrap();
    assert!(!hidden.to_string().contains(token.as_str()), "{hidden}");
    assert_eq!(hidden["body"], r#"{"taskToken":"***","output":1}"#);
    assert_eq!(hidden["headers"], json!({ "stagepost-task-token": "***", "list": ["***", 1] }));
    assert_eq!(hidden["properties"], json!({ "messageId": "m-1" }));
    let revealed = describe(&text, true).await.unwrap();
    assert_eq!((&revealed["body"], &revealed["bodyEncoding"]), (&json!(body), &json!("utf-8")));
    assert_eq!(revealed["headers"]["list"], json!([token.as_str(), 1]));

    let hidden = describe(&packed, false).await.unwrap();
    assert_eq!((hidden.get("body"), &hidden["bodyEncoding"]), (None, &json!("base64")));
    assert_eq!(describe(&packed, true).await.unwrap()["body"], "H4sI");
    assert_eq!(describe("nobody", true).await.unwrap_err().0, "ResourceNotFound");
}

#[tokio::test]
async fn dead_letters_go_back_to_their_queue_or_to_another_one() {
    let server = Server::new();
    let web = keep(&server, 1, Some("web"), DeadReason::NotJson, b"{}").await;
    let gone = keep(&server, 2, Some("gone"), DeadReason::Gone, b"{}").await;
    let nowhere = keep(&server, 3, None, DeadReason::Other, b"{}").await;
    server.memory.tables().missing_queues.push("gone".to_owned());
    let ids = json!({ "deadLetterIds": [web, gone, nowhere, "nobody"] });
    let answer = server.call_own("RequeueDeadLetters", ids).await.unwrap();
    assert_eq!(answer["requeued"], json!([web]));
    let failures = answer["failures"].as_array().unwrap();
    let told: Vec<_> = failures.iter().map(|f| f["message"].as_str().unwrap()).collect();
    assert!(told[0].contains("no queue 'gone' takes the message"), "{told:?}");
    assert!(told[1].contains("not known which queue"), "{told:?}");
    assert_eq!(failures[2]["code"], "ResourceNotFound");
    {
        let tables = server.memory.tables();
        let Message { queue, properties, .. } = &tables.published[0];
        assert_eq!((queue.as_str(), properties.message_id.as_deref()), ("web", Some("m-1")));
        // It has a task token, so somebody may have begun it.
        assert_eq!(properties.headers.get(HEADER_REPUBLISHED), Some(&HeaderValue::Bool(true)));
        assert_eq!((tables.published.len(), tables.records.len()), (1, 2));
    }

    let elsewhere = json!({ "deadLetterIds": [gone, nowhere], "queue": "other" });
    let answer = server.call_own("RequeueDeadLetters", elsewhere).await.unwrap();
    assert_eq!(answer, json!({ "requeued": [gone, nowhere], "failures": [] }));
    let tables = server.memory.tables();
    assert!(tables.records.is_empty() && tables.published[1..].iter().all(|m| m.queue == "other"));
}

#[tokio::test]
async fn dead_letters_are_discarded_by_their_ids() {
    let server = Server::new();
    let ids = [
        keep(&server, 1, None, DeadReason::Other, b"").await,
        keep(&server, 2, None, DeadReason::Other, b"").await,
    ];
    let answer = server.call_own("DiscardDeadLetters", json!({ "deadLetterIds": [ids[0]] })).await.unwrap();
    assert_eq!(answer, json!({ "discarded": [ids[0]], "failures": [] }));
    let answer = server.call_own("DiscardDeadLetters", json!({ "deadLetterIds": ids })).await.unwrap();
    assert_eq!(answer["discarded"], json!([ids[1]]));
    assert_eq!(answer["failures"][0]["code"], "ResourceNotFound");
    assert!(server.memory.tables().published.is_empty());
    for bad in [json!({}), json!({ "deadLetterIds": [] }), json!({ "deadLetterIds": vec!["x"; 101] })] {
        assert_eq!(server.call_own("DiscardDeadLetters", bad).await.unwrap_err().0, "ValidationException");
    }
}
