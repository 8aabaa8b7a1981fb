//! Result files: what stands in them, how they are split, and that a failure leaves none half written.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use stagepost_protocol::{Payload, Timestamp};

use super::{
    super::{
        Child, ChildPage, ChildStatus, Children, Files, LocalFiles, Upload, WriteError, WriteRequest,
        collect_results, write_results, writer::write_split,
    },
    block_on,
};

const MAP_RUN: &str = "arn:aws:states:us-east-1:123456789012:mapRun:machine/Label:5b2c";

/// A Map Run's children in memory.
struct Run(Vec<Child>);

#[async_trait]
impl Children for Run {
    async fn page(
        &self,
        map_run_arn: &str,
        after: Option<&str>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<ChildPage, String> {
        assert_eq!(map_run_arn, MAP_RUN);
        assert!(max_bytes > 0);
        let from = after.map_or(0, |after| after.parse().unwrap());
        // Pages may be shorter than asked for.
        let children: Vec<Child> = self.0.iter().skip(from).take(limit.min(7)).cloned().collect();
        let to = from + children.len();
        Ok(ChildPage { next: (to < self.0.len()).then(|| to.to_string()), children })
    }
}

/// Files in memory.
#[derive(Default)]
struct Written {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    open: AtomicUsize,
    parts: AtomicUsize,
    /// Parts that are taken before one fails.
    taken_parts_max: Option<usize>,
}

struct Writing<'a> {
    to: &'a Written,
    name: String,
    bytes: Vec<u8>,
}

#[async_trait]
impl Files for Written {
    async fn create<'a>(&'a self, name: &str) -> Result<Box<dyn Upload + 'a>, WriteError> {
        self.open.fetch_add(1, Relaxed);
        Ok(Box::new(Writing { to: self, name: name.to_owned(), bytes: Vec::new() }))
    }
}

#[async_trait]
impl Upload for Writing<'_> {
    async fn part(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        if self.to.taken_parts_max.is_some_and(|max| self.to.parts.load(Relaxed) >= max) {
            return Err(WriteError::new("the disk is full"));
        }
        self.to.parts.fetch_add(1, Relaxed);
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(mut self: Box<Self>, bytes: Bytes) -> Result<(), WriteError> {
        self.bytes.extend_from_slice(&bytes);
        self.to.open.fetch_sub(1, Relaxed);
        self.to.files.lock().unwrap().insert(self.name, self.bytes);
        Ok(())
    }

    async fn abort(self: Box<Self>) {
        self.to.open.fetch_sub(1, Relaxed);
    }
}

impl Written {
    fn names(&self) -> Vec<String> {
        self.files.lock().unwrap().keys().cloned().collect()
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.files.lock().unwrap()[name].clone()).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).unwrap()
    }
}

fn child(number: usize, status: ChildStatus) -> Child {
    let failed = status == ChildStatus::Failed;
    let machine = "arn:aws:states:us-east-1:123456789012:stateMachine:machine/Label".to_owned();
    Child {
        place: number as u64,
        execution_arn: format!("arn:aws:states:us-east-1:123456789012:execution:machine/Label:c{number}"),
        state_machine_arn: machine,
        name: format!("c{number}"),
        status,
        input: Payload::parse(&format!("{{\"n\":{number}}}")).unwrap(),
        output: (status == ChildStatus::Succeeded)
            .then(|| Payload::parse(&format!("[{number},\n {{\"x\": \"[,]\"}}]")).unwrap()),
        error: failed.then(|| "Broken".to_owned()),
        cause: failed.then(|| "it broke".to_owned()),
        start_date: Some(Timestamp::from_millis(1_000)),
        stop_date: Some(Timestamp::from_millis(2_500)),
        redrive_count: 0,
        redrive_date: None,
    }
}

fn request(config: Value) -> WriteRequest {
    WriteRequest {
        map_run: MAP_RUN.to_owned(),
        resource: "arn:aws:states:::s3:putObject".to_owned(),
        parameters: json!({"Bucket": "results", "Prefix": "jobs"}),
        writer_config: config,
        redrive_count: 0,
    }
}

