//! Any text as a JSONata expression, over any data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use stagepost_asl::template::{Reserved, Template};
use stagepost_fuzz::{check, expression_and_input, over};

fuzz_target!(|bytes: &[u8]| {
    let Some((source, input)) = expression_and_input(bytes) else { return };
    let all = Reserved { result: true, error_output: true };
    let template = Value::String(format!("{{% {source} %}}"));
    let Ok(template) = Template::compile_jsonata(&template, "Output", all) else { return };
    over(&json!({ "input": input }), |data| {
        if let Ok(value) = template.evaluate(data) {
            check(&value);
        }
    });
});
