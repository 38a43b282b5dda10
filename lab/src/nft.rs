//! The hub's nftables rules: loss, duplication and partition at its ports, and that it keeps to forwarding.

use std::fmt::Write;

use crate::impair::{Ports, bridge_port};
use crate::place::{Network, Place};
use crate::spec::LabSpec;

/// Rules that keep frames from the hub's own network stack, as input for `nft -f -`.
///
/// A Linux bridge takes a copy of each frame to a multicast address for itself. A switch has no such work, which is
/// done on the processors that are measured.
pub(crate) fn keep_to_forwarding() -> String {
    let chains: String = Network::ALL
        .iter()
        .map(|bridge| {
            format!(
                "  chain {bridge} {{\n    \
                 type filter hook ingress device \"{bridge}\" priority 0; policy drop;\n  }}\n"
            )
        })
        .collect();
    format!("table netdev dts_switch {{\n{chains}}}\n")
}

/// The hub's rules for impairments, as input for `nft -f -`. They replace those of an earlier call.
pub(crate) fn rules(spec: &LabSpec, ports: &Ports) -> String {
    // Naming the table before deleting it makes this work whether it exists or not.
    let mut script =
        "table netdev dts_lab\ndelete table netdev dts_lab\ntable netdev dts_lab {\n".to_owned();
    for network in Network::ALL {
        for place in spec.ports(network) {
            let port = bridge_port(ports, network, place);
            for (hook, rules) in [
                ("egress", to_place(ports, network, place, &port)),
                ("ingress", from_place(ports, network, place)),
            ] {
                if !rules.is_empty() {
                    let _ = writeln!(
                        script,
                        "  chain {hook}_{port} {{\n    \
                         type filter hook {hook} device \"{port}\" priority 0; policy accept;\n\
                         {rules}  }}"
                    );
                }
            }
        }
    }
    script + "}\n"
}

/// Rules for what leaves the hub at a port.
fn to_place(ports: &Ports, network: Network, place: Place, port: &str) -> String {
    let again = format!("dup to \"{port}\"");
    let mut rules = String::new();
    if let Some((to, _)) = ports.get(&(network, place)) {
        rules += &rule(to.rates.loss, "", "drop");
        rules += &rule(to.rates.duplicate, "", &again);
    }
    // nftables duplicates onto the way out only: what a place sends is duplicated where others get
    // it.
    let others = ports
        .iter()
        .filter(|((of, sender), _)| *of == network && *sender != place);
    for ((_, sender), (_, from)) in others {
        let its_frames = format!("ether saddr {} ", sender.mac_text(network));
        rules += &rule(from.rates.duplicate, &its_frames, &again);
    }
    rules
}

/// Rules for what enters the hub at a port.
fn from_place(ports: &Ports, network: Network, place: Place) -> String {
    ports
        .get(&(network, place))
        .map_or_else(String::new, |(_, from)| rule(from.rates.loss, "", "drop"))
}

/// A rule that acts on a part of the frames that match.
fn rule(rate: f64, matching: &str, action: &str) -> String {
    let millionths = (rate * 1e6).round() as u32;
    match millionths {
        0 => String::new(),
        1_000_000.. => format!("    {matching}counter {action}\n"),
        _ => format!("    {matching}numgen random mod 1000000 < {millionths} counter {action}\n"),
    }
}
