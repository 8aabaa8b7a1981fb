//! The rules of the specification (<https://states-language.net/spec.html>) and of the developer guide, one by one: what
//! keeps a rule is accepted, what breaks it is refused. Each row of the table breaks or keeps one rule.

use serde_json::Value;

use super::*;

#[test]
fn each_rule_is_kept() {
    let table: Vec<Value> = serde_json::from_str(include_str!("specification.json")).unwrap();
    assert!(table.len() > 200, "the table has {} rows", table.len());
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|row| {
            let found = parse(&row["definition"].to_string());
            (found.is_ok() != row["valid"]).then(|| format!("{}: {:?}", row["rule"], found.err()))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
