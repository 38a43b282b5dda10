//! The clusters: DTS's three services, and netfilter's `cluster` match.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::Context as _;
use dts_lab::{Lab, Network, Place, VIP};

use super::CLIENT;

/// The address of the service that is adopted.
pub(super) const ADOPT: Ipv4Addr = VIP;
/// The address of the service that is spliced.
pub(super) const SPLICE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 101);
/// The address of the service that nobody inspects.
pub(super) const L4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 102);

const XT_CLUSTER: &str = include_str!("../../peers/xt-cluster.sh");

/// The same servers three times: the path decides, by adoption and by splice, or the flow does.
pub(super) fn services(nodes: u8) -> String {
    let mut toml = String::new();
    for (handover, vip) in [("adopt", ADOPT), ("splice", SPLICE)] {
        let _ = writeln!(
            toml,
            "[[service]]\nname = \"{handover}\"\nvip = \"{vip}\"\nport = 80\nmode = \"l7\"\n\
             handover = \"{handover}\"\ninspector_port = 8081"
        );
        for node in (1..=nodes).map(Place::Node) {
            let _ = writeln!(
                toml,
                "[[service.rule]]\npath_prefix = \"/{node}/\"\nto = {{ nodes = [\"{node}\"] }}"
            );
        }
        toml.push('\n');
    }
    let _ = writeln!(
        toml,
        "[[service]]\nname = \"l4\"\nvip = \"{L4}\"\nport = 80\nmode = \"l4\""
    );
    toml
}

/// The link address that the nodes share: DTS's for the same address.
fn link_address() -> String {
    let [a, b, c, d] = VIP.octets();
    format!("03:bf:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Makes a cluster of a lab's nodes, as the manual of the match advises.
pub(super) fn xt_cluster(lab: &Lab) -> anyhow::Result<()> {
    let nodes = lab.spec().node_count();
    for number in 1..=nodes {
        let script = XT_CLUSTER
            .replace("@VIP@", &VIP.to_string())
            .replace("@LINK_ADDRESS@", &link_address())
            .replace("@NODES@", &nodes.to_string())
            .replace("@NUMBER@", &number.to_string());
        let node = Place::Node(number);
        lab.sh(node, &format!("set -e\n{script}"))
            .with_context(|| format!("on {node} (the kernel's xt_cluster, and iptables)"))?;
    }
    let neighbour = format!(
        "ip neigh replace {VIP} lladdr {} dev {} nud permanent",
        link_address(),
        Network::Front.interface()
    );
    lab.sh(CLIENT, &neighbour)
        .context("addressing all nodes")
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_an_address_of_its_own() {
        let toml = services(2);
        for text in ["\"198.18.0.100\"", "\"198.18.0.101\"", "\"198.18.0.102\""] {
            assert_eq!(toml.matches(text).count(), 1, "{text}");
        }
        assert_eq!(toml.matches("path_prefix = \"/n2/\"").count(), 2);
        assert_eq!(link_address(), "03:bf:c6:12:00:64");
    }
}
