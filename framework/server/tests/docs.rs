//! Keeps the documents honest: the commands and flags that they name exist, `docs/cli.md` is what the binary says,
//! and links lead somewhere. `UPDATE_DOCS=1 cargo test -p stagepost-server --test docs` writes `docs/cli.md` anew.

#![expect(clippy::unwrap_used, reason = "a document or a binary that cannot be read fails the test")]

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// README.md, ARCHITECTURE.md and all of docs/, with their paths.
fn documents() -> Vec<(PathBuf, String)> {
    let root = root();
    let mut paths = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    paths.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// What the binary says of a command, whatever this environment sets.
fn help(command: &str) -> String {
    let mut binary = Command::new(env!("CARGO_BIN_EXE_stagepost"));
    let output = binary.env_clear().args(command.split_whitespace().chain(["-h"])).output().unwrap();
    assert!(output.status.success(), "stagepost {command} -h: {}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The names below `Commands:` in the help of a command.
fn commands_of(command: &str) -> Vec<String> {
    let help = help(command);
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(|name| format!("{command} {name}").trim_start().to_owned()).collect()
}

/// All commands, each before its own ones: `start`, `dead-letters`, `dead-letters list`, …
fn commands() -> Vec<String> {
    let names = commands_of("");
    assert!(names.contains(&"start".to_owned()), "{names:?}");
    names.into_iter().flat_map(|name| [vec![name.clone()], commands_of(&name)].concat()).collect()
}

/// What follows `stagepost ` where it is typed: at the start of a line of code, or of a code span.
fn typed(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let code = fenced || line.starts_with("    ");
        let spans = line.split('`').skip(1).step_by(2);
        let pieces = code.then(|| line.trim_start()).into_iter().chain(spans.filter(|_| !code));
        found.extend(pieces.filter_map(|piece| piece.strip_prefix("stagepost ")));
    }
    found
}

#[test]
fn commands_in_the_documents_exist_with_their_flags() {
    let commands = commands();
    let mut seen = 0;
    for (path, text) in documents() {
        // It is the help itself.
        if path.ends_with("docs/cli.md") {
            continue;
        }
        for line in typed(&text) {
            let typed =
                |command: &&String| line == command.as_str() || line.starts_with(&format!("{command} "));
            let Some(name) = commands.iter().rfind(typed) else {
                panic!("{}: there is no `stagepost {line}`", path.display());
            };
            let help = help(name);
            for flag in line.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
                let flag = flag.split('=').next().unwrap_or(flag);
                assert!(help.contains(flag), "{}: `stagepost {name}` has no {flag}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} commands were found: has the form of the documents changed?");
}

#[test]
fn the_reference_of_the_command_line_is_what_the_binary_says() {
    let mut text = "# Command line\n\nGenerated from `stagepost -h`; \
        `UPDATE_DOCS=1 cargo test -p stagepost-server --test docs` writes it anew.\n"
        .to_owned();
    for command in std::iter::once(String::new()).chain(commands()) {
        let title = format!("stagepost {command}");
        // Flags that all commands have are told once.
        let help = help(&command);
        let help =
            if command.is_empty() { help.as_str() } else { help.split("\nGeneral:").next().unwrap_or(&help) };
        write!(text, "\n## {}\n\n```text\n{}\n```\n", title.trim_end(), help.trim_end()).unwrap();
    }
    let path = root().join("docs/cli.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, text).unwrap();
        return;
    }
    let written = fs::read_to_string(path).unwrap_or_default();
    assert!(written == text, "docs/cli.md is not what the binary says: run this test with UPDATE_DOCS=1");
}

#[test]
fn links_between_documents_lead_somewhere() {
    for (path, text) in documents() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            if target.contains("://") || target.contains(' ') {
                continue;
            }
            let linked = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(linked.exists(), "{}: {target} leads nowhere", path.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(&linked).unwrap();
                let slug = |title: &str| title.to_lowercase().replace(' ', "-");
                let mut titles = text.lines().filter(|line| line.starts_with('#'));
                let found = titles.any(|line| slug(line.trim_start_matches(['#', ' '])) == anchor);
                assert!(found, "{}: {target} names no section", path.display());
            }
        }
    }
}

/// The commands of docs/testing.md that print something, with what they print.
#[test]
fn the_outputs_in_the_documents_are_real() {
    let text = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let mut shown = 0;
    for part in text.split("\n\n    stagepost ").skip(1) {
        let (command, rest) = part.split_once("\n\n```text\n").unwrap();
        let (expected, _) = rest.split_once("\n```").unwrap();
        let mut binary = Command::new(env!("CARGO_BIN_EXE_stagepost"));
        let output =
            binary.env_clear().current_dir(root()).args(command.split_whitespace()).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), expected, "stagepost {command}");
        shown += 1;
    }
    assert!(shown > 0, "has the form of the document changed?");
}
