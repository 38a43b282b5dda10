//! What it costs by itself that every node gets a copy of every packet: direct connections whose packets all nodes get,
//! beside direct connections. DTS has no part in it but for the link address, and for its filter, which passes what is not to
//! a VIP in about 0.1 us. Where nodes share the processors with the clients, as in a lab, nothing that is built on copies can
//! be much faster.

use anyhow::Context as _;
use dts_lab::{Lab, Network, Place};

use crate::load::{NODES, bulk_directly, own_address};
use crate::run::Pair;

/// The link address that the VIP has, which the nodes' interfaces take and the network floods.
const EVERY_NODE: &str = "03:bf:c6:12:00:64";

/// Direct connections by `new` and `persistent`, and bulk downloads: with copies for all nodes, and beside it without.
pub(crate) fn alone(
    lab: &Lab,
    places: &[Place],
    new: impl Fn() -> anyhow::Result<f64>,
    persistent: impl Fn() -> anyhow::Result<f64>,
) -> anyhow::Result<[Pair; 3]> {
    let all = || Ok::<_, anyhow::Error>([new()?, persistent()?, bulk_directly(lab, places)?]);
    let copies = Copies::begin(lab)?;
    let with = all()?;
    copies.end()?;
    let without = all()?;
    Ok([0, 1, 2].map(|i| Pair {
        ours: with[i],
        partner: without[i],
    }))
}

/// Has every packet to one of the nodes' own addresses reach all of them, until dropped.
struct Copies<'a>(&'a Lab);

impl<'a> Copies<'a> {
    fn begin(lab: &'a Lab) -> anyhow::Result<Self> {
        let copies = Self(lab);
        for place in (1..=NODES).map(Place::Node) {
            let address = own_address(place);
            // As cheap as can be: what is not the node's goes, what is, counts as addressed to it.
            let rules = format!(
                "table netdev copies {{ chain ingress {{ \
                 type filter hook ingress device \"{}\" priority 0; policy accept; \
                 ip daddr {address} meta pkttype set host accept; \
                 ip daddr 198.18.0.0/24 meta pkttype multicast drop; }}; }}",
                Network::Front.interface()
            );
            lab.sh(place, &format!("nft '{rules}'"))
                .context("dropping copies")?;
            lab.sh(
                Place::Client(1),
                &format!(
                    "ip neigh replace {address} lladdr {EVERY_NODE} dev {} nud permanent",
                    Network::Front.interface()
                ),
            )
            .context("addressing all nodes")?;
        }
        Ok(copies)
    }

    /// Ends it. Dropping does the same, and says nothing of errors.
    fn end(self) -> anyhow::Result<()> {
        let result = self.undo();
        std::mem::forget(self);
        result
    }

    fn undo(&self) -> anyhow::Result<()> {
        for place in (1..=NODES).map(Place::Node) {
            let neighbour = format!(
                "ip neigh del {} dev {}",
                own_address(place),
                Network::Front.interface()
            );
            self.0.sh(Place::Client(1), &neighbour)?;
            self.0.sh(place, "nft delete table netdev copies")?;
        }
        Ok(())
    }
}

impl Drop for Copies<'_> {
    fn drop(&mut self) {
        // The lab goes, too, after an error.
        let _ = self.undo();
    }
}
