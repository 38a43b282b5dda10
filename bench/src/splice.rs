//! Splice beside direct connections, on two nodes.

use std::path::Path;

use anyhow::Context as _;
use dts_lab::{ClusterSpec, LabGuard, LabSpec, remove_on_signals};

use crate::load::{
    NODES, Options, Streams, bulk, new_connections, own_address, program, publish, shared_address,
};
use crate::run::{Comparison, Pair, record};

pub(crate) fn run(options: &Options, dts: &Path, runs: &Path) -> anyhow::Result<()> {
    let (pairs, seconds) = options.extent()?;
    let dts = program(dts)?;
    remove_on_signals()?;
    let mut spec = LabSpec::new("bench", NODES, dts);
    spec.cluster.services_toml = Some(ClusterSpec::services(NODES, "splice"));
    let lab = LabGuard::up(spec)?;
    let places = publish(&lab)?;
    let mut comparisons = [
        Comparison {
            name: "new connections, 1 KB, beside direct",
            unit: "conn/s",
            pairs: Vec::new(),
        },
        Comparison {
            name: "bulk, 100 MB from each node at once",
            unit: "MB/s",
            pairs: Vec::new(),
        },
        Comparison {
            name: "bulk, 100 MB, one download at a time",
            unit: "MB/s",
            pairs: Vec::new(),
        },
    ];
    for number in 0..pairs {
        let ours = new_connections(&lab, seconds, options.connections, shared_address)
            .context("through the VIP")?;
        let partner =
            new_connections(&lab, seconds, options.connections, own_address).context("directly")?;
        comparisons[0].pairs.push(Pair { ours, partner });
        comparisons[1]
            .pairs
            .push(bulk(&lab, &places, Streams::Together)?);
        comparisons[2]
            .pairs
            .push(bulk(&lab, &places, Streams::Alone)?);
        eprintln!("pair {} of {pairs}", number + 1);
    }
    let (folder, summary) = record(runs, "splice", &comparisons)?;
    println!("{summary}\n{}", folder.display());
    Ok(())
}
