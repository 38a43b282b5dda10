//! What the daemon tells about itself.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Daemon, listens};
use crate::admin::{
    AdminSource, Attach, ConnectionFilter, ConnectionList, ConnectionView, HandoverCounts,
    InterfaceRole, InterfaceView, LeaseView, MemberView, Method, MethodView, ReloadReport,
    RingQuery, RingView, ServiceView, StatsView, StatusView,
};
use crate::config::{Config, Mode, Service};
use crate::kernel::AttachMode;
use crate::kernel::host::clock::monotonic_ns;
use crate::kernel::socket::interface_is_up;

impl AdminSource for Daemon {
    fn status(&self) -> StatusView {
        let current = self.current();
        let config = &current.config;
        let now = Duration::from_nanos(monotonic_ns());
        let remaining = self.filter.lease().unwrap_or_default().saturating_sub(now);
        let warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
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
            services: config.services.iter().map(service).collect(),
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
        Ok(filter.pick(all.iter().map(|(key, entry)| {
            let service = current
                .config
                .services
                .iter()
                .find(|s| s.id() == entry.service);
            ConnectionView::new(key, entry, service.map(|s| &*s.name), now)
        })))
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
}

impl Daemon {
    fn interfaces(&self) -> Vec<InterfaceView> {
        let applied = *self.applied.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn handover_counts(&self) -> HandoverCounts {
        let counters = self.handovers.counters();
        let failed = counters
            .failures()
            .map(|(name, count)| (name.to_owned(), count));
        HandoverCounts {
            in_progress: self.handovers.in_progress(),
            done: read(&counters.done),
            failed: failed.collect(),
        }
    }

    fn inspector_counts(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for service in &self.current().inspected {
            let c = &service.counters;
            for (name, counter) in [
                ("accepted", &c.accepted),
                ("decided", &c.decided),
                ("overdue", &c.overdue),
                ("rejected", &c.rejected),
                ("abandoned", &c.abandoned),
            ] {
                all.insert(format!("{}.{name}", service.service.name), read(counter));
            }
        }
        let counters = self.handovers.counters();
        all.insert("handovers.started".to_owned(), read(&counters.started));
        all.insert("handovers.done".to_owned(), read(&counters.done));
        for (name, count) in counters.failures() {
            all.insert(format!("handovers.{name}"), count);
        }
        all
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn service(service: &Service) -> ServiceView {
    let method = (service.mode == Mode::L7).then(|| MethodView {
        name: Method::Splice,
        why: "the one method of this version".to_owned(),
    });
    ServiceView {
        name: service.name.clone(),
        vip: service.vip,
        port: service.port,
        mode: service.mode.into(),
        handover: service.handover.into(),
        method,
        inspector_port: service.inspector_port,
        listener_present: listens(service.vip, service.port),
    }
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
    for service in &new.services {
        match old.services.iter().find(|s| s.name == service.name) {
            None => changes.push(format!("service {} added", service.name)),
            Some(before) if without_lines(before) != without_lines(service) => {
                changes.push(format!("service {} changed", service.name));
            }
            Some(_) => {}
        }
    }
    for service in &old.services {
        if !new.services.iter().any(|s| s.name == service.name) {
            changes.push(format!("service {} removed", service.name));
        }
    }
    if old.ring != new.ring {
        changes.push("ring changed".to_owned());
    }
    changes
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
