//! What the daemon looks after as long as it runs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dts_core::addr::Addr;
use dts_core::cookie::{key_number, slot};
use dts_core::entry::NodeSettings;
use dts_core::entry::adoption::Target;
use tokio::time::{interval, sleep};

use super::apply::apply_host;
use super::{Daemon, locked};
use crate::config::Secret;
use crate::kernel::Attachment;
use crate::kernel::host::clock;
use crate::kernel::host::neighbours::Neighbours;
use crate::kernel::socket::interface_is_up;

/// How often the filter is told how monotonic time and Unix time go together: the latter may be set.
const SETTINGS_PERIOD: Duration = Duration::from_secs(5);

/// How often the interfaces are looked at.
const LINK_PERIOD: Duration = Duration::from_millis(500);

/// Sets the host up again when an interface comes back: the kernel takes routes away with it.
pub(super) async fn keep_host(daemon: Arc<Daemon>) {
    let mut ticks = interval(LINK_PERIOD);
    let mut up = true;
    loop {
        ticks.tick().await;
        let Attachment { front, back, .. } = &daemon.attachment;
        let was_up = std::mem::replace(&mut up, interface_is_up(front) && interface_is_up(back));
        if was_up == up {
            continue;
        }
        tracing::warn!(up, "front or back changed its state");
        if up && let Err(error) = apply_host(&daemon.current()).await {
            tracing::error!("cannot set the host up again: {error}");
            // Another try in the next period.
            up = false;
        }
    }
}

/// Tells the filter the time of day now and then.
pub(super) async fn keep_settings(daemon: Arc<Daemon>) {
    let filter = &daemon.filter;
    let mut ticks = interval(SETTINGS_PERIOD);
    loop {
        ticks.tick().await;
        let told = filter.node().and_then(|node| {
            let changed = NodeSettings {
                clock_offset: clock::unix_offset(),
                ..node
            };
            if node == changed {
                return Ok(());
            }
            filter.set_node(&changed)
        });
        let told = told.and_then(|()| filter.set_cookie_keys(&cookie_keys(&daemon.secret)));
        if let Err(error) = told {
            tracing::error!("cannot tell the filter of its node: {error}");
        }
    }
}

/// The keys of the cookies that are made and may come back now, by number: the present one, and those before and after
/// it.
pub(super) fn cookie_keys(secret: &Secret) -> Vec<(u64, [u8; 16])> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let number = key_number(slot(now.map_or(0, |now| now.as_secs())));
    (number.saturating_sub(1)..=number + 1)
        .map(|number| (number, secret.derive(&format!("cookie {number}"))))
        .collect()
}

/// How often the members' link addresses are looked at.
const NEIGHBOUR_PERIOD: Duration = Duration::from_millis(250);

/// How often at first, and for how many times: until they are known, connections wait for their clients to repeat
/// requests.
const FIRST_PERIOD: Duration = Duration::from_millis(5);
const FIRST_LOOKS: u32 = 40;

/// Tells the filter the members' link addresses.
pub(super) async fn keep_neighbours(daemon: Arc<Daemon>) {
    let neighbours = match Neighbours::connect() {
        Ok(neighbours) => neighbours,
        Err(error) => {
            tracing::error!("cannot look for the members' link addresses: {error}");
            return;
        }
    };
    let mut ticks = interval(NEIGHBOUR_PERIOD);
    let mut first_looks = FIRST_LOOKS;
    let mut last = HashMap::new();
    let mut told = Vec::new();
    loop {
        if first_looks > 0 {
            first_looks -= 1;
            sleep(FIRST_PERIOD).await;
        } else {
            ticks.tick().await;
        }
        let current = daemon.current();
        let own = current.config.node.address;
        let members: Vec<IpAddr> = current
            .config
            .members
            .iter()
            .map(|member| member.address)
            .filter(|address| *address != own)
            .collect();
        let index = locked(&daemon.applied).back_index;
        let known = match neighbours.look(index, &members).await {
            Ok(known) => known,
            Err(error) => {
                tracing::error!("cannot look for the members' link addresses: {error}");
                continue;
            }
        };
        last.extend(known.iter().map(|(address, mac)| (*address, *mac)));
        let targets: Vec<(Addr, Target)> = members
            .iter()
            .map(|member| {
                let target = Target {
                    mac: last.get(member).copied().unwrap_or_default(),
                    reachable: known.contains_key(member).into(),
                };
                (Addr::from(*member), target)
            })
            .collect();
        if targets == told {
            continue;
        }
        match daemon.filter.set_targets(&targets) {
            Ok(()) => told = targets,
            Err(error) => tracing::error!("cannot tell the filter of the members: {error}"),
        }
    }
}
