//! What the daemon tells about itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dts_core::addr::{Addr, FlowKey};
use dts_core::entry::adoption::{Adoption, stage};
use dts_core::verdict::{Action, Verdict};

use super::listening::listens;
use super::{Daemon, locked};
use crate::admin::{
    AdminSource, Attach, ConnectionFilter, ConnectionList, ConnectionView, HandoverCounts,
    InterfaceRole, InterfaceView, LeaseView, MemberView, MethodView, ReloadReport, RingQuery,
    RingView, ServiceView, StatsView, StatusView, TraceFeed, TraceQuery, UndecidedView,
};
use crate::config::{Config, Mode, Service};
use crate::current::{Current, InspectedService};
use crate::kernel::host::clock::monotonic_ns;
use crate::kernel::socket::interface_is_up;
use crate::kernel::{AttachMode, FilterError};
use crate::processes::Processes;

/// How long a connection that is noted as undecided may have been so: after that its client has given up.
const UNDECIDED_MS: u32 = 2_000;

impl AdminSource for Daemon {
    fn status(&self) -> StatusView {
        let current = self.current();
        let config = &current.config;
        let now = Duration::from_nanos(monotonic_ns());
        let remaining = self.filter.lease().unwrap_or_default().saturating_sub(now);
        let warnings = locked(&self.warnings);
        StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: config.cluster.name.clone(),
            node: config.node.id.to_string(),
            address: config.node.address,
            pid: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            lease: LeaseView {
                held: !remaining.is_zero(),
                remaining_ms: remaining.as_millis() as u64,
            },
            ring_epoch: current.flows.epoch(),
            attach: match self.attachment.mode {
                AttachMode::Tcx => Attach::Tcx,
                AttachMode::Clsact => Attach::Clsact,
            },
            interfaces: self.interfaces(),
            members: config.members.iter().map(MemberView::from).collect(),
            services: config
                .services
                .iter()
                .map(|s| self.service(s, &current))
                .collect(),
            handovers: self.handover_counts(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
        }
    }

    fn ring(&self, query: &RingQuery) -> Result<RingView, String> {
        let current = self.current();
        let config = &current.config;
        Ok(RingView::new(
            &current.flows,
            &config.members,
            config.ring.virtual_nodes,
            query,
        ))
    }

    fn connections(&self, filter: &ConnectionFilter) -> Result<ConnectionList, String> {
        let current = self.current();
        let now = (monotonic_ns() / 1_000_000) as u32;
        let all = self
            .filter
            .connections()
            .map_err(|error| error.to_string())?;
        let spliced = all.iter().map(|(key, entry)| {
            let service = current
                .config
                .services
                .iter()
                .find(|s| s.id() == entry.service);
            ConnectionView::new(key, entry, service.map(|s| &*s.name), now)
        });
        let adopted = self.adopted_connections(&current, now)?;
        Ok(filter.pick(spliced.chain(adopted)))
    }

    fn stats(&self) -> Result<StatsView, String> {
        let counters = self.filter.stats().map_err(|error| error.to_string())?;
        let counters: Vec<u64> = counters.iter().map(|(_, count)| *count).collect();
        Ok(StatsView::new(&counters, self.inspector_counts()))
    }

    fn reload(&self) -> Result<ReloadReport, String> {
        self.reload_now().map_err(|error| {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(next) = cause {
                text = format!("{text}: {next}");
                cause = next.source();
            }
            text
        })
    }

    fn trace(&self, query: &TraceQuery) -> Result<TraceFeed, String> {
        self.tracer.begin(query)
    }
}

impl Daemon {
    /// The connections that the daemon's inspector has not decided about, and those that the servers have.
    fn adopted_connections(
        &self,
        current: &Current,
        now: u32,
    ) -> Result<Vec<ConnectionView>, String> {
        let text = |error: FilterError| error.to_string();
        let scale = self.filter.node().map_err(text)?.announced_scale;
        let mut all = self.filter.adoptions().map_err(text)?;
        all.retain(|(_, known)| {
            let fresh = now.wrapping_sub(known.since) < UNDECIDED_MS;
            match known.stage {
                stage::HERE | stage::OPEN => true,
                stage::UNDECIDED => fresh,
                _ => false,
            }
        });
        let flows: Vec<FlowKey> = all.iter().map(|(flow, _)| *flow).collect();
        let alive = self.filter.alive(&flows).map_err(text)?;
        let kept = all
            .iter()
            .zip(alive)
            .filter(|((_, known), alive)| *alive || known.stage == stage::UNDECIDED);
        let view = |((flow, known), _): (&(FlowKey, Adoption), bool)| {
            let service = current
                .config
                .services
                .iter()
                .find(|s| Addr::from(s.vip) == flow.local && s.port == flow.local_port);
            let id = service.map_or(0, Service::id);
            let service = (service.map(|s| &*s.name), id);
            ConnectionView::adopted(flow, known, service, (scale, now))
        };
        Ok(kept.map(view).collect())
    }

    fn interfaces(&self) -> Vec<InterfaceView> {
        let applied = *locked(&self.applied);
        let view = |name: &str, index, role| InterfaceView {
            name: name.to_owned(),
            index,
            role,
            up: interface_is_up(name),
        };
        let (front, back) = (&*self.attachment.front, &*self.attachment.back);
        if front == back {
            return vec![view(
                front,
                applied.front_index,
                InterfaceRole::FrontAndBack,
            )];
        }
        vec![
            view(front, applied.front_index, InterfaceRole::Front),
            view(back, applied.back_index, InterfaceRole::Back),
        ]
    }

