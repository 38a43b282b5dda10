//! `[[service]]`, its rules and targets.

mod greeting;
mod process;
mod protocol;
mod target;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::diagnostic::{Report, Reported};
use crate::config::model::{
    Fate, Handover, Matcher, Mode, NodeId, ProcessSocket, Protocol, Rule, Service, Target,
    begins_like,
};
use crate::config::reader::{Reader, parsed};
use crate::config::values;

use greeting::First;
use target::target;

/// A service, and where the file says what about it.
pub(in crate::config) struct ServiceDraft {
    pub(in crate::config) service: Service,
    /// Where its table begins: that of several services if the table has several VIPs.
    pub(in crate::config) header: Range<usize>,
    pub(in crate::config) name: Range<usize>,
    pub(in crate::config) vip: Range<usize>,
    pub(in crate::config) port: Range<usize>,
    pub(in crate::config) inspector_port: Option<Range<usize>>,
    /// Where it says that a process inspects.
    pub(in crate::config) inspector: Range<usize>,
    /// Where each of the service's rules begins.
    pub(in crate::config) rules: Vec<Range<usize>>,
    /// Where its greeting is given.
    pub(in crate::config) greeting: Option<Range<usize>>,
    /// Whether it says that clients speak first, whatever its port is known for.
    pub(in crate::config) client_first: bool,
}

/// Reads all `[[service]]` tables, each a service for each of its VIPs; the nodes that targets name are added to
/// `named`, also those of services that can't be used. Relative paths are relative to `directory`.
pub(super) fn services(
    root: &mut Reader<'_>,
    directory: &Path,
    report: &mut Report<'_>,
    named: &mut Vec<Spanned<NodeId>>,
) -> Vec<Result<ServiceDraft, Reported>> {
    match root.list(report, "service", "[[service]]") {
        Ok(values) => values
            .into_iter()
            .flat_map(|value| {
                let services = Reader::of_value("[[service]]", "service", value, report)
                    .and_then(|table| service(table, directory, report, named));
                match services {
                    Ok(services) => services.into_iter().map(Ok).collect(),
                    Err(reported) => vec![Err(reported)],
                }
            })
            .collect(),
        Err(reported) => vec![Err(reported)],
    }
}

fn service(
    mut table: Reader<'_>,
    directory: &Path,
    report: &mut Report<'_>,
    named: &mut Vec<Spanned<NodeId>>,
) -> Result<Vec<ServiceDraft>, Reported> {
    let header = table.span();
    let name = table.required(report, "name", values::name, "\"web\"");
    let vips = vips(&mut table, report);
    let port = table.required(report, "port", values::port, "80");
    let mode = table.required(report, "mode", values::mode, "\"l7\"` or `mode = \"l4\"");
    let inspection = match mode.as_ref().map(Spanned::get_ref) {
        Ok(Mode::L4) => Inspection::none(&mut table, report),
        Ok(Mode::L7) => {
            let port = table.required(report, "inspector_port", values::port, "8081");
            Inspection::read(port.map(Some), &mut table, directory, report, named)
        }
        Err(_) => {
            let port = table.optional(report, "inspector_port", values::port);
            Inspection::read(port, &mut table, directory, report, named)
        }
    };
    table.finish(report);

    let (name, vips, port, inspection) = (name?, vips?, port?, inspection?);
    let inspector_port = inspection.port.as_ref().map(Spanned::span);
    let rules: Vec<_> = inspection.rules.iter().map(Spanned::span).collect();
    let (name_span, port_span) = (name.span(), port.span());
    let inspector = inspection.inspector.unwrap_or_else(|| header.clone());
    let First {
        greeting,
        span: greeting_span,
        by_client,
    } = inspection.first;
    let of_first = Service {
        name: name.into_inner(),
        vip: *vips[0].get_ref(),
        port: port.into_inner(),
        mode: mode?.into_inner(),
        handover: inspection.handover,
        each_request: inspection.each_request,
        inspector_port: inspection.port.map(Spanned::into_inner),
        process: inspection.process,
        protocol: inspection.protocol,
        greeting,
        keep_local: inspection.keep_local,
        rules: inspection
            .rules
            .into_iter()
            .map(Spanned::into_inner)
            .collect(),
        default: inspection.default,
        on_unreachable: inspection.on_unreachable,
        undecided_time: inspection.undecided_time,
        undecided_bytes: inspection.undecided_bytes,
        undecided_connections: inspection.undecided_connections,
        on_undecided: inspection.on_undecided,
        line: report.line(&header),
    };
    let draft = |vip: Spanned<IpAddr>| ServiceDraft {
        name: name_span.clone(),
        vip: vip.span(),
        port: port_span.clone(),
        inspector_port: inspector_port.clone(),
        rules: rules.clone(),
        inspector: inspector.clone(),
        greeting: greeting_span.clone(),
        client_first: by_client,
        service: Service {
            vip: vip.into_inner(),
            ..of_first.clone()
        },
        header: header.clone(),
    };
    Ok(vips.into_iter().map(draft).collect())
}

