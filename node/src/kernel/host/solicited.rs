//! Membership in the groups that neighbour solicitations for IPv6 VIPs go to, told to the network (MLD, RFC 3810).
//!
//! The network card needs no more than the [set-up](super) has it do. But a switch that looks into MLD (snooping) sends a
//! group's packets only where somebody has said to be a member, and the kernel says so for a socket, as long as there is
//! one: as long as the daemon runs. One node's is enough for a VIP to be found.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use socket2::{Domain, Socket, Type};

/// The memberships of a daemon. They end with this value.
#[derive(Debug, Default)]
pub struct Solicited {
    /// There is one once there is something to be a member of: a kernel may be without IPv6.
    socket: Option<Socket>,
    /// Interface index and group.
    joined: HashSet<(u32, Ipv6Addr)>,
}

impl Solicited {
    /// Joins the groups of those of `vips` that are of IPv6, on interface `front`, and leaves all others.
    ///
    /// # Errors
    ///
    /// When the kernel refuses one; the others are joined all the same.
    pub fn follow(&mut self, front: u32, vips: &[IpAddr]) -> io::Result<()> {
        let wanted: HashSet<_> = vips
            .iter()
            .filter_map(|vip| match vip {
                IpAddr::V4(_) => None,
                IpAddr::V6(vip) => Some((front, group(*vip))),
            })
            .collect();
        if wanted == self.joined {
            return Ok(());
        }
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => Socket::new(Domain::IPV6, Type::DGRAM, None)?,
        };
        let socket = self.socket.insert(socket);
        for (index, group) in self.joined.difference(&wanted) {
            // The interface may be gone, and the membership with it.
            let _ = socket.leave_multicast_v6(group, *index);
        }
        self.joined.retain(|joined| wanted.contains(joined));
        let mut result = Ok(());
        for (index, group) in wanted {
            if self.joined.contains(&(index, group)) {
                continue;
            }
            match socket.join_multicast_v6(&group, index) {
                Ok(()) => drop(self.joined.insert((index, group))),
                Err(error) => result = Err(error),
            }
        }
        result
    }
}

/// The solicited-node address of an address (RFC 4291 §2.7.1).
fn group(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_named_by_three_bytes() {
        let found = group("2001:db8::12:3456".parse().unwrap());
        assert_eq!(found.to_string(), "ff02::1:ff12:3456");
    }
}
