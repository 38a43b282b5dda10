//! Targets: where rules, and what no rule matches, lead.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::diagnostic::{Report, Reported};
use crate::config::model::{NodeId, Target};
use crate::config::reader::{Reader, elements, parsed};
use crate::config::values;

/// A target; the nodes it names are added to `named`.
pub(super) fn target<'a>(
    report: &mut Report<'_>,
    key: &'static str,
    value: &'a Spanned<DeValue<'a>>,
    named: &mut Vec<Spanned<NodeId>>,
) -> Result<Target, Reported> {
    const HELP: &str = "write \"local\", { nodes = [\"n1\"] } or { hash = \"uri\" } (of lines { hash = \"line\" })";
    let table = match value.get_ref() {
        DeValue::String(text) if text == "local" => return Ok(Target::Local),
        DeValue::Table(table) => table,
        _ => return Err(report.error(&value.span(), format!("`{key}` is no target"), HELP)),
    };
    let mut table = Reader::new("a target", table, value.span());
    let hash = table.raw("hash");
    let nodes = table.raw("nodes");
    table.finish(report);
    match (hash, nodes) {
        (Some(hash), None) => match hash.get_ref() {
            DeValue::String(text) if text == "uri" => Ok(Target::HashUri),
            DeValue::String(text) if text == "line" => Ok(Target::HashLine),
            _ => Err(report.error(
                &hash.span(),
                "`hash` is no known key",
                "write \"uri\", or \"line\" with protocol = \"line\"",
            )),
        },
        (None, Some(nodes)) => node_list(report, nodes, named).map(Target::Nodes),
        (None, None) | (Some(_), Some(_)) => {
            let message = format!("`{key}` must have either `nodes` or `hash`");
            Err(report.error(&value.span(), message, HELP))
        }
    }
}

fn node_list<'a>(
    report: &mut Report<'_>,
    value: &'a Spanned<DeValue<'a>>,
    named: &mut Vec<Spanned<NodeId>>,
) -> Result<Vec<NodeId>, Reported> {
    let values = elements(report, "nodes", value, "nodes = [\"n1\"]")?;
    if values.is_empty() {
        return Err(report.error(&value.span(), "`nodes` is empty", "name at least one node"));
    }
    let ids: Vec<_> = values
        .into_iter()
        .map(|value| parsed(report, "nodes", value, values::node_id))
        .collect();
    let ids = ids.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut seen = BTreeSet::new();
    for id in &ids {
        if !seen.insert(id.get_ref().clone()) {
            let message = format!("`nodes` has {:?} twice", id.get_ref());
            return Err(report.error(&id.span(), message, "name each node once"));
        }
    }
    named.extend(ids.iter().cloned());
    Ok(ids.into_iter().map(Spanned::into_inner).collect())
}
