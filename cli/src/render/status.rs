//! `dts status` and `dts reload`.

use std::net::SocketAddr;

use dts_node::admin::{
    HandoverCounts, InterfaceView, LeaseView, ReloadReport, ServiceView, StatusView, UndecidedView,
};

use super::table::{Align, Table};
use super::{BAD, BOLD, duration, grouped, styled, warnings, yes_no};

/// The daemon, its cluster and its services.
pub(crate) fn status(view: &StatusView) -> String {
    let facts = [
        (
            "Node",
            format!(
                "{} of cluster {}, {}",
                view.node, view.cluster, view.address
            ),
        ),
        (
            "Daemon",
            format!(
                "version {}, pid {}, up {}",
                view.version,
                view.pid,
                duration(view.uptime_ms)
            ),
        ),
        ("Lease", lease(&view.lease)),
        ("Ring", format!("epoch {}", view.ring_epoch)),
        ("Filter", filter(view)),
        ("Handovers", handovers(&view.handovers)),
        ("Adopted", grouped(view.handovers.adopted)),
    ];
    let mut text = String::new();
    for (name, fact) in facts {
        text += &format!("{}{fact}\n", styled(BOLD, &format!("{name:11}")));
    }
    text += &format!("\n{}\n{}", members(view), services(&view.services));
    if !view.warnings.is_empty() {
        text.push('\n');
        text += &warnings(&view.warnings);
    }
    text
}

/// What a reload changed.
pub(crate) fn reload(report: &ReloadReport) -> String {
    let mut text = match report.changes.is_empty() {
        true => "Nothing has changed.\n".to_owned(),
        false => report
            .changes
            .iter()
            .map(|change| format!("{change}\n"))
            .collect(),
    };
    text += &format!("The ring's epoch is {}.\n", report.ring_epoch);
    text + &warnings(&report.warnings)
}

fn lease(lease: &LeaseView) -> String {
    if lease.held {
        format!("held, for {} without renewal", duration(lease.remaining_ms))
    } else {
        let lapsed = styled(BAD, "lapsed");
        format!("{lapsed}: this node accepts no new connections")
    }
}

fn filter(view: &StatusView) -> String {
    let interfaces: Vec<_> = view.interfaces.iter().map(interface).collect();
    format!("{} on {}", view.attach.name(), interfaces.join(" and "))
}

fn interface(interface: &InterfaceView) -> String {
    let role = interface.role.name();
    match interface.up {
        true => format!("{} ({role})", interface.name),
        false => format!("{} ({role}, {})", interface.name, styled(BAD, "down")),
    }
}

fn handovers(counts: &HandoverCounts) -> String {
    let failed: u64 = counts.failed.values().sum();
    let mut text = format!(
        "{} in progress, {} done, {} failed",
        grouped(counts.in_progress),
        grouped(counts.done),
        grouped(failed)
    );
    let reasons = counts.failed.iter().filter(|(_, count)| **count > 0);
    let reasons: Vec<_> = reasons
        .map(|(reason, count)| format!("{reason} {}", grouped(*count)))
        .collect();
    if !reasons.is_empty() {
        text += &format!(" ({})", reasons.join(", "));
    }
    text
}

fn members(view: &StatusView) -> String {
    let mut table = Table::new([
        ("MEMBER", Align::Left),
        ("ADDRESS", Align::Left),
        ("INSPECTS", Align::Left),
        ("STATE", Align::Left),
    ]);
    for member in &view.members {
        let this = if member.id == view.node {
            " (this node)"
        } else {
            ""
        };
        table.row([
            format!("{}{this}", member.id),
            member.address.to_string(),
            yes_no(member.inspect).to_owned(),
            member.state.name().to_owned(),
        ]);
    }
    table.render()
}

fn services(services: &[ServiceView]) -> String {
    let mut table = Table::new([
        ("SERVICE", Align::Left),
        ("ADDRESS", Align::Left),
        ("MODE", Align::Left),
        ("INSPECTOR", Align::Left),
        ("LISTENER", Align::Left),
        ("UNDECIDED", Align::Left),
        ("HANDOVER", Align::Left),
    ]);
    for service in services {
        table.row([
            service.name.clone(),
            SocketAddr::new(service.vip, service.port).to_string(),
            service.mode.name().to_owned(),
            inspector(service),
            if service.listener_present {
                "present"
            } else {
                "missing"
            }
            .to_owned(),
            service.undecided.map_or_else(|| "-".to_owned(), undecided),
            method(service),
        ]);
    }
    table.render()
}

/// How many connections are undecided, how many may be, and how many the rules could not decide about, by reason.
fn undecided(view: UndecidedView) -> String {
    let mut text = format!("{} of {}", grouped(view.now), grouped(view.most));
    let reasons = [
        ("too_long", view.too_long),
        ("too_slow", view.too_slow),
        ("too_many", view.too_many),
        ("ended", view.ended),
        ("unreadable", view.unreadable),
    ];
    let reasons = reasons.into_iter().filter(|(_, count)| *count > 0);
    let reasons: Vec<_> = reasons
        .map(|(reason, count)| format!("{reason} {}", grouped(count)))
        .collect();
    if !reasons.is_empty() {
        text += &format!(" ({})", reasons.join(", "));
    }
    text
}

/// The inspector's port, and the processes that decide where the rules don't.
fn inspector(service: &ServiceView) -> String {
    let port = match service.inspector_port {
        Some(port) => format!("port {port}"),
        None => return "-".to_owned(),
    };
    match service.processes {
        None => port,
        Some(0) => format!("{port}, no process"),
        Some(1) => format!("{port}, 1 process"),
        Some(count) => format!("{port}, {count} processes"),
    }
}

