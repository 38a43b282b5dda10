//! How each service's connections move: adopted where its listener and the kernel allow, spliced elsewhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dts_core::addr::Addr;
use dts_core::entry::adoption::rules;
use dts_core::entry::service_kind;
use tokio::time::interval;

use super::{Daemon, DaemonError};
use crate::admin::Method;
use crate::config::{Handover, Mode, Service};
use crate::current::Current;
use crate::kernel::{Filter, FilterError, Listener};
use crate::rules::told;

/// How often listeners are looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// A way, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) method: Method,
    pub(super) why: &'static str,
}

/// The ways of all inspected services, by the service's number.
pub(super) type Methods = HashMap<u16, Chosen>;

/// Chooses for every inspected service. A service without a listener keeps its way.
pub(super) fn choose(
    current: &Current,
    filter: &Filter,
    before: &Methods,
) -> Result<Methods, FilterError> {
    let inspected = current
        .config
        .services
        .iter()
        .filter(|s| s.mode == Mode::L7);
    inspected
        .map(|service| {
            let chosen = one(service, filter, before.get(&service.id()))?;
            Ok((service.id(), chosen))
        })
        .collect()
}

fn one(service: &Service, filter: &Filter, before: Option<&Chosen>) -> Result<Chosen, FilterError> {
    let chosen = |method, why| Ok(Chosen { method, why });
    if service.handover == Handover::Splice {
        return chosen(Method::Splice, "configured");
    }
    if service.greeting.is_some() {
        // What nobody has acknowledged somebody must be able to repeat: that takes a socket.
        return chosen(Method::Splice, "it has a greeting");
    }
    if !filter.can_adopt() {
        return chosen(
            Method::Splice,
            "the kernel has no bpf_sk_assign_tcp_reqsk (Linux 6.9 or 6.11 on)",
        );
    }
    if let Some(why) = forbidden() {
        return chosen(Method::Splice, why);
    }
    match (filter.listener(service.vip, service.port)?, before) {
        (Listener::Mptcp, _) => chosen(Method::Splice, "the listener speaks MPTCP"),
        (Listener::Tcp, _) => chosen(Method::Adopt, "listener and kernel allow it"),
        (Listener::None, Some(before)) => Ok(before.clone()),
        (Listener::None, None) => chosen(Method::Adopt, "no listener yet"),
    }
}

/// A setting of this host with which the kernel would make no socket of a segment, or reset its client.
fn forbidden() -> Option<&'static str> {
    let off = |name: &str| {
        let value = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        value.is_ok_and(|value| value.trim() == "0")
    };
    [
        ("tcp_syncookies", "net.ipv4.tcp_syncookies is 0"),
        ("tcp_timestamps", "net.ipv4.tcp_timestamps is 0"),
        ("tcp_sack", "net.ipv4.tcp_sack is 0"),
        ("tcp_window_scaling", "net.ipv4.tcp_window_scaling is 0"),
    ]
    .into_iter()
    .find(|(name, _)| off(name))
    .map(|(_, why)| why)
}

/// Tells the filter of services, rules and request ring, and then forgets what was there before.
pub(super) fn tell(
    filter: &Filter,
    current: &Current,
    methods: &Methods,
) -> Result<(), DaemonError> {
    let old = filter.rules()?;
    let mixed = mixed(filter, current)?;
    let adopts = |id| {
        methods
            .get(&id)
            .is_some_and(|chosen| chosen.method == Method::Adopt)
    };
    let told = told(current, adopts, &old, &mixed);
    filter.add_rules(&told.tables)?;
    let requests = current.placement.requests();
    let nodes: Vec<Addr> = current
        .config
        .members
        .iter()
        .map(|member| Addr::from(member.address))
        .collect();
    filter.publish_requests(*requests.hash(), requests.points(), &nodes)?;
    filter.set_services(&told.services)?;
    filter.remove_rules(&old);
    Ok(())
}

/// The services that may have connections of both ways: the numbers of those that have entries of spliced ones, or were
/// adopting once.
fn mixed(filter: &Filter, current: &Current) -> Result<Vec<u16>, FilterError> {
    let mut mixed: Vec<u16> = filter
        .connections()?
        .iter()
        .map(|(_, e)| e.service)
        .collect();
    for service in &current.config.services {
        if let Some(entry) = filter.service(service.vip, service.port)?
            && (entry.kind == service_kind::ADOPT || entry.rules & rules::MIXED != 0)
        {
            mixed.push(service.id());
        }
    }
    mixed.sort_unstable();
    mixed.dedup();
    Ok(mixed)
}

/// Looks at the listeners again and again.
pub(super) async fn keep(daemon: Arc<Daemon>) {
    let mut ticks = interval(PERIOD);
    loop {
        ticks.tick().await;
        let this = Arc::clone(&daemon);
        let looked = tokio::task::spawn_blocking(move || this.look_at_listeners());
        match looked.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("cannot look at the listeners: {error}"),
            Err(_) => return,
        }
    }
}

impl Daemon {
    fn look_at_listeners(&self) -> Result<(), DaemonError> {
        let _one = super::locked(&self.reloading);
        let current = self.current();
        let mut methods = super::locked(&self.methods);
        let now = choose(&current, &self.filter, &methods)?;
        if now == *methods {
            return Ok(());
        }
        for service in &current.config.services {
            if let (Some(before), Some(after)) =
                (methods.get(&service.id()), now.get(&service.id()))
                && before.method != after.method
            {
                let (name, why) = (after.method.name(), after.why);
                tracing::info!(
                    service = service.name,
                    method = name,
                    why,
                    "the way of handing over changed"
                );
            }
        }
        tell(&self.filter, &current, &now)?;
        *methods = now;
        Ok(())
    }
}
