//! The paper's Fig. 8 (§4.3): how evenly connections spread over the inspecting nodes, and how many there are per second,
//! as the points of each node on the ring grow.

use std::fmt::Write as _;

use anyhow::ensure;
use clap::Args;
use dts_lab::Lab;
use dts_node::admin::{Client, RingQuery};

use crate::plot::{Axes, Point, Series, lines};
use crate::progress::Progress;
use crate::run::{Report, Run, extremes, median};
use crate::scaling::{Inspectors, Setting, cluster, load, workload};

/// Points of each node. 63 is the default, 31 what the paper finds to be enough.
const POINTS: [u16; 8] = [1, 2, 4, 8, 16, 31, 63, 128];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The nodes, all of which inspect.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=16))]
    nodes: u8,
    /// How often each ring is measured, with other keys each time.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeats: u32,
    /// Seconds of load for each measurement.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Connections that the client keeps busy.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// The cores that each node may use.
    #[arg(long, default_value_t = 0.1)]
    cpu: f32,
    /// How connections are handed over: `adopt` or `splice`.
    #[arg(long, default_value = "adopt", value_parser = ["adopt", "splice"])]
    handover: String,
}

/// What one ring did.
struct Measured {
    points: u16,
    /// Connections per second.
    rate: f64,
    /// Shares of the connections that the least and the most loaded node inspected.
    counted: (f64, f64),
    /// The same by the ring alone: the arcs' lengths.
    ring: (f64, f64),
    /// The largest difference of a node's two shares, in standard deviations of drawing so many connections at random.
    deviation: f64,
    /// The same difference by itself.
    difference: f64,
}

const BYTES: u16 = 4;

pub(crate) fn run(options: &Options, run: &Run) -> anyhow::Result<()> {
    ensure!(
        (0.01..=1.0).contains(&options.cpu),
        "a node has from 0.01 to 1 core"
    );
    let (points, repeats, seconds) = if run.quick {
        (&[1, 31, 128][..], 1, 2)
    } else {
        (&POINTS[..], options.repeats, options.seconds)
    };
    let mut report = Report::new("fig8");
    report.set_up("nodes", options.nodes);
    report.set_up("bytes", BYTES);
    report.set_up("handover", &options.handover);
    report.set_up("share of a core for each node", options.cpu);
    report.set_up("connections kept busy", options.connections);
    report.set_up("seconds", seconds);
    let progress = Progress::new("fig8", points.len() * repeats as usize);
    let mut all = Vec::new();
    for number in 1..=repeats {
        for points in points {
            progress.begin(format!(
                "round {number} of {repeats}: {points} virtual nodes per node"
            ));
            all.push(measure(*points, seconds, options, run)?);
            progress.done();
        }
    }
    drop(progress);
    report.file("raw.csv", raw(&all));
    report.summary(&summary(points, &all));
    report.summary(
        "The paper: nearly equal loads from 31 virtual nodes per node on, 248 in all. Its figure is of one ring; each of \
         the runs here has a secret, and so a ring, of its own.",
    );
    report.file("shares.svg", shares_plot(points, &all)?);
    report.file("throughput.svg", throughput_plot(points, &all)?);
    report.finish(run)
}

fn measure(points: u16, seconds: u32, options: &Options, run: &Run) -> anyhow::Result<Measured> {
    let setting = Setting {
        handover: options.handover.clone(),
        inspectors: Inspectors::Multiple,
        nodes: options.nodes,
    };
    let lab = cluster(&setting, BYTES, options.cpu, run, |spec| {
        spec.cluster.ring_toml = format!("virtual_nodes = {points}\n");
    })?;
    let before = counted(&lab, &options.handover)?;
    let (seen, _) = load(&lab, &workload(BYTES, seconds, options.connections))?;
    let counts: Vec<f64> = counted(&lab, &options.handover)?
        .iter()
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before) as f64)
        .collect();
    let all: f64 = counts.iter().sum();
    ensure!(all > 0.0, "no node has inspected a connection");
    let shares: Vec<f64> = counts.iter().map(|count| count / all).collect();
    let ring: Vec<f64> = Client::connect(&lab.daemon_socket(1))?
        .ring(RingQuery::default())?
        .members
        .iter()
        .map(|member| member.share)
        .collect();
    ensure!(ring.len() == shares.len(), "a ring of {} nodes", ring.len());
    let deviations = shares
        .iter()
        .zip(&ring)
        .map(|(share, p)| (share - p).abs() / (p * (1.0 - p) / all).sqrt());
    Ok(Measured {
        points,
        rate: seen.rate(),
        counted: extremes(shares.iter().copied()),
        ring: extremes(ring.iter().copied()),
        deviation: extremes(deviations).1,
        difference: extremes(shares.iter().zip(&ring).map(|(a, b)| (a - b).abs())).1,
    })
}