/// A VIP, or a list of them; never empty.
fn vips(table: &mut Reader<'_>, report: &mut Report<'_>) -> Result<Vec<Spanned<IpAddr>>, Reported> {
    let value = table.required_raw(report, "vip", "\"198.18.0.100\"")?;
    let values: Vec<_> = match value.get_ref() {
        DeValue::Array(array) => array.iter().collect(),
        _ => vec![value],
    };
    let vips: Vec<_> = values
        .into_iter()
        .map(|value| parsed(report, "vip", value, values::address))
        .collect();
    let vips = vips.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut seen = BTreeSet::new();
    for vip in &vips {
        if !seen.insert(vip.get_ref()) {
            let message = format!("`vip` has {} twice", vip.get_ref());
            return Err(report.error(&vip.span(), message, "name each address once"));
        }
    }
    match vips.is_empty() {
        false => Ok(vips),
        true => Err(report.error(&value.span(), "`vip` is empty", "name at least one address")),
    }
}

/// What a service says about inspection.
struct Inspection {
    port: Option<Spanned<u16>>,
    handover: Handover,
    each_request: bool,
    process: Option<ProcessSocket>,
    /// Where `inspector` is given.
    inspector: Option<Range<usize>>,
    protocol: Protocol,
    first: First,
    keep_local: Vec<String>,
    rules: Vec<Spanned<Rule>>,
    default: Target,
    on_unreachable: Fate,
    undecided_time: Duration,
    undecided_bytes: usize,
    undecided_connections: usize,
    on_undecided: Fate,
}

impl Default for Inspection {
    fn default() -> Self {
        Self {
            port: None,
            handover: Handover::Auto,
            each_request: true,
            process: None,
            inspector: None,
            protocol: Protocol::Http,
            first: First::default(),
            keep_local: Vec::new(),
            rules: Vec::new(),
            default: Target::Local,
            on_unreachable: Fate::Default,
            undecided_time: Duration::from_secs(10),
            undecided_bytes: 32_768,
            undecided_connections: 8192,
            on_undecided: Fate::Default,
        }
    }
}

impl Inspection {
    /// Of an `l4` service: any of its keys is a misunderstanding.
    fn none(table: &mut Reader<'_>, report: &mut Report<'_>) -> Result<Self, Reported> {
        const KEYS: [&str; 19] = [
            "handover",
            "each_request",
            "inspector_port",
            "inspector",
            "inspector_socket",
            "inspector_user",
            "inspector_group",
            "protocol",
            "greeting",
            "greeting_file",
            "client_first",
            "keep_local",
            "rule",
            "default",
            "on_unreachable",
            "undecided_ms",
            "undecided_bytes",
            "undecided_connections",
            "on_undecided",
        ];
        let mut outcome = Ok(Self::default());
        for key in KEYS {
            if let Some(value) = table.raw(key) {
                outcome = Err(report.error(
                    &value.span(),
                    format!("`{key}` means nothing in a service with `mode = \"l4\"`"),
                    "remove it: the ring alone decides; or write `mode = \"l7\"` to have requests \
                     inspected",
                ));
            }
        }
        outcome
    }

