//! What is wrong or suspicious in a file, where, and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How bad a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration can't be used.
    Error,
    /// The configuration works, but perhaps not as its author thinks.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A finding about a place in a configuration file.
///
/// Prints as `file:line:column: error: message`, and a second line with the help if there is any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What was found.
    pub message: String,
    /// What to write instead, or to do.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            severity,
            file,
            line,
            column,
            message,
            help,
        } = self;
        write!(
            f,
            "{}:{line}:{column}: {severity}: {message}",
            file.display()
        )?;
        match help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// The error is in the [`Report`]; there is nothing more to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported;

/// Collects findings about one file.
pub(super) struct Report<'a> {
    file: &'a Path,
    text: &'a str,
    findings: Vec<Diagnostic>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self {
            file,
            text,
            findings: Vec::new(),
        }
    }

    /// Records an error about the bytes at `span`.
    pub(super) fn error(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Reported {
        self.add(Severity::Error, span, message.into(), Some(help.into()));
        Reported
    }

    /// Records an error that explains itself.
    pub(super) fn plain_error(&mut self, span: &Range<usize>, message: impl Into<String>) {
        self.add(Severity::Error, span, message.into(), None);
    }

    pub(super) fn warning(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add(Severity::Warning, span, message.into(), Some(help.into()));
    }

    /// The line, from 1, in which `span` begins.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.position(span.start).0
    }

    /// The findings in the order of the file.
    pub(super) fn into_findings(mut self) -> Vec<Diagnostic> {
        self.findings
            .sort_by_key(|found| (found.line, found.column));
        self.findings
    }

    fn add(
        &mut self,
        severity: Severity,
        span: &Range<usize>,
        message: String,
        help: Option<String>,
    ) {
        let (line, column) = self.position(span.start);
        let found = Diagnostic {
            severity,
            file: self.file.to_owned(),
            line,
            column,
            message,
            help,
        };
        // What is wrong with a service is so for each of its VIPs.
        if !self.findings.contains(&found) {
            self.findings.push(found);
        }
    }

    /// Line and column, both from 1, of a byte offset. An offset past the end is the end's.
    fn position(&self, offset: usize) -> (usize, usize) {
        let (before, _) = self
            .text
            .split_at(self.text.floor_char_boundary(offset.min(self.text.len())));
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let report = Report::new(Path::new("x"), "äb\nc\n");
        for (offset, expected) in [
            (0, (1, 1)),
            (2, (1, 2)),
            (3, (1, 3)),
            (4, (2, 1)),
            (6, (3, 1)),
            (99, (3, 1)),
        ] {
            assert_eq!(report.position(offset), expected, "offset {offset}");
        }
    }

    #[test]
    fn findings_come_in_the_order_of_the_file() {
        let mut report = Report::new(Path::new("dts.toml"), "a\nb\n");
        report.error(&(2..3), "second", "do this");
        report.plain_error(&(0..1), "first");
        let printed: Vec<_> = report
            .into_findings()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            printed,
            [
                "dts.toml:1:1: error: first",
                "dts.toml:2:1: error: second\n  help: do this"
            ]
        );
    }
}
