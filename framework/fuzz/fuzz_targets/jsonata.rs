//! Any text as a JSONata expression, over any data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use stagepost_asl::template::Template;
use stagepost_fuzz::{check, expression_and_input, over};

fuzz_target!(|bytes: &[u8]| {
    let Some((source, input)) = expression_and_input(bytes) else { return };
    let Ok(template) = Template::compile_jsonata(&Value::String(format!("{{% {source} %}}")), "Output") else {
        return;
    };
    over(&json!({ "input": input }), |data| {
        if let Ok(value) = template.evaluate(data) {
            check(&value);
        }
    });
});
