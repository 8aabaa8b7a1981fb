//! The cases of the definition, with `cargo test`; `stagepost test definition.asl.json cases.json` runs the same.

#[test]
fn all_cases_pass() {
    stagepost_testing::assert_cases(include_str!("../definition.asl.json"), include_str!("../cases.json"));
}
