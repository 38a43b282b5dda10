//! From a draft to a configuration: what has to fit together does, or the report says what doesn't.

mod first;

use std::collections::HashMap;
use std::net::IpAddr;

use dts_core::ring::MAX_POINTS;
use toml::Spanned;

use super::diagnostic::{Report, Reported};
use super::model::{
    ClusterConfig, Config, Handover, Matcher, Mode, NodeConfig, NodeId, Protocol, RingConfig,
    Service, Target, begins_like, inspector_socket,
};
use super::parse::{Draft, MemberDraft, NodeDraft, ServiceDraft};
use super::reader::nearest;

/// The longest path of a Unix socket (`sun_path` with its final zero byte), in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Checks a draft and makes a configuration of it. There is one even when checks fail: the report
/// tells whether it can be used.
pub(super) fn finish(draft: Draft, report: &mut Report<'_>) -> Result<Config, Reported> {
    let Draft {
        cluster,
        node,
        ring,
        members,
        services,
        named,
    } = draft;
    if let Ok(node) = &node {
        self_address_fits(node, report);
    }
    if let Ok(members) = &members {
        unique_members(members, report);
        members_are_of_one_family(members, report);
        names_resolve(&named, members, report);
        if let Ok(ring) = &ring {
            ring_fits(ring, members, report);
        }
        if let Ok(node) = &node {
            node_is_member(node, members, report);
        }
    }
    let complete: Vec<&ServiceDraft> = services.iter().flatten().collect();
    unique_services(&complete, report);
    for service in &complete {
        if let Ok(cluster) = &cluster {
            inspector_port_is_free(service, &complete, cluster, report);
        }
        if let Ok(members) = &members {
            addresses_are_apart(service, node.as_ref().ok(), members, report);
        }
        rules_are_reachable(service, report);
        later_requests_follow_the_first(service, report);
        first::somebody_speaks_first(service, report);
    }
    if services.is_empty() {
        report.warning(&(0..0), "there is no service", "add a [[service]]");
    }

    let (cluster, node, members) = (cluster?, node?, members?);
    socket_path_fits(&cluster, &node, report);
    inspector_sockets_differ(&cluster, &node, &complete, report);
    let members: Vec<_> = members.into_iter().map(|draft| draft.member).collect();
    let this = members
        .iter()
        .find(|member| member.id == node.config.id)
        .ok_or(Reported)?;
    let node = NodeConfig {
        inspect: this.inspect,
        ..node.config
    };
    let services = services
        .into_iter()
        .map(|draft| draft.map(|draft| draft.service));
    Ok(Config {
        cluster,
        node,
        ring: ring?.into_inner(),
        members,
        services: services.collect::<Result<_, _>>()?,
    })
}

fn unique_members(members: &[MemberDraft], report: &mut Report<'_>) {
    let mut ids = HashMap::new();
    let mut addresses = HashMap::new();
    for draft in members {
        let member = &draft.member;
        if let Some(first) = ids.insert(member.id.clone(), &draft.id) {
            let line = report.line(first);
            let message = format!("a second member has the name {:?}", member.id);
            report.error(
                &draft.id,
                message,
                format!("the first is in line {line}: rename one"),
            );
        }
        if let Some(first) = addresses.insert(member.address, &draft.address) {
            let line = report.line(first);
            let message = format!("a second member has the address {}", member.address);
            report.error(
                &draft.address,
                message,
                format!("the first is in line {line}: give each its own back address"),
            );
        }
    }
}

/// A handover goes from one member's address to another's.
fn members_are_of_one_family(members: &[MemberDraft], report: &mut Report<'_>) {
    let family = |draft: &MemberDraft| match draft.member.address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    let Some(first) = members.first() else { return };
    for draft in members {
        if family(draft) != family(first) {
            let (line, id) = (report.line(&first.address), &first.member.id);
            report.error(
                &draft.address,
                format!(
                    "the address of {:?} is of {}, that of {id:?} in line {line} of {}",
                    draft.member.id,
                    family(draft),
                    family(first)
                ),
                "give all members back addresses of one family; the services' may be of the other",
            );
        }
    }
}

/// A handover to oneself goes from the one address to the other.
fn self_address_fits(node: &NodeDraft, report: &mut Report<'_>) {
    let NodeConfig {
        address,
        self_address,
        ..
    } = node.config;
    if address.is_ipv4() != self_address.is_ipv4() {
        report.error(
            &node.self_address,
            format!(
                "`self_address` is {self_address}, of another family than `address`, {address}"
            ),
            "use one of the same family that no host has, or leave `self_address` out",
        );
    }
}

fn ring_fits(ring: &Spanned<RingConfig>, members: &[MemberDraft], report: &mut Report<'_>) {
    let inspecting = members.iter().filter(|draft| draft.member.inspect).count();
    // Requests are placed on a ring with points of all members.
    let points = members.len() * usize::from(ring.get_ref().virtual_nodes);
    if let (Some(member), 0) = (members.first(), inspecting) {
        report.error(
            &member.id,
            "no member has points on the ring: nobody would accept a connection",
            "remove `inspect = false` from at least one member",
        );
    }
    if points > MAX_POINTS as usize {
        report.error(
            &ring.span(),
            format!("the ring would have {points} points, more than {MAX_POINTS}"),
            format!(
                "write `virtual_nodes = {}` or less",
                MAX_POINTS as usize / members.len()
            ),
        );
    }
}

