//! Project tasks, run as `cargo xtask <task>`.
//!
//! `demo` and `test` are the two commands that the README gives to a newcomer. They install what
//! the build and the tests need, so nothing has to be read before they work.

mod apt;
mod fuzz;
mod libdts;
mod phases;
mod setup;
mod suite;

use std::{
    env,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Project tasks of DTS.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what the build, the tests and the demo need and this machine lacks (Debian).
    Setup,
    /// Show a cluster at work on this machine: builds `dts`, then runs `dts demo`.
    Demo {
        /// Arguments for `dts demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure something beside its partner: builds `dts`, then runs `dts-bench`.
    Bench {
        /// Arguments for `dts-bench`: an experiment's name, and its options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run everything that CI runs: checks, unit tests, and the tests on real kernels (as root).
    Test {
        /// Only the tests that need no root and make no network namespaces.
        #[arg(long)]
        fast: bool,
    },
    /// Give the parsers random input, led by coverage.
    Fuzz {
        /// Seconds for each target.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
        /// Only this target.
        #[arg(value_parser = fuzz::TARGETS)]
        target: Option<String>,
    },
    /// Build libdts, for inspectors in C, and install it.
    InstallLibdts {
        /// Where `include`, `lib` and `share` are, or shall be.
        #[arg(long, default_value = "/usr/local")]
        prefix: PathBuf,
        /// A directory to put everything below, as packages do; `dts.pc` doesn't name it.
        #[arg(long)]
        destdir: Option<PathBuf>,
        /// Don't optimise: what tests use.
        #[arg(long)]
        debug: bool,
    },
    /// Make `capi/dts.h` of libdts's source.
    Header,
    /// Run the checks that need no tests: format, header of libdts, clippy, documentation, dependencies.
    Check,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let root = workspace_root()?;
    match task {
        Task::Setup => {
            setup::setup()?;
            println!("setup: complete");
            Ok(ExitCode::SUCCESS)
        }
        Task::Demo { args } => {
            setup::setup()?;
            // Takes this process's place, so that signals reach the demo and nobody else.
            let error = cargo(&root)
                .args(["run", "--release", "--locked", "--package", "dts", "--"])
                .arg("demo")
                .args(args)
                .exec();
            Err(error).context("cannot run cargo")
        }
        Task::Bench { args } => {
            setup::setup()?;
            setup::setup_experiment(&args)?;
            let built = cargo(&root)
                .args(["build", "--release", "--locked", "--package", "dts"])
                .status()
                .context("cannot run cargo")?;
            if !built.success() {
                return Ok(ExitCode::FAILURE);
            }
            let error = cargo(&root)
                .args([
                    "run",
                    "--release",
                    "--locked",
                    "--package",
                    "dts-bench",
                    "--",
                ])
                .args(args)
                .exec();
            Err(error).context("cannot run cargo")
        }
        Task::Test { fast } => suite::test(&root, fast),
        Task::Fuzz { seconds, target } => suite::fuzz(&root, target.as_deref(), seconds),
        Task::InstallLibdts {
            prefix,
            destdir,
            debug,
        } => {
            libdts::install(&root, &prefix, destdir.as_deref(), debug)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Header => {
            libdts::write_header(&root)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Check => suite::check(&root),
    }
}

fn workspace_root() -> anyhow::Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .filter(|root| root.join("Cargo.toml").is_file())
        .map(Path::to_owned)
        .context("the source tree this program was built from is gone: build it again")
}

/// The cargo that runs us, in the workspace's root.
///
/// What `cargo run` says about *this* package is taken out of the environment: some build scripts
/// look at it, and would run again each time somebody changes from `cargo xtask` to `cargo build`.
fn cargo(root: &Path) -> Command {
    let mut command = Command::new(cargo_path());
    command.current_dir(root);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

fn target_dir(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn cargo_path() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Whether we run as root: our own entry in /proc belongs to the effective user.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_demo_gets_its_arguments_unread() {
        let cli = Cli::try_parse_from(["xtask", "demo", "--nodes", "4", "-h"]).expect("parses");
        let Task::Demo { args } = cli.task else {
            panic!("not the demo: {cli:?}");
        };
        assert_eq!(args, ["--nodes", "4", "-h"]);
    }
}
