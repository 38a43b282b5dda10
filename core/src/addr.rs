//! Addresses and the flow key, in the one layout that the kernel's maps and user space share.
//!
//! Both address families fit one 16-byte type: an IPv4 address is held as the IPv4-mapped IPv6
//! address `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2), so an IPv4 flow and an IPv6 flow have the same key
//! layout and never compare equal.

use core::cmp::Ordering;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first twelve bytes of an IPv4-mapped IPv6 address, in words.
const V4_PREFIX: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

/// An IPv4 or IPv6 address.
///
/// The order of two addresses is that of their 16 bytes. It is the order that breaks ties on the
/// [ring](crate::ring). `Addr::default()` is the unspecified IPv6 address `::`.
///
/// In memory: 16 bytes in network order. Held as words, because eBPF code would move single bytes one by one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Addr([u32; 4]);

const _: () = assert!(size_of::<Addr>() == 16 && align_of::<Addr>() == 4);

impl Addr {
    /// The IPv4 address with these octets, first octet first.
    #[inline]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c] = V4_PREFIX;
        Self([a, b, c, u32::from_ne_bytes(octets)])
    }

    /// The IPv6 address with these octets, first octet first.
    ///
    /// An IPv4-mapped address is the IPv4 address it maps.
    #[inline]
    pub const fn v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    /// The IPv6 address with these words, as they are in memory.
    ///
    /// An IPv4-mapped address is the IPv4 address it maps.
    #[inline]
    pub const fn of_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The sixteen bytes as words, as they are in memory.
    #[inline]
    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    /// Whether this is an IPv4 address.
    #[inline]
    pub const fn is_v4(&self) -> bool {
        let ([a, b, c], [p, q, r, _]) = (V4_PREFIX, self.0);
        a == p && b == q && c == r
    }

    /// The sixteen bytes of the shared layout, whichever the family.
    #[inline]
    pub const fn bytes16(&self) -> [u8; 16] {
        let [p, q, r, s] = self.0;
        let [a, b, c, d] = p.to_ne_bytes();
        let [e, f, g, h] = q.to_ne_bytes();
        let [i, j, k, l] = r.to_ne_bytes();
        let [m, n, o, p] = s.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The sixteen bytes as two words, each with its first byte lowest: as a hash takes them.
    #[inline]
    pub const fn words_le(&self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [pair_le(a, b), pair_le(c, d)]
    }

    /// The last four bytes: the octets of an address that is known to be IPv4.
    #[inline]
    pub const fn v4_tail(&self) -> [u8; 4] {
        let [.., last] = self.0;
        last.to_ne_bytes()
    }

    /// The four octets of an IPv4 address; `None` for IPv6.
    #[inline]
    pub const fn v4_octets(&self) -> Option<[u8; 4]> {
        if self.is_v4() {
            Some(self.v4_tail())
        } else {
            None
        }
    }
}

/// Two words of memory as one number, the first byte lowest.
const fn pair_le(first: u32, second: u32) -> u64 {
    u32::from_le(first) as u64 | (u32::from_le(second) as u64) << 32
}

impl Ord for Addr {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes16().cmp(&other.bytes16())
    }
}

impl PartialOrd for Addr {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(addr: Ipv4Addr) -> Self {
        Self::v4(addr.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(addr: Ipv6Addr) -> Self {
        Self::v6(addr.octets())
    }
}

impl From<IpAddr> for Addr {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        match addr.v4_octets() {
            Some(octets) => IpAddr::V4(octets.into()),
            None => IpAddr::V6(addr.bytes16().into()),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What identifies a connection: the quadruple of DTS §2.4, seen from the node.
///
/// The ports are numbers in the host's byte order, the addresses bytes in network order. The layout
/// has no padding, so the 36 bytes can be a map key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FlowKey {
    /// The client's address.
    pub remote: Addr,
    /// The service's address (the VIP).
    pub local: Addr,
    /// The client's port.
    pub remote_port: u16,
    /// The service's port.
    pub local_port: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 2 * size_of::<Addr>() + 2 * size_of::<u16>());

impl fmt::Display for FlowKey {
    /// `remote -> local`, each as an address and port in the usual notation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote = core::net::SocketAddr::new(self.remote.into(), self.remote_port);
        let local = core::net::SocketAddr::new(self.local.into(), self.local_port);
        write!(f, "{remote} -> {local}")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ipv4_address_is_held_mapped() {
        let addr = Addr::v4([198, 18, 0, 100]);
        assert!(addr.is_v4());
        assert_eq!(addr.v4_octets(), Some([198, 18, 0, 100]));
        assert_eq!(
            addr.bytes16(),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 18, 0, 100]
        );
        assert_eq!(format!("{addr:?}"), "198.18.0.100");
    }

    #[test]
    fn an_ipv6_address_is_no_ipv4_address() {
        let addr = Addr::from("2001:db8::1".parse::<Ipv6Addr>().unwrap());
        assert!(!addr.is_v4());
        assert_eq!(addr.v4_octets(), None);
        assert_eq!(format!("{addr:?}"), "2001:db8::1");
        assert!(!Addr::default().is_v4());
    }

    #[test]
    fn a_flow_prints_like_two_socket_addresses() {
        let flow = FlowKey {
            remote: Addr::v4([198, 18, 0, 200]),
            local: Addr::v6(Ipv6Addr::LOCALHOST.octets()),
            remote_port: 40000,
            local_port: 80,
        };
        assert_eq!(format!("{flow}"), "198.18.0.200:40000 -> [::1]:80");
    }

    proptest! {
        #[test]
        fn every_address_survives_the_round_trip(addr: IpAddr) {
            prop_assert_eq!(IpAddr::from(Addr::from(addr)), addr.to_canonical());
        }

        #[test]
        fn the_order_is_that_of_the_addresses(a: Ipv4Addr, b: Ipv4Addr) {
            prop_assert_eq!(Addr::from(a).cmp(&Addr::from(b)), a.cmp(&b));
        }
    }
}