/// The way of handing over, what was configured, and why this came of it.
fn method(service: &ServiceView) -> String {
    match &service.method {
        None => "-".to_owned(),
        Some(method) => format!(
            "{} (configured: {}; {})",
            method.name.name(),
            service.handover.name(),
            method.why
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dts_node::admin::{
        Attach, HandoverMode, InterfaceRole, MemberState, MemberView, Method, MethodView,
        ServiceMode,
    };

    use super::super::tests::plain;
    use super::*;

    fn sample() -> StatusView {
        let interface = |name: &str, role, up| InterfaceView {
            name: name.to_owned(),
            index: 2,
            role,
            up,
        };
        let member = |id: &str, address: &str, inspect| MemberView {
            id: id.to_owned(),
            address: address.parse().unwrap(),
            inspect,
            state: MemberState::Configured,
        };
        StatusView {
            version: "0.1.0".to_owned(),
            cluster: "demo".to_owned(),
            node: "n1".to_owned(),
            address: "198.18.1.11".parse().unwrap(),
            pid: 4242,
            uptime_ms: 10_920_000,
            lease: LeaseView {
                held: true,
                remaining_ms: 1930,
            },
            ring_epoch: 3,
            attach: Attach::Tcx,
            interfaces: vec![
                interface("eth0", InterfaceRole::Front, true),
                interface("eth1", InterfaceRole::Back, false),
            ],
            members: vec![
                member("n1", "198.18.1.11", true),
                member("n2", "198.18.1.12", false),
            ],
            services: vec![web(), plain_service()],
            handovers: HandoverCounts {
                adopted: 0,
                in_progress: 2,
                done: 18_340,
                failed: BTreeMap::from([
                    ("refused".to_owned(), 2),
                    ("stale".to_owned(), 0),
                    ("timed_out".to_owned(), 1),
                ]),
            },
            warnings: vec!["eth1 is down".to_owned()],
        }
    }

    fn web() -> ServiceView {
        ServiceView {
            name: "web".to_owned(),
            vip: "198.18.0.100".parse().unwrap(),
            port: 80,
            mode: ServiceMode::L7,
            handover: HandoverMode::Auto,
            method: Some(MethodView {
                name: Method::Splice,
                why: "the only one in this version".to_owned(),
            }),
            inspector_port: Some(8081),
            processes: None,
            listener_present: true,
            undecided: Some(UndecidedView {
                now: 3,
                most: 8192,
                too_slow: 1200,
                ended: 1,
                ..UndecidedView::default()
            }),
        }
    }

    fn plain_service() -> ServiceView {
        ServiceView {
            name: "mail".to_owned(),
            port: 25,
            mode: ServiceMode::L4,
            method: None,
            inspector_port: None,
            listener_present: false,
            undecided: None,
            ..web()
        }
    }

    #[test]
    fn a_status_fits_a_screen() {
        insta::assert_snapshot!(plain(&status(&sample())), @r"
        Node       n1 of cluster demo, 198.18.1.11
        Daemon     version 0.1.0, pid 4242, up 3 h 2 min
        Lease      held, for 1.9 s without renewal
        Ring       epoch 3
        Filter     tcx on eth0 (front) and eth1 (back, down)
        Handovers  2 in progress, 18,340 done, 3 failed (refused 2, timed_out 1)
        Adopted    0

        MEMBER          ADDRESS      INSPECTS  STATE
        n1 (this node)  198.18.1.11  yes       configured
        n2              198.18.1.12  no        configured

        SERVICE  ADDRESS          MODE  INSPECTOR  LISTENER  UNDECIDED                             HANDOVER
        web      198.18.0.100:80  l7    port 8081  present   3 of 8,192 (too_slow 1,200, ended 1)  splice (configured: auto; the only one in this version)
        mail     198.18.0.100:25  l4    -          missing   -                                     -

        warning: eth1 is down
        ");
    }

    #[test]
    fn inspector_processes_are_counted() {
        for (processes, expected) in [
            (None, "port 8081"),
            (Some(0), "port 8081, no process"),
            (Some(1), "port 8081, 1 process"),
            (Some(2), "port 8081, 2 processes"),
        ] {
            let service = ServiceView { processes, ..web() };
            assert_eq!(inspector(&service), expected);
        }
        assert_eq!(inspector(&plain_service()), "-");
    }

    #[test]
    fn a_lapsed_lease_says_what_that_means() {
        let view = StatusView {
            lease: LeaseView {
                held: false,
                remaining_ms: 0,
            },
            warnings: Vec::new(),
            ..sample()
        };
        let text = plain(&status(&view));
        assert!(
            text.contains("lapsed: this node accepts no new connections"),
            "{text}"
        );
        assert!(!text.contains("warning"), "{text}");
    }

    #[test]
    fn a_reload_says_what_it_changed() {
        let mut report = ReloadReport {
            ring_epoch: 4,
            changes: vec!["n3 has left".to_owned()],
            warnings: vec!["dts.toml:3:1: ...".to_owned()],
        };
        insta::assert_snapshot!(plain(&reload(&report)), @r"
        n3 has left
        The ring's epoch is 4.
        warning: dts.toml:3:1: ...
        ");
        report.changes.clear();
        report.warnings.clear();
        insta::assert_snapshot!(plain(&reload(&report)), @r"
        Nothing has changed.
        The ring's epoch is 4.
        ");
    }
}
