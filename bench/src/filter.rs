//! What each verdict of the packet filter costs, in nanoseconds per packet, beside a program that does nothing; and what it
//! costs a node to drop another's packet, beside netfilter's way.

mod receive;
mod rows;
mod states;

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use clap::Args;
use dts_lab::{Lab, LabGuard, LabSpec};

use self::rows::{Adopted, Row};
use crate::progress::Progress;
use crate::run::{Report, Run, extremes, figure, median};
use crate::staged::{NODE, Staged};

pub(crate) use self::states::request;

/// How many nodes the ring has that the flows are placed on.
const MEMBERS: u8 = 8;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Frames of each verdict and round, each of a flow of its own where that makes a difference; at most 60000.
    #[arg(long, default_value_t = 4000)]
    frames: usize,
    /// How often a frame is repeated that its program leaves as it is.
    #[arg(long, default_value_t = 1_000_000)]
    repeats: u32,
    /// Seconds of each burst of frames that are another node's.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
}

/// The extent of a run.
struct Extent {
    rounds: usize,
    frames: usize,
    repeats: u32,
}

/// What was measured of a row: nanoseconds, a figure for each round.
#[derive(Default)]
struct Measured {
    /// Of single runs, the median.
    once: Vec<f64>,
    /// Of many runs with the same frame, the mean.
    repeated: Vec<f64>,
}

pub(crate) fn run(options: &Options, run: &Run) -> anyhow::Result<()> {
    ensure!(
        options.rounds >= 1 && (1..=60_000).contains(&options.frames) && options.repeats >= 1,
        "at least one round, 1 to 60000 frames, at least one repeat"
    );
    let extent = match run.quick {
        true => Extent {
            rounds: 3,
            frames: 500,
            repeats: 100_000,
        },
        false => Extent {
            rounds: options.rounds,
            frames: options.frames,
            repeats: options.repeats,
        },
    };
    let seconds = if run.quick { 1 } else { options.seconds };
    let mut report = Report::new("filter");
    report.set_up("rounds", extent.rounds);
    report.set_up("ring", format!("{MEMBERS} nodes with 63 points each"));
    report.set_up("single runs of each verdict and round", extent.frames);
    report.set_up("repeats of an unchanged frame", extent.repeats);
    report.packages(&["iptables"]);
    let progress = Progress::new("filter", extent.rounds * 2);
    verdicts(&extent, run, &progress, &mut report)?;
    receive::measure(extent.rounds, seconds, run, &progress, &mut report)?;
    drop(progress);
    report.finish(run)
}

/// The verdicts, in a node whose filter is not attached.
fn verdicts(
    extent: &Extent,
    run: &Run,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    progress.begin("building the lab");
    let lab = LabGuard::up(spec(run))?;
    let work = || -> anyhow::Result<(Vec<Row>, Vec<Measured>, Measured)> {
        let staged = Staged::new(&lab, MEMBERS)?;
        let adopted = Adopted::connect()?;
        let rows = rows::rows(adopted.flow);
        let mut measured: Vec<_> = rows.iter().map(|_| Measured::default()).collect();
        let mut nothing = Measured::default();
        for round in 1..=extent.rounds {
            progress.begin(format!("verdicts, round {round} of {}", extent.rounds));
            measure_nothing(&staged, extent, &mut nothing)?;
            for (row, measured) in rows.iter().zip(&mut measured) {
                measure_row(&staged, row, extent, measured)
                    .with_context(|| format!("the verdict of `{}`", row.name))?;
            }
            progress.done();
        }
        Ok((rows, measured, nothing))
    };
    let (rows, measured, nothing) = lab.within(NODE, work)??;
    report.file("verdicts.csv", csv(&rows, &measured, &nothing));
    report.summary(&table(&rows, &measured, &nothing));
    Ok(())
}

/// A node with the VIP, without a daemon or server.
fn spec(run: &Run) -> LabSpec {
    let mut spec = LabSpec::new("small", 1, &run.dts).without_daemons();
    spec.cluster.vip_on_lo = true;
    spec.server = dts_lab::ServerKind::None;
    spec
}

/// The program that does nothing, in both ways.
fn measure_nothing(
    staged: &Staged,
    extent: &Extent,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let frame = vec![0x22; 100];
    let single = (0..extent.frames)
        .map(|_| Ok(staged.once("nothing", &frame)?.duration.as_nanos() as f64))
        .collect::<anyhow::Result<Vec<_>>>()?;
    measured.once.push(median(single.into_iter()));
    let repeated = staged
        .filter
        .measure("nothing", 0, &frame, extent.repeats)?;
    measured.repeated.push(repeated.duration.as_nanos() as f64);
    Ok(())
}

