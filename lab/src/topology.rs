//! The lab's wires: a flooding bridge per network in the hub, a veth pair per connection.
//!
//! ```text
//!            dts-x-client          dts-x-n1              dts-x-n2
//!               eth0             eth0    eth1          eth0    eth1
//!                |                |        |            |        |
//!   dts-x-hub   c1f              n1f      n1b          n2f      n2b
//!                |                |        |            |        |
//!              --+--- front ------+--------|------------+---     |
//!                                     -----+--- back ------------+---
//! ```

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::error::{LabError, Result};
use crate::guard::check_interrupted;
use crate::netns;
use crate::nft;
use crate::place::{Network, Place};
use crate::process::wait_until;
use crate::spec::{LabSpec, VIP, VIP_V6};

/// How long interfaces may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the namespaces, their wires and addresses. On failure some are left: [`remove`] takes
/// whatever is there.
pub(crate) fn create(spec: &LabSpec) -> Result<()> {
    for place in spec.places() {
        check_interrupted()?;
        let namespace = netns::name(&spec.name, place);
        netns::add(&namespace)?;
        prepare_namespace(spec, place, &namespace)?;
    }
    let hub = netns::name(&spec.name, Place::Hub);
    netns::ip_batch(&hub, &bridges(spec))?;
    // Without nftables the lab is a little slower, and otherwise the same.
    let _ = netns::within(&hub, || {
        netns::run_with_input(
            Command::new("nft").args(["-f", "-"]),
            &nft::keep_to_forwarding(),
        )
    });
    for place in spec.client_places().chain(spec.node_places()) {
        let namespace = netns::name(&spec.name, place);
        netns::ip_batch(&namespace, &addresses(spec, place))?;
        if matches!(place, Place::Node(_)) && spec.gro {
            for network in Network::ALL {
                let mut command = Command::new("ethtool");
                netns::run_in(
                    &namespace,
                    command.args(["-K", network.interface(), "gro", "on"]),
                )?;
            }
        }
    }
    for place in spec.places() {
        let sysctls = match place {
            Place::Hub => continue,
            Place::Client(_) => &spec.client_sysctls,
            Place::Node(i) => &spec.nodes[usize::from(i) - 1].sysctls,
        };
        for (key, value) in sysctls {
            netns::set_sysctl(&netns::name(&spec.name, place), key, value)?;
        }
    }
    wait_until_connected(spec)
}

/// Waits until all interfaces of the lab carry frames. The kernel reacts to a new carrier up to a
/// second later; what is sent before is lost.
pub(crate) fn wait_until_connected(spec: &LabSpec) -> Result<()> {
    let mut unconnected = Ok(Vec::new());
    let done = wait_until(CONNECT_TIMEOUT, || {
        unconnected = unconnected_interfaces(spec);
        unconnected.as_ref().map_or(true, Vec::is_empty) || check_interrupted().is_err()
    });
    check_interrupted()?;
    let unconnected = unconnected?;
    match done {
        true => Ok(()),
        false => Err(LabError::System {
            what: format!(
                "interfaces of the lab did not come up: {}",
                unconnected.join("; ")
            ),
            source: std::io::ErrorKind::TimedOut.into(),
        }),
    }
}

/// The interfaces that do not forward frames yet, as `ip` and `bridge` show them.
fn unconnected_interfaces(spec: &LabSpec) -> Result<Vec<String>> {
    let lines = |command: &mut Command| -> Result<Vec<String>> {
        let text = String::from_utf8_lossy(&netns::run(command)?).into_owned();
        Ok(text.lines().map(str::to_owned).collect())
    };
    let hub = netns::name(&spec.name, Place::Hub);
    let mut unconnected = lines(Command::new("bridge").args(["-n", &hub, "link", "show"]))?;
    // A port whose other end was taken down on purpose has no carrier.
    unconnected.retain(|port| !port.contains("state forwarding") && !port.contains("NO-CARRIER"));
    for place in spec.client_places().chain(spec.node_places()) {
        let namespace = netns::name(&spec.name, place);
        let mut show = Command::new("ip");
        let interfaces =
            lines(show.args(["-n", &namespace, "-brief", "link", "show", "type", "veth"]))?;
        // "eth0@if4  UP  02:..."; one that was taken down on purpose is DOWN.
        let settled = |line: &String| line.contains(" UP ") || line.contains(" DOWN ");
        unconnected.extend(interfaces.into_iter().filter(|line| !settled(line)));
    }
    Ok(unconnected)
}

/// Removes the lab's namespaces; what could not be removed, in words.
pub(crate) fn remove(lab: &str) -> Result<(), String> {
    // A namespace is dismantled some time after its removal, a deleted interface (and its NAPI
    // thread) at once.
    let hub = netns::name(lab, Place::Hub);
    if netns::path(&hub).exists() {
        for port in veths(&hub) {
            // Its peer goes with it, and may be the next of the list.
            let _ = netns::run(Command::new("ip").args(["-n", &hub, "link", "del", "dev", &port]));
        }
    }
    let failures: Vec<String> = netns::of_lab(lab)
        .iter()
        .filter_map(|namespace| netns::delete(namespace).err())
        .map(|error| error.to_string())
        .collect();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("; "))
    }
}

/// The veth interfaces of a namespace.
fn veths(namespace: &str) -> Vec<String> {
    let list = netns::run(
        Command::new("ip").args(["-n", namespace, "-brief", "link", "show", "type", "veth"]),
    );
    let list = String::from_utf8(list.unwrap_or_default()).unwrap_or_default();
    // "n1f@if2  UP  02:..."
    list.lines()
        .filter_map(|line| line.split(['@', ' ']).next())
        .map(str::to_owned)
        .collect()
}

