//! The link addresses of the other members on the back network.
//!
//! The filter writes them into the frames that it sends on. The kernel's own table has them, and the kernel finds them
//! out; it only has to be asked, because no packet of its own goes there.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::error::HostError;
use super::netlink::{Netlink, io as io_error, ip_address};

/// A look at the kernel's neighbour table.
pub struct Neighbours(Netlink);

impl Neighbours {
    /// Opens the kernel's routing socket.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn connect() -> Result<Self, HostError> {
        Ok(Self(Netlink::connect()?))
    }

    /// The link addresses of those of `members` that answer for theirs on interface `index`. Has the kernel look for the
    /// others, and look after those that it has not heard of for a while.
    ///
    /// # Errors
    ///
    /// When the table can't be read.
    pub async fn look(
        &self,
        index: u32,
        members: &[IpAddr],
    ) -> io::Result<HashMap<IpAddr, [u8; 6]>> {
        let handle = self.0.handle().neighbours();
        let all: Vec<NeighbourMessage> = handle
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(io_error)?;
        let mut known = HashMap::new();
        let mut fresh = Vec::new();
        for message in all.into_iter().filter(|m| m.header.ifindex == index) {
            let state = message.header.state;
            let Some((address, mac)) = entry(message) else {
                continue;
            };
            if !matches!(state, NeighbourState::Failed | NeighbourState::Incomplete)
                && let Some(mac) = mac
            {
                known.insert(address, mac);
            }
            if matches!(state, NeighbourState::Reachable | NeighbourState::Permanent) {
                fresh.push(address);
            }
        }
        for member in members.iter().filter(|member| !fresh.contains(member)) {
            let request = handle
                .add(index, *member)
                .state(NeighbourState::None)
                .flags(NeighbourFlags::Use)
                .replace();
            if let Err(error) = request.execute().await {
                tracing::debug!(%member, %error, "cannot have the kernel look for a member");
            }
        }
        known.retain(|address, _| members.contains(address));
        Ok(known)
    }
}

/// The address that an entry is for, and the link address if it has one.
fn entry(message: NeighbourMessage) -> Option<(IpAddr, Option<[u8; 6]>)> {
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(found) => address = ip_address(&found),
            NeighbourAttribute::LinkLayerAddress(found) => mac = found.try_into().ok(),
            _ => {}
        }
    }
    Some((address?, mac))
}
