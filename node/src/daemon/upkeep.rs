//! What the daemon looks after as long as it runs.

use std::sync::Arc;
use std::time::Duration;

use dts_core::entry::NodeSettings;
use tokio::time::interval;

use super::{Daemon, apply_host};
use crate::kernel::Attachment;
use crate::kernel::host::clock;
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
        if let Err(error) = told {
            tracing::error!("cannot tell the filter of its node: {error}");
        }
    }
}
