//! `dts completions` and `dts man`: made from the command line's own description.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, ensure};
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;

/// Prints a shell's completions.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    // Not straight to standard output, where a closed pipe would be a panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "dts", &mut script);
    Ok(io::stdout().write_all(&script)?)
}

/// Writes `dts.1` and a page for each command, such as `dts-node.1`.
pub(crate) fn manual_pages(directory: &Path) -> anyhow::Result<()> {
    ensure!(
        directory.is_dir(),
        "{}: no such directory: make it first",
        directory.display()
    );
    clap_mangen::generate_to(Cli::command(), directory)
        .with_context(|| format!("{}: cannot write the manual pages", directory.display()))
}
