//! `dts lab` as a program of its own, to try the lab without the rest of DTS. Without a `dts` there
//! are no daemons: `cargo run --example lab -- lab up --no-daemon`.

use clap::Parser;
use dts_lab::cli::LabArgs;

#[derive(Debug, Parser)]
enum Program {
    /// A cluster on this machine, in network namespaces.
    Lab(LabArgs),
}

fn main() -> anyhow::Result<()> {
    let Program::Lab(args) = Program::parse();
    dts_lab::cli::run(args, std::env::current_exe()?)
}
