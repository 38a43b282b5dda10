//! `dts demo`: a cluster at work, in one command.
//!
//! A lab, real requests of a real client, and what the wires and the servers' logs say about each of
//! them. Nothing that is shown is assumed: where two sources disagree, the demo says so and fails.

mod evidence;
mod ladder;
mod report;
mod tools;
mod traffic;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use dts_lab::ladder::Ladder;
use dts_lab::{ClusterSpec, Lab, LabGuard, LabSpec, remove_on_signals};
use dts_node::admin::{Client, StatsView};

use self::evidence::{Finding, Outcome};
use self::wire::{Captures, Wire};
use crate::render::print;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Number of nodes, 1 to 16.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) nodes: u8,
    /// Leave the lab up; `dts lab down` removes it.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Keep the captured packets in this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) pcap: Option<PathBuf>,
    /// Name of the lab.
    #[arg(long, default_value = "demo")]
    pub(crate) name: String,
}

/// Runs the demo; `exe` is the program that runs daemons (`node`) and delay lines.
pub(crate) fn run(args: DemoArgs, exe: PathBuf) -> anyhow::Result<()> {
    tools::check()?;
    if let Some(directory) = &args.pcap {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    }
    remove_on_signals()?;
    print(&format!(
        "Starting {} nodes (nginx and a DTS daemon each) and a client ...\n",
        args.nodes
    ))?;
    let mut spec = LabSpec::new(&args.name, args.nodes, exe);
    // The paper's way: there is a handover to be drawn, segment by segment.
    spec.cluster.services_toml = Some(ClusterSpec::services(args.nodes, "splice"));
    let lab = LabGuard::up(spec)?;
    // What is shown so far is also worth having when something was wrong.
    let result = show(&lab, args.pcap.as_deref());
    if args.keep {
        lab.keep();
        print(&report::kept(&args.name))?;
    }
    result
}

/// Makes the traffic and prints what happened.
fn show(lab: &Lab, pcap: Option<&Path>) -> anyhow::Result<()> {
    let requests = traffic::plan(lab)?;
    let captures = Captures::start(lab)?;
    let fetches = traffic::fetch_all(lab, &requests)?;
    let logs = evidence::logs(lab, &fetches)?;
    let wire = captures.stop(pcap)?;
    let stats = stats(lab)?;

    let outcomes: Vec<Outcome> = fetches
        .iter()
        .zip(1..)
        .map(|(fetch, number)| Outcome::of(number, fetch, &wire, &logs))
        .collect();
    let mut findings: Vec<Finding> = outcomes.iter().flat_map(Outcome::findings).collect();
    findings.extend(evidence::overall(&outcomes, &stats));

    print(&report::requests(&outcomes))?;
    print(&report::summary(lab, &outcomes, &stats))?;
    if let Some(outcome) = evidence::worth_a_ladder(&outcomes) {
        print(&ladder_of(outcome, &wire)?)?;
    }
    if let Some(directory) = pcap {
        print(&format!("\nThe captures are in {}.\n", directory.display()))?;
    }
    if findings.is_empty() {
        return Ok(());
    }
    print(&report::findings(&findings))?;
    bail!(
        "{} finding(s) above are not as they must be",
        findings.len()
    )
}

fn ladder_of(outcome: &Outcome, wire: &Wire) -> anyhow::Result<String> {
    let ladder = Ladder::of(wire.segments(), outcome.client)
        .with_context(|| format!("no ladder of request {}", outcome.number))?;
    Ok(ladder::render(&ladder, outcome))
}

/// What each node's daemon has counted, `n1` first.
fn stats(lab: &Lab) -> anyhow::Result<Vec<StatsView>> {
    (1..=lab.spec().node_count())
        .map(|node| Ok(Client::connect(&lab.daemon_socket(node))?.stats()?))
        .collect()
}
