//! The kernel's routing socket, as far as a node needs it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
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

/// A prefix of one address, in bits.
const HOST: u8 = 32;

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

    /// The host's IPv4 addresses.
    pub(super) async fn addresses(&self) -> io::Result<Vec<Address>> {
        let mut request = self.0.address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let addresses: Vec<_> = request.execute().try_collect().await.map_err(io)?;
        Ok(addresses.into_iter().filter_map(address).collect())
    }

    /// The host's permanent IPv4 neighbour entries.
    pub(super) async fn permanent_neighbours(&self) -> io::Result<Vec<Neighbour>> {
        let neighbours = self.0.neighbours();
        let request = neighbours.get().set_address_family(AddressFamily::Inet);
        let neighbours: Vec<_> = request.execute().try_collect().await.map_err(io)?;
        Ok(neighbours.into_iter().filter_map(neighbour).collect())
    }

    /// The entry of the routing tables that matches packets to `destination`.
    pub(super) async fn route_to(&self, destination: Ipv4Addr) -> io::Result<Option<Route>> {
        let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(destination, HOST)
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

    /// Adds an address that is of interest to this host alone: it is not chosen as a source.
    pub(super) async fn add_host_address(
        &self,
        interface: &Interface,
        address: Ipv4Addr,
    ) -> io::Result<()> {
        let addresses = self.0.address();
        let mut request = addresses.add(interface.index, IpAddr::V4(address), HOST);
        request.message_mut().header.scope = AddressScope::Host;
        request.execute().await.map_err(io)
    }

    pub(super) async fn remove_address(
        &self,
        interface: &Interface,
        address: Ipv4Addr,
    ) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = HOST;
        message.header.index = interface.index;
        let address = IpAddr::V4(address);
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
        destination: Ipv4Addr,
        interface: &Interface,
        source: Ipv4Addr,
    ) -> io::Result<()> {
        let message = host_route(destination, interface, source);
        self.0.route().add(message).execute().await.map_err(io)
    }

    pub(super) async fn remove_route(
        &self,
        destination: Ipv4Addr,
        interface: &Interface,
        source: Ipv4Addr,
    ) -> io::Result<()> {
        let message = host_route(destination, interface, source);
        let removed = self.0.route().del(message).execute().await;
        unless(libc::ESRCH, removed.map_err(io))
    }

    /// Adds a permanent entry, in place of one that the kernel has learnt.
    pub(super) async fn add_neighbour(
        &self,
        address: Ipv4Addr,
        interface: &Interface,
        mac: Mac,
    ) -> io::Result<()> {
        let neighbours = self.0.neighbours();
        let request = neighbours
            .add(interface.index, IpAddr::V4(address))
            .link_layer_address(&mac.0)
            .state(NeighbourState::Permanent)
            .replace();
        request.execute().await.map_err(io)
    }

    pub(super) async fn remove_neighbour(
        &self,
        address: Ipv4Addr,
        interface: &Interface,
    ) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = interface.index;
        let destination = NeighbourAttribute::Destination(NeighbourAddress::Inet(address));
        message.attributes = vec![destination];
        let removed = self.0.neighbours().del(message).execute().await;
        unless(libc::ENOENT, removed.map_err(io))
    }
}

fn host_route(destination: Ipv4Addr, interface: &Interface, source: Ipv4Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(destination, HOST)
        .output_interface(interface.index)
        .pref_source(source)
        .scope(RouteScope::Link)
        .protocol(RouteProtocol::Static)
        .build()
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
    // IFA_ADDRESS is the other end's on a point-to-point interface.
    let own = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
    Some(Address {
        index: message.header.index,
        address: own?,
        prefix: message.header.prefix_len,
    })
}

fn neighbour(message: NeighbourMessage) -> Option<Neighbour> {
    let mut address = None;
    let mut mac = None;
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(found),
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

fn route(message: RouteMessage) -> Route {
    let mut table = u32::from(message.header.table);
    let mut index = None;
    let mut source = None;
    let mut gateway = false;
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Table(found) => table = found,
            RouteAttribute::Oif(found) => index = Some(found),
            RouteAttribute::PrefSource(RouteAddress::Inet(found)) => source = Some(found),
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
