//! Any JSON document as a payload template, in both query languages, over any data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use stagepost_asl::template::Template;
use stagepost_fuzz::{check, expression_and_input, over};

fuzz_target!(|bytes: &[u8]| {
    let Some((source, input)) = expression_and_input(bytes) else { return };
    let Ok(source) = serde_json::from_str::<Value>(source) else { return };
    let compiled = [Template::compile(&source), Template::compile_jsonata(&source, "Output")];
    for template in compiled.iter().flatten() {
        over(&input, |data| {
            if let Ok(value) = template.evaluate(data) {
                check(&value);
            }
        });
    }
});
