//! What DTS says that it has done: its counters.

use anyhow::Context as _;
use dts_lab::{Lab, Place};
use dts_node::admin::Client;

use super::Side;

/// The counter of the filter's that grows once for each connection that comes to a server in a side's way.
fn counter(side: Side) -> Option<&'static str> {
    match side {
        Side::Adopt => Some("adopted"),
        Side::Splice => Some("direct"),
        Side::L4 | Side::Direct | Side::Haproxy(_) | Side::Nginx(_) | Side::XtCluster => None,
    }
}

/// How often connections have come to a server in a side's way, on all nodes; `None` where there is no such counter.
pub(super) fn moved(lab: &Lab, side: Side) -> anyhow::Result<Option<u64>> {
    let Some(counter) = counter(side) else {
        return Ok(None);
    };
    let mut sum = 0;
    for node in 1..=lab.spec().node_count() {
        let stats = Client::connect(&lab.daemon_socket(node))?.stats()?;
        sum += stats
            .actions
            .get(counter)
            .with_context(|| format!("{} has no counter `{counter}`", Place::Node(node)))?;
    }
    Ok(Some(sum))
}
