//! Requests per second on persistent connections: of one node's files, and of all nodes' files in turn.

use crate::cps::{Extent, FILE, Options, Totals};
use crate::peers::{CSV, Load, Peers, Requests, Row, Side, Table, bars};
use crate::progress::Progress;
use crate::run::{Report, Run};

/// Requests of a connection: it lasts for the whole measurement.
const PERSISTENT: u64 = u64::MAX;

/// One of the two questions.
struct Question {
    load: Load<'static>,
    table: Table,
    totals: Vec<Totals>,
}

impl Question {
    fn new(name: &'static str, requests: Requests, sides: &[Side], extent: &Extent) -> Self {
        Self {
            load: Load {
                requests,
                file: FILE,
                connections: extent.connections,
                rate: None,
                time: extent.time,
                per_connection: PERSISTENT,
            },
            table: Table::new(name, "req/s", Totals::COLUMNS, sides),
            totals: sides.iter().map(|_| Totals::default()).collect(),
        }
    }

    /// Measures a side, if the question is one for it.
    fn ask(&mut self, side: Side, peers: &Peers) -> anyhow::Result<()> {
        let rows = self.table.rows.iter_mut().zip(&mut self.totals);
        for (row, totals) in rows.filter(|(row, _)| row.side == side) {
            let outcome = self.load.put_on(peers, side)?;
            row.values.push(outcome.rate);
            totals.add(&outcome);
        }
        Ok(())
    }

    fn finish(&mut self) {
        let note = |(row, totals): (&mut Row, &Totals)| row.notes = totals.notes(row.side);
        self.table.rows.iter_mut().zip(&self.totals).for_each(note);
    }
}

pub(crate) fn run(options: &Options, run: &Run) -> anyhow::Result<()> {
    let extent = options.extent(run.quick)?;
    let mut report = Report::new("keepalive");
    let progress = Progress::new("keepalive", extent.rounds * Side::ALL.len());
    progress.begin("building the labs");
    let peers = extent.peers(&mut report, run)?;
    // Where the flow decides, it makes no difference what is asked for.
    let by_content: Vec<Side> = Side::ALL.into_iter().filter(|s| s.by_content()).collect();
    let mut same = Question::new("One node's files", Requests::OwnNode, &Side::ALL, &extent);
    let mut alternating = Question::new(
        "All nodes' files in turn",
        Requests::Alternating,
        &by_content,
        &extent,
    );
    for round in 1..=extent.rounds {
        for side in Side::ALL {
            progress.begin(format!(
                "round {round} of {}: {}",
                extent.rounds,
                side.name()
            ));
            same.ask(side, &peers)?;
            alternating.ask(side, &peers)?;
            progress.done();
        }
    }
    drop(progress);
    same.finish();
    alternating.finish();
    let tables = [&same.table, &alternating.table];
    let raw: String = tables.iter().map(|table| table.csv()).collect();
    report.file("raw.csv", CSV.to_owned() + &raw);
    let title = "Requests per second on persistent connections (r: reused server connections)";
    report.file("keepalive.svg", bars(title, &tables)?);
    for table in tables {
        report.summary(&table.markdown());
    }
    report.finish(run)
}
