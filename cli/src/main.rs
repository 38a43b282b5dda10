//! The `dts` command: the daemon, the questions one asks it, and clusters to try it on.

mod args;
mod ask;
mod check;
mod demo;
mod failure;
mod generate;
mod node;
mod render;
mod row;
mod secret;
mod trace;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use dts_node::kernel::host::require_privileges;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Node(args) => node::run(*args)?,
        Command::Detach(config) => node::detach(&config.config)?,
        Command::Check { config, json } => return check::run(&config.config, json),
        Command::Secret { out } => secret::run(out.as_deref())?,
        Command::Status(daemon) => ask::status(&daemon)?,
        Command::Ring(args) => ask::ring(&args)?,
        Command::Connections(args) => ask::connections(&args)?,
        Command::Stats { daemon, all } => ask::stats(&daemon, all)?,
        Command::Reload(daemon) => ask::reload(&daemon)?,
        Command::Trace(args) => trace::run(&args)?,
        Command::Lab(args) => dts_lab::cli::run(args, this_program()?)?,
        Command::Demo(args) => {
            require_privileges()?;
            demo::run(args, this_program()?)?;
        }
        Command::Completions { shell } => generate::completions(shell)?,
        Command::Man { directory } => generate::manual_pages(&directory)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The running program, which labs start as daemons.
fn this_program() -> anyhow::Result<PathBuf> {
    env::current_exe().context("cannot find out which file this program is")
}
