//! From TOML to a draft: every value is in its type and range, names are not yet resolved.

mod service;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;

use super::diagnostic::{Report, Reported};
use super::model::{ClusterConfig, HashKind, Member, NodeConfig, NodeId, RingConfig};
use super::reader::{Reader, elements};
use super::values;

pub(super) use service::ServiceDraft;

/// A link-local address (RFC 3927) that stands for the node itself; no host should have it.
const SELF_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 68, 84));

/// The same for a node with an IPv6 address: one of the discard prefix (RFC 6666), which no host can have.
const SELF_ADDRESS_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0x4454));

/// A configuration, part by part. A part that could not be read is an error in the report already;
/// the others are still worth checking.
pub(super) struct Draft {
    pub(super) cluster: Result<ClusterConfig, Reported>,
    pub(super) node: Result<NodeDraft, Reported>,
    pub(super) ring: Result<Spanned<RingConfig>, Reported>,
    pub(super) members: Result<Vec<MemberDraft>, Reported>,
    pub(super) services: Vec<Result<ServiceDraft, Reported>>,
    /// The nodes that the services' targets name.
    pub(super) named: Vec<Spanned<NodeId>>,
}

pub(super) struct NodeDraft {
    /// `inspect` is true here when the file doesn't say.
    pub(super) config: NodeConfig,
    pub(super) id: Range<usize>,
    pub(super) address: Range<usize>,
    pub(super) self_address: Range<usize>,
    pub(super) run_dir: Range<usize>,
    /// What the file says.
    pub(super) inspect: Option<Spanned<bool>>,
}

pub(super) struct MemberDraft {
    pub(super) member: Member,
    pub(super) id: Range<usize>,
    pub(super) address: Range<usize>,
}

/// Reads `text`. Fails when it isn't TOML: then nothing else is worth reporting.
pub(super) fn draft(path: &Path, text: &str, report: &mut Report<'_>) -> Result<Draft, Reported> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            report.plain_error(&error.span().unwrap_or_default(), error.message());
        }
        return Err(Reported);
    }
    let mut reader = Reader::new("the file", root.get_ref(), 0..0);
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut named = Vec::new();
    let draft = Draft {
        cluster: required_table(&mut reader, "cluster", "[cluster]", report)
            .and_then(|table| cluster(table, directory, report)),
        node: required_table(&mut reader, "node", "[node]", report)
            .and_then(|table| node(table, report)),
        ring: ring(&mut reader, report),
        members: required_table(&mut reader, "membership", "[membership]", report)
            .and_then(|table| membership(table, report)),
        services: service::services(&mut reader, directory, report, &mut named),
        named,
    };
    reader.finish(report);
    Ok(draft)
}

fn required_table<'a>(
    reader: &mut Reader<'a>,
    key: &'static str,
    title: &'static str,
    report: &mut Report<'_>,
) -> Result<Reader<'a>, Reported> {
    match reader.raw(key) {
        Some(value) => Reader::of_value(title, key, value, report),
        None => Err(report.error(
            &reader.span(),
            format!("the file has no {title}"),
            format!("add a line `{title}`, and its keys below"),
        )),
    }
}

fn cluster(
    mut table: Reader<'_>,
    directory: &Path,
    report: &mut Report<'_>,
) -> Result<ClusterConfig, Reported> {
    let name = table.required(report, "name", values::name, "\"web\"");
    let secret_file = table.required(
        report,
        "secret_file",
        values::file_in(directory),
        "\"/etc/dts/secret\"` and make it with `dts secret",
    );
    let handover_port = table.or(report, "handover_port", values::port, 7411);
    table.finish(report);
    Ok(ClusterConfig {
        name: name?.into_inner(),
        secret_file: secret_file?.into_inner(),
        handover_port: handover_port?.into_inner(),
    })
}

