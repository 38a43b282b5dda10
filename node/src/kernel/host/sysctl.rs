//! Settings of an interface's IPv4.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A setting that DTS changes. For both the kernel takes the larger of the interface's value and
/// that of `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Key {
    /// Which addresses ARP requests are answered for.
    ArpIgnore,
    /// Which addresses ARP requests are sent with.
    ArpAnnounce,
}

impl Key {
    pub(super) const ALL: [Self; 2] = [Self::ArpIgnore, Self::ArpAnnounce];

    /// The smallest value that keeps VIPs on `lo` out of ARP.
    pub(super) fn minimum(self) -> i32 {
        match self {
            // Only for addresses of the interface that the request came to.
            Self::ArpIgnore => 1,
            // Only with addresses of the interface that the request leaves by.
            Self::ArpAnnounce => 2,
        }
    }

    /// The value of an interface, by name, or of `all`.
    pub(super) fn read(self, interface: &str) -> io::Result<i32> {
        let text = fs::read_to_string(self.path(interface))?;
        let value = text.trim().parse();
        value.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    pub(super) fn write(self, interface: &str, value: i32) -> io::Result<()> {
        fs::write(self.path(interface), value.to_string())
    }

    /// Not `net.ipv4.conf.eth0.arp_ignore`: names of interfaces may have dots in them.
    pub(super) fn path(self, interface: &str) -> PathBuf {
        ["/proc/sys/net/ipv4/conf", interface, &self.to_string()]
            .iter()
            .collect()
    }
}

/// Whether an interface takes no IPv6 packets (`disable_ipv6`). A kernel without IPv6 has no such setting.
pub(super) fn ipv6_is_off(interface: &str) -> bool {
    let path: PathBuf = ["/proc/sys/net/ipv6/conf", interface, "disable_ipv6"]
        .iter()
        .collect();
    fs::read_to_string(path).map_or(true, |text| text.trim() != "0")
}

/// Whether an interface's reverse path filter is strict (`rp_filter` 1, of the interface or of all). A setting that can't
/// be read is taken to be.
pub(super) fn reverse_path_is_strict(interface: &str) -> bool {
    let of = |name: &str| {
        let path: PathBuf = ["/proc/sys/net/ipv4/conf", name, "rp_filter"]
            .iter()
            .collect();
        fs::read_to_string(path).ok()?.trim().parse::<i32>().ok()
    };
    match (of("all"), of(interface)) {
        (Some(all), Some(own)) => all.max(own) == 1,
        _ => true,
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ArpIgnore => "arp_ignore",
            Self::ArpAnnounce => "arp_announce",
        })
    }
}
