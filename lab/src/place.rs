//! A lab's places and networks: their names, their addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A namespace of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    /// The two bridges.
    Hub,
    /// A client, counted from 1.
    Client(u8),
    /// A node, counted from 1.
    Node(u8),
}

/// One of the lab's two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Clients and nodes: `eth0` everywhere.
    Front,
    /// Nodes only: `eth1`.
    Back,
}

/// An address family.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

impl Place {
    /// The place's IPv4 address on `network`, if it is connected to it.
    pub fn address(self, network: Network) -> Option<Ipv4Addr> {
        match (self, network) {
            (Place::Node(i), Network::Front) => Some(Ipv4Addr::new(198, 18, 0, 10 + i)),
            (Place::Node(i), Network::Back) => Some(Ipv4Addr::new(198, 18, 1, 10 + i)),
            (Place::Client(j), Network::Front) => Some(Ipv4Addr::new(198, 18, 0, 200 + j)),
            (Place::Client(_), Network::Back) | (Place::Hub, _) => None,
        }
    }

    /// The place's address on `network` in a lab with IPv6: the IPv4 address's last number is written as its last group.
    pub fn address_v6(self, network: Network) -> Option<Ipv6Addr> {
        let [.., host] = self.address(network)?.octets();
        let subnet = match network {
            Network::Front => 0,
            Network::Back => 1,
        };
        Some(Ipv6Addr::new(
            0x2001,
            0xdb8,
            subnet,
            0,
            0,
            0,
            0,
            as_written(host),
        ))
    }

    /// The place's address of one family.
    pub fn address_of(self, family: Family, network: Network) -> Option<IpAddr> {
        match family {
            Family::V4 => self.address(network).map(IpAddr::V4),
            Family::V6 => self.address_v6(network).map(IpAddr::V6),
        }
    }

    /// The place's MAC address on `network`, if it is connected to it.
    pub fn mac(self, network: Network) -> Option<[u8; 6]> {
        let last = self.address(network)?.octets();
        // Locally administered; the rest is the IPv4 address, so that captures can be read.
        Some([0x02, 0x00, last[0], last[1], last[2], last[3]])
    }

    /// The place's MAC address on a network that it is connected to, as `ip` and `nft` write it.
    pub(crate) fn mac_text(self, network: Network) -> String {
        let mac = self.mac(network).expect("asked for a port's place");
        mac.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// The hub's interface that leads to this place: `n1f`, `n1b`, `c1f`.
    pub(crate) fn hub_port(self, network: Network) -> String {
        let suffix = match network {
            Network::Front => 'f',
            Network::Back => 'b',
        };
        match self {
            Place::Node(i) => format!("n{i}{suffix}"),
            Place::Client(j) => format!("c{j}{suffix}"),
            Place::Hub => unreachable!("the hub is connected to nothing but its ports"),
        }
    }
}

/// The number whose hexadecimal digits are the decimal ones of `number`.
fn as_written(number: u8) -> u16 {
    let [hundreds, tens, ones] = [number / 100, number / 10 % 10, number % 10];
    u16::from(hundreds) << 8 | u16::from(tens) << 4 | u16::from(ones)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Hub => f.write_str("hub"),
            Place::Client(1) => f.write_str("client"),
            Place::Client(j) => write!(f, "client{j}"),
            Place::Node(i) => write!(f, "n{i}"),
        }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let index = |digits: &str| digits.parse::<u8>().ok().filter(|&index| index > 0);
        let place = match text {
            "hub" => Some(Place::Hub),
            "client" => Some(Place::Client(1)),
            _ => match (text.strip_prefix("client"), text.strip_prefix('n')) {
                (Some(digits), _) => index(digits).map(Place::Client),
                (None, Some(digits)) => index(digits).map(Place::Node),
                (None, None) => None,
            },
        };
        place.ok_or_else(|| {
            format!("`{text}` is no place of a lab; write n1, n2, ..., client or hub")
        })
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl Network {
    /// Both networks.
    pub const ALL: [Network; 2] = [Network::Front, Network::Back];

    /// The name of this network's interface in the nodes and clients.
    pub fn interface(self) -> &'static str {
        match self {
            Network::Front => "eth0",
            Network::Back => "eth1",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Network::Front => "front",
            Network::Back => "back",
        })
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "front" => Ok(Network::Front),
            "back" => Ok(Network::Back),
            _ => Err(format!(
                "`{text}` is no network of a lab; write front or back"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::LabSpec;

    #[test]
    fn both_families_number_places_alike() {
        for (place, network, v4, v6) in [
            (
                Place::Node(1),
                Network::Front,
                "198.18.0.11",
                "2001:db8::11",
            ),
            (
                Place::Node(16),
                Network::Back,
                "198.18.1.26",
                "2001:db8:1::26",
            ),
            (
                Place::Client(1),
                Network::Front,
                "198.18.0.201",
                "2001:db8::201",
            ),
        ] {
            for (family, address) in [(Family::V4, v4), (Family::V6, v6)] {
                let expected = address.parse().unwrap();
                assert_eq!(place.address_of(family, network), Some(expected));
            }
        }
        assert_eq!(Place::Client(1).address_v6(Network::Back), None);
    }

    #[test]
    fn places_read_back_as_written() {
        let spec = LabSpec {
            clients: 3,
            ..LabSpec::new("t", 16, "dts")
        };
        for place in spec.places() {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for wrong in ["", "n", "n0", "n256", "client0", "node1", "nx"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