fn node(mut table: Reader<'_>, report: &mut Report<'_>) -> Result<NodeDraft, Reported> {
    let id = table.required(report, "id", values::node_id, "\"n1\"");
    let front = table.required(report, "front", values::interface, "\"eth0\"");
    let back = table.required(report, "back", values::interface, "\"eth1\"");
    let address = table.required(report, "address", values::address, "\"198.18.1.11\"");
    let inspect = table.optional(report, "inspect", values::boolean);
    let stand_in = match &address {
        Ok(address) if address.get_ref().is_ipv6() => SELF_ADDRESS_V6,
        _ => SELF_ADDRESS,
    };
    let self_address = table.or(report, "self_address", values::address, stand_in);
    let lease_ms = table.or(report, "lease_ms", values::number(200..=10_000), 2000);
    let run_dir = table.or(
        report,
        "run_dir",
        values::directory,
        PathBuf::from(dts_inspector::RUN_DIR),
    );
    let pin_dir = table.or(
        report,
        "pin_dir",
        values::directory,
        PathBuf::from("/sys/fs/bpf/dts"),
    );
    let connections = table.or(
        report,
        "connections",
        values::number(1024..=16_777_216),
        262_144,
    );
    let workers = table.or(report, "workers", values::number(1..=256), 1);
    table.finish(report);

    let (id, address, self_address, run_dir) = (id?, address?, self_address?, run_dir?);
    let inspect = inspect?;
    Ok(NodeDraft {
        id: id.span(),
        address: address.span(),
        self_address: self_address.span(),
        run_dir: run_dir.span(),
        config: NodeConfig {
            id: id.into_inner(),
            front: front?.into_inner(),
            back: back?.into_inner(),
            address: address.into_inner(),
            inspect: inspect.as_ref().is_none_or(|inspect| *inspect.get_ref()),
            self_address: self_address.into_inner(),
            lease: Duration::from_millis(lease_ms?.into_inner()),
            run_dir: run_dir.into_inner(),
            pin_dir: pin_dir?.into_inner(),
            connections: connections?.into_inner(),
            workers: workers?.into_inner(),
        },
        inspect,
    })
}

fn ring(root: &mut Reader<'_>, report: &mut Report<'_>) -> Result<Spanned<RingConfig>, Reported> {
    let default = RingConfig {
        virtual_nodes: 63,
        hash: HashKind::SipHash,
    };
    let Some(value) = root.raw("ring") else {
        return Ok(Spanned::new(root.span(), default));
    };
    let mut table = Reader::of_value("[ring]", "ring", value, report)?;
    let virtual_nodes = table.or(
        report,
        "virtual_nodes",
        values::number(1..=4096),
        default.virtual_nodes,
    );
    let hash = table.or(report, "hash", values::hash, default.hash);
    table.finish(report);
    let ring = RingConfig {
        virtual_nodes: virtual_nodes?.into_inner(),
        hash: hash?.into_inner(),
    };
    Ok(Spanned::new(value.span(), ring))
}

fn membership(
    mut table: Reader<'_>,
    report: &mut Report<'_>,
) -> Result<Vec<MemberDraft>, Reported> {
    const EXAMPLE: &str = r#"[ { id = "n1", address = "198.18.1.11" } ]"#;
    let source = table.or(report, "source", values::membership_source, ());
    let members = table
        .required_raw(report, "members", EXAMPLE)
        .and_then(|value| elements(report, "members", value, EXAMPLE));
    table.finish(report);
    source?;
    let members = members?.into_iter().map(|value| {
        let table = Reader::of_value("a member", "members", value, report)?;
        member(table, report)
    });
    // Read all of them before giving up: each may have something to report.
    let members: Vec<_> = members.collect();
    members.into_iter().collect()
}

fn member(mut table: Reader<'_>, report: &mut Report<'_>) -> Result<MemberDraft, Reported> {
    let id = table.required(report, "id", values::node_id, "\"n1\"");
    let address = table.required(report, "address", values::address, "\"198.18.1.11\"");
    let inspect = table.or(report, "inspect", values::boolean, true);
    table.finish(report);
    let (id, address) = (id?, address?);
    Ok(MemberDraft {
        id: id.span(),
        address: address.span(),
        member: Member {
            id: id.into_inner(),
            address: address.into_inner(),
            inspect: inspect?.into_inner(),
        },
    })
}
