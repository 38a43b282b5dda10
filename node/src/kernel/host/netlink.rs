//! The kernel's routing socket, as far as a node needs it.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::error::HostError;
use super::interfaces::{Interface, Mac};
use super::view::{Address, Link, Neighbour, Route};

/// The length of a prefix that is this one address, in bits.
pub(super) const fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// A connection to the routing socket. Removing what is not there is no error.
pub(super) struct Netlink(Handle);

impl Netlink {
    pub(super) fn connect() -> Result<Self, HostError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(HostError::kernel("open the kernel's routing socket"))?;
        // Ends with the last handle.
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.0
    }

    pub(super) async fn links(&self) -> io::Result<Vec<Link>> {
        let links: Vec<_> = self
            .0
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(io)?;
        Ok(links.into_iter().filter_map(link).collect())
    }

    /// The host's addresses.
    pub(super) async fn addresses(&self) -> io::Result<Vec<Address>> {
        let request = self.0.address().get();
        let addresses: Vec<_> = request.execute().try_collect().await.map_err(io)?;
        Ok(addresses.into_iter().filter_map(address).collect())
    }

    /// The host's permanent neighbour entries.
    pub(super) async fn permanent_neighbours(&self) -> io::Result<Vec<Neighbour>> {
        let request = self.0.neighbours().get();
        let neighbours: Vec<_> = request.execute().try_collect().await.map_err(io)?;
        Ok(neighbours.into_iter().filter_map(neighbour).collect())
    }

    /// The entry of the routing tables that matches packets to `destination`.
    pub(super) async fn route_to(&self, destination: IpAddr) -> io::Result<Option<Route>> {
        let mut message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination, host_prefix(destination))
            .map_err(io::Error::other)?
            .build();
        message.header.flags = RouteFlags::FibMatch;
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        let mut routes = std::pin::pin!(self.0.route().get(message).execute());
        match routes.try_next().await.map_err(io) {
            Ok(found) => Ok(found.map(route)),
            // No route, or one that says "unreachable", "prohibit" or "blackhole".
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Adds an address that is of interest to this host alone: it is not chosen as a source. With IPv6 that is what
    /// "deprecated" says (RFC 6724 §5, rule 3).
    pub(super) async fn add_host_address(
        &self,
        interface: &Interface,
        address: IpAddr,
    ) -> io::Result<()> {
        let addresses = self.0.address();
        let mut request = addresses.add(interface.index, address, host_prefix(address));
        let message = request.message_mut();
        match address {
            IpAddr::V4(_) => message.header.scope = AddressScope::Host,
            IpAddr::V6(_) => {
                let mut lifetimes = CacheInfo::default();
                (lifetimes.ifa_valid, lifetimes.ifa_preferred) = (u32::MAX, 0);
                // Every node has it: there is nothing to detect duplicates for, and no network behind `lo`.
                let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
                let attributes = &mut message.attributes;
                attributes.push(AddressAttribute::Flags(flags));
                attributes.push(AddressAttribute::CacheInfo(lifetimes));
            }
        }
        request.execute().await.map_err(io)
    }

    pub(super) async fn remove_address(
        &self,
        interface: &Interface,
        address: IpAddr,
    ) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = host_prefix(address);
        message.header.index = interface.index;
        message.attributes = vec![
            AddressAttribute::Local(address),
            AddressAttribute::Address(address),
        ];
        let removed = self.0.address().del(message).execute().await;
        unless(libc::EADDRNOTAVAIL, removed.map_err(io))
    }

    /// Adds a route to one host that is directly reachable.
    pub(super) async fn add_route(
        &self,
        destination: IpAddr,
        interface: &Interface,
        source: IpAddr,
    ) -> io::Result<()> {
        let message = host_route(destination, interface, source)?;
        self.0.route().add(message).execute().await.map_err(io)
    }

    pub(super) async fn remove_route(
        &self,
        destination: IpAddr,
        interface: &Interface,
        source: IpAddr,
    ) -> io::Result<()> {
        let message = host_route(destination, interface, source)?;
        let removed = self.0.route().del(message).execute().await;
        unless(libc::ESRCH, removed.map_err(io))
    }

    /// Adds a permanent entry, in place of one that the kernel has learnt.
    pub(super) async fn add_neighbour(
        &self,
        address: IpAddr,
        interface: &Interface,
        mac: Mac,
    ) -> io::Result<()> {
        let neighbours = self.0.neighbours();
        let request = neighbours
            .add(interface.index, address)
            .link_layer_address(&mac.0)
            .state(NeighbourState::Permanent)
            .replace();
        request.execute().await.map_err(io)
    }

    pub(super) async fn remove_neighbour(
        &self,
        address: IpAddr,
        interface: &Interface,
    ) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = interface.index;
        let destination = match address {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        };
        message.attributes = vec![NeighbourAttribute::Destination(destination)];
        let removed = self.0.neighbours().del(message).execute().await;
        unless(libc::ENOENT, removed.map_err(io))
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Both addresses are of one family.
fn host_route(
    destination: IpAddr,
    interface: &Interface,
    source: IpAddr,
) -> io::Result<RouteMessage> {
    Ok(RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination, host_prefix(destination))
        .map_err(io::Error::other)?
        .output_interface(interface.index)
        .pref_source(source)
        .map_err(io::Error::other)?
        .scope(RouteScope::Link)
        .protocol(RouteProtocol::Static)
        .build())
}

