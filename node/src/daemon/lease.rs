//! The node's lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::DaemonError;
use crate::kernel::Filter;
use crate::kernel::host::clock;
use crate::worker::Heartbeats;

/// The right to accept new connections, renewed by a thread of its own: it must neither lapse because
/// the daemon is busy nor be kept when an inspector hangs.
pub(super) struct Lease {
    filter: Arc<Filter>,
    held: Arc<AtomicBool>,
}

impl Lease {
    /// Takes it for `length` at a time, as long as the inspectors' loops turn.
    pub(super) fn keep(
        filter: Arc<Filter>,
        length: Duration,
        heartbeats: Heartbeats,
    ) -> Result<Self, DaemonError> {
        let held = Arc::new(AtomicBool::new(true));
        let lease = Self {
            filter: Arc::clone(&filter),
            held: Arc::clone(&held),
        };
        let mut healthy = true;
        thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || {
                while held.load(Ordering::Acquire) {
                    let well = heartbeats.all_within(length.max(Duration::from_secs(1)));
                    if well != healthy {
                        healthy = well;
                        tracing::error!(well, "an inspector hangs, or answers again");
                    }
                    let until = Duration::from_nanos(clock::monotonic_ns()) + length;
                    if well && let Err(error) = filter.set_lease(until) {
                        tracing::error!("cannot renew the lease: {error}");
                    }
                    thread::sleep(length / 5);
                }
            })
            .map_err(|source| DaemonError::System {
                doing: "start a thread",
                source,
            })?;
        Ok(lease)
    }

    /// Gives it back at once.
    pub(super) fn give_back(self) {
        self.held.store(false, Ordering::Release);
        // The thread may be about to renew it once more; it is only a second or so then.
        thread::sleep(Duration::from_millis(5));
        if let Err(error) = self.filter.set_lease(Duration::ZERO) {
            tracing::error!("cannot give the lease back: {error}");
        }
    }
}
