//! `explore`: every path of a definition, and what is wrong with them.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use stagepost_server::Style;
use stagepost_testing::{Bounds, Cases, Defect, Known, Paint, explore};

use super::{
    args::{ExploreArgs, ExploreFormat},
    failure::Failure,
    output, test, validate,
};

pub(crate) fn run(args: &ExploreArgs) -> Result<ExitCode, Failure> {
    let text = output::read_file(&args.definition)?;
    let mut inputs = Vec::new();
    for typed in &args.input {
        let text = output::typed_json("--input", typed)?;
        inputs.push(Known::Value(serde_json::from_str(&text).unwrap_or_default()));
    }
    if inputs.is_empty() {
        inputs.push(Known::Nothing);
    }
    let bounds = Bounds { paths: args.max_paths, visits: args.max_visits.max(1) };
    let limit = Duration::try_from_secs_f64(args.timeout)
        .map_err(|_| Failure::usage("--timeout must be a number of seconds"))?;
    let begun = Instant::now();
    let explored = explore(&text, &inputs, bounds, &|| begun.elapsed() > limit).map_err(|findings| {
        let style = Style::of(&std::io::stderr());
        output::notes(&validate::rendered(&findings, &text, &args.definition, style));
        Failure::usage(format!("{} is not a valid definition", args.definition.display()))
    })?;
    let written = match &args.cases {
        Some(directory) => write_cases(directory, &explored.findings)?,
        None => BTreeMap::new(),
    };
    match args.format {
        ExploreFormat::Json => output::json(&explored.to_json()),
        ExploreFormat::Text => {
            let style = Style::of(&std::io::stdout());
            let paint: Paint<'_> = &|tone, text| test::painted(style, tone, text);
            let file = |finding: &Defect| written.get(&key(finding)).cloned();
            let text = explored.render(paint, &file);
            output::data(&format!("{text}\n{}", explored.summary(paint)));
        }
    }
    Ok(ExitCode::from(u8::from(explored.is_bad(&args.allow))))
}

fn key(finding: &Defect) -> (&'static str, String, String) {
    (finding.kind, finding.state.clone(), finding.message.clone())
}

type Written = BTreeMap<(&'static str, String, String), String>;

/// Writes a file for each finding that has a case.
fn write_cases(directory: &Path, findings: &[Defect]) -> Result<Written, Failure> {
    let failed = |path: &Path, error: &std::io::Error| {
        Failure::usage(format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    let mut written = Written::new();
    for finding in findings {
        let Some(case) = &finding.case else { continue };
        let path = directory.join(finding.file_name());
        let cases = Cases { cases: vec![case.clone()] };
        fs::write(&path, format!("{:#}\n", cases.to_json())).map_err(|error| failed(&path, &error))?;
        written.insert(key(finding), path.display().to_string());
    }
    Ok(written)
}