fn link(message: LinkMessage) -> Option<Link> {
    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut name = None;
    let mut mac = None;
    let mut controller = None;
    let mut mtu = 0;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name = Some(found),
            LinkAttribute::Address(found) => mac = found.try_into().ok().map(Mac),
            LinkAttribute::Controller(found) => controller = Some(found),
            LinkAttribute::Mtu(found) => mtu = found,
            _ => {}
        }
    }
    Some(Link {
        interface: Interface {
            name: name?,
            index: message.header.index,
        },
        mtu,
        ethernet: mac.filter(|_| is_ethernet),
        up: message.header.flags.contains(LinkFlags::Up),
        controller,
    })
}

fn address(message: AddressMessage) -> Option<Address> {
    // IFA_ADDRESS is the other end's on a point-to-point interface. Otherwise IPv6 has nothing else.
    let (mut local, mut address) = (None, None);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(found) => local = Some(found),
            AddressAttribute::Address(found) => address = Some(found),
            _ => {}
        }
    }
    Some(Address {
        index: message.header.index,
        address: local.or(address)?,
        prefix: message.header.prefix_len,
    })
}

fn neighbour(message: NeighbourMessage) -> Option<Neighbour> {
    let mut address = None;
    let mut mac = None;
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(found) => address = ip_address(&found),
            NeighbourAttribute::LinkLayerAddress(found) => mac = found.try_into().ok().map(Mac),
            _ => {}
        }
    }
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    Some(Neighbour {
        index: message.header.ifindex,
        address: address?,
        mac: mac?,
    })
}

/// A neighbour's IP address; `None` when its address is of another kind.
pub(super) fn ip_address(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn route(message: RouteMessage) -> Route {
    let mut table = u32::from(message.header.table);
    let mut index = None;
    let mut source = None;
    let mut gateway = false;
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Table(found) => table = found,
            RouteAttribute::Oif(found) => index = Some(found),
            RouteAttribute::PrefSource(RouteAddress::Inet(found)) => source = Some(found.into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(found)) => source = Some(found.into()),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => gateway = true,
            _ => {}
        }
    }
    let unicast = message.header.kind == RouteType::Unicast;
    Route {
        prefix: message.header.destination_prefix_length,
        direct: unicast && !gateway && table == u32::from(RouteHeader::RT_TABLE_MAIN),
        special: !unicast,
        index,
        source,
    }
}

/// The error without its wrapping.
pub(super) fn io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

/// For a removal: that there was nothing to remove is fine.
fn unless(absent: i32, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(absent) => Ok(()),
        other => other,
    }
}
