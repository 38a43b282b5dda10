//! Splice beside direct connections, on two nodes.

use anyhow::Context as _;
use dts_lab::{ClusterSpec, LabGuard, LabSpec};

use crate::load::{
    NODES, Options, Streams, bulk, new_connections, own_address, publish, shared_address,
};
use crate::progress::Progress;
use crate::run::{Comparison, Report, Run, tables};

pub(crate) fn run(options: &Options, run: &Run) -> anyhow::Result<()> {
    let (pairs, seconds) = options.extent(run.quick)?;
    let mut report = Report::new("splice");
    let progress = Progress::new("splice", pairs);
    progress.begin("building the lab");
    let mut spec = LabSpec::new("bench", NODES, &run.dts);
    spec.cluster.services_toml = Some(ClusterSpec::services(NODES, "splice"));
    let lab = LabGuard::up(spec)?;
    let places = publish(&lab)?;
    let mut comparisons = [
        Comparison::new("new connections, 1 KB, beside direct", "conn/s"),
        Comparison::new("bulk, 100 MB from each node at once", "MB/s"),
        Comparison::new("bulk, 100 MB, one download at a time", "MB/s"),
    ];
    for number in 0..pairs {
        progress.begin(format!("pair {} of {pairs}", number + 1));
        let ours = new_connections(&lab, seconds, options.connections, shared_address)
            .context("through the VIP")?;
        let partner =
            new_connections(&lab, seconds, options.connections, own_address).context("directly")?;
        comparisons[0].push(ours, partner);
        comparisons[1]
            .pairs
            .push(bulk(&lab, &places, Streams::Together)?);
        comparisons[2]
            .pairs
            .push(bulk(&lab, &places, Streams::Alone)?);
        progress.done();
    }
    drop(progress);
    report.packages(&["nginx-light", "wrk", "curl"]);
    let (summary, raw) = tables(&comparisons);
    report.file("raw.csv", raw);
    report.summary(&summary);
    report.finish(run)
}
