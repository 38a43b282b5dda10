//! `dts demo`: a cluster at work, in one command.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

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
}

/// Runs the demo; `exe` is the program that runs daemons (`node`) and delay lines.
pub(crate) fn run(args: DemoArgs, exe: PathBuf) -> anyhow::Result<()> {
    bail!(
        "this build has no demo yet ({} nodes, {}, {args:?})",
        args.nodes,
        exe.display()
    )
}
