//! What Figs. 6 and 7 look like here.

use std::fmt::Write as _;

use super::{Inspectors, Measured, Options};
use crate::plot::{Axes, Point, Series, lines};
use crate::run::{Report, Run, extremes, figure, median};

pub(super) fn begin(name: &str, bytes: u16, options: &Options, seconds: u32) -> Report {
    let mut report = Report::new(name);
    report.set_up("bytes", bytes);
    report.set_up("share of a core for each node", options.cpu);
    report.set_up(
        "received frames wait, us",
        format!("{:.0}", super::RX_USECS / f64::from(options.cpu)),
    );
    report.set_up("connections kept busy", options.connections);
    report.set_up("seconds", seconds);
    report.set_up("virtual nodes", "63 per inspecting node");
    report
}

pub(super) fn finish(
    mut report: Report,
    name: &str,
    bytes: u16,
    all: &[Measured],
    run: &Run,
) -> anyhow::Result<()> {
    report.file("raw.csv", raw(all));
    let mut handovers: Vec<&str> = all.iter().map(|m| m.setting.handover.as_str()).collect();
    handovers.sort_unstable();
    handovers.dedup();
    report.summary(&table(all, &handovers));
    for handover in &handovers {
        if let Some(text) = ratio(all, handover) {
            report.summary(&text);
        }
    }
    report.summary(
        "The paper: a single inspector is flat; multiple ones grow, at 8 nodes to about 3.4 times as many; \
         with 1,024 bytes 1 Gbit/s is full at about 85,000 connections/s.",
    );
    let mut series = Vec::new();
    for handover in &handovers {
        for inspectors in [Inspectors::Multiple, Inspectors::Single] {
            let points = counts(all).into_iter().filter_map(|nodes| {
                let rates = rates(all, handover, inspectors, nodes);
                (!rates.is_empty()).then(|| Point::of(nodes.into(), &rates))
            });
            series.push(Series {
                name: format!("{handover}, {} inspectors", inspectors.name()),
                points: points.collect(),
            });
        }
    }
    let axes = Axes {
        title: &format!("Connections per second, {bytes} bytes each"),
        x: "nodes",
        y: "connections/s",
        log_x: false,
    };
    report.file(&format!("{name}.svg"), lines(&axes, &series)?);
    report.finish(run)
}

fn counts(all: &[Measured]) -> Vec<u8> {
    let mut counts: Vec<u8> = all.iter().map(|m| m.setting.nodes).collect();
    counts.sort_unstable();
    counts.dedup();
    counts
}

fn of<'a>(
    all: &'a [Measured],
    handover: &'a str,
    inspectors: Inspectors,
    nodes: u8,
) -> impl Iterator<Item = &'a Measured> {
    all.iter().filter(move |m| {
        let s = &m.setting;
        s.handover == handover && s.inspectors == inspectors && s.nodes == nodes
    })
}

fn rates(all: &[Measured], handover: &str, inspectors: Inspectors, nodes: u8) -> Vec<f64> {
    of(all, handover, inspectors, nodes)
        .map(|m| m.rate)
        .collect()
}

fn table(all: &[Measured], handovers: &[&str]) -> String {
    let mut text =
        "| handover | inspectors | nodes | conn/s, median | spread | failed | p50, p99 ms | \
                    busiest node's, others' use of their share | client, cores | machine idle |\n\
                    |---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for handover in handovers {
        for inspectors in [Inspectors::Single, Inspectors::Multiple] {
            for nodes in counts(all) {
                let runs: Vec<_> = of(all, handover, inspectors, nodes).collect();
                let middle =
                    |value: &dyn Fn(&Measured) -> f64| median(runs.iter().map(|m| value(m)));
                let (least, most) = extremes(runs.iter().map(|m| m.rate));
                let others = |m: &Measured| {
                    let mut shares = m.nodes.clone();
                    shares.sort_by(f64::total_cmp);
                    shares.pop();
                    median(shares.into_iter())
                };
                let others = middle(&others);
                let others = if others.is_nan() {
                    "-".to_owned()
                } else {
                    format!("{:.0} %", 100.0 * others)
                };
                let _ = writeln!(
                    text,
                    "| {handover} | {} | {nodes} | {} | {} to {} | {} | {:.0}, {:.0} | {:.0} %, {others} | {:.2} | {:.0} % |",
                    inspectors.name(),
                    figure(middle(&|m| m.rate)),
                    figure(least),
                    figure(most),
                    runs.iter().map(|m| m.failed).sum::<u64>(),
                    middle(&|m| m.latency.0),
                    middle(&|m| m.latency.1),
                    100.0 * middle(&|m| extremes(m.nodes.iter().copied()).1),
                    middle(&|m| m.client),
                    100.0 * middle(&|m| m.idle),
                );
            }
        }
    }
    text
}

/// How much more multiple inspectors do than a single one, with as many nodes as there were, round by round; and how
/// each grew from the fewest nodes.
fn ratio(all: &[Measured], handover: &str) -> Option<String> {
    let counts = counts(all);
    let (fewest, most) = (*counts.first()?, *counts.last()?);
    let single = rates(all, handover, Inspectors::Single, most);
    let multiple = rates(all, handover, Inspectors::Multiple, most);
    let ratios = || multiple.iter().zip(&single).map(|(m, s)| m / s);
    let (low, high) = extremes(ratios());
    let growth = |inspectors| {
        let of = |nodes| median(rates(all, handover, inspectors, nodes).into_iter());
        of(most) / of(fewest)
    };
    Some(format!(
        "{handover}, {most} nodes: multiple/single {:.2} ({low:.2} to {high:.2}); from {fewest} to {most} nodes: single {:.2} \
         times, multiple {:.2} times.\n",
        median(ratios()),
        growth(Inspectors::Single),
        growth(Inspectors::Multiple),
    ))
}

fn raw(all: &[Measured]) -> String {
    let mut text =
        "handover,inspectors,nodes,rate,failed,p50_ms,p99_ms,client_cores,idle,shares_used,reasons\n"
            .to_owned();
    for m in all {
        let shares: Vec<String> = m.nodes.iter().map(|s| format!("{s:.3}")).collect();
        let _ = writeln!(
            text,
            "{},{},{},{:.1},{},{:.2},{:.2},{:.3},{:.3},{},{}",
            m.setting.handover,
            m.setting.inspectors.name(),
            m.setting.nodes,
            m.rate,
            m.failed,
            m.latency.0,
            m.latency.1,
            m.client,
            m.idle,
            shares.join(" "),
            m.reasons
        );
    }
    text
}
