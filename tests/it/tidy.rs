//! The rules of the tree that no compiler checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Longest source file, in lines.
const LINES_MAX: usize = 1000;

/// What each crate of the framework may depend on among the others. Dependencies point one way:
/// protocol ◄ asl ◄ engine ◄ coordinator ◄ api ◄ server, protocol ◄ broker ◄ sdk; none of the pure crates (protocol,
/// asl, engine, schedule, testing) knows a broker or a store, and no worker links a store or an HTTP server.
const MAY_USE: [(&str, &[&str]); 15] = [
    ("stagepost-protocol", &[]),
    ("stagepost-asl", &["protocol"]),
    ("stagepost-engine", &["protocol", "asl"]),
    ("stagepost-broker", &["protocol"]),
    ("stagepost-store", &["protocol"]),
    ("stagepost-schedule", &["protocol"]),
    ("stagepost-macros", &[]),
    ("stagepost", &["protocol", "broker", "macros"]),
    // Workers of the house: they run on the SDK like any other.
    ("stagepost-connectors", &["protocol", "broker", "sdk"]),
    ("stagepost-coordinator", &["protocol", "asl", "engine", "broker", "store", "schedule"]),
    ("stagepost-api", &["protocol", "asl", "engine", "broker", "store", "schedule", "coordinator"]),
    ("stagepost-testing", &["protocol", "asl", "engine"]),
    (
        "stagepost-server",
        &[
            "protocol",
            "asl",
            "engine",
            "broker",
            "store",
            "connectors",
            "coordinator",
            "api",
            "sdk",
            "testing",
        ],
    ),
    // It tests the whole from outside: through the API, the command line and the SDK.
    ("stagepost-tests", &["protocol", "sdk", "server"]),
    // It plays broker and store itself.
    ("stagepost-sim", &["protocol", "asl", "engine", "broker", "store", "sdk", "schedule", "coordinator"]),
];

/// Packages that must not be in a worker's tree.
const NOT_IN_A_WORKER: [&str; 8] = [
    "axum",
    "rusqlite",
    "tokio-postgres",
    "deadpool-postgres",
    "stagepost-store",
    "stagepost-coordinator",
    "stagepost-asl",
    "stagepost-engine",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // What other platforms need is not there offline.
    let host = Command::new("rustc").args(["--print", "host-tuple"]).output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            host.trim(),
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The packages of the workspace.
fn members(metadata: &Value) -> Vec<&Value> {
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().map(text).collect();
    metadata["packages"].as_array().unwrap().iter().filter(|p| members.contains(text(&p["id"]))).collect()
}

fn is_example(package: &Value) -> bool {
    Path::new(text(&package["manifest_path"])).starts_with(root().join("examples"))
}

/// Normal and build dependencies; what tests use is free.
fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    let all = package["dependencies"].as_array().unwrap().iter();
    all.filter(|dependency| dependency["kind"] != "dev").map(|dependency| text(&dependency["name"]))
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let rules: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    let members = members(&metadata);
    let names: BTreeSet<&str> = members.iter().map(|package| text(&package["name"])).collect();
    for package in &members {
        let name = text(&package["name"]);
        if is_example(package) {
            continue;
        }
        let may =
            rules.get(name).unwrap_or_else(|| panic!("{name} is new: say in tidy.rs what it may depend on"));
        for dependency in dependencies(package).filter(|dependency| names.contains(dependency)) {
            let short =
                if dependency == "stagepost" { "sdk" } else { dependency.trim_start_matches("stagepost-") };
            assert!(
                may.contains(&short),
                "{name} depends on {dependency}, against the direction of dependencies"
            );
        }
    }
}

#[test]
fn a_worker_links_no_store_and_no_http_server() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let by_id: BTreeMap<&str, &Value> = packages.iter().map(|p| (text(&p["id"]), p)).collect();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let edges: BTreeMap<&str, &Value> = nodes.iter().map(|node| (text(&node["id"]), &node["deps"])).collect();
    let sdk = packages.iter().find(|p| p["name"] == "stagepost").map(|p| text(&p["id"])).unwrap();
    let (mut open, mut seen) = (vec![sdk], BTreeSet::from([sdk]));
    while let Some(id) = open.pop() {
        for dependency in edges[id].as_array().unwrap() {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            if kinds.iter().any(|kind| kind["kind"].is_null()) && seen.insert(text(&dependency["pkg"])) {
                open.push(text(&dependency["pkg"]));
            }
        }
    }
    let names: BTreeSet<&str> = seen.iter().map(|id| text(&by_id[id]["name"])).collect();
    let found: Vec<&&str> = NOT_IN_A_WORKER.iter().filter(|name| names.contains(*name)).collect();
    assert!(found.is_empty(), "a worker links {found:?}");
}

#[test]
fn every_crate_inherits_the_lints_and_the_version() {
    for package in members(&metadata()) {
        let path = text(&package["manifest_path"]);
        let manifest = fs::read_to_string(path).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{path} does not inherit the lints");
        assert!(manifest.contains("version.workspace = true"), "{path} does not inherit the version");
    }
}

/// The text files of the repository that people write.
fn sources() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.rs",
            "*.sql",
            "*.sh",
            "*.py",
            "*.toml",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "git lists no files: is this a checkout?");
    let names = String::from_utf8(output.stdout).unwrap();
    // A file that was deleted and not yet committed is listed too.
    names.lines().map(|name| root().join(name)).filter(|path| path.is_file()).collect()
}

#[test]
fn no_source_file_is_too_long() {
    for path in sources() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        let rust = path.extension().is_some_and(|extension| extension == "rs");
        assert!(!rust || lines <= LINES_MAX, "{} has {lines} lines: it wants a second noun", path.display());
    }
}

#[test]
fn nothing_is_left_undone_in_a_source_file() {
    // Spelled in two parts, so that this file is not found itself.
    let marks = ["TO", "FIX", "XX", "to", "unimple"].iter().zip(["DO", "ME", "X", "do!", "mented!"]);
    let marks: Vec<String> = marks.map(|(first, second)| format!("{first}{second}")).collect();
    for path in sources() {
        let source = fs::read_to_string(&path).unwrap();
        for (line, number) in source.lines().zip(1..) {
            let words = |mark: &String| {
                line.match_indices(mark.as_str()).any(|(at, found)| {
                    let word = |c: char| c.is_alphanumeric() || c == '_';
                    let before = line[..at].chars().next_back().is_some_and(word);
                    let after = line[at + found.len()..].chars().next().is_some_and(word);
                    !before && !after
                })
            };
            let found = marks.iter().find(|mark| words(mark));
            assert!(found.is_none(), "{}:{number}: {}", path.display(), line.trim());
        }
    }
}
