//! What the daemon sets up on its host, and how it puts everything back.
//!
//! A node of a cluster needs, besides the filter (DTS §1, §2.1):
//!
//! | What | Why |
//! |---|---|
//! | the VIPs on `lo`, scope *host*; those of IPv6 deprecated, without duplicate address detection | the kernel accepts what the filter lets through, and never takes a VIP as the source of other traffic |
//! | `arp_ignore` 1, `arp_announce` 2 on front and back | the kernel ties no VIP to this node's own link address; set per interface, because `all` would change interfaces that are none of our business. IPv6 needs nothing: neighbour discovery speaks for an interface's own addresses only |
//! | membership of 03:bf:*VIP* on the front (the last four bytes of an IPv6 address), for IPv6 also of 33:33:ff:*the last three* | the network card lets the clients' frames pass, and their neighbour solicitations; it stays when the daemon dies |
//! | a route and a permanent neighbour entry for the self address, with the back's own link address | a handover to this node itself leaves and arrives at the back like any other; because the route leads to the back, `rp_filter` accepts the answers |
//!
//! Whatever is changed is first noted in a state file, so that [`Host::restore`] can undo it in
//! another process and after a crash. What was found in place is never noted, and so never removed.
//! Values that were changed keep their first note: applying again, with another configuration or
//! after a crash, does not forget what they were before the first time.
//!
//! All of this acts on the network namespace of the calling thread, which must be every thread's of
//! the runtime.

mod bpf;
mod change;
pub mod clock;
mod error;
mod interfaces;
mod multicast;
pub mod neighbours;
mod netlink;
mod plan;
mod privileges;
mod solicited;
mod state;
mod sysctl;
mod view;

use std::net::IpAddr;
use std::path::Path;

pub use self::bpf::prepare_bpf;
pub use self::error::HostError;
pub use self::interfaces::Role;
pub use self::privileges::require_privileges;
pub use self::solicited::Solicited;

use self::interfaces::Interfaces;
use self::netlink::Netlink;
use self::plan::{Plan, refuse_conflicts, wanted};
use self::state::State;
use self::view::View;

/// What a host must be set up for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    /// The interface to the clients' network.
    pub front: String,
    /// The interface to the intra-cluster network; may be the same as `front`.
    pub back: String,
    /// This node's address on `back`. It is expected there, not added.
    pub address: IpAddr,
    /// The address that stands for this node when it hands a connection to itself; of the same family.
    pub self_address: IpAddr,
    /// The shared addresses. One that is left out when applying again is removed.
    pub vips: Vec<IpAddr>,
}

/// What [`Host::apply`] found out about the interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The front's interface index.
    pub front_index: u32,
    /// The back's interface index.
    pub back_index: u32,
    /// The front's own link address.
    pub front_mac: [u8; 6],
    /// The back's own link address.
    pub back_mac: [u8; 6],
    /// The front's maximum transmission unit, in bytes.
    pub front_mtu: u32,
    /// The back's.
    pub back_mtu: u32,
    /// Whether the back's reverse path filter is strict: it drops what the clients have sent.
    pub strict_back: bool,
}

/// The host that this process runs on.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl Host {
    /// Finds the interfaces of `spec` and changes nothing: the filter can be told about them, and be
    /// attached, before the VIPs are there.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply)'s about interfaces and addresses.
    pub async fn find(spec: &HostSpec) -> Result<Applied, HostError> {
        let netlink = Netlink::connect()?;
        let view = View::read(&netlink, Some(spec.self_address)).await?;
        Ok(applied(&Interfaces::find(spec, &view)?))
    }

    /// Sets the host up for `spec`, and undoes what `state_file` has noted and `spec` no longer
    /// asks for.
    ///
    /// Can be repeated at any time: what is in place stays as it is, and what got lost (an
    /// interface that goes down loses its routes and neighbour entries) is put back.
    ///
    /// # Errors
    ///
    /// An interface that is missing, down or unfit, an address that is not where it should be, and
    /// whatever keeps the host from being changed. The former are found before anything is changed;
    /// what had been changed before one of the latter is noted in `state_file`.
    pub async fn apply(spec: &HostSpec, state_file: &Path) -> Result<Applied, HostError> {
        let netlink = Netlink::connect()?;
        let view = View::read(&netlink, Some(spec.self_address)).await?;
        let interfaces = Interfaces::find(spec, &view)?;
        let mut state = State::load(state_file)?;
        state.follow_interfaces(&view.links);
        refuse_conflicts(spec, &interfaces, &view, &state.changes)?;

        let Plan { undo, note, make } = Plan::new(wanted(spec, &interfaces, &view)?, state.changes);
        for change in undo.iter().rev() {
            change.undo(&netlink, &view).await?;
        }
        State { changes: note }.save(state_file)?;
        for change in &make {
            tracing::debug!(%change, "setting up the host");
            change.make(&netlink).await?;
        }
        Ok(applied(&interfaces))
    }

    /// Undoes everything that `state_file` has noted and removes the file. Without such a file
    /// there is nothing to do; an interface that is gone took its settings with it.
    ///
    /// A setting that somebody else has changed since is left alone.
    ///
    /// # Errors
    ///
    /// Undoes as much as it can and reports all failures together in [`HostError::Restore`]; what
    /// failed remains noted, for another try.
    pub async fn restore(state_file: &Path) -> Result<(), HostError> {
        let mut state = State::load(state_file)?;
        let mut failures = Vec::new();
        if !state.changes.is_empty() {
            let netlink = Netlink::connect()?;
            let view = View::read(&netlink, None).await?;
            state.follow_interfaces(&view.links);
            let mut failed = Vec::new();
            for change in state.changes.into_iter().rev() {
                tracing::debug!(%change, "putting the host back");
                if let Err(error) = change.undo(&netlink, &view).await {
                    failures.push(error);
                    failed.insert(0, change);
                }
            }
            state = State { changes: failed };
        }
        state.save(state_file)?;
        if failures.is_empty() {
            Ok(())
        } else {
            Err(HostError::Restore {
                state_file: state_file.to_owned(),
                failures,
            })
        }
    }
}

fn applied(interfaces: &Interfaces) -> Applied {
    Applied {
        front_index: interfaces.front.index,
        back_index: interfaces.back.index,
        front_mac: interfaces.front_mac.0,
        back_mac: interfaces.back_mac.0,
        front_mtu: interfaces.front_mtu,
        back_mtu: interfaces.back_mtu,
        strict_back: sysctl::reverse_path_is_strict(&interfaces.back.name),
    }
}
