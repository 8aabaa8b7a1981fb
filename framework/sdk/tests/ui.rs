//! What a user sees who makes a mistake with the macros. Each file under `ui/fail` is one mistake, the `.stderr`
//! beside it what the compiler says of it: review it like text of the user interface.
//! `TRYBUILD=overwrite cargo test -p stagepost --test ui` writes them anew. What is right is in `forms.rs`: with a
//! single program that must pass, trybuild builds all dependencies again instead of checking them.

use std::process::Command;

/// The compiler whose words the `.stderr` files hold; another one chooses them a little differently.
const REVIEWED_WITH: &str = "rustc 1.95.";

#[test]
fn mistakes_are_explained() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().expect("rustc says its version");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if version.starts_with(REVIEWED_WITH) {
        trybuild::TestCases::new().compile_fail("tests/ui/fail/*.rs");
    } else {
        println!("skipped: the messages were reviewed with {REVIEWED_WITH}x, this is {version}");
    }
}