fn node_is_member(node: &NodeDraft, members: &[MemberDraft], report: &mut Report<'_>) {
    let id = &node.config.id;
    let Some(member) = members
        .iter()
        .map(|draft| &draft.member)
        .find(|member| member.id == *id)
    else {
        let near = nearest(id, members.iter().map(|draft| &*draft.member.id));
        let help = match near {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!(
                "add {{ id = \"{id}\", address = \"{}\" }} to the members",
                node.config.address
            ),
        };
        report.error(&node.id, format!("this node, {id:?}, is no member"), help);
        return;
    };
    if member.address != node.config.address {
        report.error(
            &node.address,
            format!(
                "this node's address is {} here and {} among the members",
                node.config.address, member.address
            ),
            "write the same address in both places",
        );
    }
    if let Some(inspect) = &node.inspect
        && *inspect.get_ref() != member.inspect
    {
        let here = inspect.get_ref();
        report.error(
            &inspect.span(),
            format!(
                "`inspect` is {here} here and {} in the entry of {id:?}",
                member.inspect
            ),
            format!(
                "write {{ id = \"{id}\", address = \"{}\", inspect = {here} }} among the members, \
                 in the files of all nodes: they must build the same ring",
                member.address
            ),
        );
    }
    if members
        .iter()
        .any(|draft| draft.member.address == node.config.self_address)
    {
        report.error(
            &node.self_address,
            format!(
                "`self_address` is {}, a member's address",
                node.config.self_address
            ),
            "use an address that no host has, or leave `self_address` out",
        );
    }
}

fn socket_path_fits(cluster: &ClusterConfig, node: &NodeDraft, report: &mut Report<'_>) {
    let name = format!("{}-{}.sock", cluster.name, node.config.id);
    let path = node.config.run_dir.join(name);
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        report.error(
            &node.run_dir,
            format!(
                "the socket's path {} is longer than {MAX_SOCKET_PATH} bytes",
                path.display()
            ),
            "use a shorter `run_dir`, cluster name or node id",
        );
    }
}

/// Each service's inspector processes have a socket of their own, with a path that a socket can have.
fn inspector_sockets_differ(
    cluster: &ClusterConfig,
    node: &NodeDraft,
    services: &[&ServiceDraft],
    report: &mut Report<'_>,
) {
    let admin = format!("{}-{}.sock", cluster.name, node.config.id);
    let mut taken = HashMap::from([(
        node.config.run_dir.join(admin),
        "it is the daemon's own".to_owned(),
    )]);
    // Services of one table share theirs.
    let mut tables = services.to_vec();
    tables.dedup_by(|one, other| one.header == other.header);
    for draft in tables {
        let service = &draft.service;
        let Some(socket) = &service.process else {
            continue;
        };
        let path = inspector_socket(&node.config, &service.name, socket);
        let what = format!("the inspector's socket {}", path.display());
        let help = "choose another `inspector_socket`";
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let message = format!("{what} is longer than {MAX_SOCKET_PATH} bytes");
            report.error(&draft.inspector, message, help);
        }
        let by = format!("{:?} in line {} has it", service.name, service.line);
        if let Some(by) = taken.insert(path, by) {
            report.error(&draft.inspector, format!("{what} is taken: {by}"), help);
        }
    }
}

fn unique_services(services: &[&ServiceDraft], report: &mut Report<'_>) {
    for (position, draft) in services.iter().enumerate() {
        let Service {
            name, vip, port, ..
        } = &draft.service;
        let earlier = &services[..position];
        // Services of one table have the same name on purpose.
        let mut others = earlier.iter().filter(|other| other.header != draft.header);
        if let Some(first) = others.find(|first| first.service.name == *name) {
            let message = format!("a second service has the name {name:?}");
            let help = format!("the first is in line {}: rename one", first.service.line);
            report.error(&draft.name, message, help);
        }
        let same_id = earlier
            .iter()
            .find(|first| first.service.id() == draft.service.id());
        let Some(Service {
            name: first,
            line,
            vip: first_vip,
            port: first_port,
            ..
        }) = same_id.map(|first| &first.service)
        else {
            continue;
        };
        if (first_vip, first_port) == (vip, port) {
            report.error(
                &draft.port,
                format!("a second service is at {vip} port {port}"),
                format!("the first is {first:?} in line {line}: change one's `vip` or `port`"),
            );
        } else {
            report.error(
                &draft.port,
                format!(
                    "{name:?} at {vip} port {port} has the same internal number as {first:?} at \
                     {first_vip} port {first_port} in line {line}"
                ),
                "a rare coincidence: give one of them another port or VIP",
            );
        }
    }
}

