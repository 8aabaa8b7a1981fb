//! Any text as a definition: findings that point into it, or a machine whose parts fit together.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| match stagepost_asl::parse(text) {
    Ok((machine, _)) => {
        for (name, index) in machine.by_name.iter() {
            assert_eq!(machine.state(*index).name, *name);
        }
        assert!(machine.by_name.values().any(|index| *index == machine.start_at));
    }
    Err(findings) => {
        assert!(!findings.is_empty(), "a definition was refused without a word");
        // Of a field that is there twice, a finding may point into the one that does not count.
        let twice = findings.iter().any(|finding| finding.code == "DUPLICATE_FIELD");
        let document: Option<Value> = serde_json::from_str(text).ok().filter(|_| !twice);
        for finding in &findings {
            assert!(!finding.code.is_empty() && !finding.message.is_empty());
            // A finding about a missing field points at the field that ought to be there.
            if let Some(document) = &document {
                let parent = finding.pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
                assert!(
                    document.pointer(&finding.pointer).is_some() || document.pointer(parent).is_some(),
                    "{} points nowhere",
                    finding.pointer
                );
            }
        }
    }
});
