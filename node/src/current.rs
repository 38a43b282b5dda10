//! What the configuration says at present, in the form that the running daemon uses.
//!
//! A reload makes a new one; whoever holds the old one finishes with it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dts_core::addr::Addr;
use dts_core::entry::{ServiceEntry, ServiceKey, service_kind};
use dts_core::ring::RingHashSpec;
use rustix::process::{Resource, getrlimit};

use crate::config::{Config, Mode, Protocol, Service};
use crate::inspect::bytes::BytesInspector;
use crate::inspect::http::HttpInspector;
use crate::inspect::http::compiled::Compiled;
use crate::inspect::line::LineInspector;
use crate::inspect::{Decision, Inspector, Reason};
use crate::kernel::host::clock::monotonic_ns;
use crate::placement::{NodeIndex, Placement, Ring, TooManyPoints};
use crate::processes::{Consultation, Processes, Sockets, Subject, Wake};
use crate::waiting::{Waiting, fitting};

/// A configuration in use.
pub struct Current {
    /// The configuration.
    pub config: Config,
    /// Where requests go.
    pub placement: Placement,
    /// The ring of flows, as it is published to the filter.
    pub flows: Ring,
    /// The inspected services.
    pub inspected: Vec<Arc<InspectedService>>,
}

/// A service whose requests are inspected.
pub struct InspectedService {
    /// Its configuration.
    pub service: Service,
    /// The inspector's port.
    pub inspector_port: u16,
    /// What decides: the service's rules, or a program's own inspector.
    pub inspector: Arc<dyn Inspector>,
    /// The programs that decide in place of `inspector`, where the service has such.
    pub processes: Option<Arc<Processes>>,
    /// The service's rules. They say what becomes of a connection that `inspector` leaves undecided.
    pub rules: Arc<HttpInspector>,
    /// The rules as the filter looks them up; `None` where a process or a program's own inspector decides, or by lines.
    pub compiled: Option<Compiled>,
    /// What became of its connections.
    pub counters: InspectorCounters,
    /// Those that are undecided.
    pub waiting: Arc<Waiting>,
    /// When it was last told that a server's greeting is not the configured one.
    pub greeting_told: OncePerSecond,
}

impl InspectedService {
    /// Asks who decides about a connection: the inspector, which answers at once, or a process, which answers later and
    /// is heard of through `wake`; `consultation` is what it is asked.
    pub fn ask(
        &self,
        consultation: &mut Consultation,
        subject: &Subject<'_>,
        wake: impl FnOnce() -> Wake,
    ) -> Decision {
        match &self.processes {
            None => self.inspector.inspect(subject.info, subject.bytes),
            Some(processes) => consultation.decide(processes, &self.rules, subject, wake),
        }
    }
}

/// A limit of one a second for what each connection could have logged.
#[derive(Debug, Default)]
pub struct OncePerSecond(AtomicU64);

impl OncePerSecond {
    /// Whether it may be logged now; not again for a second then.
    pub fn allows(&self) -> bool {
        const SECOND: u64 = 1_000_000_000;
        let (now, next) = (monotonic_ns(), self.0.load(Ordering::Relaxed));
        let order = Ordering::Relaxed;
        // Of several threads one logs.
        now >= next
            && self
                .0
                .compare_exchange(next, now + SECOND, order, order)
                .is_ok()
    }
}

/// What became of a service's connections at the inspector.
#[derive(Debug, Default)]
pub struct InspectorCounters {
    /// Accepted.
    pub accepted: AtomicU64,
    /// Handed over by a decision, of the rules or in place of them.
    pub decided: AtomicU64,
    /// Undecided after too many bytes.
    pub too_long: AtomicU64,
    /// Undecided for too long.
    pub too_slow: AtomicU64,
    /// Undecided when there were too many such, and longer than the others.
    pub too_many: AtomicU64,
    /// Undecided when the client closed its side.
    pub ended: AtomicU64,
    /// Rejected or given up: reset.
    pub rejected: AtomicU64,
    /// Closed or reset by the client before there was a decision.
    pub abandoned: AtomicU64,
}