    fn service(&self, service: &Service, current: &Current) -> ServiceView {
        let method = locked(&self.methods)
            .get(&service.id())
            .filter(|_| service.mode == Mode::L7)
            .map(|chosen| MethodView {
                name: chosen.method,
                why: chosen.why.to_owned(),
            });
        let mut all = current.inspected.iter();
        let inspected = all.find(|inspected| inspected.service.id() == service.id());
        let processes = inspected.and_then(|inspected| inspected.processes.as_ref());
        ServiceView {
            undecided: inspected.map(|inspected| undecided(inspected)),
            name: service.name.clone(),
            vip: service.vip,
            port: service.port,
            mode: service.mode.into(),
            handover: service.handover.into(),
            method,
            inspector_port: service.inspector_port,
            processes: processes.map(|processes| processes.attached()),
            listener_present: listens(service.vip, service.port),
        }
    }

    fn adopted(&self) -> u64 {
        let counters = self.filter.stats().unwrap_or_default();
        let adopted = Verdict::Done(Action::Adopted);
        counters
            .iter()
            .find(|(verdict, _)| *verdict == adopted)
            .map_or(0, |(_, count)| *count)
    }

    fn handover_counts(&self) -> HandoverCounts {
        let counters = self.handovers.counters();
        let unreachable = read(&self.adoptions.unreachable);
        let failed = counters.failures().map(|(name, count)| match name {
            "unreachable" => (name.to_owned(), count + unreachable),
            _ => (name.to_owned(), count),
        });
        HandoverCounts {
            in_progress: self.handovers.in_progress(),
            adopted: self.adopted(),
            done: read(&counters.done),
            failed: failed.collect(),
        }
    }

    fn inspector_counts(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for service in &self.current().inspected {
            let c = &service.counters;
            for (name, count) in [
                ("accepted", read(&c.accepted)),
                ("decided", read(&c.decided)),
                ("too_long", read(&c.too_long)),
                ("too_slow", read(&c.too_slow)),
                ("too_many", read(&c.too_many)),
                ("ended", read(&c.ended)),
                ("rejected", read(&c.rejected)),
                ("abandoned", read(&c.abandoned)),
                ("undecided", service.waiting.count() as u64),
                ("unreadable", service.rules.unreadable()),
            ] {
                // A service with several VIPs is several here.
                *all.entry(format!("{}.{name}", service.service.name))
                    .or_insert(0) += count;
            }
            if let Some(processes) = &service.processes {
                let counts = process_counts(processes);
                let name = &service.service.name;
                all.extend(counts.map(|(counter, count)| (format!("{name}.{counter}"), count)));
            }
        }
        let counters = self.handovers.counters();
        for (name, counter) in [
            ("undecided", &self.adoptions.undecided),
            ("sent_on", &self.adoptions.sent_on),
            ("by_socket", &self.adoptions.by_socket),
            ("left", &self.adoptions.left),
            ("crowded", &self.adoptions.crowded),
            ("unreachable", &self.adoptions.unreachable),
        ] {
            all.insert(format!("adoptions.{name}"), read(counter));
        }
        all.insert("handovers.started".to_owned(), read(&counters.started));
        all.insert("handovers.done".to_owned(), read(&counters.done));
        for (name, count) in counters.failures() {
            all.insert(format!("handovers.{name}"), count);
        }
        all
    }
}

fn undecided(service: &InspectedService) -> UndecidedView {
    let counters = &service.counters;
    UndecidedView {
        now: service.waiting.count() as u64,
        most: service.waiting.most() as u64,
        too_long: read(&counters.too_long),
        too_slow: read(&counters.too_slow),
        too_many: read(&counters.too_many),
        ended: read(&counters.ended),
        unreadable: service.rules.unreadable(),
    }
}

fn process_counts(processes: &Processes) -> impl Iterator<Item = (&'static str, u64)> {
    let c = processes.counters();
    [
        ("processes", processes.attached() as u64),
        ("asking", processes.asking() as u64),
        ("attached", read(&c.attached)),
        ("unattended", read(&c.unattended)),
        ("orphaned", read(&c.orphaned)),
        ("crowded", read(&c.crowded)),
        ("passed", read(&c.passed)),
        ("no_member", read(&c.no_member)),
        ("malformed", read(&c.malformed)),
    ]
    .into_iter()
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What a reload changes, a sentence each.
pub(super) fn changes(old: &Config, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    for member in &new.members {
        match old.members.iter().find(|m| m.id == member.id) {
            None => changes.push(format!("member {} joined", member.id)),
            Some(before) if before != member => {
                changes.push(format!("member {} changed", member.id))
            }
            Some(_) => {}
        }
    }
    for member in &old.members {
        if !new.members.iter().any(|m| m.id == member.id) {
            changes.push(format!("member {} left", member.id));
        }
    }
    let (before, after) = (by_name(&old.services), by_name(&new.services));
    for (name, services) in &after {
        match before.get(name) {
            None => changes.push(format!("service {name} added")),
            Some(before) if before != services => changes.push(format!("service {name} changed")),
            Some(_) => {}
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        changes.push(format!("service {name} removed"));
    }
    if old.ring != new.ring {
        changes.push("ring changed".to_owned());
    }
    changes
}

/// The services as if they stood nowhere in a file; those with several VIPs are several of one name.
fn by_name(services: &[Service]) -> BTreeMap<&str, Vec<Service>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for service in services {
        let of_name = all.entry(&*service.name).or_default();
        of_name.push(without_lines(service));
    }
    all
}

/// A service as if it stood nowhere in a file: where it and its rules stand is no part of what they say.
fn without_lines(service: &Service) -> Service {
    let mut service = service.clone();
    service.line = 0;
    for rule in &mut service.rules {
        rule.line = 0;
    }
    service
}
