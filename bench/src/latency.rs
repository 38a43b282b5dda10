//! How long a request takes when there is little to do: a new connection each, at a steady rate.
//!
//! Only the first node inspects, so a request for its own file stays with it, and one for the second node's is handed over.
//! A request's time counts from when it was due, not from when the client came to it: what a stall makes wait is in the
//! figures.

mod figures;

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use dts_lab::Place;

use self::figures::{Quantity, histograms, percentiles, plots, raw};
use crate::cps::FILE;
use crate::peers::{Answers, Load, Peers, Plan, Requests, Side, ToServers};
use crate::progress::Progress;
use crate::run::{Report, Run};

const INSPECTING: Place = Place::Node(1);
const OTHER: Place = Place::Node(2);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often all sides are measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Requests per second.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
}

/// One kind of request.
struct Case {
    side: Side,
    name: &'static str,
    /// The name below a bar.
    short: &'static str,
    /// Whose file is asked for.
    node: Place,
    rounds: Vec<Round>,
}

/// What one measurement of it has shown.
struct Round {
    first_byte: hdrhistogram::Histogram<u64>,
    whole: hdrhistogram::Histogram<u64>,
    failed: u64,
    behind: u64,
}

impl Case {
    fn new(side: Side, name: &'static str, short: &'static str, node: Place) -> Self {
        Self {
            side,
            name,
            short,
            node,
            rounds: Vec::new(),
        }
    }

    /// All of them, the partner of the ratios first.
    fn all() -> Vec<Self> {
        let plain = |side: Side, node| Self::new(side, side.name(), side.short(), node);
        vec![
            plain(Side::Direct, OTHER),
            Self::new(Side::Adopt, "DTS adopt, kept", "adopt, kept", INSPECTING),
            Self::new(Side::Adopt, "DTS adopt, handed over", "adopt, over", OTHER),
            Self::new(Side::Splice, "DTS splice, kept", "splice, kept", INSPECTING),
            Self::new(
                Side::Splice,
                "DTS splice, handed over",
                "splice, over",
                OTHER,
            ),
            plain(Side::Haproxy(ToServers::Fresh), OTHER),
            plain(Side::Haproxy(ToServers::Reused), OTHER),
            plain(Side::Nginx(ToServers::Fresh), OTHER),
            plain(Side::Nginx(ToServers::Reused), OTHER),
            plain(Side::L4, INSPECTING),
            plain(Side::XtCluster, INSPECTING),
        ]
    }
}

pub(crate) fn run(options: &Options, run: &Run) -> anyhow::Result<()> {
    let (rounds, seconds) = match run.quick {
        true => (3, 1.0),
        false => (options.rounds, options.seconds),
    };
    ensure!(
        rounds >= 1
            && (0.1..=600.0).contains(&seconds)
            && (1.0..=100_000.0).contains(&options.rate),
        "at least one round of 0.1 to 600 seconds, and 1 to 100000 requests per second"
    );
    let mut report = Report::new("latency");
    let mut cases = Case::all();
    let progress = Progress::new("latency", rounds * cases.len());
    progress.begin("building the labs");
    let plan = Plan {
        nodes: 2,
        one_inspector: true,
        count_cpu: false,
        answers: Answers::Small,
    };
    let peers = Peers::up(plan, run)?;
    peers.publish(FILE.0, FILE.1)?;
    peers.describe(&mut report)?;
    report.set_up("requests per second", options.rate);
    report.set_up("seconds of each measurement", seconds);
    for round in 1..=rounds {
        for case in &mut cases {
            progress.begin(format!("round {round} of {rounds}: {}", case.name));
            let load = Load {
                requests: Requests::Of(case.node),
                file: FILE,
                connections: 256,
                rate: Some(options.rate),
                time: Duration::from_secs_f64(seconds),
                per_connection: 1,
            };
            let outcome = load.put_on(&peers, case.side)?;
            case.rounds.push(Round {
                failed: outcome.failures(),
                behind: outcome.behind,
                first_byte: outcome.first_byte,
                whole: outcome.latency,
            });
            progress.done();
        }
    }
    drop(progress);
    report.file("raw.csv", raw(&cases));
    report.file("histograms.csv", histograms(&cases)?);
    for (name, svg) in plots(&cases)? {
        report.file(name, svg);
    }
    for quantity in Quantity::ALL {
        report.summary(&percentiles(&cases, quantity)?);
    }
    report.finish(run)
}
