//! The entries of a flow, and the service of a port.

use dts_core::{
    addr::{Addr, FlowKey},
    entry::{
        ConnEntry, ConnKey, NodeSettings, PeerKey, RECENT_SERVICES as RECENT, RecentService,
        ServiceEntry, role,
    },
};

use crate::maps::{CONNECTIONS, PEERS, RECENT_SERVICES, SERVICES, SPLICED};

/// The entry of a flow in one role.
#[inline(never)]
pub fn entry(flow: &FlowKey, role: u32) -> Option<&'static mut ConnEntry> {
    let entry = CONNECTIONS.get_ptr_mut(&ConnKey { flow: *flow, role })?;
    // SAFETY: a map value stays valid for the program's run. Another CPU may write to it at the same
    // time: the fields are words that are written whole, and TCP puts right what a lost update shows.
    Some(unsafe { &mut *entry })
}

/// Forgets a flow's processing entry and the handover connection that led to it.
#[inline(always)]
pub fn forget_processing(flow: &FlowKey, entry: &ConnEntry) {
    forget_peer(flow, entry);
    let _ = CONNECTIONS.remove(&ConnKey {
        flow: *flow,
        role: role::PROCESSING,
    });
}

/// Forgets the handover connection of an entry, unless its port serves another flow by now.
#[inline(always)]
pub fn forget_peer(flow: &FlowKey, entry: &ConnEntry) {
    let key = PeerKey {
        peer: entry.peer,
        port: entry.peer_port.into(),
    };
    if let Some(of) = PEERS.get_ptr(&key) {
        // SAFETY: a map value stays valid for the program's run.
        if unsafe { *of } == *flow {
            let _ = PEERS.remove(&key);
        }
    }
}

/// Counts that a connection began to be spliced. After its entry was made.
#[inline(always)]
pub fn count_spliced() {
    if let Some(count) = SPLICED.get_ptr_mut(0) {
        // SAFETY: a map value stays valid. Of two that count at once, one is enough: the value has changed.
        unsafe { *count = (*count).wrapping_add(1) };
    }
}

/// The service that an address and port belong to.
#[inline(always)]
pub fn service(settings: &NodeSettings, vip: &Addr, port: u16) -> Option<&'static ServiceEntry> {
    let recent = RECENT_SERVICES.get_ptr_mut(u32::from(port) % RECENT)?;
    // SAFETY: this CPU's value, which only one program run at a time uses: see `frame::options`.
    let recent = unsafe { &mut *recent };
    let epoch = settings.services_epoch;
    if recent.key.vip != *vip || recent.key.port != port.into() || recent.epoch != epoch {
        recent.key.vip = *vip;
        recent.key.port = port.into();
        look_up_service(recent, epoch)?;
    }
    Some(&recent.entry)
}

/// Fills in what is known of the service with the key in `recent`.
#[inline(never)]
fn look_up_service(recent: &mut RecentService, epoch: u32) -> Option<()> {
    // Until it is filled in: an epoch that is over.
    recent.epoch = epoch.wrapping_sub(1);
    let entry = SERVICES.get_ptr(&recent.key)?;
    // SAFETY: as in `entry`; only the daemon writes, and replaces whole values.
    recent.entry = unsafe { *entry };
    recent.epoch = epoch;
    Some(())
}
