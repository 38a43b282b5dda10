//! Downloads of 100 MB: how fast they are, and what they cost each node.
//!
//! The first node alone inspects, the second has the file, the third has no part in it but to drop its copies of the
//! client's packets: so each node's processor time is that of its part.

mod download;
mod figures;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use dts_lab::{Lab, Place};

use self::download::{Client, Download};
use self::figures::{Cost, Part, cost_plot, cost_table};
use crate::peers::{Answers, CLIENT, CSV, PROXY, Peers, Plan, Side, Table, ToServers, bars};
use crate::progress::Progress;
use crate::run::{Report, Run};

const FILE: (&str, u64) = ("bulk", 100_000_000);
/// Reused server connections make no difference for a download of this size.
const SIDES: [Side; 7] = [
    Side::Direct,
    Side::Adopt,
    Side::Splice,
    Side::Haproxy(ToServers::Reused),
    Side::Nginx(ToServers::Reused),
    Side::L4,
    Side::XtCluster,
];
const INSPECTING: Place = Place::Node(1);
const PROCESSING: Place = Place::Node(2);
const IDLE: Place = Place::Node(3);
/// What comes after the last byte: the connection's end.
const REST: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often all sides are measured.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Downloads of each measurement, one after the other.
    #[arg(long, default_value_t = 20)]
    downloads: usize,
    /// Nodes; the ones after the third are idle as well.
    #[arg(long, default_value_t = 3)]
    nodes: u8,
}

pub(crate) fn run(options: &Options, run: &Run) -> anyhow::Result<()> {
    let (rounds, downloads) = match run.quick {
        true => (3, 4),
        false => (options.rounds, options.downloads),
    };
    ensure!(
        rounds >= 1 && (1..=1000).contains(&downloads) && options.nodes >= 3,
        "at least one round, 1 to 1000 downloads, and three nodes at least"
    );
    let mut report = Report::new("bulk");
    let progress = Progress::new("bulk", (2 * rounds + 1) * SIDES.len());
    progress.begin("building the labs");
    let plan = Plan {
        nodes: options.nodes,
        one_inspector: true,
        count_cpu: true,
        answers: Answers::Downloads,
    };
    let peers = Peers::up(plan, run)?;
    let sha256 = peers.publish(FILE.0, FILE.1)?;
    peers.describe(&mut report)?;
    report.set_up("downloads of each measurement", downloads);
    report.set_up("bytes of each download", FILE.1);
    let mut clients = Vec::new();
    for side in SIDES {
        progress.begin(format!("checking what comes: {}", side.name()));
        clients.push(client(&peers, side, &sha256).with_context(|| side.name())?);
        progress.done();
    }
    let mut speed = Table::new("Downloads of 100 MB", "MB/s", &[], &SIDES);
    let mut costs: Vec<Vec<Cost>> = SIDES.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        // Counting costs: segments are cut up, and threads are woken. So speed is measured without it.
        peers.count_receiving(false)?;
        for (row, client) in speed.rows.iter_mut().zip(&clients) {
            progress.begin(format!("round {round} of {rounds}: speed, {}", row.name));
            let (speed, _) = measure(&peers, row.side, client, downloads)?;
            row.values.push(speed);
            progress.done();
        }
        peers.count_receiving(true)?;
        for ((side, client), costs) in SIDES.iter().zip(&clients).zip(&mut costs) {
            progress.begin(format!("round {round} of {rounds}: cost, {}", side.name()));
            let (_, cost) = measure(&peers, *side, client, downloads)?;
            costs.push(cost);
            progress.done();
        }
    }
    drop(progress);
    let raw = figures::csv(&SIDES, &costs);
    report.file("raw.csv", CSV.to_owned() + &speed.csv() + &raw);
    report.file("bulk.svg", bars("Downloads of 100 MB", &[&speed])?);
    report.file("cpu.svg", cost_plot(&SIDES, &costs)?);
    report.summary(&speed.markdown());
    report.summary(&cost_table(&SIDES, &costs));
    report.finish(run)
}