    fn read(
        port: Result<Option<Spanned<u16>>, Reported>,
        table: &mut Reader<'_>,
        directory: &Path,
        report: &mut Report<'_>,
        named: &mut Vec<Spanned<NodeId>>,
    ) -> Result<Self, Reported> {
        let fallback = Self::default();
        let handover = table.or(report, "handover", values::handover, fallback.handover);
        let each_request = table.or(
            report,
            "each_request",
            values::boolean,
            fallback.each_request,
        );
        let process = process::read(table, report);
        let protocol = table.or(report, "protocol", values::protocol, fallback.protocol);
        let first = greeting::read(table, directory, report);
        let keep_local = keep_local(table, report);
        let default = match table.raw("default") {
            Some(value) => target(report, "default", value, named),
            None => Ok(fallback.default),
        };
        let on_unreachable = table.or(
            report,
            "on_unreachable",
            values::fate,
            fallback.on_unreachable,
        );
        let undecided_ms = table.or(report, "undecided_ms", values::number(10..=600_000), 10_000);
        let undecided_bytes = table.or(
            report,
            "undecided_bytes",
            values::number(64..=1_048_576),
            fallback.undecided_bytes,
        );
        let undecided_connections = table.or(
            report,
            "undecided_connections",
            values::number(1..=1_048_576),
            fallback.undecided_connections,
        );
        let on_undecided = table.or(report, "on_undecided", values::fate, fallback.on_undecided);
        let rules = rules(table, report, named);
        let protocol = protocol?;
        let span = protocol.span();
        let (process, inspector) = process?;
        let inspection = Self {
            port: port?,
            handover: handover?.into_inner(),
            each_request: each_request?.into_inner(),
            process,
            inspector,
            protocol: protocol.into_inner(),
            first: first?,
            keep_local: keep_local?,
            rules: rules?,
            default: default?,
            on_unreachable: on_unreachable?.into_inner(),
            undecided_time: Duration::from_millis(undecided_ms?.into_inner()),
            undecided_bytes: undecided_bytes?.into_inner(),
            undecided_connections: undecided_connections?.into_inner(),
            on_undecided: on_undecided?.into_inner(),
        };
        inspection.check_process(report)?;
        inspection.check_protocol(report, &span)?;
        inspection.check_greeting(report)?;
        Ok(inspection)
    }
}

fn keep_local(table: &mut Reader<'_>, report: &mut Report<'_>) -> Result<Vec<String>, Reported> {
    let values = table.list(report, "keep_local", "[ \"/downloads/dir0000000001/\" ]")?;
    let prefixes: Vec<_> = values
        .into_iter()
        .map(|value| parsed(report, "keep_local", value, values::path).map(Spanned::into_inner))
        .collect();
    prefixes.into_iter().collect()
}

fn rules(
    table: &mut Reader<'_>,
    report: &mut Report<'_>,
    named: &mut Vec<Spanned<NodeId>>,
) -> Result<Vec<Spanned<Rule>>, Reported> {
    let values = table.list(report, "rule", "[[service.rule]]")?;
    let rules: Vec<_> = values
        .into_iter()
        .map(|value| {
            let table = Reader::of_value("[[service.rule]]", "rule", value, report)?;
            rule(table, report, named)
        })
        .collect();
    rules.into_iter().collect()
}

fn rule(
    mut table: Reader<'_>,
    report: &mut Report<'_>,
    named: &mut Vec<Spanned<NodeId>>,
) -> Result<Spanned<Rule>, Reported> {
    let span = table.span();
    let path = table.optional(report, "path", values::path);
    let path_prefix = table.optional(report, "path_prefix", values::path);
    let host = table.optional(report, "host", values::host);
    let line = table.optional(report, "line", values::line);
    let line_prefix = table.optional(report, "line_prefix", values::line);
    let to = table
        .required_raw(report, "to", "{ nodes = [\"n1\"] }")
        .and_then(|value| target(report, "to", value, named));
    table.finish(report);
    let matcher = Matcher {
        path: path?.map(Spanned::into_inner),
        path_prefix: path_prefix?.map(Spanned::into_inner),
        host: host?.map(Spanned::into_inner),
        line: line?.map(Spanned::into_inner),
        line_prefix: line_prefix?.map(Spanned::into_inner),
    };
    if matcher == Matcher::default() {
        return Err(report.error(
            &span,
            "the rule matches every request",
            "give it a `path`, `path_prefix` or `host` (of lines a `line` or `line_prefix`), or write \
             the target as the service's `default`",
        ));
    }
    if let (Some(path), Some(prefix)) = (&matcher.path, &matcher.path_prefix)
        && !path.starts_with(prefix.as_str())
    {
        return Err(report.error(
            &span,
            format!("the rule matches nothing: {path:?} does not begin with {prefix:?}"),
            "leave out `path_prefix`",
        ));
    }
    if let (Some(line), Some(prefix)) = (&matcher.line, &matcher.line_prefix)
        && !begins_like(line.as_bytes(), prefix)
    {
        return Err(report.error(
            &span,
            format!("the rule matches nothing: {line:?} does not begin with {prefix:?}"),
            "leave out `line_prefix`",
        ));
    }
    let line = report.line(&span);
    Ok(Spanned::new(
        span,
        Rule {
            matcher,
            to: to?,
            line,
        },
    ))
}
