//! Changes to the host that can be noted, made and undone.

use std::fmt;
use std::io;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::error::HostError;
use super::interfaces::{Interface, Mac};
use super::multicast;
use super::netlink::Netlink;
use super::sysctl::Key;
use super::view::View;

/// A change that a node made, or is about to make, to its host. Its display form completes "set up
/// ...".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(super) enum Change {
    /// Sets a value.
    Sysctl {
        interface: Interface,
        key: Key,
        /// The value before the first change.
        was: i32,
        set: i32,
    },
    /// Joins a link-layer multicast group.
    Membership { interface: Interface, group: Mac },
    /// Adds a route to one host.
    Route {
        interface: Interface,
        destination: IpAddr,
        source: IpAddr,
    },
    /// Adds a permanent neighbour entry.
    Neighbour {
        interface: Interface,
        address: IpAddr,
        mac: Mac,
    },
    /// Adds an address that is never chosen as a source.
    Address {
        interface: Interface,
        address: IpAddr,
    },
}

impl Change {
    pub(super) fn interface_mut(&mut self) -> &mut Interface {
        match self {
            Self::Sysctl { interface, .. }
            | Self::Membership { interface, .. }
            | Self::Route { interface, .. }
            | Self::Neighbour { interface, .. }
            | Self::Address { interface, .. } => interface,
        }
    }

    /// Whether both lead to the same, wherever they come from.
    pub(super) fn amounts_to(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Sysctl { interface, key, .. },
                Self::Sysctl {
                    interface: other_interface,
                    key: other_key,
                    ..
                },
            ) => interface == other_interface && key == other_key,
            _ => self == other,
        }
    }

    /// Makes the change.
    pub(super) async fn make(&self, netlink: &Netlink) -> Result<(), HostError> {
        let made = match self {
            Self::Sysctl {
                interface,
                key,
                set,
                ..
            } => key.write(&interface.name, *set),
            Self::Membership { interface, group } => multicast::join(interface, *group),
            Self::Route {
                interface,
                destination,
                source,
            } => netlink.add_route(*destination, interface, *source).await,
            Self::Neighbour {
                interface,
                address,
                mac,
            } => netlink.add_neighbour(*address, interface, *mac).await,
            Self::Address { interface, address } => {
                netlink.add_host_address(interface, *address).await
            }
        };
        made.map_err(HostError::kernel(format!("set up {self}")))
    }

    /// Undoes the change, unless it was never made or somebody else has changed the same since.
    pub(super) async fn undo(&self, netlink: &Netlink, view: &View) -> Result<(), HostError> {
        let undone = match self {
            Self::Sysctl {
                interface,
                key,
                was,
                set,
            } => key.read(&interface.name).and_then(|now| {
                if now == *set {
                    key.write(&interface.name, *was)
                } else {
                    Ok(())
                }
            }),
            Self::Membership { interface, group } => match multicast::leave(interface, *group) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
            Self::Route {
                interface,
                destination,
                source,
            } => netlink.remove_route(*destination, interface, *source).await,
            Self::Neighbour {
                interface,
                address,
                mac,
            } => {
                if view.neighbour(interface, *address) == Some(*mac) {
                    netlink.remove_neighbour(*address, interface).await
                } else {
                    Ok(())
                }
            }
            Self::Address { interface, address } => {
                netlink.remove_address(interface, *address).await
            }
        };
        undone.map_err(HostError::kernel(format!("undo {self}")))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl {
                interface,
                key,
                was,
                set,
            } => {
                let path = key.path(&interface.name);
                write!(f, "{set} in {} (was {was})", path.display())
            }
            Self::Membership { interface, group } => {
                write!(f, "membership of {group} on {}", interface.name)
            }
            Self::Route {
                interface,
                destination,
                source,
            } => write!(
                f,
                "the route to {destination} by {} from {source}",
                interface.name
            ),
            Self::Neighbour {
                interface,
                address,
                mac,
            } => write!(
                f,
                "the neighbour entry {address} with {mac} on {}",
                interface.name
            ),
            Self::Address { interface, address } => {
                write!(f, "address {address} on {}", interface.name)
            }
        }
    }
}
