//! Membership in link-layer multicast groups: the network card lets a group's frames pass.
//!
//! The kernel has a request for this that outlives the process, `SIOCADDMULTI` (`ip maddress add`
//! uses it). It counts one such member per group and interface, whoever it was.

use std::fs;
use std::io;

use rustix::ioctl::{Opcode, Setter, ioctl};
use rustix::net::{AddressFamily, SocketType, socket};

use super::interfaces::{Interface, Mac};

/// The groups, of the calling thread's network namespace: `/proc/net` would be the first thread's.
const MEMBERSHIPS: &str = "/proc/thread-self/net/dev_mcast";

/// Joins a group. No error if somebody did before.
pub(super) fn join(interface: &Interface, group: Mac) -> io::Result<()> {
    // SAFETY: SIOCADDMULTI takes a pointer to a `struct ifreq` with name and link address set,
    // which it only reads.
    let request =
        unsafe { Setter::<{ libc::SIOCADDMULTI as Opcode }, _>::new(ifreq(interface, group)?) };
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: as above; any socket will do.
    Ok(unsafe { ioctl(socket, request) }?)
}

/// Leaves a group; `NotFound` if nobody had joined.
pub(super) fn leave(interface: &Interface, group: Mac) -> io::Result<()> {
    // SAFETY: SIOCDELMULTI takes a pointer to a `struct ifreq` with name and link address set,
    // which it only reads.
    let request =
        unsafe { Setter::<{ libc::SIOCDELMULTI as Opcode }, _>::new(ifreq(interface, group)?) };
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: as above; any socket will do.
    Ok(unsafe { ioctl(socket, request) }?)
}

/// The memberships that were made with `SIOCADDMULTI`: interface index and group.
pub(super) fn memberships() -> io::Result<Vec<(u32, Mac)>> {
    Ok(parse_memberships(&fs::read_to_string(MEMBERSHIPS)?))
}

fn ifreq(interface: &Interface, group: Mac) -> io::Result<libc::ifreq> {
    let mut address = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    for (to, from) in address.sa_data.iter_mut().zip(group.0) {
        *to = from as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_hwaddr: address,
        },
    };
    let name = interface.name.as_bytes();
    // The last byte ends the name.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    Ok(request)
}

/// Lines of "index name users members address"; members is 1 or 0. Addresses that aren't Ethernet's
/// are passed over.
fn parse_memberships(text: &str) -> Vec<(u32, Mac)> {
    let parse = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [index, _, _, members, address] = fields[..] else {
            return None;
        };
        let mut group = Mac([0; 6]);
        hex::decode_to_slice(address, &mut group.0).ok()?;
        (members != "0").then_some((index.parse().ok()?, group))
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_list() {
        // /proc/net/dev_mcast after `ip maddress add 03:bf:c6:12:00:64 dev eth0`, and a line for
        // an interface with longer addresses.
        let text = "\
2    f0              1     0     333300000001
3    eth0            1     0     333300000001
3    eth0            1     1     03bfc6120064
4    ib0             1     1     00ffffffff12401bffff00000000000000000001
";
        let group = Mac([0x03, 0xbf, 0xc6, 0x12, 0, 0x64]);
        assert_eq!(parse_memberships(text), [(3, group)]);
    }
}
