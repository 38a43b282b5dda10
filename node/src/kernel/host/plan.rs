//! What there is to do on a host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::HostSpec;
use super::change::Change;
use super::error::HostError;
use super::interfaces::{Interface, Interfaces, Mac};
use super::netlink::host_prefix;
use super::sysctl::{self, Key};
use super::view::{Route, View};

/// Something that a node wants of its host.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The change that brings it about.
    pub(super) change: Change,
    /// Whether it is so already, by whomever.
    pub(super) in_place: bool,
}

/// The way from the host as it is to the one that is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// To be undone first, last one first: noted, and wanted no longer.
    pub(super) undo: Vec<Change>,
    /// To be noted next, before any of `make` is made.
    pub(super) note: Vec<Change>,
    /// To be made.
    pub(super) make: Vec<Change>,
}

impl Plan {
    pub(super) fn new(wanted: Vec<Wanted>, noted: Vec<Change>) -> Self {
        let is_wanted = |change: &Change| wanted.iter().any(|w| w.change.amounts_to(change));
        let (mut note, undo): (Vec<_>, Vec<_>) = noted.into_iter().partition(is_wanted);
        let mut make = Vec::new();
        for Wanted { change, in_place } in wanted {
            if in_place {
                continue;
            }
            // The first note knows what was there before us.
            let noted = note.iter().find(|noted| noted.amounts_to(&change));
            if let Some(noted) = noted {
                make.push(noted.clone());
            } else {
                note.push(change.clone());
                make.push(change);
            }
        }
        Self { undo, note, make }
    }
}

/// What a node wants of its host, in an order that lets no VIP be answered for before the kernel is
/// told not to.
pub(super) fn wanted(
    spec: &HostSpec,
    interfaces: &Interfaces,
    view: &View,
) -> Result<Vec<Wanted>, HostError> {
    let Interfaces {
        front,
        back,
        loopback,
        ..
    } = interfaces;
    let vips = BTreeSet::from_iter(&spec.vips);
    let mut wanted = settings(front)?;
    if front != back {
        wanted.extend(settings(back)?);
    }
    let groups = BTreeSet::from_iter(vips.iter().flat_map(|vip| groups(**vip)));
    wanted.extend(groups.into_iter().map(|group| Wanted {
        in_place: view.memberships.contains(&(front.index, group)),
        change: Change::Membership {
            interface: front.clone(),
            group,
        },
    }));
    let route = view.self_route.as_ref();
    wanted.push(Wanted {
        in_place: route.is_some_and(|route| leads_to_self(route, back, spec.address)),
        change: Change::Route {
            interface: back.clone(),
            destination: spec.self_address,
            source: spec.address,
        },
    });
    wanted.push(Wanted {
        in_place: view.neighbour(back, spec.self_address) == Some(interfaces.back_mac),
        change: Change::Neighbour {
            interface: back.clone(),
            address: spec.self_address,
            mac: interfaces.back_mac,
        },
    });
    wanted.extend(vips.iter().map(|vip| {
        Wanted {
            in_place: view
                .addresses_of(loopback)
                .any(|found| found.address == **vip),
            change: Change::Address {
                interface: loopback.clone(),
                address: **vip,
            },
        }
    }));
    Ok(wanted)
}

/// Refuses a host that uses the node's addresses for something else. What is noted is ours.
pub(super) fn refuse_conflicts(
    spec: &HostSpec,
    interfaces: &Interfaces,
    view: &View,
    noted: &[Change],
) -> Result<(), HostError> {
    for vip in &spec.vips {
        refuse_vip_elsewhere(*vip, interfaces, view)?;
    }
    refuse_other_route(spec, interfaces, view, noted)?;
    refuse_other_neighbour(spec, interfaces, view, noted)
}

fn refuse_vip_elsewhere(
    vip: IpAddr,
    interfaces: &Interfaces,
    view: &View,
) -> Result<(), HostError> {
    if !is_host_address(vip) {
        return Err(HostError::NotHostAddress { vip });
    }
    let Interfaces {
        front, loopback, ..
    } = interfaces;
    let mut off = [front, loopback]
        .into_iter()
        .filter(|interface| vip.is_ipv6() && sysctl::ipv6_is_off(&interface.name));
    if let Some(interface) = off.next() {
        return Err(HostError::NoIpv6 {
            interface: interface.name.clone(),
            address: vip,
        });
    }
    let mut addresses = view.addresses.iter();
    let elsewhere =
        addresses.find(|found| found.address == vip && found.index != interfaces.loopback.index);
    match elsewhere {
        None => Ok(()),
        Some(found) => Err(HostError::VipElsewhere {
            vip,
            interface: view.name_of(found.index),
            prefix: found.prefix,
        }),
    }
}

fn refuse_other_route(
    spec: &HostSpec,
    interfaces: &Interfaces,
    view: &View,
    noted: &[Change],
) -> Result<(), HostError> {
    let (address, back) = (spec.self_address, &interfaces.back);
    let Some(route) = &view.self_route else {
        return Ok(());
    };
    if route.special {
        let what = format!(
            "self address {address} is an address of this host, of a whole network or of a group"
        );
        return Err(HostError::SelfAddressTaken { what });
    }
    let ours = noted.iter().any(|change| {
        matches!(change, Change::Route { interface, destination, .. }
            if *destination == address && Some(interface.index) == route.index)
    });
    if route.prefix < host_prefix(address) || ours || leads_to_self(route, back, spec.address) {
        return Ok(());
    }
    let by = route
        .index
        .map_or_else(String::new, |index| format!(" by {}", view.name_of(index)));
    Err(HostError::SelfAddressTaken {
        what: format!("there is a route to the self address {address}{by} that is not DTS's"),
    })
}