fn mixed() -> Run {
    use ChildStatus::{Aborted, Failed, Pending, Succeeded, TimedOut};
    let statuses = [Succeeded, Failed, Succeeded, TimedOut, Aborted, Pending];
    Run(statuses.into_iter().enumerate().map(|(number, status)| child(number, status)).collect())
}

#[test]
fn executions_are_written_by_status_with_a_manifest() {
    let files = Written::default();
    let result = block_on(write_results(&mixed(), &files, &request(Value::Null))).unwrap();
    let manifest = "jobs/5b2c/manifest.json";
    assert_eq!(
        result,
        json!({"MapRunArn": MAP_RUN, "ResultWriterDetails": {"Bucket": "results", "Key": manifest}})
    );
    let name = |group: &str| format!("jobs/5b2c/{group}_0.json");
    let size = |group: &str| files.text(&name(group)).len();
    let file = |group: &str| json!([{"Key": name(group), "Size": size(group)}]);
    assert_eq!(
        files.json(manifest),
        json!({
            "DestinationBucket": "results",
            "MapRunArn": MAP_RUN,
            "ResultFiles":
                {"FAILED": file("FAILED"), "PENDING": file("PENDING"), "SUCCEEDED": file("SUCCEEDED")},
        })
    );
    let succeeded = files.json(&name("SUCCEEDED"));
    assert_eq!(succeeded.as_array().unwrap().len(), 2);
    assert_eq!(
        succeeded[0],
        json!({
            "ExecutionArn": "arn:aws:states:us-east-1:123456789012:execution:machine/Label:c0",
            "Input": "{\"n\":0}",
            "InputDetails": {"Included": true},
            "Name": "c0",
            "Output": "[0,\n {\"x\": \"[,]\"}]",
            "OutputDetails": {"Included": true},
            "RedriveCount": 0,
            "RedriveStatus": "NOT_REDRIVABLE",
            "RedriveStatusReason": "Execution is SUCCEEDED and cannot be redriven",
            "StartDate": "1970-01-01T00:00:01.000Z",
            "StateMachineArn": "arn:aws:states:us-east-1:123456789012:stateMachine:machine/Label",
            "Status": "SUCCEEDED",
            "StopDate": "1970-01-01T00:00:02.500Z",
        })
    );
    let failed = files.json(&name("FAILED"));
    let statuses: Vec<&str> =
        failed.as_array().unwrap().iter().map(|r| r["Status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["FAILED", "TIMED_OUT", "ABORTED"]);
    assert_eq!((&failed[0]["Error"], &failed[0]["Cause"]), (&json!("Broken"), &json!("it broke")));
    assert_eq!(failed[0]["RedriveStatus"], "REDRIVABLE_BY_MAP_RUN");
    assert!(failed[0].get("Output").is_none());
    assert_eq!(
        files.json(&name("PENDING")),
        json!([{"Input": "{\"n\":5}", "InputDetails": {"Included": true}, "Status": "PENDING"}])
    );
}

#[test]
fn a_run_without_children_has_a_manifest_alone() {
    let files = Written::default();
    block_on(write_results(&Run(Vec::new()), &files, &request(Value::Null))).unwrap();
    assert_eq!(files.names(), ["jobs/5b2c/manifest.json"]);
    let none = json!({"FAILED": [], "PENDING": [], "SUCCEEDED": []});
    assert_eq!(files.json("jobs/5b2c/manifest.json")["ResultFiles"], none);
}

#[test]
fn transformations_change_what_succeeded() {
    let written = |config: Value| {
        let files = Written::default();
        block_on(write_results(&mixed(), &files, &request(config))).unwrap();
        files
    };
    let x = json!({"x": "[,]"});
    let compact = written(json!({"Transformation": "COMPACT"}));
    assert_eq!(compact.json("jobs/5b2c/SUCCEEDED_0.json"), json!([[0, x], [2, x]]));
    assert_eq!(compact.json("jobs/5b2c/FAILED_0.json")[0]["Error"], "Broken");
    let flatten = written(json!({"Transformation": "FLATTEN", "OutputType": "JSON"}));
    assert_eq!(flatten.json("jobs/5b2c/SUCCEEDED_0.json"), json!([0, x, 2, x]));
    let lines = written(json!({"Transformation": "FLATTEN", "OutputType": "JSONL"}));
    assert_eq!(lines.text("jobs/5b2c/SUCCEEDED_0.jsonl"), "0\n{\"x\": \"[,]\"}\n2\n{\"x\": \"[,]\"}\n");
    let lines = written(json!({"Transformation": "COMPACT", "OutputType": "JSONL"}));
    let text = lines.text("jobs/5b2c/SUCCEEDED_0.jsonl");
    let values: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values, [json!([0, x]), json!([2, x])]);
    let mut scalar = child(1, ChildStatus::Succeeded);
    scalar.output = Some(Payload::parse("\"no array\"").unwrap());
    let files = Written::default();
    let config = json!({"Transformation": "FLATTEN"});
    block_on(write_results(&Run(vec![scalar]), &files, &request(config))).unwrap();
    assert_eq!(files.json("jobs/5b2c/SUCCEEDED_0.json"), json!(["no array"]));
}

#[test]
fn names_follow_from_the_prefix_and_the_redrive() {
    let key = |parameters: Value, redrive_count: u32| {
        let request = WriteRequest { parameters, redrive_count, ..request(Value::Null) };
        let files = Written::default();
        let result = block_on(write_results(&Run(Vec::new()), &files, &request)).unwrap();
        result["ResultWriterDetails"]["Key"].as_str().unwrap().to_owned()
    };
    assert_eq!(key(json!({"Bucket": "b"}), 0), "5b2c/manifest.json");
    assert_eq!(key(json!({"Bucket": "b", "Prefix": ""}), 0), "5b2c/manifest.json");
    assert_eq!(key(json!({"Bucket": "b", "Prefix": "a/b/"}), 0), "a/b/5b2c/manifest.json");
    assert_eq!(key(json!({"Bucket": "b", "Prefix": "a"}), 2), "a/5b2c/Redrive-2/manifest.json");
}

#[test]
fn long_results_go_into_several_parts_and_files() {
    let run = Run((0..100).map(|number| child(number, ChildStatus::Succeeded)).collect());
    for (output_type, end) in [("JSON", "json"), ("JSONL", "jsonl")] {
        let config = json!({"Transformation": "FLATTEN", "OutputType": output_type});
        let (part, most) = (50, 200);
        let files = Written::default();
        block_on(write_split(&run, &files, &request(config), part, most)).unwrap();
        assert!(files.parts.load(Relaxed) > 10);
        assert_eq!(files.open.load(Relaxed), 0);
        let listed = files.json("jobs/5b2c/manifest.json")["ResultFiles"]["SUCCEEDED"].clone();
        let mut values = Vec::new();
        for (number, file) in listed.as_array().unwrap().iter().enumerate() {
            let name = format!("jobs/5b2c/SUCCEEDED_{number}.{end}");
            let text = files.text(&name);
            assert_eq!(*file, json!({"Key": name, "Size": text.len()}));
            assert!(text.len() as u64 <= most);
            if output_type == "JSON" {
                values.extend(serde_json::from_str::<Vec<Value>>(&text).unwrap());
            } else {
                values.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
            }
        }
        let expected: Vec<Value> = (0..100).flat_map(|number| [json!(number), json!({"x": "[,]"})]).collect();
        assert_eq!(values, expected);
    }
}

#[test]
fn a_failure_leaves_no_file_half_written() {
    let run = Run((0..20).map(|number| child(number, ChildStatus::Succeeded)).collect());
    let files = Written { taken_parts_max: Some(3), ..Written::default() };
    let error = block_on(write_split(&run, &files, &request(Value::Null), 100, 1 << 30)).unwrap_err();
    assert_eq!((error.cause(), files.open.load(Relaxed)), ("the disk is full", 0));
    assert_eq!(files.names(), Vec::<String>::new());
    let error = block_on(write_split(&run, &files, &request(Value::Null), 100, 50)).unwrap_err();
    assert_eq!(error.cause(), "a result is longer than 50 bytes");
}

#[test]
fn what_names_no_destination_is_an_error() {
    let refuse = |request: WriteRequest, words: &str| {
        let error = block_on(write_results(&mixed(), &Written::default(), &request)).unwrap_err();
        assert!(error.cause().contains(words), "{error}: {words}");
    };
    let plain = || request(Value::Null);
    refuse(
        WriteRequest { resource: "arn:aws:states:::s3:getObject".to_owned(), ..plain() },
        "no result writer",
    );
    refuse(WriteRequest { parameters: json!({"Prefix": "x"}), ..plain() }, "needs Bucket");
    refuse(
        WriteRequest { parameters: json!({"Bucket": "b", "Prefix": 1}), ..plain() },
        "Prefix must be a string",
    );
    refuse(WriteRequest { map_run: "none".to_owned() + "/", ..plain() }, "ARN of a Map Run");
    refuse(request(json!({"Transformation": "FLAT"})), "Transformation");
    refuse(request(json!({"OutputType": "CSV"})), "OutputType");
}

#[test]
fn results_go_into_a_local_directory() {
    let root = std::env::temp_dir().join(format!("stagepost-results-{}", std::process::id()));
    std::fs::create_dir_all(root.join("allowed")).unwrap();
    let files = LocalFiles::new(root.join("allowed"));
    let to = |path: &str| WriteRequest {
        resource: "arn:aws:states:::file:write".to_owned(),
        parameters: json!({"Path": path}),
        ..request(Value::Null)
    };
    for _ in 0..2 {
        let result = block_on(write_split(&mixed(), &files, &to("out/jobs"), 100, 1 << 30)).unwrap();
        assert_eq!(result["ResultWriterDetails"], json!({"Path": "out/jobs/5b2c/manifest.json"}));
    }
    let directory = root.join("allowed/out/jobs/5b2c");
    let mut names: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["FAILED_0.json", "PENDING_0.json", "SUCCEEDED_0.json", "manifest.json"]);
    let succeeded = std::fs::read(directory.join("SUCCEEDED_0.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&succeeded).unwrap().as_array().unwrap().len(), 2);
    std::os::unix::fs::symlink(&root, root.join("allowed/up")).unwrap();
    for path in ["../out", "/tmp", "up/out"] {
        assert!(block_on(write_results(&mixed(), &files, &to(path))).is_err(), "{path}");
    }
    assert!(!root.join("out").exists());
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn results_without_a_file_come_in_the_order_of_their_items_and_must_fit_an_output() {
    let mut children = mixed().0;
    children.reverse();
    let results = block_on(collect_results(&Run(children), MAP_RUN)).unwrap().to_value();
    let names: Vec<&Value> = results.as_array().unwrap().iter().map(|result| &result["Name"]).collect();
    let mut sorted: Vec<Child> = mixed().0;
    sorted.sort_by_key(|child| child.place);
    let ended: Vec<&Child> = sorted.iter().filter(|c| c.status != ChildStatus::Pending).collect();
    let expected: Vec<Value> = ended.iter().map(|child| json!(child.name)).collect();
    assert_eq!(names.into_iter().filter(|name| !name.is_null()).cloned().collect::<Vec<_>>(), expected);
    let first = &results[0];
    assert_eq!(
        (&first["Status"], &first["InputDetails"]),
        (&json!("SUCCEEDED"), &json!({ "Included": true }))
    );

    let many = (0..2_000).map(|number| child(number, ChildStatus::Succeeded)).collect();
    let error = block_on(collect_results(&Run(many), MAP_RUN)).unwrap_err();
    assert_eq!(error.name(), "States.DataLimitExceeded");
}
