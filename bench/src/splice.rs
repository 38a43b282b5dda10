//! Splice beside direct connections, on two nodes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use dts_lab::{FileSet, Lab, LabGuard, LabSpec, Place, VIP, remove_on_signals};

use crate::run::{Comparison, Pair, record};

const NODES: u8 = 2;
const BULK: u64 = 100_000_000;
/// How often each side downloads each node's large file for one figure.
const DOWNLOADS: u32 = 8;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often both sides are measured.
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Seconds of load for each measurement of new connections.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Connections that the load keeps busy, in all.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// About a minute: three short pairs.
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(options: &Options, dts: &Path, runs: &Path) -> anyhow::Result<()> {
    let (pairs, seconds) = if options.quick {
        (3, 3)
    } else {
        (options.pairs, options.seconds)
    };
    ensure!(
        pairs >= 1 && seconds >= 1,
        "at least one pair of at least a second"
    );
    let dts = dts.canonicalize().with_context(|| {
        format!(
            "no program {}: `cargo build --release -p dts` makes it",
            dts.display()
        )
    })?;
    remove_on_signals()?;
    let lab = LabGuard::up(LabSpec::new("bench", NODES, dts))?;
    let places: Vec<Place> = (1..=NODES).map(Place::Node).collect();
    for place in &places {
        let mut files = FileSet::new(1);
        files.add(format!("{place}/1k"), 1024)?;
        files.add(format!("{place}/bulk"), BULK)?;
        lab.publish(&[*place], &files)?;
    }
    let mut comparisons = [
        Comparison {
            name: "new connections, 1 KB",
            unit: "conn/s",
            pairs: Vec::new(),
        },
        Comparison {
            name: "bulk, 100 MB",
            unit: "MB/s",
            pairs: Vec::new(),
        },
    ];
    for number in 0..pairs {
        let ours = new_connections(&lab, seconds, options.connections, |_| VIP.to_string())?;
        let partner = new_connections(&lab, seconds, options.connections, own_address)?;
        comparisons[0].pairs.push(Pair { ours, partner });
        comparisons[1].pairs.push(bulk(&lab)?);
        eprintln!("pair {} of {pairs}", number + 1);
    }
    let (folder, summary) = record(runs, "splice", &comparisons)?;
    println!("{summary}\n{}", folder.display());
    Ok(())
}

fn own_address(place: Place) -> String {
    place
        .address(dts_lab::Network::Front)
        .map_or_else(String::new, |a| a.to_string())
}

/// Requests per second of one load generator per node, each with new connections only.
fn new_connections(
    lab: &Lab,
    seconds: u32,
    connections: u32,
    server: impl Fn(Place) -> String,
) -> anyhow::Result<f64> {
    let loads: Vec<String> = (1..=NODES)
        .map(Place::Node)
        .map(|place| {
            let each = connections / u32::from(NODES);
            format!(
                "wrk -t1 -c{each} -d{seconds} -H 'Connection: close' http://{}/{place}/1k &",
                server(place)
            )
        })
        .collect();
    let text = lab.sh(Place::Client(1), &format!("{} wait", loads.join(" ")))?;
    let trouble = text
        .lines()
        .find(|l| l.contains("Socket errors") || l.contains("Non-2xx"));
    if let Some(trouble) = trouble {
        bail!("the load met trouble: {}", trouble.trim());
    }
    let rates: Vec<f64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok())
        .collect();
    ensure!(
        rates.len() == usize::from(NODES),
        "cannot read wrk's output:\n{text}"
    );
    Ok(rates.iter().sum())
}

/// MB/s of 100 MB downloads from each node, one after the other: through the VIP, and beside it directly.
///
/// One download takes a few dozen milliseconds, in which such a machine may do anything. So both sides
/// take turns, and their times are added up.
fn bulk(lab: &Lab) -> anyhow::Result<Pair> {
    let (mut ours, mut partner) = (0.0, 0.0);
    for _ in 0..DOWNLOADS {
        for place in (1..=NODES).map(Place::Node) {
            ours += download(lab, &VIP.to_string(), place)?;
            partner += download(lab, &own_address(place), place)?;
        }
    }
    let megabytes = f64::from(DOWNLOADS) * f64::from(NODES) * BULK as f64 / 1e6;
    Ok(Pair {
        ours: megabytes / ours,
        partner: megabytes / partner,
    })
}

/// The seconds that the download of a node's large file takes.
fn download(lab: &Lab, server: &str, place: Place) -> anyhow::Result<f64> {
    let mut curl = Command::new("curl");
    curl.args([
        "-s",
        "-f",
        "-o",
        "/dev/null",
        "-w",
        "%{time_total} %{size_download}",
    ]);
    curl.arg(format!("http://{server}/{place}/bulk"));
    let output = lab.exec(Place::Client(1), &curl)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut fields = text.split(' ').map(str::parse::<f64>);
    let (Some(Ok(time)), Some(Ok(size))) = (fields.next(), fields.next()) else {
        bail!("cannot read curl's output {text:?} ({})", output.status);
    };
    ensure!(size == BULK as f64, "only {size} bytes came");
    Ok(time)
}
