//! `dts lab` as a program of its own, to try the lab without the rest of DTS. Without a `dts` there
//! are no daemons: `cargo run --example lab -- lab up --no-daemon`.

use std::process::ExitCode;

use clap::Parser;
use dts_lab::cli::LabArgs;

#[derive(Debug, Parser)]
enum Program {
    /// A cluster on this machine, in network namespaces.
    Lab(LabArgs),
}

fn main() -> ExitCode {
    let Program::Lab(args) = Program::parse();
    let own_path = std::env::current_exe().map_err(anyhow::Error::from);
    match own_path.and_then(|path| dts_lab::cli::run(args, path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
