//! What a service's protocol leaves its rules and targets to look at.

use std::ops::Range;

use super::Inspection;
use crate::config::diagnostic::{Report, Reported};
use crate::config::model::{Matcher, Protocol, Target};

impl Inspection {
    /// Refuses what means nothing with the protocol.
    pub(super) fn check_protocol(
        &self,
        report: &mut Report<'_>,
        span: &Range<usize>,
    ) -> Result<(), Reported> {
        match self.protocol {
            Protocol::Bytes(bytes) => self.check_bytes(bytes, report, span),
            Protocol::Http => self.check_rules(report, span),
            Protocol::Line if !self.keep_local.is_empty() => Err(report.error(
                span,
                "a `protocol` of lines has no paths for `keep_local` to look at",
                "remove it, or write a rule with a `line_prefix` and to = \"local\"",
            )),
            Protocol::Line => self.check_rules(report, span),
        }
    }

    /// Refuses rules and targets that look at something the protocol doesn't have.
    fn check_rules(&self, report: &mut Report<'_>, span: &Range<usize>) -> Result<(), Reported> {
        let lines = self.protocol == Protocol::Line;
        let odd = |target: &Target| match target {
            Target::HashUri => lines,
            Target::HashLine => !lines,
            Target::Local | Target::Nodes(_) => false,
        };
        let (name, missing, help) = match lines {
            true => (
                "lines",
                "URI",
                "use `line`, `line_prefix` and { hash = \"line\" }",
            ),
            false => (
                "HTTP",
                "line",
                "use `path`, `path_prefix`, `host` and { hash = \"uri\" }, or write protocol = \"line\"",
            ),
        };
        for rule in &self.rules {
            let Matcher {
                path,
                path_prefix,
                host,
                line,
                line_prefix,
            } = &rule.get_ref().matcher;
            let foreign = match lines {
                true => path.is_some() || path_prefix.is_some() || host.is_some(),
                false => line.is_some() || line_prefix.is_some(),
            };
            if foreign || odd(&rule.get_ref().to) {
                let message = format!("the rule looks at what a `protocol` of {name} has not");
                return Err(report.error(&rule.span(), message, help));
            }
            // With the line feed.
            let longest = line.iter().chain(line_prefix).map(|text| text.len() + 1);
            if longest.max().is_some_and(|len| len > self.undecided_bytes) {
                return Err(report.error(
                    &rule.span(),
                    "the rule matches nothing: no line so long fits `undecided_bytes`",
                    "raise `undecided_bytes`",
                ));
            }
        }
        if odd(&self.default) {
            let message = format!(
                "a `protocol` of {name} has no {missing} that the default target could be chosen by"
            );
            return Err(report.error(span, message, help));
        }
        Ok(())
    }

    /// Refuses what means nothing where requests are not read.
    fn check_bytes(
        &self,
        bytes: u16,
        report: &mut Report<'_>,
        span: &Range<usize>,
    ) -> Result<(), Reported> {
        let (what, help) = if !self.rules.is_empty() || !self.keep_local.is_empty() {
            (
                "has no paths or hosts for `rule` and `keep_local` to look at",
                "remove them: all connections go to the default target",
            )
        } else if matches!(self.default, Target::HashUri | Target::HashLine) {
            (
                "has no URI and no line that the default target could be chosen by",
                "write default = \"local\" or { nodes = [\"n1\"] }",
            )
        } else if usize::from(bytes) > self.undecided_bytes {
            (
                "waits for more bytes than `undecided_bytes` allows",
                "raise `undecided_bytes`, or wait for fewer",
            )
        } else {
            return Ok(());
        };
        Err(report.error(span, format!("a `protocol` of bytes {what}"), help))
    }
}
