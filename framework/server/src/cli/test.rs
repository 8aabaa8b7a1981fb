//! `test`: the cases of a definition, as a test runner shows them.

use std::{fmt::Write as _, path::Path, process::ExitCode, sync::Arc};

use stagepost_asl::StateMachine;
use stagepost_server::Style;
use stagepost_testing::{Case, Cases, Paint, Tone, run_selected};

use super::{
    args::{TestArgs, TestFormat},
    failure::Failure,
    output, validate,
};

pub(crate) fn run(args: &TestArgs) -> Result<ExitCode, Failure> {
    let machine = machine(&args.definition)?;
    let mut cases: Vec<Case> = Vec::new();
    for file in &args.cases {
        cases.extend(read_cases(file, &machine)?.cases);
    }
    if let Some(text) = &args.only {
        cases.retain(|case| case.name.contains(text.as_str()));
        if cases.is_empty() {
            return Err(Failure::usage(format!("no case has '{text}' in its name")));
        }
    }
    let report = run_selected(&machine, &cases);
    let covered = report.coverage.total().percent();
    let missed = args.coverage_min.filter(|min| covered < usize::from(*min));
    match args.format {
        TestFormat::Json => output::json(&report.to_json()),
        TestFormat::Junit => output::data(&report.to_junit(&args.definition.display().to_string())),
        TestFormat::Text => {
            let style = Style::of(&std::io::stdout());
            let paint: Paint<'_> = &|tone, text| painted(style, tone, text);
            let mut text = report.render(paint);
            let _ = write!(text, "\n{}", report.summary(paint));
            output::data(&text);
        }
    }
    if let Some(min) = missed {
        let style = Style::of(&std::io::stderr());
        output::note(&format!("{} {covered} % is covered, less than {min} %", style.red("coverage:")));
    }
    Ok(ExitCode::from(u8::from(report.failed() > 0 || missed.is_some())))
}

pub(crate) fn painted(style: Style, tone: Tone, text: &str) -> String {
    match tone {
        Tone::Good => style.green(text),
        Tone::Bad => style.red(text),
        Tone::Note => style.yellow(text),
        Tone::Dim => style.dim(text),
        Tone::Strong => style.bold(text),
    }
}

/// Reads a definition; what is wrong with it is shown as `validate` shows it.
pub(crate) fn machine(file: &Path) -> Result<Arc<StateMachine>, Failure> {
    let text = output::read_file(file)?;
    stagepost_testing::parse(&text).map_err(|findings| {
        let style = Style::of(&std::io::stderr());
        output::notes(&validate::rendered(&findings, &text, file, style));
        Failure::usage(format!("{} is not a valid definition", file.display()))
    })
}

fn read_cases(file: &Path, machine: &StateMachine) -> Result<Cases, Failure> {
    let text = output::read_file(file)?;
    Cases::parse(&text, machine).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| format!("\n  {error}")).collect();
        Failure::usage(format!("{} cannot be used:{}", file.display(), lines.concat()))
            .with_hint("docs/testing.md has the format of cases")
    })
}