/// Settings that must be there before the first interface comes up.
fn prepare_namespace(spec: &LabSpec, place: Place, namespace: &str) -> Result<()> {
    let ipv6 = spec.ipv6 && place != Place::Hub;
    let mut settings = Vec::new();
    if Path::new("/proc/sys/net/ipv6").exists() {
        let disable = if ipv6 { "0" } else { "1" };
        settings.extend([
            ("net.ipv6.conf.all.disable_ipv6", disable),
            ("net.ipv6.conf.default.disable_ipv6", disable),
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
            // As whoever manages a host's network does: otherwise an interface that was down is without addresses.
            ("net.ipv6.conf.default.keep_addr_on_down", "1"),
        ]);
    }
    match place {
        // The hub is a switch: it must not look into what it forwards, let alone defragment or drop
        // it. The keys are there when the kernel has br_netfilter.
        Place::Hub if Path::new("/proc/sys/net/bridge").exists() => settings.extend([
            ("net.bridge.bridge-nf-call-iptables", "0"),
            ("net.bridge.bridge-nf-call-ip6tables", "0"),
            ("net.bridge.bridge-nf-call-arptables", "0"),
        ]),
        Place::Hub => {}
        Place::Client(_) => settings.push(("net.ipv4.ip_local_port_range", "1024 65535")),
        Place::Node(_) => {
            settings.push(("net.core.somaxconn", "4096"));
            settings.push(("net.ipv4.tcp_max_syn_backlog", "4096"));
        }
    }
    if let Place::Node(i) = place
        && i > 1
        && spec.vip_without_daemons()
    {
        // One node answers ARP for the VIP, the others keep quiet about it.
        settings.push(("net.ipv4.conf.all.arp_ignore", "1"));
        settings.push(("net.ipv4.conf.all.arp_announce", "2"));
    }
    for (key, value) in settings {
        netns::set_sysctl(namespace, key, value)?;
    }
    netns::ip_batch(namespace, "link set lo up\n")
}

/// The hub's part: bridges that flood, and the veth pairs.
fn bridges(spec: &LabSpec) -> String {
    let mut script = String::new();
    for network in Network::ALL {
        let mtu = spec.mtu(network);
        // mcast_snooping 0: frames to the VIP's multicast address reach every node's port.
        let _ = writeln!(
            script,
            "link add name {network} mtu {mtu} type bridge \
                stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set dev {network} up"
        );
        for place in spec.ports(network) {
            let port = place.hub_port(network);
            let interface = network.interface();
            let mac = place.mac_text(network);
            let namespace = netns::name(&spec.name, place);
            let _ = writeln!(
                script,
                "link add name {port} mtu {mtu} type veth \
                 peer name {interface} address {mac} mtu {mtu} netns {namespace}\n\
                 link set dev {port} master {network} up"
            );
            // As static entries in a switch would have it. With IPv6, clients need multicast to be found.
            if matches!(place, Place::Client(_)) && !spec.ipv6 {
                let _ = writeln!(
                    script,
                    "link set dev {port} type bridge_slave mcast_flood off"
                );
            }
        }
    }
    script
}

/// A client's or node's part: addresses and routes.
fn addresses(spec: &LabSpec, place: Place) -> String {
    let mut script = String::new();
    for network in Network::ALL {
        let Some(address) = place.address(network) else {
            continue;
        };
        let interface = network.interface();
        let _ = writeln!(script, "addr add {address}/24 dev {interface}");
        if let Some(address) = place.address_v6(network).filter(|_| spec.ipv6) {
            let _ = writeln!(script, "addr add {address}/64 dev {interface} nodad");
        }
        let _ = writeln!(script, "link set dev {interface} up");
    }
    match place {
        Place::Client(j) => {
            for host in 1..=spec.client_extra_addresses {
                let _ = writeln!(script, "addr add 198.18.{}.{host}/32 dev eth0", 1 + j);
                if spec.ipv6 {
                    let address = format!("2001:db8:0:{}::{host}", 1 + j);
                    let _ = writeln!(script, "addr add {address}/128 dev eth0 nodad");
                }
            }
        }
        Place::Node(i) => {
            script += &routes(spec, place, Network::Front);
            if spec.vip_without_daemons() {
                let _ = writeln!(script, "addr add {VIP}/32 dev lo");
                if spec.ipv6 {
                    // A kernel speaks for an interface's own addresses only: one node's has it at the front.
                    let interface = if i == 1 { "eth0" } else { "lo" };
                    let _ = writeln!(script, "addr add {VIP_V6}/128 dev {interface} nodad");
                }
            }
        }
        Place::Hub => {}
    }
    script
}

/// The routes of an interface other than the one to its own subnet.
pub(crate) fn routes(spec: &LabSpec, place: Place, network: Network) -> String {
    match (place, network) {
        // To the clients' further addresses. By their own one, as if by a router: the kernel has room for about a
        // thousand neighbours, in all namespaces together.
        (Place::Node(_), Network::Front) => (1..=spec.clients)
            .flat_map(|client| {
                let (place, subnet) = (Place::Client(client), 1 + client);
                let v4 = place
                    .address(network)
                    .map(|via| format!("route add 198.18.{subnet}.0/24 via {via} dev eth0\n"));
                let v6 = place
                    .address_v6(network)
                    .filter(|_| spec.ipv6 && spec.client_extra_addresses > 0)
                    .map(|via| {
                        format!("route add 2001:db8:0:{subnet}::/64 via {via} dev eth0 onlink\n")
                    });
                v4.into_iter().chain(v6)
            })
            .collect(),
        _ => String::new(),
    }
}