/// How many connections each node has begun to inspect.
fn counted(lab: &Lab, handover: &str) -> anyhow::Result<Vec<u64>> {
    (1..=lab.spec().node_count())
        .map(|node| {
            let stats = Client::connect(&lab.daemon_socket(node))?.stats()?;
            let count = match handover {
                "adopt" => stats.actions.get("syn_answered"),
                _ => stats.inspector.get("echo.accepted"),
            };
            Ok(count.copied().unwrap_or(0))
        })
        .collect()
}

fn repeats(all: &[Measured], points: u16, value: fn(&Measured) -> f64) -> Vec<f64> {
    all.iter()
        .filter(|m| m.points == points)
        .map(value)
        .collect()
}

fn series(name: &str, points: &[u16], all: &[Measured], value: fn(&Measured) -> f64) -> Series {
    Series {
        name: name.to_owned(),
        points: points
            .iter()
            .map(|p| Point::of(f64::from(*p), &repeats(all, *p, value)))
            .collect(),
    }
}

fn shares_plot(points: &[u16], all: &[Measured]) -> anyhow::Result<String> {
    let axes = Axes {
        title: "Share of the connections that the most and the least loaded node inspects",
        x: "virtual nodes per node",
        y: "percent",
        log_x: true,
    };
    let all_series = [
        series("most, counted", points, all, |m| 100.0 * m.counted.1),
        series("least, counted", points, all, |m| 100.0 * m.counted.0),
        series("most, by the ring", points, all, |m| 100.0 * m.ring.1),
        series("least, by the ring", points, all, |m| 100.0 * m.ring.0),
    ];
    lines(&axes, &all_series)
}

fn throughput_plot(points: &[u16], all: &[Measured]) -> anyhow::Result<String> {
    let axes = Axes {
        title: "Connections per second",
        x: "virtual nodes per node",
        y: "connections/s",
        log_x: true,
    };
    lines(&axes, &[series("connections/s", points, all, |m| m.rate)])
}

fn raw(all: &[Measured]) -> String {
    let mut text = "points,rate,least,most,ring_least,ring_most,difference,deviation\n".to_owned();
    for m in all {
        let _ = writeln!(
            text,
            "{},{:.1},{:.5},{:.5},{:.5},{:.5},{:.5},{:.2}",
            m.points,
            m.rate,
            m.counted.0,
            m.counted.1,
            m.ring.0,
            m.ring.1,
            m.difference,
            m.deviation
        );
    }
    text
}

fn summary(points: &[u16], all: &[Measured]) -> String {
    let mut text = "| virtual nodes per node | conn/s | least loaded | most loaded | least, by the ring | most, by the ring | \
                    largest difference of a node's two shares |\n|---|---|---|---|---|---|---|\n"
        .to_owned();
    for points in points {
        let of = |value: fn(&Measured) -> f64| median(repeats(all, *points, value).into_iter());
        let _ = writeln!(
            text,
            "| {points} | {:.0} | {:.1} % | {:.1} % | {:.1} % | {:.1} % | {:.2} points ({:.1} standard deviations) |",
            of(|m| m.rate),
            100.0 * of(|m| m.counted.0),
            100.0 * of(|m| m.counted.1),
            100.0 * of(|m| m.ring.0),
            100.0 * of(|m| m.ring.1),
            100.0 * of(|m| m.difference),
            of(|m| m.deviation),
        );
    }
    text
}