/// Who has which part in a side's downloads.
fn parts(side: Side) -> Vec<(Part, Place)> {
    match side {
        Side::Adopt | Side::Splice => vec![
            (Part::Inspecting, INSPECTING),
            (Part::Processing, PROCESSING),
            (Part::Idle, IDLE),
        ],
        // The only node with points on the ring keeps what it gets.
        Side::L4 => vec![(Part::Processing, INSPECTING), (Part::Idle, IDLE)],
        Side::Direct | Side::XtCluster => vec![(Part::Processing, PROCESSING), (Part::Idle, IDLE)],
        Side::Haproxy(_) | Side::Nginx(_) => vec![
            (Part::Proxy, PROXY),
            (Part::Processing, PROCESSING),
            (Part::Idle, IDLE),
        ],
    }
}

/// The node that answers.
fn processing(side: Side) -> Place {
    match side {
        Side::L4 => INSPECTING,
        _ => PROCESSING,
    }
}

/// A client of a side, after a download with the right bytes.
fn client(peers: &Peers, side: Side, sha256: &str) -> anyhow::Result<Client> {
    let node = processing(side);
    let lab = peers.lab(side);
    let mut others = Vec::new();
    for source in peers.sources() {
        let client = Client {
            server: side.server(node)?,
            source,
            path: side.path(node, FILE.0),
        };
        let mut bytes = Vec::new();
        let got = get(lab, &client, |part| bytes.extend_from_slice(part))?;
        ensure!(
            got.bytes == FILE.1 && dts_lab::sha256(&bytes) == sha256,
            "{} bytes came, and not the right ones",
            got.bytes
        );
        if got.node == node.to_string() {
            return Ok(client);
        }
        // Only there does the client's address decide; another one may be this node's.
        ensure!(
            side == Side::XtCluster,
            "{} has answered in place of {node}",
            got.node
        );
        others.push(got.node);
    }
    anyhow::bail!("no address of the client's is {node}'s, but only {others:?}'s")
}

fn get(lab: &Lab, client: &Client, take: impl FnMut(&[u8]) + Send) -> anyhow::Result<Download> {
    lab.within(CLIENT, || client.download(take))?
}

/// MB/s of some downloads, and the seconds of processor time that each part took for a GB.
fn measure(
    peers: &Peers,
    side: Side,
    client: &Client,
    downloads: usize,
) -> anyhow::Result<(f64, Cost)> {
    let lab = peers.lab(side);
    let mut places = peers.nodes();
    if side.is_proxy() {
        places.push(PROXY);
    }
    let used = || -> anyhow::Result<Vec<Duration>> {
        let used = places.iter().map(|place| lab.cpu_time(*place));
        Ok(used.collect::<Result<_, _>>()?)
    };
    let node = processing(side).to_string();
    let before = used()?;
    let begin = Instant::now();
    let all = || -> anyhow::Result<Duration> {
        for _ in 0..downloads {
            let got = client.download(|_| ())?;
            ensure!(
                got.bytes == FILE.1 && got.node == node,
                "{} bytes came from {}",
                got.bytes,
                got.node
            );
        }
        Ok(begin.elapsed())
    };
    let time = lab
        .within(CLIENT, all)?
        .with_context(|| format!("measuring {}", side.name()))?;
    std::thread::sleep(REST);
    let after = used()?;
    let bytes = (downloads as u64 * FILE.1) as f64;
    let cost_of = |(before, after): (&Duration, &Duration)| {
        after.saturating_sub(*before).as_secs_f64() / (bytes / 1e9)
    };
    let costs: Vec<f64> = before.iter().zip(&after).map(cost_of).collect();
    let of = |place: Place| {
        let mut own = places.iter().zip(&costs).filter(|(of, _)| **of == place);
        own.next().map(|(_, cost)| *cost)
    };
    let parts = parts(side).into_iter();
    let cost = Cost {
        parts: parts
            .filter_map(|(part, place)| Some((part, of(place)?)))
            .collect(),
        all: costs.iter().sum(),
    };
    Ok((bytes / 1e6 / time.as_secs_f64(), cost))
}
