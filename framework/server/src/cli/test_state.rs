//! `test-state`: one state, with its data on the way.

use std::process::ExitCode;

use serde_json::{Value, json};
use stagepost_protocol::Namespace;
use stagepost_server::{DEFAULT_ROLE, Style};

use super::{args::TestStateArgs, failure::Failure, output};

/// What is shown of the data, in the order of the flow: a field of `inspectionData`, and what it is called here.
const STAGES: [(&str, &str); 13] = [
    ("input", "input"),
    ("afterInputPath", "InputPath"),
    ("afterParameters", "Parameters"),
    ("afterArguments", "Arguments"),
    ("afterItemsPath", "ItemsPath"),
    ("afterItemSelector", "ItemSelector"),
    ("afterItemBatcher", "ItemBatcher"),
    ("maxConcurrency", "MaxConcurrency"),
    ("toleratedFailureCount", "ToleratedFailureCount"),
    ("toleratedFailurePercentage", "ToleratedFailurePercentage"),
    ("result", "result"),
    ("afterResultSelector", "ResultSelector"),
    ("afterResultPath", "ResultPath"),
];

/// So many characters of a value are shown.
const SHOWN_CHARS_MAX: usize = 400;

pub(crate) async fn run(args: TestStateArgs, namespace: Namespace) -> Result<ExitCode, Failure> {
    let api = args.client.client(namespace)?;
    let request = request(&args)?;
    let answer = api.call("TestState", &request).await?;
    let status = answer["status"].as_str().unwrap_or_default();
    // Where a catcher leads on, so does the workflow.
    let good = matches!(status, "SUCCEEDED" | "CAUGHT_ERROR");
    if args.client.json {
        output::json(&answer);
    } else {
        output::notes(&told(&answer, good, Style::of(&std::io::stderr())));
        if let Some(text) = answer["output"].as_str() {
            output::json_text(text);
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn request(args: &TestStateArgs) -> Result<Value, Failure> {
    let mut request = json!({
        "definition": output::read_file(&args.file)?,
        "input": output::typed_json("--input", &args.input)?,
        "inspectionLevel": "TRACE",
    });
    if let Some(state) = &args.state {
        request["stateName"] = state.as_str().into();
    }
    for (flag, member, json) in
        [("--variables", "variables", &args.variables), ("--context", "context", &args.context)]
    {
        if let Some(json) = json {
            request[member] = output::typed_json(flag, json)?.into();
        }
    }
    if let Some(result) = &args.result {
        request["mock"] = json!({ "result": output::typed_json("--result", result)? });
    } else if let Some(error) = &args.error {
        request["mock"] = json!({ "errorOutput": { "error": error, "cause": args.cause } });
        if let Some(retries) = args.retries {
            request["stateConfiguration"] = json!({ "retrierRetryCount": retries });
        }
    } else {
        request["roleArn"] = args.role_arn.as_deref().unwrap_or(DEFAULT_ROLE).into();
    }
    Ok(request)
}

/// The answer for people, but for the output.
fn told(answer: &Value, good: bool, style: Style) -> String {
    let data = &answer["inspectionData"];
    let shown = |value: &Value| match value {
        Value::String(text) => output::short(text, SHOWN_CHARS_MAX),
        other => other.to_string(),
    };
    let mut rows: Vec<(&str, String)> = STAGES
        .iter()
        .filter(|(field, _)| !data[field].is_null())
        .map(|(field, name)| (*name, shown(&data[field])))
        .collect();
    if !data["variables"].is_null() {
        rows.push(("variables", shown(&data["variables"])));
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut lines: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("{}  {value}", style.dim(&format!("{name:width$}"))))
        .collect();
    for member in ["error", "cause"] {
        if let Some(text) = answer[member].as_str() {
            lines.push(format!("{}  {}", style.red(member), output::harmless(text)));
        }
    }
    let status = answer["status"].as_str().unwrap_or("?");
    let details = &data["errorDetails"];
    let mut end =
        if good { style.green(&format!("✓ {status}")) } else { style.red(&format!("✗ {status}")) };
    if let Some(seconds) = details["retryBackoffIntervalSeconds"].as_i64() {
        end.push_str(&format!(" by Retry[{}] after {seconds} s", details["retryIndex"]));
    }
    if !details["catchIndex"].is_null() {
        end.push_str(&format!(" by Catch[{}]", details["catchIndex"]));
    }
    if let Some(next) = answer["nextState"].as_str() {
        end.push_str(&format!(" → {}", style.bold(&output::harmless(next))));
    }
    lines.push(end);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_in_the_order_of_the_flow() {
        let plain = Style::of(&std::fs::File::open("/dev/null").unwrap());
        let answer = json!({
            "status": "SUCCEEDED", "output": "1", "nextState": "Next",
            "inspectionData": { "afterResultPath": "1", "input": "{}", "maxConcurrency": 3, "variables": "{\"a\":1}" },
        });
        assert_eq!(
            told(&answer, true, plain),
            "input           {}\nMaxConcurrency  3\nResultPath      1\nvariables       {\"a\":1}\n✓ SUCCEEDED → Next\n"
        );
        let answer = json!({
            "status": "RETRIABLE", "error": "E", "cause": "why",
            "inspectionData": { "input": "{}", "errorDetails": { "retryIndex": 1, "retryBackoffIntervalSeconds": 4 } },
        });
        assert_eq!(
            told(&answer, false, plain),
            "input  {}\nerror  E\ncause  why\n✗ RETRIABLE by Retry[1] after 4 s\n"
        );
        let answer = json!({
            "status": "CAUGHT_ERROR", "error": "E", "nextState": "N", "inspectionData": { "errorDetails": { "catchIndex": 0 } },
        });
        assert_eq!(told(&answer, true, plain), "error  E\n✓ CAUGHT_ERROR by Catch[0] → N\n");
    }
}
