//! Measurements on the lab, each beside its partner in the same run: the paper's evaluation, and ours.
//!
//! Sides are measured in turn (A B A B ...), and a ratio is the median of the rounds' ratios: one machine's speed drifts, the
//! sides of a round drift together. Each run leaves a folder with its set-up, raw figures, summary and plots.

mod adopt;
mod bulk;
mod copies;
mod cps;
mod cpu;
mod echo;
mod fig4;
mod fig8;
mod filter;
mod flood;
mod generator;
mod keepalive;
mod latency;
mod load;
mod nodes;
mod packets;
mod peers;
mod plot;
mod progress;
mod run;
mod scaling;
mod small;
mod splice;
mod staged;
mod support;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::run::Run;

#[derive(Debug, Parser)]
#[command(
    name = "dts-bench",
    about = "Measurements beside their partners, on the lab (as root)"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The `dts` program to measure.
    #[arg(long, default_value = "target/release/dts", global = true)]
    dts: PathBuf,
    /// Where the run's folder is made.
    #[arg(long, default_value = "bench/runs", global = true)]
    runs: PathBuf,
    /// About a minute: the same code with fewer and shorter measurements.
    #[arg(long, global = true)]
    quick: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Experiment(Experiment),
    /// The server of fig6 to fig8, which these start in the lab's nodes.
    #[command(hide = true)]
    EchoServer(echo::Options),
}

#[derive(Debug, Subcommand)]
enum Experiment {
    /// One handover by splice and one by adoption, segment by segment (the paper's Fig. 4).
    Fig4(fig4::Options),
    /// The paper's Fig. 6: connections per second as nodes grow, 4 bytes each, single and multiple inspectors.
    Fig6(scaling::Options),
    /// The paper's Fig. 7: the same with 1,024 bytes.
    Fig7(scaling::Options),
    /// The paper's Fig. 8: how evenly connections spread as the virtual nodes grow.
    Fig8(fig8::Options),
    /// The paper's Table 3: quality of service of the Support workload, by layer 4 and by content. (The run is Table 4's, too.)
    Table3(support::Options),
    /// The paper's Table 4: disk reads of the Support workload, by layer 4 and by content. (The run is Table 3's, too.)
    Table4(support::Options),
    /// New connections per second, 1 KB: DTS, proxies, netfilter's cluster match, and direct.
    Cps(cps::Options),
    /// Downloads of 100 MB, and the processor time that they take, of the same sides.
    Bulk(bulk::Options),
    /// Requests per second on persistent connections, of the same sides.
    Keepalive(cps::Options),
    /// How long a request takes at low load, of the same sides.
    Latency(latency::Options),
    /// Nanoseconds per packet of each verdict of the filter, and of dropping another node's packet.
    Filter(filter::Options),
    /// What the other nodes' packets cost a node, as nodes grow to 64.
    Nodes(nodes::Options),
    /// A SYN flood beside legitimate clients: adopt, splice, and a plain kernel.
    Flood(flood::Options),
    /// New connections per second and bulk downloads by splice, beside direct connections.
    Splice(load::Options),
    /// New connections, persistent ones and bulk downloads by adoption, beside direct connections and HAProxy.
    Adopt(load::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let measure = || -> anyhow::Result<()> {
        let experiment = match &cli.command {
            Command::Experiment(experiment) => experiment,
            Command::EchoServer(options) => return echo::serve(options),
        };
        let run = Run::new(&cli.dts, &cli.runs, cli.quick)?;
        match experiment {
            Experiment::Fig4(options) => fig4::run(options, &run),
            Experiment::Fig6(options) => scaling::run("fig6", 4, options, &run),
            Experiment::Fig7(options) => scaling::run("fig7", 1024, options, &run),
            Experiment::Fig8(options) => fig8::run(options, &run),
            Experiment::Table3(options) => support::run("table3", options, &run),
            Experiment::Table4(options) => support::run("table4", options, &run),
            Experiment::Cps(options) => cps::run(options, &run),
            Experiment::Bulk(options) => bulk::run(options, &run),
            Experiment::Keepalive(options) => keepalive::run(options, &run),
            Experiment::Latency(options) => latency::run(options, &run),
            Experiment::Filter(options) => filter::run(options, &run),
            Experiment::Nodes(options) => nodes::run(options, &run),
            Experiment::Flood(options) => flood::run(options, &run),
            Experiment::Splice(options) => splice::run(options, &run),
            Experiment::Adopt(options) => adopt::run(options, &run),
        }
    };
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
