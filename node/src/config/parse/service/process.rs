//! Inspector processes: the keys of a `[[service]]` that say whether programs outside the daemon decide, and who may.

use std::ops::Range;

use toml::Spanned;

use super::Inspection;
use crate::config::diagnostic::{Report, Reported};
use crate::config::model::{ProcessSocket, Protocol, Target};
use crate::config::reader::Reader;
use crate::config::values;

/// What decides in place of the rules, and where the file says so.
pub(super) type Process = (Option<ProcessSocket>, Option<Range<usize>>);

/// Reads what a service says about inspector processes.
pub(super) fn read(table: &mut Reader<'_>, report: &mut Report<'_>) -> Result<Process, Reported> {
    let inspector = table.optional(report, "inspector", values::inspector)?;
    let socket = table.optional(report, "inspector_socket", values::directory);
    let user = table.optional(report, "inspector_user", values::account);
    let group = table.optional(report, "inspector_group", values::account);
    let (socket, user, group) = (socket?, user?, group?);
    let span = inspector.as_ref().map(Spanned::span);
    if inspector.is_some_and(Spanned::into_inner) {
        let process = ProcessSocket {
            path: socket.map(Spanned::into_inner),
            user: user.map(Spanned::into_inner),
            group: group.map(Spanned::into_inner),
        };
        return Ok((Some(process), span));
    }
    let given = [
        ("inspector_socket", socket.map(|s| s.span())),
        ("inspector_user", user.map(|s| s.span())),
        ("inspector_group", group.map(|s| s.span())),
    ];
    for (key, span) in given {
        if let Some(span) = span {
            return Err(report.error(
                &span,
                format!("`{key}` means nothing where no process inspects"),
                "remove it, or write `inspector = \"process\"`",
            ));
        }
    }
    Ok((None, span))
}

impl Inspection {
    /// Refuses what means nothing where a process decides.
    pub(super) fn check_process(&self, report: &mut Report<'_>) -> Result<(), Reported> {
        let (Some(_), Some(span)) = (&self.process, &self.inspector) else {
            return Ok(());
        };
        let (what, help) = if !self.rules.is_empty() || !self.keep_local.is_empty() {
            (
                "has no use for `rule` and `keep_local`",
                "remove them, or have the rules decide: `inspector = \"rules\"`",
            )
        } else if self.protocol != Protocol::Http {
            (
                "reads any protocol by itself",
                "remove `protocol`, or have no process: `inspector = \"rules\"`",
            )
        } else if matches!(self.default, Target::HashUri | Target::HashLine) {
            (
                "gives no URI and no line that the default target could be chosen by",
                "write default = \"local\" or { nodes = [\"n1\"] }",
            )
        } else {
            return Ok(());
        };
        Err(report.error(
            span,
            format!("an `inspector` that is a process {what}"),
            help,
        ))
    }
}