/// One row: each frame once; and if the program leaves it as it is, one of them many times.
fn measure_row(
    staged: &Staged,
    row: &Row,
    extent: &Extent,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let frames = (row.prepare)(staged, extent.frames)?;
    let mut durations = Vec::with_capacity(frames.len());
    let mut unchanged = true;
    let ((), grown) = staged.counted(|| {
        for frame in &frames {
            let ran = staged.once(row.program, frame)?;
            ensure!(
                ran.code == row.code,
                "it returned {}, not {}",
                ran.code,
                row.code
            );
            unchanged &= ran.frame == *frame;
            durations.push(ran.duration.as_nanos() as f64);
        }
        Ok(())
    })?;
    Staged::check("single runs", &grown, (row.verdict, frames.len() as u64))?;
    measured.once.push(median(durations.into_iter()));
    if let (true, Some(frame)) = (unchanged, frames.last()) {
        let repeat = || {
            Ok(staged
                .filter
                .measure(row.program, 0, frame, extent.repeats)?)
        };
        let (ran, grown) = staged.counted(repeat)?;
        ensure!(
            ran.code == row.code,
            "it returned {}, not {}",
            ran.code,
            row.code
        );
        Staged::check("repeats", &grown, (row.verdict, extent.repeats.into()))?;
        measured.repeated.push(ran.duration.as_nanos() as f64);
    }
    staged.clear()
}

fn csv(rows: &[Row], measured: &[Measured], nothing: &Measured) -> String {
    let mut raw = String::from("case,program,verdict,way,round,ns\n");
    let mut add = |name: &str, program: &str, verdict: &str, measured: &Measured| {
        for (way, values) in [("once", &measured.once), ("repeated", &measured.repeated)] {
            for (round, ns) in values.iter().enumerate() {
                let _ = writeln!(raw, "\"{name}\",{program},{verdict},{way},{round},{ns:.0}");
            }
        }
    };
    add("nothing", "nothing", "", nothing);
    for (row, measured) in rows.iter().zip(measured) {
        add(row.name, row.program, row.verdict.name(), measured);
    }
    raw
}

fn table(rows: &[Row], measured: &[Measured], nothing: &Measured) -> String {
    let mut text = String::from(
        "Nanoseconds per packet by BPF_PROG_TEST_RUN, medians of the rounds (and their spread). *Repeated*: the same frame \
         many times in one call, less what the empty program takes; only where the program leaves the frame as it is. \
         *Once*: frames of different flows, one call each, less the empty program's call: caches are as a system call \
         leaves them.\n\n\
         | case | program | verdict | repeated | once |\n|---|---|---|---|---|\n",
    );
    let _ = writeln!(
        text,
        "| the empty program itself | nothing | | {} | {} |",
        cell(&nothing.repeated, &[]),
        cell(&nothing.once, &[])
    );
    for (row, measured) in rows.iter().zip(measured) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            row.name,
            row.program,
            row.verdict.name(),
            cell(&measured.repeated, &nothing.repeated),
            cell(&measured.once, &nothing.once)
        );
    }
    text
}

/// Median and spread of the rounds' differences.
fn cell(values: &[f64], less: &[f64]) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    let differences = || {
        let less = less.iter().copied().chain(std::iter::repeat(0.0));
        values.iter().zip(less).map(|(value, less)| value - less)
    };
    let (least, most) = extremes(differences());
    format!(
        "{} ({} to {})",
        figure(median(differences())),
        figure(least),
        figure(most)
    )
}

/// The lab of the receive paths: its node's receive path is a thread of its own.
fn receiving_spec(run: &Run) -> LabSpec {
    let mut spec = LabSpec::new("small", 1, &run.dts).without_daemons();
    spec.server = dts_lab::ServerKind::None;
    spec.nodes[0].cpu_quota = Some(2.0);
    spec
}

/// Makes the clients' routes back, so that spoofed addresses are no reason to drop a packet.
fn route_back(lab: &Lab) -> anyhow::Result<()> {
    let client = dts_lab::Place::Client(1).address(dts_lab::Network::Front);
    let client = client.context("the client's address")?;
    lab.sh(NODE, &format!("ip route add 198.19.0.0/16 via {client}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_differences_of_the_rounds() {
        assert_eq!(
            cell(&[110.0, 120.0, 130.0], &[10.0, 10.0, 10.0]),
            "110 (100 to 120)"
        );
        assert_eq!(cell(&[20.0], &[]), "20.0 (20.0 to 20.0)");
        assert_eq!(cell(&[], &[1.0]), "-");
    }
}
