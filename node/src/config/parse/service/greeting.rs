//! Who speaks first: the keys of a `[[service]]` that give the greeting of its servers (DTS §2.6).

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::Path;

use super::Inspection;
use crate::config::diagnostic::{Report, Reported};
use crate::config::model::{Greeting, Protocol};
use crate::config::reader::Reader;
use crate::config::values;

/// What a service says about who speaks first.
#[derive(Default)]
pub(super) struct First {
    pub(super) greeting: Option<Greeting>,
    /// Where the greeting is given.
    pub(super) span: Option<Range<usize>>,
    /// Whether the file says that clients do, whatever the port is known for.
    pub(super) by_client: bool,
}

/// Reads what a service says; a relative `greeting_file` is relative to `directory`.
pub(super) fn read(
    table: &mut Reader<'_>,
    directory: &Path,
    report: &mut Report<'_>,
) -> Result<First, Reported> {
    let literal = table.optional(report, "greeting", |value| {
        values::text(value).map(|text| text.as_bytes().to_vec())
    });
    let file = table.optional(report, "greeting_file", values::file_in(directory));
    let by_client = table.or(report, "client_first", values::boolean, false);
    let (literal, file, by_client) = (literal?, file?, by_client?);
    let given = match (literal, file) {
        (None, None) => None,
        (Some(literal), None) => Some((literal.span(), literal.into_inner())),
        (None, Some(file)) => {
            let path = file.get_ref();
            let bytes = contents(path).map_err(|error| {
                let message = format!("cannot read `greeting_file` {}: {error}", path.display());
                let help = "write the path of a file with nothing but the greeting";
                report.error(&file.span(), message, help)
            })?;
            Some((file.span(), bytes))
        }
        (Some(_), Some(file)) => {
            return Err(report.error(
                &file.span(),
                "there are `greeting` and `greeting_file`",
                "remove one of them",
            ));
        }
    };
    let Some((span, bytes)) = given else {
        return Ok(First {
            by_client: by_client.into_inner(),
            ..First::default()
        });
    };
    if *by_client.get_ref() {
        return Err(report.error(
            &by_client.span(),
            "the servers have a greeting, and clients speak first",
            "remove `client_first` or the greeting",
        ));
    }
    let Some(greeting) = Greeting::new(&bytes) else {
        let (message, help) = match bytes.len() {
            0 => (
                "the greeting is empty".to_owned(),
                "write what the servers say first",
            ),
            n => (
                format!("the greeting has {n} bytes, more than {}", Greeting::MAX),
                "have the servers greet more shortly, or write mode = \"l4\"",
            ),
        };
        return Err(report.error(&span, message, help));
    };
    Ok(First {
        greeting: Some(greeting),
        span: Some(span),
        by_client: false,
    })
}

/// A file's contents, up to one byte more than a greeting has.
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    let most = Greeting::MAX as u64 + 1;
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Inspection {
    /// Refuses a greeting where clients speak first.
    pub(super) fn check_greeting(&self, report: &mut Report<'_>) -> Result<(), Reported> {
        let (Some(greeting), Some(span)) = (&self.first.greeting, &self.first.span) else {
            return Ok(());
        };
        if self.process.is_none() && self.protocol == Protocol::Http {
            return Err(report.error(
                span,
                "a service of HTTP has no greeting: its clients speak first",
                "write protocol = \"line\" to have the client's first line decide, or { bytes = 4 }",
            ));
        }
        if self.protocol == Protocol::Line && !greeting.bytes().ends_with(b"\n") {
            report.warning(
                span,
                "the greeting does not end with the end of a line",
                "write \\r\\n at its end, where the servers send that",
            );
        }
        Ok(())
    }
}
