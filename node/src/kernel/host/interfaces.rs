//! The interfaces that a node uses, checked.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::HostSpec;
use super::error::HostError;
use super::view::{Link, View};

/// What an interface is for: its key in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The clients' network.
    Front,
    /// The intra-cluster network.
    Back,
    /// The loopback interface, which has the VIPs. Not configured.
    Loopback,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Front => "front",
            Self::Back => "back",
            Self::Loopback => "loopback",
        })
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Mac(pub(super) [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An interface of this host. A new one under the same name has another index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
}

/// The interfaces of a node, all of them up.
#[derive(Debug)]
pub(super) struct Interfaces {
    pub(super) front: Interface,
    pub(super) front_mac: Mac,
    pub(super) back: Interface,
    pub(super) back_mac: Mac,
    /// Maximum transmission units, in bytes.
    pub(super) front_mtu: u32,
    pub(super) back_mtu: u32,
    pub(super) loopback: Interface,
}

impl Interfaces {
    /// Finds the interfaces of `spec` and checks that they are fit, and that the node's address is
    /// on the back.
    pub(super) fn find(spec: &HostSpec, view: &View) -> Result<Self, HostError> {
        let (front, front_mac) = ethernet(view, Role::Front, &spec.front)?;
        let (back, back_mac) = ethernet(view, Role::Back, &spec.back)?;
        let loopback = up(view, Role::Loopback, "lo")?;
        check_address(spec, view, back)?;
        Ok(Self {
            front: front.interface.clone(),
            front_mac,
            back: back.interface.clone(),
            back_mac,
            front_mtu: front.mtu,
            back_mtu: back.mtu,
            loopback: loopback.interface.clone(),
        })
    }
}

fn ethernet<'v>(view: &'v View, role: Role, name: &str) -> Result<(&'v Link, Mac), HostError> {
    let link = present(view, role, name)?;
    let Some(mac) = link.ethernet else {
        let ethernet = view.links.iter().filter(|link| link.ethernet.is_some());
        return Err(HostError::NotEthernet {
            role,
            name: name.to_owned(),
            ethernet: ethernet.map(|link| link.interface.name.clone()).collect(),
        });
    };
    if let Some(controller) = link.controller {
        let found = view
            .links
            .iter()
            .find(|link| link.interface.index == controller);
        return Err(HostError::Enslaved {
            role,
            name: name.to_owned(),
            controller: found.map_or_else(
                || format!("interface {controller}"),
                |link| link.interface.name.clone(),
            ),
        });
    }
    up(view, role, name).map(|link| (link, mac))
}

fn up<'v>(view: &'v View, role: Role, name: &str) -> Result<&'v Link, HostError> {
    let link = present(view, role, name)?;
    if link.up {
        return Ok(link);
    }
    Err(HostError::Down {
        role,
        name: name.to_owned(),
    })
}

fn present<'v>(view: &'v View, role: Role, name: &str) -> Result<&'v Link, HostError> {
    let found = view.links.iter().find(|link| link.interface.name == name);
    found.ok_or_else(|| HostError::NoInterface {
        role,
        name: name.to_owned(),
        present: view
            .links
            .iter()
            .map(|link| link.interface.name.clone())
            .collect(),
    })
}

fn check_address(spec: &HostSpec, view: &View, back: &Link) -> Result<(), HostError> {
    let on_back = view.addresses_of(&back.interface);
    // A link-local address can't be a node's.
    let present: Vec<_> = on_back
        .map(|found| found.address)
        .filter(|found| !matches!(found, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    if present.contains(&spec.address) {
        return Ok(());
    }
    let address = spec.address;
    let elsewhere = view.addresses.iter().find(|found| found.address == address);
    Err(match elsewhere {
        Some(found) => HostError::AddressElsewhere {
            address,
            back: spec.back.clone(),
            on: view.name_of(found.index),
        },
        None => HostError::NoAddress {
            address,
            back: spec.back.clone(),
            present,
        },
    })
}