impl InspectorCounters {
    /// Counts a connection that is undecided and may not be so any longer.
    pub fn count_overdue(&self, reason: Reason) {
        let counter = match reason {
            Reason::TooLong => &self.too_long,
            Reason::TooSlow => &self.too_slow,
            Reason::TooMany => &self.too_many,
            Reason::Ended => &self.ended,
            // These are decisions.
            Reason::Unreadable | Reason::Refused | Reason::NoInspector => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A program's own inspectors, by service name: they decide in place of the service's rules.
pub type Inspectors = HashMap<String, Arc<dyn Inspector>>;

impl Current {
    /// Puts a configuration into use, as epoch `epoch` of the ring; `hash` is the ring's,
    /// `own` has the program's inspectors, `sockets` the processes that inspect.
    ///
    /// # Errors
    ///
    /// When the ring would have too many points, which a checked configuration doesn't.
    pub fn new(
        config: Config,
        hash: RingHashSpec,
        epoch: u64,
        own: &Inspectors,
        sockets: &Sockets,
    ) -> Result<Self, TooManyPoints> {
        let is_inspected = |service: &&Service| service.mode == Mode::L7;
        let count = config.services.iter().filter(is_inspected).count();
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let inspected = config
            .services
            .iter()
            .filter(is_inspected)
            .filter_map(|service| {
                let rules = Arc::new(HttpInspector::new(service, hash));
                let (inspector, compiled) = match own.get(&service.name) {
                    Some(inspector) => (Arc::clone(inspector), None),
                    None => {
                        let inspector: Arc<dyn Inspector> = match service.protocol {
                            Protocol::Http => Arc::clone(&rules) as _,
                            Protocol::Line => Arc::new(LineInspector::new(service, hash)),
                            Protocol::Bytes(bytes) => {
                                Arc::new(BytesInspector::new(bytes, &service.default))
                            }
                        };
                        // The filter reads paths and hosts.
                        let filters =
                            service.process.is_none() && service.protocol != Protocol::Line;
                        (inspector, filters.then(|| Compiled::new(service)))
                    }
                };
                let processes = service.process.as_ref();
                let wanted = service.undecided_connections;
                let most = fitting(wanted, count, files);
                if most < wanted {
                    let name = &service.name;
                    tracing::warn!(
                        "service {name}: {most} undecided connections, not {wanted}: the process may have {files} open files"
                    );
                }
                Some(Arc::new(InspectedService {
                    inspector_port: service.inspector_port?,
                    inspector,
                    processes: processes.map(|_| sockets.processes(&service.name)),
                    rules,
                    compiled,
                    counters: InspectorCounters::default(),
                    waiting: Waiting::new(most),
                    greeting_told: OncePerSecond::default(),
                    service: service.clone(),
                }))
            })
            .collect();
        Ok(Self {
            placement: Placement::new(&config, hash)?,
            flows: Ring::of_flows(epoch, hash, &config)?,
            inspected,
            config,
        })
    }

    /// This node's number on the ring.
    #[must_use]
    pub fn node(&self) -> NodeIndex {
        NodeIndex(self.config.this_member().0 as u32)
    }

    /// The VIPs, each once.
    #[must_use]
    pub fn vips(&self) -> Vec<IpAddr> {
        let mut vips: Vec<_> = self
            .config
            .services
            .iter()
            .map(|service| service.vip)
            .collect();
        vips.sort();
        vips.dedup();
        vips
    }

    /// The services as the filter wants them: under the public port and under the inspector's.
    #[must_use]
    pub fn filter_services(&self) -> Vec<(ServiceKey, ServiceEntry)> {
        let mut all = Vec::new();
        for service in &self.config.services {
            let vip = Addr::from(service.vip);
            let mut add = |port: u16, kind, other_port, most| {
                let key = ServiceKey {
                    vip,
                    port: port.into(),
                };
                all.push((
                    key,
                    ServiceEntry {
                        kind,
                        id: service.id(),
                        other_port,
                        most,
                        rules: 0,
                        table: 0,
                        default: 0,
                    },
                ));
            };
            match (service.mode, service.inspector_port) {
                (Mode::L7, Some(inspector)) => {
                    // The configuration's limit is far below 4 GiB.
                    let most = u32::try_from(service.undecided_bytes).unwrap_or(u32::MAX);
                    add(service.port, service_kind::L7, inspector, most);
                    add(inspector, service_kind::INSPECTOR, service.port, most);
                }
                _ => add(service.port, service_kind::L4, 0, 0),
            }
        }
        all
    }

    /// The inspected service of a listener.
    #[must_use]
    pub fn inspected_at(&self, vip: IpAddr, inspector_port: u16) -> Option<&Arc<InspectedService>> {
        self.inspected
            .iter()
            .find(|s| s.service.vip == vip && s.inspector_port == inspector_port)
    }
}
