//! New connections per second, a request for 1 KB on each.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;

use crate::peers::{Answers, CSV, Load, Outcome, Peers, Plan, Requests, Side, Table, bars};
use crate::progress::Progress;
use crate::run::{Report, Run};

/// What `cps` and `keepalive` can be asked for.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often all sides are measured.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of load for each measurement.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Connections that the load keeps busy, in all.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Nodes; each has a load generator of its own.
    #[arg(long, default_value_t = 2)]
    nodes: u8,
}

/// The options, checked and shortened for a quick run.
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) connections: usize,
    pub(crate) nodes: u8,
}

impl Extent {
    /// Builds the labs with the file in them, and describes them.
    pub(crate) fn peers(&self, report: &mut Report, run: &Run) -> anyhow::Result<Peers> {
        let plan = Plan {
            nodes: self.nodes,
            one_inspector: false,
            count_cpu: false,
            answers: Answers::Small,
        };
        let peers = Peers::up(plan, run)?;
        peers.publish(FILE.0, FILE.1)?;
        peers.describe(report)?;
        report.set_up("seconds of each measurement", self.time.as_secs_f64());
        report.set_up("connections", self.connections);
        Ok(peers)
    }
}

impl Options {
    pub(crate) fn extent(&self, quick: bool) -> anyhow::Result<Extent> {
        let (rounds, seconds) = match quick {
            true => (2, 1.0),
            false => (self.rounds, self.seconds),
        };
        ensure!(
            rounds >= 1 && (0.1..=600.0).contains(&seconds),
            "at least one round of 0.1 to 600 seconds"
        );
        ensure!(self.nodes >= 2, "at least two nodes");
        ensure!(
            (usize::from(self.nodes)..=2000).contains(&self.connections),
            "a connection for each node at least, and 2000 at most"
        );
        Ok(Extent {
            rounds,
            time: Duration::from_secs_f64(seconds),
            connections: self.connections,
            nodes: self.nodes,
        })
    }
}

/// What each side did in all rounds, for the further columns.
#[derive(Default)]
pub(crate) struct Totals {
    failed: u64,
    requests: u64,
    own: u64,
    connections: u64,
}

impl Totals {
    pub(crate) const COLUMNS: &'static [&'static str] = &[
        "failed",
        "answered by the right node",
        "requests per server connection",
    ];

    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.failed += outcome.failures();
        self.requests += outcome.served.requests;
        self.own += outcome.served.own;
        self.connections += outcome.served.connections;
    }

    pub(crate) fn notes(&self, side: Side) -> Vec<String> {
        let share = self.own as f64 / self.requests.max(1) as f64;
        let each = self.requests as f64 / self.connections.max(1) as f64;
        vec![
            self.failed.to_string(),
            match side.by_content() {
                true => format!("{:.1} %", share * 100.0),
                false => "any is".to_owned(),
            },
            match self.connections {
                0 => "none new".to_owned(),
                _ => format!("{each:.1}"),
            },
        ]
    }
}

pub(crate) const FILE: (&str, u64) = ("1k", 1024);

pub(crate) fn run(options: &Options, run: &Run) -> anyhow::Result<()> {
    let extent = options.extent(run.quick)?;
    let mut report = Report::new("cps");
    let progress = Progress::new("cps", extent.rounds * Side::ALL.len());
    progress.begin("building the labs");
    let peers = extent.peers(&mut report, run)?;
    let load = Load {
        requests: Requests::OwnNode,
        file: FILE,
        connections: extent.connections,
        rate: None,
        time: extent.time,
        per_connection: 1,
    };
    let name = "New connections, 1 KB";
    let mut table = Table::new(name, "conn/s", Totals::COLUMNS, &Side::ALL);
    let mut totals: Vec<Totals> = Side::ALL.iter().map(|_| Totals::default()).collect();
    for round in 1..=extent.rounds {
        for (row, totals) in table.rows.iter_mut().zip(&mut totals) {
            progress.begin(format!("round {round} of {}: {}", extent.rounds, row.name));
            let outcome = load.put_on(&peers, row.side)?;
            row.values.push(outcome.rate);
            totals.add(&outcome);
            progress.done();
        }
    }
    drop(progress);
    for (row, totals) in table.rows.iter_mut().zip(&totals) {
        row.notes = totals.notes(row.side);
    }
    report.file("raw.csv", CSV.to_owned() + &table.csv());
    report.file(
        "cps.svg",
        bars(
            "New connections per second, 1 KB (r: reused server connections)",
            &[&table],
        )?,
    );
    report.summary(&table.markdown());
    report.finish(run)
}
