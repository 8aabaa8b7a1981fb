//! Any text as a path and as a Reference Path, over any data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use stagepost_asl::path::{Path, ReferencePath};
use stagepost_fuzz::{check, expression_and_input, over};

fuzz_target!(|bytes: &[u8]| {
    let Some((source, input)) = expression_and_input(bytes) else { return };
    if let Ok(path) = Path::parse(source) {
        over(&input, |data| {
            if let Some(found) = path.find(data) {
                check(&found);
            }
            // The two ways of asking agree on whether there is something.
            if path.is_definite() {
                assert_eq!(path.find(data).is_some(), path.select(data).is_ok());
            }
        });
    }
    if let Ok(path) = ReferencePath::parse(source)
        && let Ok(assigned) = path.assign(input, json!({ "put": "here" }))
    {
        check(&assigned);
        // What was written at a place is found there.
        if let Ok(read) = Path::parse(source) {
            over(&assigned, |data| {
                assert_eq!(read.find(data).as_deref(), Some(&json!({ "put": "here" })), "{source}");
            });
        }
    }
});
