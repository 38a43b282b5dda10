//! The requests and their sum, as text with styles.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use dts_lab::{Lab, Place};
use dts_node::admin::StatsView;

use super::evidence::{Finding, Outcome, inspector, name};

const BOLD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// A line for each request.
pub(super) fn requests(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "\n{BOLD}{:>3}  {:<18}  {:>5}  {:<9}  {:<9}  {:<11}  {:>6}  {:>9}  CHECKSUM{BOLD:#}\n",
        "#", "PATH", "PORT", "INSPECTED", "PROCESSED", "ANSWER FROM", "STATUS", "BYTES"
    );
    for outcome in outcomes {
        let (style, checksum) = match outcome.checksum_is_right {
            true => (GOOD, "ok"),
            false => (BAD, "WRONG"),
        };
        let _ = writeln!(
            text,
            "{:>3}  {:<18}  {:>5}  {:<9}  {:<9}  {:<11}  {:>6}  {:>9}  {style}{checksum}{style:#}",
            outcome.number,
            outcome.path,
            outcome.client.port(),
            name(outcome.inspecting()),
            name(outcome.processing()),
            name(outcome.sender()),
            outcome.status,
            outcome.body_bytes,
        );
    }
    text + "\nINSPECTED: whose SYN-ACK is on the wire. PROCESSED: the server's log and the response's \
            header.\nANSWER FROM: whose frames brought the answer to the client.\n"
}

/// What came of all the requests, and what each node had to do with it.
pub(super) fn summary(lab: &Lab, outcomes: &[Outcome], stats: &[StatsView]) -> String {
    let right = outcomes.iter().filter(|o| o.checksum_is_right).count();
    let elsewhere = outcomes
        .iter()
        .filter(|o| o.inspecting() != o.processing())
        .count();
    let mut text = format!(
        "\n{BOLD}{} requests{BOLD:#}: {right} checksums right, {elsewhere} handed to another node, {} \
         to the inspecting node itself.\n",
        outcomes.len(),
        outcomes.len() - elsewhere
    );
    let mut inspected: BTreeMap<Option<Place>, usize> = BTreeMap::new();
    let mut processed = inspected.clone();
    let mut bytes: BTreeMap<Option<Place>, u64> = BTreeMap::new();
    for outcome in outcomes {
        *inspected.entry(outcome.inspecting()).or_default() += 1;
        *processed.entry(outcome.processing()).or_default() += 1;
        *bytes.entry(outcome.sender()).or_default() += outcome.wire_bytes;
    }
    let _ = writeln!(
        text,
        "\n{BOLD}{:<4}  {:>9}  {:>5}  {:>9}  {:>12}  {:>14}  {:>15}{BOLD:#}",
        "NODE",
        "INSPECTED",
        "SHARE",
        "PROCESSED",
        "ANSWER BYTES",
        "HANDOVERS DONE",
        "DROPPED PACKETS"
    );
    for (node, stats) in lab.spec().node_places().zip(stats) {
        let count = inspected.get(&Some(node)).copied().unwrap_or(0);
        let _ = writeln!(
            text,
            "{:<4}  {count:>9}  {:>4}%  {:>9}  {:>12}  {:>14}  {:>15}",
            node.to_string(),
            100 * count / outcomes.len().max(1),
            processed.get(&Some(node)).copied().unwrap_or(0),
            bytes.get(&Some(node)).copied().unwrap_or(0),
            inspector(stats, "handovers.done"),
            stats.drops.values().sum::<u64>(),
        );
    }
    text + "\nHANDOVERS DONE and DROPPED PACKETS are the daemons' counters (`dts stats`).\n\
            A node drops what it sees of other nodes' connections.\n"
}

/// What was not as it must be.
pub(super) fn findings(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|f| format!("  {f}\n"));
    format!(
        "\n{BAD}Not as it must be{BAD:#}:\n{}",
        lines.collect::<String>()
    )
}

/// How to look further in a lab that stays.
pub(super) fn kept(lab: &str) -> String {
    format!(
        "\nLab `{lab}` stays up; its files are in /run/dts-lab/{lab}.\n\
         Try:  dts lab exec --name {lab} client -- curl -si http://198.18.0.100/whoami\n      \
         dts status --config /run/dts-lab/{lab}/n1/dts.toml\n      \
         dts connections --config /run/dts-lab/{lab}/n1/dts.toml\n      \
         dts lab impair --name {lab} --loss front=1%\n\
         End:  dts lab down {lab}\n"
    )
}