fn inspector_port_is_free(
    draft: &ServiceDraft,
    services: &[&ServiceDraft],
    cluster: &ClusterConfig,
    report: &mut Report<'_>,
) {
    let service = &draft.service;
    let (Some(port), Some(span)) = (service.inspector_port, &draft.inspector_port) else {
        return;
    };
    let others = services.iter().map(|draft| &draft.service);
    let mut others = others.filter(|other| other.vip == service.vip && other.line != service.line);
    let taken = if port == service.port {
        Some("the service's own `port`".to_owned())
    } else if port == cluster.handover_port {
        Some("the cluster's `handover_port`".to_owned())
    } else {
        // Of two services with the same inspector port, the later one is told.
        let clash = others.find(|other| {
            other.port == port || (other.inspector_port == Some(port) && other.line < service.line)
        });
        clash.map(|other| format!("used by {:?} in line {}", other.name, other.line))
    };
    if let Some(by) = taken {
        report.error(
            span,
            format!("`inspector_port` is {port}, {by}"),
            "choose a port of the VIP that nothing else uses, such as 8081",
        );
    }
}

fn addresses_are_apart(
    draft: &ServiceDraft,
    node: Option<&NodeDraft>,
    members: &[MemberDraft],
    report: &mut Report<'_>,
) {
    const HELP: &str = "the VIP is an address of its own, in the clients' network";
    let vip: IpAddr = draft.service.vip;
    if let Some(member) = members.iter().find(|member| member.member.address == vip) {
        let message = format!("`vip` is {vip}, the address of node {:?}", member.member.id);
        report.error(&draft.vip, message, HELP);
    } else if node.is_some_and(|node| node.config.self_address == vip) {
        report.error(
            &draft.vip,
            format!("`vip` is {vip}, the node's `self_address`"),
            HELP,
        );
    }
}

fn names_resolve(named: &[Spanned<NodeId>], members: &[MemberDraft], report: &mut Report<'_>) {
    let ids = || members.iter().map(|draft| &*draft.member.id);
    for name in named {
        let id = name.get_ref();
        if ids().any(|member| *id == *member) {
            continue;
        }
        let help = match nearest(id, ids()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("the members are: {}", ids().collect::<Vec<_>>().join(", ")),
        };
        report.error(&name.span(), format!("there is no node {id:?}"), help);
    }
}

fn rules_are_reachable(draft: &ServiceDraft, report: &mut Report<'_>) {
    let service = &draft.service;
    for (position, (rule, span)) in service.rules.iter().zip(&draft.rules).enumerate() {
        let kept = service.keep_local.iter().find(|kept| {
            let given = rule.matcher.path.iter().chain(&rule.matcher.path_prefix);
            given
                .into_iter()
                .any(|given| given.starts_with(kept.as_str()))
        });
        let earlier = service.rules[..position]
            .iter()
            .find(|e| covers(&e.matcher, &rule.matcher));
        let by = match (kept, earlier) {
            (Some(kept), _) => format!("`keep_local` has {kept:?}"),
            (None, Some(earlier)) => format!("the rule in line {} goes first", earlier.line),
            (None, None) => continue,
        };
        report.warning(
            span,
            format!("the rule is never reached: {by}, and matches all it would match"),
            "remove the rule, or move the narrower one up",
        );
    }
}

/// Whether every request that `narrow` matches is matched by `wide`.
fn covers(wide: &Matcher, narrow: &Matcher) -> bool {
    let host = wide.host.is_none() || wide.host == narrow.host;
    let path = wide.path.is_none() || wide.path == narrow.path;
    let prefix = wide.path_prefix.as_ref().is_none_or(|wide| {
        let mut given = narrow.path.iter().chain(&narrow.path_prefix);
        given.any(|narrow| narrow.starts_with(wide.as_str()))
    });
    let line = wide.line.as_ref().is_none_or(|wide| {
        let narrow = narrow.line.as_ref();
        narrow.is_some_and(|narrow| narrow.eq_ignore_ascii_case(wide))
    });
    let beginning = wide.line_prefix.as_ref().is_none_or(|wide| {
        let mut given = narrow.line.iter().chain(&narrow.line_prefix);
        given.any(|narrow| begins_like(narrow.as_bytes(), wide))
    });
    host && path && prefix && line && beginning
}

/// With splice, only the first request of a connection is inspected (DTS §4.4.1: "currently DTS does
/// not support inspecting multiple requests on a single TCP connection"), and so it is with inspector processes. With
/// adoption and rules that is a choice.
fn later_requests_follow_the_first(draft: &ServiceDraft, report: &mut Report<'_>) {
    let service = &draft.service;
    let requests_differ = !service.rules.is_empty() || service.default == Target::HashUri;
    let first_only = service.handover == Handover::Splice || !service.each_request;
    let by_process = service.process.is_some();
    let http = service.protocol == Protocol::Http;
    if service.mode == Mode::L7 && http && (by_process || requests_differ && first_only) {
        let who = if by_process {
            "inspector sees"
        } else {
            "rules see"
        };
        report.warning(
            &draft.header,
            format!(
                "on a persistent connection to {:?} the {who} the first request only: later \
                 ones go to the same node",
                service.name
            ),
            "have the servers close the connection after each response, for instance with \
             `keepalive_timeout 0;` in nginx",
        );
    }
}
