//! `dts check`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anstream::{eprintln, println};
use dts_node::config::{Config, ConfigError, Diagnostic, Severity};
use serde::Serialize;

use crate::render::print_json;

/// Prints what is wrong or suspicious in a configuration file; fails when something is wrong.
pub(crate) fn run(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let (config, findings) = match Config::load(path) {
        Ok((config, warnings)) => (Some(config), warnings),
        Err(ConfigError::Invalid { findings }) => (None, findings),
        Err(error) => return Err(error.into()),
    };
    if json {
        print_json(&Report::new(config.is_some(), &findings))?;
    } else {
        for finding in &findings {
            eprintln!("{finding}");
        }
        match &config {
            Some(config) => println!("{}", summary(path, config, findings.len())),
            None => eprintln!("{}", verdict(path, &findings)),
        }
    }
    Ok(match config {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

fn summary(path: &Path, config: &Config, warnings: usize) -> String {
    let warnings = match warnings {
        0 => String::new(),
        count => format!(" ({})", counted(count, "warning")),
    };
    // A service with several VIPs is in there for each of them.
    let services: BTreeSet<_> = config.services.iter().map(|s| &s.name).collect();
    format!(
        "{}: ok: node {} of cluster {}, {}, {}{warnings}",
        path.display(),
        config.node.id,
        config.cluster.name,
        counted(config.members.len(), "node"),
        counted(services.len(), "service"),
    )
}

fn verdict(path: &Path, findings: &[Diagnostic]) -> String {
    let errors = count(findings, Severity::Error);
    format!("{}: {}", path.display(), counted(errors, "error"))
}

fn count(findings: &[Diagnostic], severity: Severity) -> usize {
    let of_it = findings.iter().filter(|found| found.severity == severity);
    of_it.count()
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// The findings as JSON.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding<'a>>,
}

#[derive(Serialize)]
struct Finding<'a> {
    severity: String,
    file: &'a Path,
    line: usize,
    column: usize,
    message: &'a str,
    help: Option<&'a str>,
}

impl<'a> Report<'a> {
    fn new(ok: bool, findings: &'a [Diagnostic]) -> Self {
        Self {
            ok,
            errors: count(findings, Severity::Error),
            warnings: count(findings, Severity::Warning),
            findings: findings.iter().map(Finding::new).collect(),
        }
    }
}

impl<'a> Finding<'a> {
    fn new(found: &'a Diagnostic) -> Self {
        Self {
            severity: found.severity.to_string(),
            file: &found.file,
            line: found.line,
            column: found.column,
            message: &found.message,
            help: found.help.as_deref(),
        }
    }
}
