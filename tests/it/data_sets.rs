//! Distributed Map states over data sets: items from files, child executions, result files.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use stagepost_server::ApiClient;
use stagepost_tests::Site;

use crate::{output, run};

/// More than one window.
const ROWS: usize = 1_200;

/// A directory that is gone with the value.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        let path = std::env::temp_dir().join(format!("stagepost-files-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left behind is in the directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A machine whose Map state reads `rows.csv` and fails each item whose id ends in 9.
fn machine(writer: &Value) -> Value {
    json!({
        "StartAt": "Rows",
        "States": { "Rows": {
            "Type": "Map",
            "Label": "Rows",
            "ToleratedFailurePercentage": 10,
            "ItemReader": {
                "Resource": "arn:aws:states:::file:read",
                "ReaderConfig": { "InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW" },
                "Parameters": { "Path": "rows.csv" },
            },
            "ItemProcessor": {
                "ProcessorConfig": { "Mode": "DISTRIBUTED", "ExecutionType": "STANDARD" },
                "StartAt": "Good",
                "States": {
                    "Good": {
                        "Type": "Choice",
                        "Choices": [{ "Variable": "$.id", "StringMatches": "*9", "Next": "Bad" }],
                        "Default": "Done",
                    },
                    "Bad": { "Type": "Fail", "Error": "Bad", "Cause": "a bad row" },
                    "Done": { "Type": "Succeed" },
                },
            },
            "ResultWriter": writer,
            "End": true,
        } },
    })
}

async fn rows_are_processed_and_results_written(api: &ApiClient, files: &Path) {
    let rows: String = (0..ROWS).map(|n| format!("{n},row {n}\n")).collect();
    std::fs::write(files.join("rows.csv"), format!("id,name\n{rows}")).unwrap();
    let writer = json!({
        "Resource": "arn:aws:states:::file:write",
        "Parameters": { "Path": "results" },
        "WriterConfig": { "Transformation": "COMPACT", "OutputType": "JSONL" },
    });
    let result = output(&run(api, "rows", &machine(&writer), &json!({})).await);
    let manifest = files.join(result["ResultWriterDetails"]["Path"].as_str().unwrap());
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    assert_eq!(manifest["MapRunArn"], result["MapRunArn"]);
    let lines = |group: &str| -> Vec<Value> {
        let [file] = manifest["ResultFiles"][group].as_array().unwrap().as_slice() else {
            panic!("one file was expected: {manifest}")
        };
        let text = std::fs::read_to_string(files.join(file["Key"].as_str().unwrap())).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (succeeded, failed) = (lines("SUCCEEDED"), lines("FAILED"));
    let ids = |rows: &[Value]| -> BTreeSet<usize> {
        rows.iter().map(|row| row["id"].as_str().unwrap().parse().unwrap()).collect()
    };
    let (bad, good): (BTreeSet<usize>, BTreeSet<usize>) = (0..ROWS).partition(|n| n % 10 == 9);
    assert_eq!((succeeded.len(), ids(&succeeded)), (good.len(), good));
    let inputs: Vec<Value> =
        failed.iter().map(|row| serde_json::from_str(row["Input"].as_str().unwrap()).unwrap()).collect();
    assert_eq!((failed.len(), ids(&inputs)), (bad.len(), bad));
    let error = (&failed[0]["Status"], &failed[0]["Error"], &failed[0]["Cause"]);
    assert_eq!(error, (&json!("FAILED"), &json!("Bad"), &json!("a bad row")));
}

async fn what_cannot_be_read_or_written_fails_the_state(api: &ApiClient, files: &Path) {
    let outside =
        json!({ "Resource": "arn:aws:states:::file:write", "Parameters": { "Path": "../results" } });
    std::fs::write(files.join("rows.csv"), "id,name\n1,a\n").unwrap();
    let ended = run(api, "outside", &machine(&outside), &json!({})).await;
    assert_eq!(ended.error.as_deref(), Some("States.ResultWriterFailed"), "{ended:#?}");
    std::fs::write(files.join("rows.csv"), "id,id\n1,a\n").unwrap();
    let ended = run(api, "twice", &machine(&outside), &json!({})).await;
    assert_eq!(ended.error.as_deref(), Some("States.ItemReaderFailed"), "{ended:#?}");
    assert_eq!(ended.cause.as_deref(), Some("CSV headers cannot contain duplicates."));
}

#[tokio::test]
async fn a_distributed_map_reads_a_file_and_writes_files() {
    let site = Site::embedded();
    let files = Directory::new();
    let _server = site.start_with(&["--files", files.0.to_str().unwrap()]).await;
    rows_are_processed_and_results_written(&site.api, &files.0).await;
    what_cannot_be_read_or_written_fails_the_state(&site.api, &files.0).await;
}
