//! Any JSON document as a payload template, in both query languages, over any data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use stagepost_asl::template::{Reserved, Template};
use stagepost_fuzz::{check, expression_and_input, over};

fuzz_target!(|bytes: &[u8]| {
    let Some((source, input)) = expression_and_input(bytes) else { return };
    let Ok(source) = serde_json::from_str::<Value>(source) else { return };
    let all = Reserved { result: true, error_output: true };
    let compiled =
        [Template::compile(&source).ok(), Template::compile_jsonata(&source, "Output", all).ok()];
    for template in compiled.iter().flatten() {
        over(&input, |data| {
            if let Ok(value) = template.evaluate(data) {
                check(&value);
            }
        });
    }
});
