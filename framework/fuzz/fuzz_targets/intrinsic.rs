//! Any text as an intrinsic function call, over any data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stagepost_asl::intrinsic::Intrinsic;
use stagepost_fuzz::{check, expression_and_input, over};

fuzz_target!(|bytes: &[u8]| {
    let Some((source, input)) = expression_and_input(bytes) else { return };
    let Ok(call) = Intrinsic::parse(source) else { return };
    over(&input, |data| {
        let first = call.evaluate(data);
        if let Ok(value) = &first {
            check(value);
        }
    });
});