fn refuse_other_neighbour(
    spec: &HostSpec,
    interfaces: &Interfaces,
    view: &View,
    noted: &[Change],
) -> Result<(), HostError> {
    let (self_address, back) = (spec.self_address, &interfaces.back);
    let found = view.neighbour(back, self_address);
    let Some(mac) = found.filter(|mac| *mac != interfaces.back_mac) else {
        return Ok(());
    };
    // The interface had another address then.
    let ours = noted.iter().any(|change| {
        matches!(change, Change::Neighbour { interface, address, .. }
            if *address == self_address && interface == back)
    });
    if ours {
        return Ok(());
    }
    Err(HostError::SelfAddressTaken {
        what: format!(
            "there is a permanent neighbour entry for the self address {self_address} with {mac} \
             on {}",
            back.name
        ),
    })
}

fn leads_to_self(route: &Route, back: &Interface, source: IpAddr) -> bool {
    route.prefix == host_prefix(source)
        && route.direct
        && route.index == Some(back.index)
        && route.source == Some(source)
}

fn settings(interface: &Interface) -> Result<Vec<Wanted>, HostError> {
    let setting = |key: Key| {
        let read = |name: &str| {
            let what = format!("read {}", key.path(name).display());
            key.read(name).map_err(HostError::kernel(what))
        };
        let (was, all) = (read(&interface.name)?, read("all")?);
        Ok(Wanted {
            in_place: was.max(all) >= key.minimum(),
            change: Change::Sysctl {
                interface: interface.clone(),
                key,
                was,
                set: key.minimum(),
            },
        })
    };
    Key::ALL.into_iter().map(setting).collect()
}

/// Whether an address can be one host's on a network that others are on.
fn is_host_address(address: IpAddr) -> bool {
    let other = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !other
        && match address {
            IpAddr::V4(v4) => !v4.is_broadcast(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
        }
}

/// The link-layer groups that frames for a VIP go to: the one that it resolves to, and with IPv6 the one of the
/// questions for it, the solicited-node address's (RFC 4291 §2.7.1, RFC 2464 §7). The kernel joins the latter for
/// addresses of the interface itself only.
fn groups(vip: IpAddr) -> Vec<Mac> {
    let resolved = multicast_mac(vip);
    match vip {
        IpAddr::V4(_) => vec![resolved],
        IpAddr::V6(v6) => {
            let [.., a, b, c] = v6.octets();
            vec![resolved, Mac([0x33, 0x33, 0xff, a, b, c])]
        }
    }
}

/// The link address that a VIP resolves to: 03:bf and the address's last four bytes, which is all of an IPv4 address, as
/// in the multicast mode of Windows NLB. Two VIPs may have the same.
fn multicast_mac(vip: IpAddr) -> Mac {
    let [a, b, c, d] = match vip {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    Mac([0x03, 0xbf, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Change {
        Change::Address {
            interface: Interface {
                name: "lo".into(),
                index: 1,
            },
            address: IpAddr::from([198, 18, 0, last]),
        }
    }

    fn sysctl(was: i32) -> Change {
        Change::Sysctl {
            interface: Interface {
                name: "eth0".into(),
                index: 2,
            },
            key: Key::ArpIgnore,
            was,
            set: 1,
        }
    }

    fn want(change: Change, in_place: bool) -> Wanted {
        Wanted { change, in_place }
    }

    #[test]
    fn what_was_found_is_not_noted() {
        let plan = Plan::new(vec![want(address(1), true)], vec![]);
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn what_is_changed_is_noted() {
        let plan = Plan::new(vec![want(address(1), false)], vec![]);
        assert_eq!(plan.note, [address(1)]);
        assert_eq!(plan.make, [address(1)]);
    }

    #[test]
    fn a_change_in_place_stays_noted() {
        let plan = Plan::new(vec![want(address(1), true)], vec![address(1)]);
        assert_eq!(plan.note, [address(1)]);
        assert_eq!((plan.undo, plan.make), (vec![], vec![]));
    }

    #[test]
    fn the_first_value_stays_noted() {
        // Noted when it was 0; ours was replaced by -1, which isn't what it was before us.
        let plan = Plan::new(vec![want(sysctl(-1), false)], vec![sysctl(0)]);
        assert_eq!(plan.note, [sysctl(0)]);
        assert_eq!(plan.make, [sysctl(0)]);
        assert_eq!(plan.undo, []);
    }

    #[test]
    fn what_is_no_longer_wanted_is_undone() {
        let noted = vec![sysctl(0), address(1), address(2)];
        let wanted = vec![want(sysctl(1), true), want(address(3), false)];
        let plan = Plan::new(wanted, noted);
        assert_eq!(plan.undo, [address(1), address(2)]);
        assert_eq!(plan.note, [sysctl(0), address(3)]);
        assert_eq!(plan.make, [address(3)]);
    }

    #[test]
    fn a_vip_resolves_to_its_group() {
        let named = |vip: &str| {
            let groups = groups(vip.parse().unwrap());
            groups.iter().map(Mac::to_string).collect::<Vec<_>>()
        };
        assert_eq!(named("198.18.0.100"), ["03:bf:c6:12:00:64"]);
        assert_eq!(
            named("2001:db8:1:2:3:4:5:6789"),
            ["03:bf:00:05:67:89", "33:33:ff:05:67:89"]
        );
    }

    #[test]
    fn a_vip_is_an_address_of_one_host() {
        let usable = |address: &str| is_host_address(address.parse().unwrap());
        for address in ["198.18.0.100", "2001:db8::100", "fd00::1"] {
            assert!(usable(address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "fe80::1",
            "::ffff:198.18.0.100",
        ] {
            assert!(!usable(address), "{address}");
        }
    }
}
