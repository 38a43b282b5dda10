//! The host as it was found.

use std::net::IpAddr;

use super::error::HostError;
use super::interfaces::{Interface, Mac};
use super::multicast;
use super::netlink::Netlink;

/// What of the host matters to a node, read once: plans are made from it.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    /// Permanent neighbour entries only: the kernel makes and drops the others as it likes.
    pub(super) neighbours: Vec<Neighbour>,
    /// Interface index and group.
    pub(super) memberships: Vec<(u32, Mac)>,
    /// The route that packets to the self address take, if it was asked for and there is one.
    pub(super) self_route: Option<Route>,
}

/// An interface.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) interface: Interface,
    /// Its maximum transmission unit, in bytes.
    pub(super) mtu: u32,
    /// Its Ethernet address, if it has one.
    pub(super) ethernet: Option<Mac>,
    pub(super) up: bool,
    /// The index of the bridge, bond or the like that it belongs to.
    pub(super) controller: Option<u32>,
}

/// An address of this host.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// The interface's.
    pub(super) index: u32,
    pub(super) address: IpAddr,
    /// In bits.
    pub(super) prefix: u8,
}

/// A permanent neighbour entry.
#[derive(Clone, Debug)]
pub(super) struct Neighbour {
    /// The interface's.
    pub(super) index: u32,
    pub(super) address: IpAddr,
    pub(super) mac: Mac,
}

/// A route, as far as it matters here.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// In bits.
    pub(super) prefix: u8,
    /// To another host, in the main table, without a gateway.
    pub(super) direct: bool,
    /// To this host itself, or all of a network, or a group.
    pub(super) special: bool,
    /// The interface's.
    pub(super) index: Option<u32>,
    pub(super) source: Option<IpAddr>,
}

impl View {
    /// Reads it, with the route to `self_address` if one is given.
    pub(super) async fn read(
        netlink: &Netlink,
        self_address: Option<IpAddr>,
    ) -> Result<Self, HostError> {
        let self_route = match self_address {
            Some(address) => netlink
                .route_to(address)
                .await
                .map_err(HostError::kernel(format!("look up the route to {address}")))?,
            None => None,
        };
        Ok(Self {
            links: netlink
                .links()
                .await
                .map_err(HostError::kernel("list the interfaces"))?,
            addresses: netlink
                .addresses()
                .await
                .map_err(HostError::kernel("list the addresses"))?,
            neighbours: netlink
                .permanent_neighbours()
                .await
                .map_err(HostError::kernel("list the neighbour entries"))?,
            memberships: multicast::memberships()
                .map_err(HostError::kernel("list the multicast groups"))?,
            self_route,
        })
    }

    pub(super) fn addresses_of(&self, interface: &Interface) -> impl Iterator<Item = &Address> {
        let index = interface.index;
        let addresses = self.addresses.iter();
        addresses.filter(move |found| found.index == index)
    }

    /// The permanent entry's link address.
    pub(super) fn neighbour(&self, interface: &Interface, address: IpAddr) -> Option<Mac> {
        let mut neighbours = self.neighbours.iter();
        let found =
            neighbours.find(|found| found.index == interface.index && found.address == address);
        found.map(|found| found.mac)
    }

    /// For messages.
    pub(super) fn name_of(&self, index: u32) -> String {
        let mut links = self.links.iter();
        links
            .find(|link| link.interface.index == index)
            .map_or_else(
                || format!("interface {index}"),
                |link| link.interface.name.clone(),
            )
    }
}
